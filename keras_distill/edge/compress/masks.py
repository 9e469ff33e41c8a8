"""Which numbers of a weight pruning keeps: single ones, two of every four, or whole blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_distill.functional.tensors import Tensor

UNSTRUCTURED = "unstructured"
TWO_OF_FOUR = "2:4"
Pattern = str | tuple[int, int]


def checked_pattern(pattern: Any) -> Pattern:
    """The pattern, a block as a tuple.

    Raises:
      ValueError: it is none.

    >>> checked_pattern([4, 1])
    (4, 1)
    """
    if isinstance(pattern, str) and pattern in (UNSTRUCTURED, TWO_OF_FOUR):
        return pattern
    if isinstance(pattern, (tuple, list)) and len(pattern) == 2:
        whole = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in pattern)
        if whole:
            return pattern[0], pattern[1]
    raise ValueError(
        f'Expected pattern as "unstructured", "2:4" or a block (rows, columns) of positive whole '
        f"numbers; got {pattern!r}."
    )


def add_to(owner: Any, variable: Any, prefix: str) -> Any:
    """A mask of a variable's shape, a weight of the layer `owner`: everything is kept."""
    return owner.add_weight(
        shape=variable.shape,
        initializer="ones",
        dtype="bool",
        trainable=False,
        name=f"{prefix}_kept",
    )


def misfit(shape: Sequence[int], input_axes: Sequence[int], pattern: Pattern) -> str | None:
    """Why the pattern does not divide a weight, in words; None where it does.

    >>> misfit((3, 3, 1, 16), (0, 1, 2), "2:4")
    'its 1 input channels are no multiple of 4'
    """
    if isinstance(pattern, str):
        if pattern == UNSTRUCTURED:
            return None
        channels = shape[input_axes[-1]] if input_axes else 1
        return f"its {channels} input channels are no multiple of 4" if channels % 4 else None
    rows, columns = matrix_shape(shape, input_axes)
    if rows % pattern[0] or columns % pattern[1]:
        return f"as a matrix it is {rows} by {columns}, no multiple of {pattern[0]} by {pattern[1]}"
    return None


def mask(
    value: Tensor, sparsity: float | Tensor, pattern: Pattern, input_axes: Sequence[int]
) -> Tensor:
    """What to keep of a weight, the largest first.

    Args:
      value: a weight of any shape.
      sparsity: the share of zeros, a float or a scalar tensor; unused by "2:4", which is half.
      pattern: "unstructured"; "2:4" along the input channels; or blocks (rows, columns) of the
        matrix with the inputs as rows and the outputs as columns, judged by their mean magnitude.
      input_axes: the axes of `value` that the layer sums over, its input channels last.

    Returns:
      A bool tensor of the weight's shape.

    >>> mask(tf.constant([[1.0, -4.0], [3.0, 2.0]]), 0.5, "unstructured", (0,)).numpy().tolist()
    [[False, True], [True, False]]
    """
    magnitude = tf.abs(value)
    if pattern == UNSTRUCTURED:
        return largest(magnitude, sparsity)
    matrix = _as_matrix(magnitude, input_axes)
    kept = _two_of_four(matrix) if pattern == TWO_OF_FOUR else _blocks(matrix, sparsity, pattern)
    return _from_matrix(kept, value.shape, input_axes)


def largest(magnitude: Tensor, sparsity: float | Tensor) -> Tensor:
    """True at the max(round(size * (1 - sparsity)), 1) largest.

    Equal to TFMOT's mask where no two are equal. Of equal ones the first in memory are kept, where
    TFMOT keeps them all and misses the sparsity: clustered and quantised weights are full of them.
    """
    size = math.prod(magnitude.shape)
    share = 1 - tf.convert_to_tensor(sparsity, tf.float32)
    count = tf.cast(tf.maximum(tf.round(tf.cast(size, tf.float32) * share), 1), tf.int32)
    # All of them, for XLA wants a size that is known beforehand.
    order = tf.math.top_k(tf.reshape(magnitude, [-1]), k=size).indices
    kept = tf.cast(tf.range(size) < count, tf.int32)
    return tf.reshape(tf.scatter_nd(order[:, None], kept, [size]) > 0, magnitude.shape)


def _two_of_four(matrix: Tensor) -> Tensor:
    rows, columns = matrix.shape
    fours = tf.transpose(tf.reshape(matrix, [rows // 4, 4, columns]), [0, 2, 1])
    best = tf.math.top_k(fours, k=2).indices
    kept = tf.reduce_any(best[..., None] == tf.range(4), axis=-2)
    return tf.reshape(tf.transpose(kept, [0, 2, 1]), [rows, columns])


def _blocks(matrix: Tensor, sparsity: float | Tensor, block: Any) -> Tensor:
    (rows, columns), (height, width) = matrix.shape, block
    apart = tf.reshape(matrix, [rows // height, height, columns // width, width])
    kept = largest(tf.reduce_mean(apart, axis=[1, 3]), sparsity)
    return tf.repeat(tf.repeat(kept, height, axis=0), width, axis=1)


def matrix_shape(shape: Sequence[int], input_axes: Sequence[int]) -> tuple[int, int]:
    """A weight's (rows, columns) with its input axes as rows."""
    rows = math.prod(shape[axis] for axis in input_axes)
    return rows, math.prod(shape) // rows


def _order(rank: int, input_axes: Sequence[int]) -> list[int]:
    return [*input_axes, *(axis for axis in range(rank) if axis not in input_axes)]


def _as_matrix(value: Tensor, input_axes: Sequence[int]) -> Tensor:
    order = _order(len(value.shape), input_axes)
    return tf.reshape(tf.transpose(value, order), matrix_shape(value.shape, input_axes))


def _from_matrix(matrix: Tensor, shape: Sequence[int], input_axes: Sequence[int]) -> Tensor:
    order = _order(len(shape), input_axes)
    apart = tf.reshape(matrix, [shape[axis] for axis in order])
    return tf.transpose(apart, [order.index(axis) for axis in range(len(shape))])
