"""Running the teacher over the data, shard by shard."""

import errno
import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.signals import Signals
from keras_distill.teachers import identity
from keras_distill.teachers.base import Teacher
from keras_distill.teachers.cache.checking import column
from keras_distill.teachers.cache.elements import as_is, batched, named, untuned
from keras_distill.teachers.cache.encoding import encode
from keras_distill.teachers.cache.fingerprints import of_rows
from keras_distill.teachers.cache.layout import Layout, Output
from keras_distill.teachers.cache.manifest import Manifest, Shard, digest_of
from keras_distill.teachers.cache.shards import check_replaceable, write_shard
from keras_distill.teachers.cache.sources import Source
from keras_distill.teachers.cache.views import Views

__all__ = ["Answers", "Builder"]


class Answers:
    """A teacher asked about batches of views, in one compiled graph.

    Args:
      teacher: built for these views.
      keys: the layers whose outputs are kept.
      preprocess: what the teacher sees of a view; None for the view itself.
      views: `tf.TensorSpec`s of one example's view.
    """

    def __init__(self, teacher: Teacher, keys: tuple, preprocess: Callable | None, views: Any):
        self._teacher, self._keys, self._preprocess = teacher, keys, preprocess
        flat = keras.tree.flatten(batched(views))
        structure = views
        self._seen = lambda *tensors: keras.tree.pack_sequence_as(structure, list(tensors))
        self._specs = flat
        self._traced = tf.function(
            lambda *t: _flat(self._ask(*t), keys), autograph=False
        ).get_concrete_function(*flat)

    def fingerprints(self, probe: Callable[[], Any]) -> dict[str, str]:
        """Digests of what is computed: operations, constants and variables.

        Args:
          probe: gives a few views, batch first. Of what runs as Python inside the teacher (a LiteRT
            file, functions of NumPy) only the answers to them tell.
        """
        found = {"teacher graph": identity.of_function(self._traced)}
        if identity.is_opaque(self._traced):
            answers = self._traced(*keras.tree.flatten(probe()))
            found["teacher answers"] = digest_of(*(a.numpy().tobytes() for a in answers))
        return found

    def layout(self, **options: Any) -> Layout:
        """The layout of what the teacher says.

        Raises:
          ValueError: an axis of unknown size, or more classes asked for than there are.
        """
        signals = self._signals
        heads = tuple(
            Output(
                name,
                _known(head.logits, "output" if name is None else name),
                _dtype(head.logits),
                from_probabilities=head.kind == "probabilities",
                from_sigmoid=head.kind == "sigmoid",
            )
            for name, head in signals.heads.items()
        )
        layers = tuple(
            Output(layer_name(key), _known(signals.taps[key], layer_name(key)), _dtype(tap))
            for key, tap in ((key, signals.taps[key]) for key in self._keys)
        )
        return Layout(heads=heads, layers=layers, **options)

    def encoder(self, layout: Layout) -> Callable:
        """A compiled function from a batch of views to `(fields, number of bad examples)`."""

        def answer(*tensors):
            return encode(self._ask(*tensors), self._keys, layout)

        compiled = tf.function(answer, autograph=False).get_concrete_function(*self._specs)
        return lambda views: compiled(*keras.tree.flatten(views))

    def _ask(self, *tensors: Any) -> Signals:
        views = self._seen(*tensors)
        if self._preprocess is not None:
            views = self._preprocess(views)
        self._signals = self._teacher(views)
        return self._signals


class Builder:
    """Writes the shards that are missing.

    Args:
      folder: which this process holds.
      manifest: the plan; its `examples` may be None.
      source, views: the data, and what is seen of it.
      encoder: gives what `Answers.encoder` does, when the first batch is there to be answered.
      finished: the shards that are whole.
      report: called with the examples of each batch.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        source: Source,
        views: Views,
        encoder: Callable[[], Callable],
        finished: set[int],
        report: Callable[[int], None],
    ):
        self._folder, self._manifest = folder, manifest
        self._source, self._views, self._encoder = source, views, encoder
        self._finished, self._report = finished, report
        self._record = manifest.layout.record
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future | None = None
        self._first_pass: tuple = (None, None)

    def build(self, shards: list[Shard]) -> None:
        """Write these shards, those of one epoch next to each other in one pass over the data.

        Raises:
          ValueError: the data is not what it was, or the teacher's answer can't be stored.
          OSError: a shard could not be written; the others stay.
        """
        try:
            missing = [s for s in shards if s.index not in self._finished]
            for shard in missing:
                check_replaceable(self._folder, shard)
            for run in _runs(missing):
                self._pass(run)
            self._settle()
        finally:
            self._writer.shutdown(wait=True)

    def build_to_the_end(self, first: Shard) -> int:
        """Write a first epoch of unknown length from `first` on; how many examples it has."""
        try:
            end = self._pass([first])
            self._settle()
        finally:
            self._writer.shutdown(wait=True)
        return end

    def _pass(self, run: list[Shard]) -> int:
        """One pass over the examples of neighbouring shards; where the data ended."""
        start, stop = run[0].start, run[-1].stop
        epoch, size = run[0].epoch, self._manifest.shard_examples
        buffer, filled, at = self._new(start, stop), 0, start
        for batch in self._batches(epoch, start, stop):
            rows = len(batch["input"])
            self._check_input(epoch, at, batch["input"])
            if filled + rows > len(buffer):
                raise _changed(f"it has more than {stop} examples")
            for name, values in batch.items():
                buffer[name][filled : filled + rows] = values
            filled, at = filled + rows, at + rows
            self._report(rows)
            if filled == size:
                self._write(self._shard(epoch, at - filled), buffer)
                buffer, filled = self._new(at, stop), 0
        if stop is not None and at != stop:
            raise _changed(f"it ended after {at} examples, and {stop} were expected")
        if filled:
            self._write(self._shard(epoch, at - filled), buffer[:filled])
        return at

    def _batches(self, epoch: int, start: int, stop: int | None) -> Iterator[dict[str, Any]]:
        size = self._manifest.batch_size
        elements = self._source.batches(start, stop, size).enumerate()
        prepared = elements.map(
            as_is(lambda i, element: self._prepared(epoch, start + i * size, element)),
            num_parallel_calls=tf.data.AUTOTUNE if self._views.augmented else 1,
        )
        at, ask = start, functools.partial(_asked, self._encoder())
        for tensors, bad in _one_ahead(ask, untuned(prepared.prefetch(2))):
            # Here, where the teacher is at work on the next batch meanwhile.
            batch = {name: tensor.numpy() for name, tensor in tensors.items()}
            if bad:
                raise self._unstorable(int(bad), at, len(batch["input"]))
            yield batch
            at += len(batch["input"])

    def _prepared(self, epoch: int, at: Any, element: tuple) -> tuple:
        x, prints = element[0], {"input": of_rows(element[0])}
        stored = dict(named(element)) if self._manifest.layout.inputs else {}
        if not self._views.augmented:
            return stored, x, prints
        rows = tf.shape(keras.tree.flatten(x)[0], out_type="int64")[0]
        view = self._views.replay(x, self._views.seeds(epoch, tf.range(at, at + rows)))
        return stored, view, {**prints, "view": of_rows(view)}

    def _check_input(self, epoch: int, at: int, found: np.ndarray) -> None:
        """A later pass over the data gives what the first gave."""
        if epoch == 0:
            return
        shard = self._shard(0, at)
        if shard.index not in self._finished:
            return
        if shard != self._first_pass[0]:
            self._first_pass = shard, column(self._folder, [shard], "input")
        expected = self._first_pass[1][at - shard.start :][: len(found)]
        if not np.array_equal(expected, found):
            raise _changed(f"from example {at} on, this pass gave other examples than the first")

    def _shard(self, epoch: int, start: int) -> Shard:
        return self._manifest.shard(epoch, start // self._manifest.shard_examples)

    def _new(self, start: int, stop: int | None) -> np.ndarray:
        size = self._manifest.shard_examples
        return np.empty(size if stop is None else max(min(size, stop - start), 0), self._record)

    def _write(self, shard: Shard, records: np.ndarray) -> None:
        # One shard is written while the teacher fills the next; a third would only take memory.
        self._settle()
        check_replaceable(self._folder, shard)
        self._writing = self._writer.submit(write_shard, self._folder, shard, records)
        self._writing.add_done_callback(
            lambda done: None if done.exception() else self._finished.add(shard.index)
        )

    def _settle(self) -> None:
        if self._writing is None:
            return
        try:
            self._writing.result()
        except OSError as error:
            full = "The disk is full" if error.errno == errno.ENOSPC else str(error)
            raise OSError(
                error.errno,
                f"{full}: {len(self._finished)} shards are whole in {self._folder} and stay. Make "
                f"room and call build again with the same arguments: it goes on from there.",
            ) from error
        finally:
            self._writing = None

    def _unstorable(self, bad: int, at: int, rows: int) -> ValueError:
        layout = self._manifest.layout
        return ValueError(
            f"The teacher's answers to {bad} of the examples {at} to {at + rows - 1} are not "
            f"finite, too large for dtype={layout.dtype!r} (layers: {layout.layer_dtype!r}), or "
            f"whole numbers that would be rounded. If they are only large, build with "
            f"dtype='bfloat16' or 'float32' in another folder; whole numbers want "
            f"layer_dtype='float32'."
        )


def _asked(encode: Callable, stored: dict, view: Any, prints: dict) -> tuple[dict[str, Any], Any]:
    """The fields of a batch of records, and how many examples can't be stored, a scalar."""
    fields, bad = encode(view)
    return {**stored, **prints, **fields}, bad


def _one_ahead(function: Callable, items: Iterable[tuple]) -> Iterator:
    """What the function gives for each item, already at work on the next while one is used."""
    with ThreadPoolExecutor(1) as worker:
        coming: Future | None = None
        for item in items:
            coming, ready = worker.submit(function, *item), coming
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()


def layer_name(key: Any) -> str:
    """A tap's name: as it was given, or the layer object's."""
    return key if isinstance(key, str) else key.name


def _runs(shards: list[Shard]) -> Iterator[list[Shard]]:
    run: list[Shard] = []
    for shard in shards:
        if run and (shard.epoch != run[-1].epoch or shard.index != run[-1].index + 1):
            yield run
            run = []
        run.append(shard)
    if run:
        yield run


def _flat(signals: Signals, keys: tuple) -> list:
    heads = [head.logits for head in signals.heads.values()]
    return [*heads, *(signals.taps[key] for key in keys)]


def _known(tensor: Any, name: str) -> tuple[int, ...]:
    shape = tuple(tensor.shape)[1:]
    if None in shape:
        raise ValueError(
            f"The teacher's {name} has the shape {tuple(tensor.shape)}, and records are of one "
            f"size: give the teacher inputs of a fixed size."
        )
    return shape


def _dtype(tensor: Any) -> str:
    return keras.backend.standardize_dtype(tensor.dtype)


def _changed(how: str) -> ValueError:
    return ValueError(
        f"The data set changed while the cache was being built: {how}. Give the same examples in "
        f"the same order in every pass; what is whole stays."
    )
