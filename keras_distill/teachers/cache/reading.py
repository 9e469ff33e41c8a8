"""The data set that a cache gives to `fit`: inputs, the teacher's answers, labels.

Batches are gathered inside TensorFlow's graph, many at a time where they are small. Python is
called at an epoch's beginning, so that the training thread need not wait for the interpreter;
within an epoch only where records or inputs are too large for memory, and for a PyDataset.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_distill.functional.tensors import Tensor
from keras_distill.teachers.cache.clock import Clock
from keras_distill.teachers.cache.elements import as_is, called, unnamed, untuned
from keras_distill.teachers.cache.fingerprints import of_rows
from keras_distill.teachers.cache.layout import Layout
from keras_distill.teachers.cache.manifest import Manifest
from keras_distill.teachers.cache.order import shuffled
from keras_distill.teachers.cache.shards import Held, OnDisk, Sums
from keras_distill.teachers.cache.sources import Arrays, Batches, Source
from keras_distill.teachers.cache.views import Views

__all__ = ["CachedBatch", "Reader", "Reading", "Stored"]

# Examples that are gathered at a time, and their bytes.
_BLOCK, _BLOCK_BYTES = 8192, 2**20
# Records that are read from disk at a time: their bytes, and so many that one of them costs no
# more than that where what lies between them is read as well.
_READ_BYTES, _BYTES_A_RECORD = 2**24, 2**10
_PRIME = 2_147_483_647
_PREFETCHED = 8


class CachedBatch(NamedTuple):
    """What stands in x's place: the student's inputs, and what the teacher said of them.

    Attributes:
      inputs: as the data gives x; the augmented view, where the cache is of views.
      teacher: the cache's fields by name, each `(batch, ...)`, and the mark of their cache, which
        holds no tensor.
    """

    inputs: Any
    teacher: dict[str, Any]


class Stored(Source):
    """Inputs that lie in the cache itself, beside the answers."""

    def __init__(self, manifest: Manifest):
        specs = {i.name or "": tf.TensorSpec(i.shape, i.dtype) for i in manifest.layout.inputs}
        self.examples = manifest.examples
        self.element = unnamed(specs)
        self.names = unnamed({name: name for name in specs})


class Reading(NamedTuple):
    """How the batches are made, as `TeacherCache.dataset` takes it."""

    batch_size: int
    shuffle: bool
    seed: int
    shuffle_buffer: int
    drop_remainder: bool
    memory_bytes: int


class Reader:
    """Makes the batches of an epoch, in an order that seed and epoch decide.

    Args:
      source: the inputs.
      sums: of the cache's folder.
      views: the augmentation.
      manifest: the cache's.
      mark: see `marks`.
      how: see `Reading`.
    """

    def __init__(
        self,
        source: Source,
        sums: Sums,
        views: Views,
        manifest: Manifest,
        mark: str,
        how: Reading,
    ):
        self._source, self._views, self._manifest, self._how = source, views, manifest, how
        self._mark = mark
        self._layout, self._examples = manifest.layout, manifest.examples or 0
        self._bytes = self._layout.record.itemsize
        fits = self._examples * self._bytes <= how.memory_bytes
        self._held = Held(manifest, sums) if fits else None
        self._disk = OnDisk(manifest, sums)
        inputs = sum(
            (spec.shape.num_elements() or 0) * spec.dtype.size
            for spec in keras.tree.flatten(source.element)
        )
        block = min(_BLOCK_BYTES // (self._bytes + inputs), _BLOCK)
        self._block = self._at_once = _multiple(how.batch_size, block)
        if not fits:
            dense = max(self._examples * self._bytes // _BYTES_A_RECORD, _BLOCK)
            self._at_once = _multiple(self._block, min(_READ_BYTES // self._bytes, dense))

    def dataset(self, clock: Clock, start_step: int) -> tf.data.Dataset:
        """A pass over it is the epoch that the clock says."""
        full, part = divmod(self._examples, self._how.batch_size)
        steps = full + bool(part and not self._how.drop_remainder)

        def begin(_):
            epoch, held = tf.numpy_function(self._begun, [], [tf.int64, tf.uint8])
            return tf.ensure_shape(epoch, ()), tf.ensure_shape(held, (None, self._bytes))

        anywhere, augmented = isinstance(self._source, (Arrays, Stored)), self._views.augmented
        size = self._how.batch_size
        first = start_step * size // self._at_once if anywhere else 0

        def batches(epoch, held):
            made = self._anywhere if anywhere else self._from_stream
            found = made(epoch, held, first)
            if not augmented:
                found = found.map(as_is(self._packed))
            found = found.rebatch(size, drop_remainder=self._how.drop_remainder)
            return found.skip(start_step - first * self._at_once // size)

        self._clock = clock
        # Python is not called again while an epoch goes on: a tf.data iterator that is let go of
        # while a Python function runs in it can wait for ever.
        found = tf.data.Dataset.range(1).map(as_is(begin)).flat_map(as_is(batches))
        if augmented:
            found = found.map(as_is(self._packed), num_parallel_calls=tf.data.AUTOTUNE)
        sized = found.apply(tf.data.experimental.assert_cardinality(steps - start_step))
        return untuned(sized.prefetch(_PREFETCHED))

    def load(self, epoch: int) -> np.ndarray:
        """All records of an epoch as bytes, `(examples, bytes)`; none where they stay on disk.

        Raises:
          ValueError: a shard is damaged; which, is named.
        """
        view = epoch % self._manifest.epochs
        if self._held is not None:
            return self._held.load(view)
        self._disk.open(view)
        return np.zeros((0, self._bytes), "u1")

    def _begun(self) -> tuple:
        epoch = self._clock.take()
        return epoch, self.load(int(epoch))

    def _anywhere(self, epoch: Tensor, held: Tensor, first: int) -> tf.data.Dataset:
        """Inputs that can be had in any order: the epoch's own, from that block on."""

        def ordered(number):
            places = self._neighbours(number, self._at_once)
            if self._how.shuffle:
                places = shuffled(places, self._examples, self._how.seed, epoch)
            return places, self._read(epoch, held, places)

        def with_inputs(indices, rows):
            return self._element(indices, rows), rows, _places(epoch, indices)

        blocks = tf.data.Dataset.range(first, -(-self._examples // self._at_once))
        blocks = blocks.map(as_is(ordered))
        if self._held is None:
            # The next are read while these are used.
            blocks = blocks.prefetch(1).rebatch(self._block)
        return blocks.map(as_is(with_inputs))

    def _neighbours(self, number: Tensor, count: int) -> Tensor:
        """The places in so many examples' block of that number; none past the end."""
        start = tf.minimum(number * count, self._examples)
        return tf.range(start, tf.minimum(start + count, self._examples))

    def _read(self, epoch: Tensor, held: Tensor, indices: Tensor) -> Any:
        """The records of these examples as bytes."""
        if self._held is not None:
            return tf.gather(held, indices)
        rows = tf.numpy_function(
            lambda epoch, indices: self._disk.read(int(epoch) % self._manifest.epochs, indices),
            [epoch, indices],
            tf.uint8,
            stateful=False,
        )
        return tf.ensure_shape(rows, (None, self._bytes))

    def _element(self, indices: Tensor, rows: Tensor) -> tuple:
        source = self._source
        if isinstance(source, Stored):
            fields = unpacked(rows, self._layout, tuple(keras.tree.flatten(source.names)))
            return keras.tree.map_structure(lambda name: fields[name], source.names)
        assert isinstance(source, Arrays)
        if source.in_memory:
            return keras.tree.map_structure(lambda t: tf.gather(t, indices), source.tensors())
        return called(source.take, [indices], source.batch_spec())

    def _from_stream(self, epoch: Tensor, held: Tensor, first: int) -> tf.data.Dataset:
        """Inputs in the order that they come in, from the first, each window of them shuffled."""
        source = self._source
        size = source.batch_size if isinstance(source, Batches) else self._how.batch_size
        steps = -(-self._examples // size)

        def answered(number):
            indices = self._neighbours(number, size)
            return self._read(epoch, held, indices), _places(epoch, indices)

        def loaded(place):
            assert isinstance(source, Batches)
            number = place
            if self._how.shuffle:
                number = shuffled(place[None], steps, self._how.seed, epoch)[0]
            return called(source.read, [number], source.batch_spec()), *answered(number)

        if isinstance(source, Batches):
            numbers = tf.data.Dataset.range(steps)
            found = numbers.map(as_is(loaded), num_parallel_calls=source.workers)
        else:
            # An empty step after the last pairs with the data's end: neither may come alone.
            ending = tf.data.Dataset.from_tensors(source.nothing())
            given = source.batches(0, None, size).concatenate(ending)
            answers = tf.data.Dataset.range(steps + 1).map(as_is(answered))
            pairs = tf.data.Dataset.zip(given, answers)
            found = pairs.map(as_is(lambda element, answer: (element, *answer)))
        found = found.map(as_is(self._checked))
        if not self._how.shuffle:
            return found
        window = -(-self._how.shuffle_buffer // self._how.batch_size) * self._how.batch_size
        return found.rebatch(window).enumerate().map(as_is(self._window_shuffled))

    def _checked(self, element: tuple, rows: Tensor, places: Tensor) -> tuple:
        """The element, once it is the one that the teacher answered."""
        found = of_rows(element[0])
        right = unpacked(rows, self._layout, ("input",))["input"]
        same = tf.equal(tf.size(found), tf.size(right))
        same = tf.cond(same, lambda: tf.reduce_all(tf.equal(found, right)), lambda: False)
        with tf.control_dependencies([tf.debugging.Assert(same, [_CHANGED])]):
            return keras.tree.map_structure(tf.identity, (element, rows, places))

    def _window_shuffled(self, number: Tensor, batch: tuple) -> tuple:
        key = tf.stack([self._how.seed + batch[2][0, 0] * _PRIME, number])
        order = tf.range(tf.shape(batch[1])[0])
        order = tf.random.experimental.stateless_shuffle(order, seed=key)
        return keras.tree.map_structure(lambda t: tf.gather(t, order), batch)

    def _packed(self, element: tuple, rows: Tensor, places: Tensor) -> tuple:
        x = element[0]
        if self._views.augmented:
            view = places[0, 0] % self._manifest.epochs
            x = self._views.replay(x, self._views.seeds(view, places[:, 1]))
        answers = unpacked(rows, self._layout, self._layout.answers)
        return (CachedBatch(x, {**answers, self._mark: ()}), *element[1:])


_CHANGED = (
    "The data set is not the one that the cache was built over: its length, its order or its "
    "examples changed."
)


def unpacked(rows: Tensor, layout: Layout, names: tuple[str, ...]) -> dict[str, Any]:
    """Fields of records that are given as bytes, inside a graph.

    Args:
      rows: uint8 `(batch, bytes)`.
    """
    fields = layout.record.fields
    assert fields is not None
    return {name: _field(rows, *fields[name][:2]) for name in names}


def _field(rows: Tensor, kind: np.dtype, offset: int) -> Tensor:
    part = rows[:, offset : offset + kind.itemsize]
    dtype, size = tf.as_dtype(kind.base), kind.base.itemsize
    shape = [-1, *kind.shape]
    if dtype == tf.bool:
        return tf.reshape(part, shape) != 0
    return tf.bitcast(tf.reshape(part, shape if size == 1 else [*shape, size]), dtype)


def _multiple(number: int, most: int) -> int:
    """The largest multiple up to `most`, one at least."""
    return max(most // number, 1) * number


def _places(epoch: Tensor, indices: Tensor) -> Tensor:
    """Each row's epoch and example, int64 `(batch, 2)`."""
    return tf.stack([tf.fill(tf.shape(indices), epoch), indices], axis=-1)
