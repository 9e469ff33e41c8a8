"""Numbers that follow from a seed alone: the order of an epoch, the seed of a view.

Nothing of it is stored or held in memory, any part of it can be had without the rest, and all of
it is computed inside TensorFlow's graph.
"""

from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["example_seeds", "shuffled"]

_ROUNDS = 8


def shuffled(positions: Any, count: int, seed: int, epoch: Any) -> Any:
    """Which examples stand at these positions of a shuffled epoch.

    A permutation of `range(count)` that is computed and not held: a Feistel network over a grid
    of rows and columns just large enough, walked on from numbers that lie outside.

    Args:
      positions: int64 `(n,)`, each in `[0, count)`.

    Returns:
      int64 `(n,)`.

    Source: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002.

    >>> sorted(shuffled(tf.range(10), 10, seed=0, epoch=3).numpy().tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    rows = int(np.ceil(np.sqrt(max(count, 1))))
    columns = -(-max(count, 1) // rows)
    keys = _mix(_key(seed, epoch) + tf.range(_ROUNDS, dtype="int64"))
    end = _unsigned(max(count, 1))
    inside = tf.while_loop(
        lambda numbers: tf.reduce_any(numbers >= end),
        lambda numbers: (
            tf.where(numbers >= end, _encipher(numbers, rows, columns, keys), numbers),
        ),
        (_encipher(tf.cast(positions, "uint64"), rows, columns, keys),),
    )[0]
    return tf.cast(inside, "int64")


def example_seeds(indices: Any, seed: int, epoch: Any) -> Any:
    """The seed of each example's view in an epoch, int32 `(n, 2)`, as `tf.image.stateless_*` takes.

    >>> example_seeds(tf.range(3), seed=0, epoch=0).shape
    TensorShape([3, 2])
    """
    own = _mix(tf.cast(indices, "int64"))
    of_epoch = tf.cast(_key(seed, epoch), "uint64")
    return tf.bitcast(_mix(tf.bitwise.bitwise_xor(own, of_epoch)), "int32")


def _encipher(numbers: Any, rows: int, columns: int, keys: Any) -> Any:
    high, wide = _unsigned(rows), _unsigned(columns)
    row, column = numbers // wide, numbers % wide
    for i in range(_ROUNDS):
        if i % 2:
            column = (column + _mix(tf.bitwise.bitwise_xor(row, keys[i])) % wide) % wide
        else:
            row = (row + _mix(tf.bitwise.bitwise_xor(column, keys[i])) % high) % high
    return row * wide + column


def _key(seed: int, epoch: Any) -> Any:
    """A signed scalar that hangs on both."""
    mixed = _mix(_unsigned(seed % 2**64)) + tf.cast(epoch, "uint64")
    return tf.cast(_mix(mixed), "int64")


def _mix(numbers: Any) -> Any:
    """splitmix64's finaliser: a bijection of 64 bits in which every bit hangs on every bit."""
    mixed = tf.cast(numbers, "uint64") + _unsigned(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = _folded(mixed, shift) * _unsigned(factor)
    return _folded(mixed, 31)


def _folded(numbers: Any, shift: int) -> Any:
    return tf.bitwise.bitwise_xor(numbers, tf.bitwise.right_shift(numbers, _unsigned(shift)))


def _unsigned(number: int) -> Any:
    return tf.constant(np.uint64(number))
