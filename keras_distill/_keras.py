"""What is used of the frameworks' private parts: where it was read, and what breaks without it."""

from collections.abc import Iterator

import tensorflow as tf

__all__ = ["reshuffled", "upstream"]


def upstream(dataset: tf.data.Dataset) -> Iterator[tuple[tf.data.Dataset, int]]:
    """A data set, those that it was made of, and how often one pass over it passes over each.

    How often is -1 where it repeats for ever. Read from TensorFlow 2.21: `Dataset._inputs`, and
    `_RepeatDataset._count`. Without them a data set is made of nothing.
    """
    waiting = [(dataset, 1)]
    while waiting:
        one, times = waiting.pop()
        yield one, times
        count = getattr(one, "_count", 1) if type(one).__name__ == "_RepeatDataset" else 1
        count = int(count)
        times = -1 if -1 in (times, count) else times * count
        waiting += [(source, times) for source in getattr(one, "_inputs", tuple)()]


def reshuffled(dataset: tf.data.Dataset) -> bool:
    """Whether a data set is shuffled anew at each pass, and not kept by a `cache()` since.

    Read from TensorFlow 2.21: `_ShuffleDataset._reshuffle_each_iteration`, `CacheDataset`. Without
    them it is never known.
    """
    if type(dataset).__name__ == "CacheDataset":
        return False
    if type(dataset).__name__ == "_ShuffleDataset":
        return bool(getattr(dataset, "_reshuffle_each_iteration", False))
    return any(reshuffled(source) for source in getattr(dataset, "_inputs", tuple)())
