"""Numbers that follow from a seed alone: the order of an epoch, the seed of a view.

Nothing of it is stored or held in memory, any part of it can be had without the rest, and all of
it is computed inside TensorFlow's graph.
"""

import numpy as np
import tensorflow as tf

from keras_distill.functional.tensors import Tensor

__all__ = ["example_seeds", "shuffled"]


def shuffled(positions: Tensor, count: int, seed: int, epoch: int | Tensor) -> Tensor:
    """Which examples stand at these positions of a shuffled epoch.

    A permutation of `range(count)` that is computed and not held: TensorFlow's own.

    Args:
      positions: whole numbers `(n,)`, each in `[0, count)`.

    Returns:
      int64 `(n,)`.

    >>> sorted(shuffled(tf.range(10), 10, seed=0, epoch=3).numpy().tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    seed_and_epoch = tf.bitcast(_key(seed, epoch), "int32")
    last = tf.constant(max(count, 1) - 1, "int64")
    positions = tf.cast(positions, "int64")
    return tf.random.experimental.index_shuffle(positions, seed=seed_and_epoch, max_index=last)


def example_seeds(indices: Tensor, seed: int, epoch: int | Tensor) -> Tensor:
    """The seed of each example's view in an epoch, int32 `(n, 2)`, as `tf.image.stateless_*` takes.

    >>> example_seeds(tf.range(3), seed=0, epoch=0).shape
    TensorShape([3, 2])
    """
    own = _mix(tf.cast(indices, "int64"))
    of_epoch = tf.cast(_key(seed, epoch), "uint64")
    return tf.bitcast(_mix(tf.bitwise.bitwise_xor(own, of_epoch)), "int32")


def _key(seed: int, epoch: int | Tensor) -> Tensor:
    """A signed scalar that hangs on both."""
    mixed = _mix(_unsigned(seed % 2**64)) + tf.cast(epoch, "uint64")
    return tf.cast(_mix(mixed), "int64")


def _mix(numbers: Tensor) -> Tensor:
    """splitmix64's finaliser: a bijection of 64 bits in which every bit hangs on every bit."""
    mixed = tf.cast(numbers, "uint64") + _unsigned(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = _folded(mixed, shift) * _unsigned(factor)
    return _folded(mixed, 31)


def _folded(numbers: Tensor, shift: int) -> Tensor:
    return tf.bitwise.bitwise_xor(numbers, tf.bitwise.right_shift(numbers, _unsigned(shift)))


def _unsigned(number: int) -> Tensor:
    return tf.constant(np.uint64(number))
