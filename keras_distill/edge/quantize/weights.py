"""The grid that a weight lies on in a file of integers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_distill.edge.compress.layer import Compressed
from keras_distill.edge.compress.treatment import Treatment
from keras_distill.functional.tensors import Tensor

BITS = (4, 8)
# Bits of a weight that no grid rounds.
FLOAT = 32
SCALES = ("channel", "tensor")

_state = threading.local()


@contextlib.contextmanager
def rounded_by(rule: Callable[[Grid, Tensor], Tensor]) -> Iterator[None]:
    """Inside, layers see `rule(grid, value)` in place of what a grid makes of its weight."""
    outer, _state.rule = getattr(_state, "rule", None), rule
    try:
        yield
    finally:
        _state.rule = outer


def rule_in_force() -> Callable[[Grid, Tensor], Tensor] | None:
    """The rule of the innermost `rounded_by` around, or None."""
    return getattr(_state, "rule", None)


def check_scales(scales: str) -> None:
    """Refuses what no Dense kernel's scales are."""
    if scales not in SCALES:
        raise ValueError(f"Expected dense_scales 'channel' or 'tensor'; got {scales!r}.")


def scale_of(value: Tensor, channel_axes: Sequence[int], bits: int | Tensor = 8) -> Tensor:
    """The step of each channel of a weight, of its rank; arguments as `on_grid`.

    >>> scale_of(tf.constant([[254.0], [-127.0]]), (0,)).numpy().tolist()
    [[2.0], [1.0]]
    """
    channels = [axis % len(value.shape) for axis in channel_axes]
    others = [axis for axis in range(len(value.shape)) if axis not in channels]
    return tf.reduce_max(tf.abs(value), axis=others, keepdims=True) / (2.0 ** (bits - 1) - 1.0)


def on_grid(value: Tensor, channel_axes: Sequence[int], bits: int | Tensor = 8) -> Tensor:
    """`value` rounded to symmetric steps, -127..127 or at 4 bits -7..7, a scale for each channel.

    scale = max|w| / most over all axes but the channels', most = 2^(bits - 1) - 1;
    w -> scale * round(w / scale). Zeros stay zeros. The gradient is that of the identity.

    Args:
      value: a weight of any shape.
      channel_axes: the axes that have scales of their own; none for one scale in all.
      bits: one of `BITS` in a file; any number here, a scalar tensor too.

    Source: Jacob et al. 2018, section 3; TensorFlow Lite's 8-bit specification for weights.

    >>> [round(float(w), 4) for w in on_grid(tf.constant([1.27, 0.503, 0.0]), ())]
    [1.27, 0.5, 0.0]
    """
    return _rounded(value, scale_of(value, channel_axes, bits))


def _rounded(value: Tensor, scale: Tensor) -> Tensor:
    rounded = scale * tf.round(tf.math.divide_no_nan(value, scale))
    return value + tf.stop_gradient(rounded - value)


def grids_of(layer: Compressed) -> dict[str, Grid]:
    """The grids of a layer's weights, by their paths inside it: the last that is done to each."""
    chains = layer.treatments.items()
    return {key: chain[-1] for key, chain in chains if chain and isinstance(chain[-1], Grid)}


@keras.saving.register_keras_serializable("keras_distill")
class Grid(Treatment):
    """A weight as a file of integers holds it. It has no state: the steps follow the weight.

    Args:
      channel_axes, bits: as in `on_grid`.

    Attributes:
      gain: what the file's weight is a multiple by, where it holds more than this one: a function
        that returns a tensor of a shape that broadcasts to the weight's. Its owner sets it.
    """

    gain: Callable[[], Tensor] | None = None

    def __init__(self, channel_axes: Sequence[int] = (), bits: int = 8):
        self.channel_axes = tuple(channel_axes)
        self.bits = bits

    def __call__(self, value: Tensor) -> Tensor:
        if (rule := rule_in_force()) is not None:
            return rule(self, value)
        return _rounded(value, self.scale(value))

    @property
    def most(self) -> float:
        """The largest number of steps."""
        return 2.0 ** (self.bits - 1) - 1.0

    def scale(self, value: Tensor) -> Tensor:
        """The steps that the weight's numbers lie on, of a shape that broadcasts to its own."""
        if self.gain is None:
            return scale_of(value, self.channel_axes, self.bits)
        gain = tf.cast(tf.abs(self.gain()), value.dtype)
        steps = scale_of(value * gain, self.channel_axes, self.bits)
        return tf.math.divide_no_nan(steps, gain)

    def get_config(self) -> dict[str, Any]:
        """The axes and the bits."""
        return {"channel_axes": list(self.channel_axes), "bits": self.bits}
