"""Grids whose step sizes are learned with the weights: LSQ."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_distill.edge.quantize.weights import Grid, rule_in_force, scale_of
from keras_distill.functional.tensors import Tensor

__all__ = ["LearnedGrid", "on_learned_grid"]

# The smallest step, as a share of the one that reaches the largest weight.
_LEAST = 1e-2


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
