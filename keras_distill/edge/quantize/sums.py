"""What an integer kernel makes of a sum: whole numbers, brought to the steps of its output.

LiteRT adds products of steps up in whole numbers, the bias among them as a number of that sum's own
steps, multiplies the sum by one float32 and rounds. Kernels of XNNPACK, which LiteRT takes where it
has them, do it alike on all processors; these are their roundings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tensorflow as tf

from keras_distill.functional.tensors import Tensor

__all__ = ["Sums", "added", "requantized"]

# XNNPACK's additions multiply by whole numbers of so many bits.
_BITS = 20
# The exponent of a float32 begins at this bit.
_EXPONENT = 2**23


@dataclass(frozen=True)
class Sums:
    """What the sums behind a tensor count in.

    Attributes:
      step: the real number that one stands for, `(channels,)` or a scalar, float32.
      bias: what is added to each channel, real numbers of the same shape, or None.
      is_set: whether all ranges that `step` comes from are set, a scalar.
    """

    step: Tensor
    bias: Tensor | None
    is_set: Tensor


# From ranges and weights as they are when it is called, in a graph as well.
ReadSums = Callable[[], Sums]


def requantized(x: Tensor, sums: Sums, scale: Tensor) -> Tensor:
    """`x`, computed in real numbers, as its kernel gives it; not clipped to a range.

    y = scale * round(n * (step / scale)), n = round((x - bias) / step) + round(bias / step), halves
    to even.

    Args:
      x: `(..., channels)` float32.
      sums: what the kernel adds up.
      scale: the output's step, a float32 scalar.

    >>> sums = Sums(tf.constant(0.25), tf.constant(0.3), tf.constant(True))
    >>> float(requantized(tf.constant(0.8), sums, tf.constant(0.5)))  # 2 + 1 quarters
    1.0
    """
    step = tf.where(sums.step > 0, sums.step, 1.0)
    bias = 0.0 if sums.bias is None else sums.bias
    whole = tf.round((x - bias) / step) + tf.round(bias / step)
    found = scale * tf.round(whole * (step / scale))
    return tf.where(tf.logical_and(sums.is_set, sums.step > 0), found, x)


def added(
    terms: Sequence[Tensor], steps: Sequence[Tensor], scale: Tensor, is_set: Tensor
) -> Tensor:
    """The sum of two tensors as LiteRT's ADD gives it; not clipped to a range.

    Each term's step over the output's becomes a whole number of 2^-(20 - e), e the exponent of the
    larger; halves are rounded up.

    Args:
      terms: two tensors that lie on steps.
      steps: theirs, float32 scalars.
      scale: the output's step.
      is_set: whether the ranges are, that these come from.
    """
    ratios = [tf.where(is_set, step / scale, 1.0) for step in steps]
    # The exponent's bits: a logarithm would be off beside powers of two.
    exponent = tf.bitcast(tf.maximum(*ratios), tf.int32) // _EXPONENT - 127
    power = tf.bitcast((_BITS - exponent + 127) * _EXPONENT, tf.float32)
    total = tf.add_n([
        tf.cast(tf.round(term / tf.where(is_set, step, 1.0)), tf.float64)
        * tf.cast(tf.round(ratio * power), tf.float64)
        for term, step, ratio in zip(terms, steps, ratios, strict=True)
    ])  # fmt: skip
    steps_of_it = tf.floor(total / tf.cast(power, tf.float64) + 0.5)
    return tf.where(is_set, tf.cast(steps_of_it, tf.float32) * scale, tf.add_n(list(terms)))
