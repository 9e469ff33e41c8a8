"""Step sizes that are learned with the weights, of weights and of tensors: LSQ."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_distill.edge.quantize.ranges import Range
from keras_distill.edge.quantize.weights import Grid, rule_in_force, scale_of
from keras_distill.functional.tensors import Tensor

__all__ = ["LearnedGrid", "LearnedRange", "on_learned_grid", "on_learned_range"]

# The smallest step, as a share of the one that reaches the largest weight, and of a range's first.
_LEAST = 1e-2
# Q_P - Q_N of a tensor.
_STEPS = 255.0


def on_learned_grid(value: Tensor, step: Tensor, most: float) -> Tensor:
    """`value` rounded to at most `most` steps to either side, whose size has a gradient.

    v -> step * round(clip(v / step, -most, most)). The gradient of v is that of the identity inside
    the clip and 0 outside; that of a step is summed over the numbers that it serves:

        g * (round(v / step) - v / step)  inside,   g * most * sign(v)  outside,
        g = 1 / sqrt(numbers * most).

    Args:
      value: a weight of any shape.
      step: of its rank, positive, of size 1 but in the channels' axes.
      most: Q_P, 127 at 8 bits and 7 at 4; no step is lost to the side of minus.

    Source: Esser, McKinstry, Bablani, Appuswamy, Modha, "Learned Step Size Quantization", ICLR
    2020, sections 2.1 and 2.2. They have one step a layer and Q_N = Q_P + 1.

    >>> on_learned_grid(tf.constant([[0.24, -1.2]]), tf.constant([[0.1]]), 7.0).numpy().round(4)
    array([[ 0.2, -0.7]], dtype=float32)
    """
    numbers = value.shape.num_elements() / step.shape.num_elements()
    share = (numbers * most) ** -0.5
    scaled = step * share + tf.stop_gradient(step - step * share)
    steps = tf.clip_by_value(value / scaled, -most, most)
    return scaled * (steps + tf.stop_gradient(tf.round(steps) - steps))


def on_learned_range(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """`x` rounded to 256 steps from `low` to `high`, zero among them; both ends have a gradient.

    With s = (high - low) / 255 and z = round(-low / s):

        x -> s * round(clip(x / s, -z, 255 - z)).

    The gradient of x is that of the identity inside the clip and 0 outside. That of s is
    round(x / s) - x / s inside, and each end's is 1 for what lies beyond it, z's rounding counting
    as the identity; summed over all numbers.

    Args:
      x: any shape, any float dtype.
      low, high: scalars, `low <= 0 <= high`, not both 0.

    Source: Esser, McKinstry, Bablani, Appuswamy, Modha, "Learned Step Size Quantization", ICLR
    2020, equations 1 to 3, where ranges begin at zero; the two ends of others as Bhalgat, Lee,
    Nagel, Blankevoort, Kwak, "LSQ+", CVPR workshops 2020, by another parametrisation.

    >>> on_learned_range(tf.constant([0.503, -3.0, 9.0]), -1.0, 1.55).numpy().round(4)
    array([ 0.5 , -1.  ,  1.55], dtype=float32)
    """
    step = (tf.convert_to_tensor(high) - low) / _STEPS
    zero = tf.clip_by_value(-low / step, 0.0, _STEPS)
    zero += tf.stop_gradient(tf.round(zero) - zero)
    steps = tf.clip_by_value(tf.cast(x, tf.float32) / step, -zero, _STEPS - zero)
    return tf.cast(step * (steps + tf.stop_gradient(tf.round(steps) - steps)), x.dtype)


@keras.saving.register_keras_serializable("keras_distill")
class LearnedRange(Range):
    """A range that is trained from where calibration, or the first batch in training, has set it.

    What is trained is each end in units of the first one, as a `LearnedGrid`'s steps are. An end
    of 0 stays there. In a frozen layer the range stays as it was set.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.factor = self.add_weight(shape=(2,), initializer="ones", name="factor")

    def limits(self) -> tuple[Tensor, Tensor]:
        """The ends as they are by now."""
        return self._ends(self.factor.value)

    def _ends(self, factor: Tensor) -> tuple[Tensor, Tensor]:
        within = tf.maximum(factor, _LEAST)
        # A factor that lies outside is not held there: its gradient goes on.
        low, high = tf.unstack(factor + tf.stop_gradient(within - factor))
        return low * self.low.value, high * self.high.value

    def _in_training(self, x: Tensor) -> Tensor:
        """`x` rounded, the gradient of the ends times 1 / sqrt(numbers of a row * 255)."""
        numbers = tf.cast(tf.size(x) / tf.maximum(tf.shape(x)[0], 1), tf.float32)
        share = tf.math.rsqrt(tf.maximum(numbers, 1.0) * _STEPS)
        factor = self.factor.value
        scaled = factor * share + tf.stop_gradient(factor - factor * share)
        return tf.cond(
            self._has_begun(),
            lambda: on_learned_range(x, *self._ends(scaled)),
            # Zeros alone tell nothing of a range.
            lambda: tf.identity(x),
        )

    def _share(self) -> Tensor:
        """The first batch sets the range where nothing has; no other moves it."""
        return tf.where(self._has_begun(), 0.0, 1.0)

    def _has_begun(self) -> Tensor:
        return self.high.value > self.low.value

    def set(self, low: float, high: float) -> None:
        """Sets the range; it is trained from there."""
        super().set(low, high)
        self.factor.assign([1.0, 1.0])


@keras.saving.register_keras_serializable("keras_distill")
class LearnedGrid(Grid):
    """A weight as a file of integers holds it, on steps that are learned.

    What is trained is each step in units of the first one, max|w| / most: so an optimiser that
    moves all variables by like amounts (Adam) moves large and small steps by like shares. A step
    that would leave the outermost number unused counts as the one that just reaches the largest
    weight, for a file's scale is read off that.

    Args:
      channel_axes, bits: as in `on_grid`.
    """

    def build(self, owner: Any, variable: Any, prefix: str) -> None:
        """A trained variable and a fixed one for each channel."""
        first = self._reaching(tf.convert_to_tensor(variable.value))
        # A channel of zeros has no step of its own to begin with.
        first = tf.where(first > 0.0, first, tf.ones_like(first))
        self.factor, self.first = (
            owner.add_weight(
                shape=first.shape,
                initializer="ones",
                dtype=variable.dtype,
                trainable=trainable,
                name=f"{prefix}_{name}",
            )
            for name, trainable in (("factor", True), ("first", False))
        )
        self.first.assign(first)
        self.state = (self.factor, self.first)

    def __call__(self, value: Tensor) -> Tensor:
        if (rule := rule_in_force()) is not None:
            return rule(self, value)
        return on_learned_grid(value, self.scale(value), self.most)

    def scale(self, value: Tensor) -> Tensor:
        """The step of each channel, of the weight's rank."""
        step = self.factor.value * self.first.value
        reaching = self._reaching(value)
        within = tf.clip_by_value(step, _LEAST * reaching, reaching)
        # One that lies outside is not held there: its gradient goes on.
        return step + tf.stop_gradient(tf.where(reaching > 0.0, within, step) - step)

    def _reaching(self, value: Tensor) -> Tensor:
        return scale_of(value, self.channel_axes, self.bits)
