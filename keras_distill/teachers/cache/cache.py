"""The teacher that was asked once: its answers on disk."""

import os
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_distill._keras import upstream
from keras_distill.signals import Signals
from keras_distill.teachers.base import Teacher
from keras_distill.teachers.cache import folder as folders
from keras_distill.teachers.cache.building import layer_name
from keras_distill.teachers.cache.checking import check_inputs, check_same, check_views
from keras_distill.teachers.cache.clock import Announcer, Clock, Fitted
from keras_distill.teachers.cache.encoding import decode, promised
from keras_distill.teachers.cache.layout import layer_named
from keras_distill.teachers.cache.making import Maker
from keras_distill.teachers.cache.manifest import Manifest, digest_of
from keras_distill.teachers.cache.marks import check_mark, mark_of
from keras_distill.teachers.cache.options import Options
from keras_distill.teachers.cache.reading import CachedBatch, Reader, Reading, Stored
from keras_distill.teachers.cache.records import CacheInfo, CacheReport
from keras_distill.teachers.cache.shards import MEMORY_BYTES, Sums
from keras_distill.teachers.cache.sources import Source, source_of
from keras_distill.teachers.cache.views import Views

__all__ = ["TeacherCache"]


class TeacherCache(Teacher):
    """A teacher's answers to a data set, asked once and kept: a distilled epoch without a teacher.

    `build` makes one, `open` takes one up again. Train on what `dataset` gives:

        cache = kd.TeacherCache.build(teacher, (x, y), "cache")
        distiller = kd.Distiller(student, cache)
        distiller.compile("adam", loss)
        distiller.fit(cache.dataset(128), epochs=10)

    A folder holds standard .npy files, a record an example, their checksums (`b2sum -c *.b2`
    reads them too), and a manifest of what they were made from.
    """

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        given: Source | None = None,
        views: Views | None = None,
        maker: Maker | None = None,
    ):
        # The current folder may be another when it is read.
        self._folder, self._manifest = directory.absolute(), manifest
        self._mark, self._sums = mark_of(self._folder, manifest), Sums(self._folder)
        self._given, self._views, self._maker = given, views, maker
        self._source = Stored(manifest) if manifest.layout.inputs else given
        self._taps: dict[Any, str] = {}
        self._fitted: list[Fitted] = []
        # Of what reads still, in whatever data sets.
        self._clocks: weakref.WeakSet[Clock] = weakref.WeakSet()
        # Told apart where `fit` is given what was made of them, to count its passes.
        self._datasets: weakref.WeakKeyDictionary[tf.data.Dataset, tuple[Clock, Reader]] = (
            weakref.WeakKeyDictionary()
        )

    def __repr__(self) -> str:
        return f"TeacherCache({str(self._folder)!r})"

    @classmethod
    def build(
        cls,
        teacher: Any,
        dataset: Any,
        directory: str | os.PathLike[str],
        *,
        top_k: int | None = None,
        dtype: str = "float16",
        layers: Sequence[Any] = (),
        layer_dtype: str = "float16",
        augment: Callable | None = None,
        epochs: int = 1,
        seed: int = 0,
        teacher_preprocess: Callable | None = None,
        batch_size: int = 128,
        shard_examples: int | None = None,
        shard: tuple[int, int] | None = None,
        store_inputs: bool = False,
        verbose: bool = True,
    ) -> "TeacherCache":
        """Ask the teacher about every example and keep what it says.

        A build that was killed, stopped or ran out of disk goes on from its last whole shard when
        the same call is made again, to the same bytes; a damaged shard is made anew, alone.

        Args:
          teacher: a model, a `keras_distill.teachers.Teacher`, or a callable that returns logits.
          dataset: what `fit` takes: arrays `(x, y)`, a `keras.utils.PyDataset`, or a batched
            `tf.data.Dataset`; always the same examples in the same order.
          directory: a folder of its own.
          top_k: keep this many logits and what the rest sums to; None keeps all.
          dtype: of logits: "float16", "bfloat16" or "float32".
          layers: teacher's layers whose outputs are kept too, named as objectives name them.
          layer_dtype: theirs; "int8" keeps a scale an example.
          augment: `augment(x, seed) -> x`, on one example, stateless, with `tf.image.stateless_*`
            and the like; `seed` is int32 `(2,)`. The view is made again at training, equal to the
            bit, and costs no space.
          epochs: how many views of each example are cached.
          seed: of the views.
          teacher_preprocess: what the teacher sees of a view (of a batch); the student sees the
            view itself.
          batch_size: examples a call of the teacher.
          shard_examples: examples a file; by default 65,536, fewer where records are large.
          shard: `(i, n)`: do part i of n, on machine i of n. Each has a folder of its own, which
            `merge` puts together, or all write to one shared folder.
          store_inputs: keep x, y and weights too, so that a `tf.data` source can be shuffled
            wholly and is not needed for training.
          verbose: show progress.

        Returns:
          The cache; a part of one with `shard`, which can be merged but not trained on.

        Raises:
          FileExistsError: the folder holds something else.
          ValueError: what the folder's cache was built from differs (in what, is named), `augment`
            is not deterministic, the data is empty or changes between passes, an option is out
            of range, an answer can't be stored.
          RuntimeError: another process builds there.
          OSError: the disk is full; what is whole stays.

        >>> import tempfile, numpy as np
        >>> teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache = TeacherCache.build(
        ...         teacher, np.ones((8, 4), "float32"), folder + "/cache", verbose=False)
        ...     batch, = next(iter(cache.dataset(2)))
        >>> batch.teacher["logits"].shape
        TensorShape([2, 3])
        """
        options = Options(
            top_k=top_k,
            dtype=dtype,
            layers=tuple(layers),
            layer_dtype=layer_dtype,
            epochs=epochs,
            seed=seed,
            batch_size=batch_size,
            shard_examples=shard_examples,
            shard=shard or (0, 1),
            store_inputs=store_inputs,
        )
        folder = Path(directory).absolute()
        folders.claim(folder)
        maker = Maker(teacher, source_of(dataset), augment, teacher_preprocess, options)
        manifest = maker.make(folder, verbose)
        return cls(folder, manifest, maker.source, maker.views, maker)

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        dataset: Any = None,
        *,
        augment: Callable | None = None,
    ) -> "TeacherCache":
        """Take up a cache that was built.

        Args:
          directory: its folder.
          dataset: the data it was built over; None where the inputs are stored in it, or to look
            at it without training. Arrays are compared in whole (up to 4 GiB), a PyDataset at
            some batches, a `tf.data.Dataset` at its beginning, and both again as they are read.
          augment: the function it was built with.

        Raises:
          FileNotFoundError: there is no cache.
          ValueError: the data or the augmentation is not what it was built over; which, is named.
        """
        folder = Path(directory)
        manifest = Manifest.read(folder)
        if dataset is None and not manifest.layout.inputs:
            return cls(folder, manifest)
        source = Stored(manifest) if dataset is None else source_of(dataset)
        check_same(manifest, source, augment)
        views = Views(augment, source.inputs, manifest.seed)
        cache = cls(folder, manifest, None if dataset is None else source, views)
        if dataset is not None:
            cache._check_data(whole=False)
        return cache

    @staticmethod
    def merge(
        directories: Sequence[str | os.PathLike[str]], directory: str | os.PathLike[str]
    ) -> CacheReport:
        """One cache out of the parts that `build(..., shard=(i, n))` wrote.

        Args:
          directories: the parts' folders.
          directory: a folder for the whole.

        Returns:
          The report of `verify` on the whole.

        Raises:
          ValueError: the parts are of different caches, or a shard is whole in none of them.
          FileExistsError: `directory` holds something else.
        """
        return folders.merge(directories, directory)

    def dataset(
        self,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        *,
        start_step: int = 0,
        on_exhausted: str = "cycle",
        shuffle_buffer: int = 2048,
        drop_remainder: bool = False,
        memory_bytes: int = MEMORY_BYTES,
    ) -> tf.data.Dataset:
        """What `fit` takes: `(CachedBatch(inputs, teacher), y[, sample_weight])`, batch by batch.

        A pass over it is an epoch, whose number and `seed` decide its views and its order. Under
        `Distiller.fit` it is the epoch that `fit` says, so that `initial_epoch` and
        `BackupAndRestore` go on with them; where an epoch of `fit` is several passes (`repeat`) or
        a part of one (`steps_per_epoch`), each pass is one more than the last. Go on in the midst
        of one so:

            epoch, done = divmod(int(distiller.optimizer.iterations), cache.steps(128))
            rest = cache.dataset(128, start_step=done)
            distiller.fit(rest, initial_epoch=epoch, epochs=epoch + 1)
            distiller.fit(cache.dataset(128), initial_epoch=epoch + 1, epochs=10)

        Args:
          batch_size: examples a batch.
          shuffle: over all examples where the data are arrays or stored inputs, in an order that
            is computed and takes no memory; a PyDataset's batches over all, their examples within
            `shuffle_buffer`; a `tf.data` source within `shuffle_buffer`.
          seed: of the order.
          start_step: leave out the first batches of every epoch.
          on_exhausted: past the cached views "cycle" starts over, "error" refuses. Without
            augmentation there is one view for all epochs.
          shuffle_buffer: examples.
          drop_remainder: leave the last, smaller batch out.
          memory_bytes: records of an epoch's views up to this size are held in memory; larger
            ones are read from disk as they come, up to 16 MiB ahead.

        Raises:
          ValueError: the cache is not complete, was opened without its data, or an option is out
            of range.
        """
        self._check_ready()
        if on_exhausted not in ("cycle", "error"):
            raise ValueError(f"on_exhausted must be 'cycle' or 'error'; got {on_exhausted!r}.")
        steps = self.steps(batch_size, drop_remainder=drop_remainder)
        if not 0 <= start_step < max(steps, 1):
            raise ValueError(
                f"start_step must be a step of one epoch, 0 to {steps - 1}; got {start_step}."
            )
        assert self._source is not None
        assert self._views is not None
        limited = on_exhausted == "error" and self._views.augmented
        clock = Clock(steps - start_step, self._manifest.epochs if limited else None)
        how = Reading(batch_size, shuffle, seed, shuffle_buffer, drop_remainder, memory_bytes)
        reader = Reader(self._source, self._sums, self._views, self._manifest, self._mark, how)
        found = reader.dataset(clock, start_step)
        self._clocks.add(clock)
        self._datasets[found] = clock, reader
        return found

    def steps(self, batch_size: int, *, drop_remainder: bool = False) -> int:
        """Batches an epoch."""
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be a whole number of 1 or more; got {batch_size!r}.")
        full, part = divmod(self._manifest.examples or 0, batch_size)
        return full + bool(part and not drop_remainder)

    def info(self) -> CacheInfo:
        """What the cache holds; printed as a table."""
        return folders.info(self._folder)

    def verify(self, *, inputs: bool = False) -> CacheReport:
        """Read every byte and compare checksums; name what is damaged.

        Args:
          inputs: also read all of the data, and compare it with what the teacher was asked.

        Raises:
          ValueError: the manifest is damaged, or the data differ.
        """
        report = folders.verify(self._folder)
        if inputs:
            if self._given is None:
                raise ValueError(f"{self!r} was opened without its data: nothing to compare with.")
            self._check_data(whole=True)
        return report

    def rebuild(
        self, shard: int | str, *, teacher: Any = None, teacher_preprocess: Callable | None = None
    ) -> CacheReport:
        """Make one shard anew, as `build` does by itself for those that it finds damaged.

        Args:
          shard: its number or its file's name, as `verify` gives it.
          teacher, teacher_preprocess: what it was built with; not for a cache from `build`.

        Raises:
          ValueError: no such shard, no teacher, or not what the cache was built with.
        """
        chosen = [s for s in self._manifest.shards() if shard in (s.index, s.name)]
        if not chosen:
            raise ValueError(f"{self!r} has no shard {shard!r}; verify() names the damaged ones.")
        maker = self._maker
        if teacher is not None or maker is None:
            maker = self._maker_with(teacher, teacher_preprocess)
        maker.remake(self._folder, self._manifest, chosen[0])
        return self.verify()

    def prepare(self, input_spec: Any, taps: tuple) -> Signals:
        layout = self._manifest.layout
        self._taps = {key: layer_named(layer_name(key), layout) for key in taps}
        return promised(self._taps, layout)

    def __call__(self, x: Any) -> Signals:
        """Signals of a `CachedBatch`."""
        if not isinstance(x, CachedBatch):
            raise ValueError(_NOT_CACHED)
        check_mark(x.teacher, self._mark, self._folder)
        return decode(x.teacher, self._taps, self._manifest.layout)

    @property
    def cached(self) -> bool:
        return True

    def fingerprint(self) -> str:
        """A digest of what the answers depend on."""
        return digest_of(self._manifest.render())

    def check_data(self, x: Any) -> None:
        """Refuse training data that does not come from `dataset`."""
        self._check_own(x, _NOT_CACHED)
        self._fitted = [
            self._passed_over(x, *pair) for pair in upstream(x) if pair[0] in self._datasets
        ]

    def check_evaluated(self, x: Any) -> None:
        """Refuse data that come neither from `dataset` nor from that of a cache like this one."""
        self._check_own(x, _NOT_ASKED_FOR_EVALUATION)

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """What tells the data sets which epoch `fit` is in."""
        return [Announcer(self._clocks, self._fitted)]

    def _check_own(self, x: Any, otherwise: str) -> None:
        spec = getattr(x, "element_spec", None)
        first = spec[0] if isinstance(spec, tuple) and spec else None
        if not isinstance(first, CachedBatch):
            raise ValueError(otherwise)
        check_mark(first.teacher, self._mark, self._folder)

    def _passed_over(self, x: tf.data.Dataset, own: tf.data.Dataset, passes: int) -> Fitted:
        clock, reader = self._datasets[own]
        return Fitted(clock, reader.load, int(x.cardinality()), passes)

    def _maker_with(self, teacher: Any, preprocess: Callable | None) -> Maker:
        if teacher is None or self._given is None or self._views is None:
            raise ValueError(
                f"{self!r} was opened without what answers a shard again. Open it with its data, "
                f"and give teacher= (and teacher_preprocess=); or call build again as at first."
            )
        return Maker(
            teacher, self._given, self._views.augment, preprocess, Options.of(self._manifest)
        )

    def _check_data(self, whole: bool) -> None:
        assert self._given is not None
        assert self._views is not None
        broken = folders.unreadable(self._folder, self._manifest)
        there = folders.finished(self._folder, self._manifest)
        first = folders.leading([shard for shard in there if shard.name not in broken])
        check_inputs(self._given, self._folder, first, self._manifest.layout.record, whole)
        check_views(self._given, self._views, self._folder, first, 0)

    def _check_ready(self) -> None:
        if self._source is None:
            raise ValueError(
                f"{self!r} was opened without its data, and holds no inputs. Give them: "
                f"TeacherCache.open(directory, dataset)."
            )
        folders.refuse_incomplete(self._folder, self._manifest)


_NOT_CACHED = (
    "The teacher is a TeacherCache, which answers only for what it was built over. Train on its "
    "own data set, which holds inputs, answers and labels: "
    "distiller.fit(cache.dataset(batch_size))."
)
_NOT_ASKED_FOR_EVALUATION = (
    "The teacher is a TeacherCache, and compile(validate_objectives=True) asks it about the "
    "validation data, too. Build a second cache over them, of the same teacher and in the same "
    "way, and validate on its data set: validation_data=second.dataset(batch_size, shuffle=False); "
    "or leave validate_objectives out."
)
