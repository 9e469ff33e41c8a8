"""Numbers that follow from a seed alone: the order of an epoch, the seed of a view.

Nothing of it is stored or held in memory, and any part of it can be had without the rest.
"""

import numpy as np

__all__ = ["example_seeds", "shuffled"]

_ROUNDS = 8


def shuffled(positions: np.ndarray, count: int, seed: int, epoch: int) -> np.ndarray:
    """Which examples stand at these positions of a shuffled epoch.

    A permutation of `range(count)` that is computed and not held: a Feistel network over a grid
    of rows and columns just large enough, walked on from numbers that lie outside.

    Args:
      positions: int64 `(n,)`, each in `[0, count)`.

    Returns:
      int64 `(n,)`.

    Source: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002.

    >>> sorted(shuffled(np.arange(10), 10, seed=0, epoch=3).tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    rows = int(np.ceil(np.sqrt(count)))
    columns = -(-count // rows)
    keys = _mix(_key(seed, epoch) + np.arange(_ROUNDS, dtype="uint64"))
    found = _encipher(positions.astype("uint64"), rows, columns, keys)
    outside = found >= count
    while outside.any():
        found[outside] = _encipher(found[outside], rows, columns, keys)
        outside = found >= count
    return found.astype("int64")


def example_seeds(indices: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The seed of each example's view in an epoch, int32 `(n, 2)`, as `tf.image.stateless_*` takes.

    >>> example_seeds(np.arange(3), seed=0, epoch=0).shape
    (3, 2)
    """
    mixed = _mix(_mix(indices.astype("uint64")) ^ _key(seed, epoch))
    return mixed.astype("<u8")[:, None].view("<i4").astype("int32")


def _encipher(numbers: np.ndarray, rows: int, columns: int, keys: np.ndarray) -> np.ndarray:
    high, wide = np.uint64(rows), np.uint64(columns)
    row, column = np.divmod(numbers, wide)
    for i, key in enumerate(keys):
        if i % 2:
            column = np.mod(column + _mix(row ^ key) % wide, wide)
        else:
            row = np.mod(row + _mix(column ^ key) % high, high)
    return row * wide + column


def _key(seed: int, epoch: int) -> np.ndarray:
    parts = np.array([seed % 2**64, epoch], dtype="uint64")
    return _mix(_mix(parts[:1]) + parts[1:])


def _mix(numbers: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser: a bijection of 64 bits in which every bit hangs on every bit."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
