"""The data set that a cache gives to `fit`: inputs, the teacher's answers, labels.

Batches are gathered inside TensorFlow's graph. Python is called at an epoch's beginning and for
the order of every 64 batches, so that the training thread need not wait for the interpreter; for
each batch only where records or inputs are too large for memory, and for a PyDataset.
"""

import threading
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from .fingerprints import of_rows
from .layout import Layout
from .manifest import Manifest
from .order import shuffled
from .shards import Held, OnDisk
from .sources import Arrays, Batches, Source, as_is, called, unnamed
from .views import Views

__all__ = ["CachedBatch", "Clock", "Reader", "Reading", "Stored"]

_BLOCK = 64
_PRIME = 2_147_483_647
_PREFETCHED = 8
# Arrays up to this size are handed to TensorFlow, which copies them; larger ones are read by row.
_COPIED_BYTES = 2**32


class CachedBatch(NamedTuple):
    """What stands in x's place: the student's inputs, and what the teacher said of them.

    Attributes:
      inputs: as the data gives x; the augmented view, where the cache is of views.
      teacher: the cache's fields by name, each `(batch, ...)`.
    """

    inputs: Any
    teacher: dict[str, Any]


class Clock:
    """Which epoch comes next: announced by `fit`, else one more than the last."""

    def __init__(self, cached: int | None):
        self._next, self._cached = 0, cached
        self._lock = threading.Lock()

    def announce(self, epoch: int) -> None:
        """The next pass over the data is that epoch."""
        with self._lock:
            self._next = epoch

    def take(self) -> np.int64:
        """The epoch that begins now."""
        with self._lock:
            epoch = self._next
            self._next += 1
        self.check(epoch)
        return np.int64(epoch)

    def check(self, epoch: int) -> None:
        """ValueError where no more views are cached and they don't start over."""
        if self._cached is not None and epoch >= self._cached:
            raise ValueError(
                f"Epoch {epoch} (from 0) asks for more views than were cached: there are "
                f"{self._cached}. Build with epochs={epoch + 1}, train for fewer, or let them "
                f"start over: cache.dataset(..., on_exhausted='cycle')."
            )


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
      folder: of the cache.
      views: the augmentation.
      manifest: the cache's.
      how: see `Reading`.
    """

    def __init__(self, source: Source, folder: Any, views: Views, manifest: Manifest, how: Reading):
        self._source, self._views, self._manifest, self._how = source, views, manifest, how
        self._layout, self._examples = manifest.layout, manifest.examples or 0
        self._bytes = self._layout.record.itemsize
        fits = self._examples * self._bytes <= how.memory_bytes
        self._held = Held(folder, manifest) if fits else None
        self._disk = OnDisk(folder, manifest)
        # Units of the order: examples, or the batches that a PyDataset gives.
        self._whole_batches = isinstance(source, Batches)
        self._units = source.number if isinstance(source, Batches) else self._examples
        self._step = 1 if self._whole_batches else how.batch_size

    def dataset(self, clock: Clock, start_step: int) -> tf.data.Dataset:
        """A pass over it is the epoch that the clock says."""
        self._clock, size = clock, self._how.batch_size
        full, part = divmod(self._examples, size)
        steps = full + bool(part and not self._how.drop_remainder)
        if isinstance(self._source, (Arrays, Stored)):
            found = self._answers(start_step, steps, self._how.shuffle).map(
                as_is(self._with_inputs)
            )
        else:
            found = self._mixed(self._from_stream()).skip(start_step)
        replay = tf.data.AUTOTUNE if self._views.augmented else None
        packed = found.map(as_is(self._packed), num_parallel_calls=replay)
        sized = packed.apply(tf.data.experimental.assert_cardinality(steps - start_step))
        return sized.prefetch(_PREFETCHED)

    def _answers(self, first: int, stop: int, shuffle: bool) -> tf.data.Dataset:
        """`(epoch, numbers of the units, records as bytes)` step by step."""

        def step(state, at):
            epoch, held = tf.cond(tf.equal(at, first), self._begin, lambda: state[:2])
            epoch.set_shape(())
            held.set_shape((None, self._bytes))
            begins = tf.equal(at, first) | tf.equal(at % _BLOCK, 0)
            block = tf.cond(begins, lambda: self._block(epoch, at, shuffle), lambda: state[2])
            block.set_shape((None,))
            from_here = (at - tf.maximum(at // _BLOCK * _BLOCK, first)) * self._step
            units = block[from_here : from_here + self._step]
            indices = self._examples_of(units)
            rows = self._read(epoch, held, indices)
            return (epoch, held, block), (epoch, units, indices, rows)

        nothing = (np.int64(-1), np.zeros((0, self._bytes), "u1"), np.zeros(0, "int64"))
        return tf.data.Dataset.range(first, stop).scan(nothing, as_is(step))

    def _begin(self) -> tuple:
        def begin():
            epoch = self._clock.take()
            if self._held is None:
                return epoch, np.zeros((0, self._bytes), "u1")
            return epoch, self._held.load(int(epoch) % self._manifest.epochs)

        epoch, held = tf.numpy_function(begin, [], [tf.int64, tf.uint8])
        return epoch, held

    def _block(self, epoch: Any, at: Any, shuffle: bool) -> Any:
        """The units of the steps from `at` to the end of its block."""

        def units(epoch, at):
            stop = min((at // _BLOCK + 1) * _BLOCK * self._step, self._units)
            places = np.arange(at * self._step, stop)
            return shuffled(places, self._units, self._how.seed, int(epoch)) if shuffle else places

        return tf.numpy_function(units, [epoch, at], tf.int64, stateful=False)

    def _examples_of(self, units: Any) -> Any:
        if not self._whole_batches:
            return units
        assert isinstance(self._source, Batches)
        start = units[0] * self._source.batch_size
        return tf.range(start, tf.minimum(start + self._source.batch_size, self._examples))

    def _read(self, epoch: Any, held: Any, indices: Any) -> Any:
        if self._held is not None:
            return tf.gather(held, indices)
        rows = tf.numpy_function(
            lambda epoch, indices: self._disk.read(int(epoch) % self._manifest.epochs, indices),
            [epoch, indices],
            tf.uint8,
            stateful=False,
        )
        return tf.ensure_shape(rows, (None, self._bytes))

    def _with_inputs(self, epoch: Any, units: Any, indices: Any, rows: Any) -> tuple:
        if isinstance(self._source, Stored):
            fields = unpacked(rows, self._layout, tuple(keras.tree.flatten(self._source.names)))
            element = keras.tree.map_structure(lambda name: fields[name], self._source.names)
        else:
            assert isinstance(self._source, Arrays)
            element = _taken(self._source, indices)
        return element, rows, _places(epoch, indices)

    def _from_stream(self) -> tf.data.Dataset:
        """`(element, records, places)` in batches of any size, none of them mixed yet."""
        source, size = self._source, self._how.batch_size
        if isinstance(source, Batches):
            answers = self._answers(0, source.number, self._how.shuffle)
            found = answers.map(as_is(self._loaded), num_parallel_calls=source.workers)
        else:
            # An empty step after the last pairs with the data's end: neither may come alone.
            answers = self._answers(0, -(-self._examples // size) + 1, False)
            ending = tf.data.Dataset.from_tensors(source.nothing())
            pairs = tf.data.Dataset.zip(source.batches(0, None, size).concatenate(ending), answers)
            found = pairs.map(as_is(_beside))
        return found.map(as_is(self._checked))

    def _loaded(self, epoch: Any, units: Any, indices: Any, rows: Any) -> tuple:
        source = self._source
        assert isinstance(source, Batches)
        element = called(source.read, [units[0]], source.batch_spec())
        return element, rows, _places(epoch, indices)

    def _checked(self, element: tuple, rows: Any, places: Any) -> tuple:
        """The element, once it is the one that the teacher answered."""
        found = of_rows(element[0])
        right = unpacked(rows, self._layout, ("input",))["input"]
        same = tf.equal(tf.size(found), tf.size(right))
        same = tf.cond(same, lambda: tf.reduce_all(tf.equal(found, right)), lambda: False)
        with tf.control_dependencies([tf.debugging.Assert(same, [_CHANGED])]):
            return keras.tree.map_structure(tf.identity, (element, rows, places))

    def _mixed(self, found: tf.data.Dataset) -> tf.data.Dataset:
        """Batches of the size asked for, each window of examples shuffled."""
        size, how = self._how.batch_size, self._how
        if how.shuffle:
            window = -(-how.shuffle_buffer // size) * size
            found = found.rebatch(window).enumerate().map(as_is(self._window_shuffled))
        return found.rebatch(size, drop_remainder=how.drop_remainder)

    def _window_shuffled(self, number: Any, batch: tuple) -> tuple:
        key = tf.stack([self._how.seed + batch[2][0, 0] * _PRIME, number])
        order = tf.range(tf.shape(batch[1])[0])
        order = tf.random.experimental.stateless_shuffle(order, seed=key)
        return keras.tree.map_structure(lambda t: tf.gather(t, order), batch)

    def _packed(self, element: tuple, rows: Any, places: Any) -> tuple:
        x = element[0]
        if self._views.augmented:
            x = self._views.replay(x, self._seeds(places))
        return (CachedBatch(x, unpacked(rows, self._layout, self._layout.answers)), *element[1:])

    def _seeds(self, places: Any) -> Any:
        def seeds(places):
            return self._views.seeds(places[0, 0] % self._manifest.epochs, places[:, 1])

        found = tf.numpy_function(seeds, [places], tf.int32, stateful=False)
        return tf.ensure_shape(found, (None, 2))


_CHANGED = (
    "The data set is not the one that the cache was built over: its length, its order or its "
    "examples changed."
)


def unpacked(rows: Any, layout: Layout, names: tuple[str, ...]) -> dict[str, Any]:
    """Fields of records that are given as bytes, inside a graph.

    Args:
      rows: uint8 `(batch, bytes)`.
    """
    fields = layout.record.fields
    assert fields is not None
    return {name: _field(rows, *fields[name][:2]) for name in names}


def _field(rows: Any, kind: np.dtype, offset: int) -> Any:
    part = rows[:, offset : offset + kind.itemsize]
    dtype, size = tf.as_dtype(kind.base), kind.base.itemsize
    shape = [-1, *kind.shape]
    if dtype == tf.bool:
        return tf.reshape(part, shape) != 0
    return tf.bitcast(tf.reshape(part, shape if size == 1 else [*shape, size]), dtype)


def _beside(element: tuple, answer: tuple) -> tuple:
    epoch, _, indices, rows = answer
    return element, rows, _places(epoch, indices)


def _places(epoch: Any, indices: Any) -> Any:
    """Each row's epoch and example, int64 `(batch, 2)`."""
    return tf.stack([tf.fill(tf.shape(indices), epoch), indices], axis=-1)


def _taken(source: Arrays, indices: Any) -> Any:
    if source.bytes <= _COPIED_BYTES and not source.mapped:
        return keras.tree.map_structure(lambda t: tf.gather(t, indices), source.tensors())
    return called(source.take, [indices], source.batch_spec())
