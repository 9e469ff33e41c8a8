"""The data that a cache is over: arrays, a PyDataset, a tf.data.Dataset; elements in their order.

An element is what the data gives for one example: `(x,)`, `(x, y)` or `(x, y, sample_weight)`.
"""

import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill import data
from keras_distill._keras import reshuffled
from keras_distill.teachers.cache.elements import as_is, batched, called

__all__ = ["Arrays", "Batches", "Source", "Stream", "source_of"]


# Arrays up to this size are handed to TensorFlow; of larger ones only what is asked for.
_COPIED_BYTES = 2**32
# Batches of a stream that are read twice before anything is written.
_COMPARED = 4


class Source:
    """A data set in an order that does not change.

    Attributes:
      element: `tf.TensorSpec`s of one example, without the batch; a tuple of one to three parts.
      examples: how many there are; None where only reading tells.
    """

    element: tuple
    examples: int | None

    def batches(self, start: int, stop: int | None, batch_size: int) -> tf.data.Dataset:
        """The elements from `start` (a multiple of `batch_size`) to `stop`, or to the end."""
        raise NotImplementedError

    def count(self) -> int:
        """How many examples there are, all of them read where nothing else tells."""
        if self.examples is None:
            rows = self.batches(0, None, 1024).map(as_is(_rows))
            self.examples = int(rows.reduce(np.int64(0), lambda a, b: a + tf.cast(b, "int64")))
        return self.examples

    def _end(self, stop: int | None) -> int:
        examples = self.examples or 0
        return examples if stop is None else min(stop, examples)

    @property
    def inputs(self) -> Any:
        """`tf.TensorSpec`s of one example's x."""
        return self.element[0]

    def batch_spec(self) -> tuple:
        """`tf.TensorSpec`s of a batch of elements."""
        return batched(self.element)

    def nothing(self) -> tuple:
        """A batch of no elements."""
        return keras.tree.map_structure(
            lambda s: tf.zeros([0, *(size or 0 for size in s.shape)], s.dtype), self.element
        )


class Arrays(Source):
    """Arrays of rows: any row at any time."""

    def __init__(self, parts: Any):
        # One batch that holds all rows: the arrays themselves, checked.
        whole = next(iter(data.batches(parts, batch_size=sys.maxsize)))
        self._structure = _present(whole)
        self._flat = keras.tree.flatten(self._structure)
        self._tensors: Any = None
        self.examples = len(self._flat[0])
        self.element = keras.tree.map_structure(
            lambda a: tf.TensorSpec(a.shape[1:], a.dtype), self._structure
        )

    @property
    def bytes(self) -> int:
        """Of the arrays, all of them."""
        return sum(a.nbytes for a in self._flat)

    def batches(self, start: int, stop: int | None, batch_size: int) -> tf.data.Dataset:
        stop = self._end(stop)
        if start >= stop:
            return tf.data.Dataset.from_tensors(self.nothing()).take(0)
        starts = tf.data.Dataset.range(start, stop, batch_size)

        def sliced(at):
            return [a[at : min(at + batch_size, stop)] for a in self._flat]

        def batch(at):
            if not self.in_memory:
                return called(sliced, [at], self.batch_spec())
            end = tf.minimum(at + batch_size, stop)
            return keras.tree.map_structure(lambda t: t[at:end], self.tensors())

        return starts.map(as_is(batch))

    @property
    def in_memory(self) -> bool:
        """TensorFlow may hold them too: they lie in memory, and a copy is no burden."""
        mapped = any(isinstance(a, np.memmap) for a in self._flat)
        return self.bytes <= _COPIED_BYTES and not mapped

    def tensors(self) -> tuple:
        """The arrays as TensorFlow's own, in their structure; copied once."""
        if self._tensors is None:
            # From a graph's function aligned arrays come without a copy.
            with tf.init_scope(), tf.device("CPU"):
                given = tf.function(self._handed_over, autograph=False).get_concrete_function()()
            for tensor, array in zip(given, self._flat, strict=True):
                tensor.set_shape(array.shape)
            self._tensors = keras.tree.pack_sequence_as(self._structure, given)
        return self._tensors

    def _handed_over(self) -> list:
        kinds = [tf.as_dtype(a.dtype) for a in self._flat]
        return tf.numpy_function(lambda: self._flat, [], kinds)

    def take(self, indices: np.ndarray) -> list:
        """These elements' arrays, flat."""
        return [a[indices] for a in self._flat]


class Batches(Source):
    """A PyDataset: any batch at any time, all of one size but the last."""

    def __init__(self, dataset: keras.utils.PyDataset):
        self._dataset = dataset
        self.number = dataset.num_batches
        if self.number is None:
            raise ValueError("Expected a PyDataset of known length; its num_batches is None.")
        if self.number == 0:
            raise ValueError("The data set is empty: its PyDataset has no batch.")
        first = self.load(0)
        self.batch_size = len(keras.tree.flatten(first)[0])
        last = len(keras.tree.flatten(self.load(self.number - 1))[0])
        self.examples = (self.number - 1) * self.batch_size + last
        self.element = keras.tree.map_structure(
            lambda a: tf.TensorSpec(a.shape[1:], a.dtype), first
        )
        self._refuse_changing(first)

    def load(self, number: int) -> tuple:
        """A batch's element, its parts as arrays."""
        batch = data.as_arrays(self._dataset[number])
        return _present(data.unpack(batch))

    def read(self, number: int) -> list:
        """A batch's arrays, flat; of the size it has to be."""
        flat = keras.tree.flatten(self.load(number))
        expected = min(self.batch_size, (self.examples or 0) - number * self.batch_size)
        if len(flat[0]) != expected:
            raise ValueError(
                f"The PyDataset's batch {number} has {len(flat[0])} rows, and {expected} were "
                f"expected: all batches but the last must be of one size."
            )
        return flat

    @property
    def workers(self) -> int:
        """Threads that may load at a time, as the PyDataset says."""
        return max(int(self._dataset.workers), 1)

    def batches(self, start: int, stop: int | None, batch_size: int) -> tf.data.Dataset:
        stop = self._end(stop)
        if start >= stop:
            return tf.data.Dataset.from_tensors(self.nothing()).take(0)
        size = self.batch_size
        numbers = tf.data.Dataset.range(start // size, -(-stop // size))

        def cropped(number):
            begin = number * size
            return [a[max(start - begin, 0) : stop - begin] for a in self.read(number)]

        loaded = numbers.map(
            as_is(lambda number: called(cropped, [number], self.batch_spec())),
            num_parallel_calls=self.workers,
        )
        return loaded.rebatch(batch_size)

    def _refuse_changing(self, first: tuple) -> None:
        again = self.load(0)
        pairs = zip(keras.tree.flatten(first[0]), keras.tree.flatten(again[0]), strict=True)
        if not all(np.array_equal(a, b) for a, b in pairs):
            raise ValueError(_CHANGING.format("PyDataset", _TWICE.format("its first batch")))


class Stream(Source):
    """A batched tf.data.Dataset: from the first to the last."""

    def __init__(self, dataset: tf.data.Dataset):
        data.batches(dataset)  # refuses what is endless or has no batches
        self._dataset = dataset.map(as_is(_parts))
        self.element = keras.tree.map_structure(
            lambda s: tf.TensorSpec(s.shape[1:], s.dtype), self._dataset.element_spec
        )
        self.examples = self._known_length()
        self._refuse_changing()

    def batches(self, start: int, stop: int | None, batch_size: int) -> tf.data.Dataset:
        found = self._dataset.rebatch(batch_size).skip(start // batch_size)
        return found if stop is None else found.take(-(-(stop - start) // batch_size))

    def _known_length(self) -> int | None:
        number = int(self._dataset.cardinality())
        if number == 0:
            raise ValueError("The data set is empty: its tf.data.Dataset yields no batch.")
        # Batches of a static size are full, the last one too.
        size = keras.tree.flatten(self._dataset.element_spec)[0].shape[0]
        return number * size if number > 0 and size else None

    def _refuse_changing(self) -> None:
        seen = 0
        # Side by side, so that no more than two batches are held.
        for pair in tf.data.Dataset.zip(self._dataset, self._dataset).take(_COMPARED):
            pairs = zip(*(keras.tree.flatten(one[0]) for one in pair), strict=True)
            if not all(np.array_equal(a.numpy(), b.numpy()) for a, b in pairs):
                where = "its first batch" if seen == 0 else f"its batch {seen}, from 0"
                raise ValueError(_CHANGING.format("tf.data.Dataset", _TWICE.format(where)))
            seen += 1
        if not seen:
            raise ValueError("The data set is empty: its tf.data.Dataset yields no batch.")
        if reshuffled(self._dataset):
            raise ValueError(_CHANGING.format("tf.data.Dataset", "is shuffled anew at each pass"))


_TWICE = "gave two different answers for {}"
_CHANGING = (
    "The data set must give the same examples in the same order every time; this {} {}. Take "
    "shuffling and augmentation out of it: cache.dataset shuffles, "
    "and augment= augments."
)


def source_of(dataset: Any) -> Source:
    """Any data argument as a Source.

    Raises:
      TypeError, ValueError: as `keras_distill.data.batches` raises, for an empty data set, and
        for one that changes from pass to pass.
    """
    if isinstance(dataset, keras.utils.PyDataset):
        return Batches(dataset)
    if isinstance(dataset, tf.data.Dataset):
        return Stream(dataset)
    return Arrays(dataset)


def _parts(*element: Any) -> tuple:
    return _present(data.unpack(element))


def _present(parts: tuple) -> tuple:
    """`(x[, y[, w]])`, no part of it None.

    Raises:
      ValueError: weights without labels, which would be taken for labels.
    """
    if len(parts) == 3 and parts[1] is None and parts[2] is not None:
        raise ValueError(
            "Expected x, (x, y) or (x, y, sample_weight); got weights without labels. Give a row "
            "without a label the label -1."
        )
    return tuple(part for part in parts if part is not None)


def _rows(*element: Any) -> Any:
    return tf.shape(keras.tree.flatten(element)[0])[0]
