"""Means of neighbours as LiteRT has them in integers: on the steps of what they are means of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_distill import _keras
from keras_distill.edge.compress.layer import is_exporting
from keras_distill.edge.quantize.ranges import Range, is_observed
from keras_distill.functional.tensors import Tensor
from keras_distill.graph.replay import Step
from keras_distill.graph.traits import COMPUTED, gives
from keras_distill.graph.wrapping import inner

__all__ = ["is_pool", "rounds", "to_steps"]

_POOLS = (keras.layers.AveragePooling1D, keras.layers.AveragePooling2D)
# Int8 begins at.
_LOWEST = -128.0
# A sum of floats may miss a half by less, and what is none is further off, of up to 2,000 numbers.
_TIE = 1e-4


def is_pool(layer: Any) -> bool:
    """Whether a layer is a pooling whose means `to_steps` computes."""
    return type(layer) in _POOLS and layer.data_format == "channels_last"


def rounds(step: Step) -> bool:
    """Whether a step is such a pooling of real numbers."""
    return is_pool(step.operation) and "float" in step.inputs[0].dtype


def range_read(
    layer: Any, ranges_of: Callable[[Any], Sequence[Range]]
) -> tuple[Tensor, Tensor] | None:
    """The limits of the range that a pooling's input is rounded to, past what hands it on.

    Args:
      layer: the pooling's wrapper, in the graph of its first call.
      ranges_of: the ranges of what an operation puts out.

    Returns:
      `(low, high)`; None for another layer or a pooling that has a range of its own, where none is
      found, and while nothing is rounded or a file is traced, whose operation rounds.
    """
    own = not is_pool(inner(layer)) or bool(ranges_of(layer))
    x = None if own or is_exporting() or is_observed() else _keras.read_by(layer)
    while x is not None:
        maker = _keras.history(x).operation
        if found := ranges_of(maker):
            return found[0].limits() if len(found) == 1 and type(found[0]) is Range else None
        x = None if gives(inner(maker)) == COMPUTED else _keras.read_by(maker)
    return None


def to_steps(layer: Any, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The average pooling `layer` of `x`, in the steps of the range from `low` to `high`.

    With q the int8 numbers of x and n how many of them a window holds, at a border only those that
    are inside:

        mean = sign(sum q) * floor(|sum q| / n + 1 / 2)

    so that a half goes away from zero, the integer zero and not the number's. The gradient is that
    of the mean.

    Args:
      layer: one that `rounds`.
      x: `(batch, ..., channels)`, on the steps of that range.
      low, high: scalars, `low <= 0 <= high`.

    Source: TensorFlow Lite, the reference kernel of AVERAGE_POOL_2D for int8.
    """
    mean = layer(x)
    scale = tf.cast(high - low, tf.float32) / 255.0
    zero = tf.round(tf.math.divide_no_nan(-low, scale)) + _LOWEST
    steps = tf.round(tf.math.divide_no_nan(tf.cast(x, tf.float32), scale))
    numbers = layer(steps) + zero
    rounded = tf.sign(numbers) * tf.floor(tf.abs(numbers) + (0.5 + _TIE))
    found = tf.where(scale > 0.0, (rounded - zero) * scale, tf.cast(mean, tf.float32))
    return mean + tf.stop_gradient(tf.cast(found, mean.dtype) - mean)
