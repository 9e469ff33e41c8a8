"""From a teacher and data to a cache's shards: the plan, and the work that is left of it."""

import contextlib
import copy
import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_distill.progress import LOG, bar
from keras_distill.teachers import identity
from keras_distill.teachers.cache import locking
from keras_distill.teachers.cache.building import Answers, Builder
from keras_distill.teachers.cache.checking import check_inputs, check_views
from keras_distill.teachers.cache.elements import batched, described, named
from keras_distill.teachers.cache.fingerprints import of_code, versions
from keras_distill.teachers.cache.folder import claim, finished, leading, sweep
from keras_distill.teachers.cache.layout import Layout, Output
from keras_distill.teachers.cache.manifest import Manifest, Shard
from keras_distill.teachers.cache.options import Options
from keras_distill.teachers.cache.shards import problem_of, records_in
from keras_distill.teachers.cache.sources import Source
from keras_distill.teachers.cache.views import Views
from keras_distill.teachers.model import as_teacher

__all__ = ["Maker"]

# A shard is what a killed build loses at most, and what lies in memory while it fills.
_SHARD_EXAMPLES, _SHARD_BYTES, _SHARDS = 2**16, 2**26, 256
_PROBE = 16


class Maker:
    """A teacher, data, and all that decides what it answers.

    Args:
      teacher: as a Distiller takes it.
      source: the data.
      augment: of `TeacherCache.build`.
      preprocess: what the teacher sees of a view.
      options: checked.

    Raises:
      ValueError: `augment` is not deterministic, the teacher's shapes are not fixed, `top_k` is
        above the number of classes.
    """

    def __init__(
        self,
        teacher: Any,
        source: Source,
        augment: Callable | None,
        preprocess: Callable | None,
        options: Options,
    ):
        if options.epochs > 1 and augment is None:
            raise ValueError(
                f"epochs={options.epochs} caches that many views of each example, and without "
                f"augment= they are all the same. Leave epochs=1: every epoch of training reads it."
            )
        self.source, self.options = source, options
        self.views = Views(augment, source.inputs, options.seed)
        if augment is not None:
            self.views.check_deterministic(next(iter(source.batches(0, None, 16)))[0])
        # A copy: a Distiller may be using the teacher itself, with other taps.
        self._teacher = copy.copy(as_teacher(teacher))
        self._seen = None if preprocess is None else _traced(preprocess, batched(self.views.spec))
        self._teacher.prepare(self._inputs(), options.layers)
        self._answers = Answers(self._teacher, options.layers, preprocess, self.views.spec)
        self.layout = self._layout()
        self._augment, self._preprocess = augment, preprocess

    @functools.cached_property
    def _encode(self) -> Callable:
        # Not before a batch is to be answered: a cache that is complete needs no tracing.
        return self._answers.encoder(self.layout)

    def plan(self, there: Manifest | None, fingerprints: Mapping[str, str]) -> Manifest:
        """The manifest of this cache.

        Args:
          there: the manifest that the folder holds, whose length and shard size serve where none
            is known or given.
          fingerprints: those of now.

        Raises:
          ValueError: it is another cache's; what differs is named.
        """
        examples, size = self.source.examples, self.options.shard_examples
        if there is not None:
            examples = there.examples if examples is None else examples
            size = there.shard_examples if size is None else size
        if examples is None and self.options.shard[1] > 1:
            examples = self.source.count()
        plan = Manifest(
            layout=self.layout,
            examples=examples,
            epochs=self.options.epochs,
            seed=self.options.seed,
            shard_examples=size or self._shard_examples(examples),
            batch_size=self.options.batch_size,
            inputs=described(self.source.inputs),
            views=described(self.views.spec),
            fingerprints=fingerprints,
            versions=versions(),
        )
        if there is None:
            return plan
        if not there.continuable:
            raise ValueError(
                f"The folder holds a cache of an earlier keras_distill (version {there.version} of "
                f"its manifest), whose fingerprints do not see a teacher's constants: whether this "
                f"teacher made it can't be said. It can be read: TeacherCache.open(directory, "
                f"dataset). To build or mend, give another folder; nothing was changed."
            )
        known = dataclasses.replace(there, examples=examples) if there.examples is None else there
        differences = known.differences(plan)
        if differences:
            raise ValueError(
                "The folder holds a cache of something else. What differs:\n  "
                + "\n  ".join(differences)
                + "\nNothing was changed. Give another folder, or what that cache was built from."
            )
        if there.versions != plan.versions:
            warnings.warn(
                f"This cache was begun with {_words(there.versions)}, and now it is "
                f"{_words(plan.versions)}: new shards may differ from old ones in their last bits.",
                stacklevel=4,
            )
        counted = examples if self.options.shard[1] > 1 else there.examples
        return dataclasses.replace(plan, versions=there.versions, examples=counted)

    def make(self, folder: Path, verbose: bool) -> Manifest:
        """Write what is missing or damaged, from the plan on.

        Raises:
          FileExistsError, ValueError: the folder holds something else.
          RuntimeError: another process builds there.
        """
        fingerprints = self.fingerprints()
        plan = self.plan(claim(folder), fingerprints)
        part, parts = self.options.shard
        if parts > len(list(plan.shards())) and parts > 1:
            raise ValueError(
                f"shard={self.options.shard}: there are only {len(list(plan.shards()))} shards "
                f"of {plan.shard_examples} examples for {parts} machines. Give a smaller "
                f"shard_examples=, the same on each."
            )
        folder.mkdir(parents=True, exist_ok=True)
        with locking.building(folder, self.options.shard):
            # Another build may have begun it since.
            plan = self.plan(claim(folder), fingerprints)
            mine = _part(list(plan.shards()), part, parts)
            # Beside other parts' builders only what is this part's own: one may be at its manifest.
            sweep(folder, None if parts == 1 else [shard.name for shard in mine])
            plan.write(folder)
            whole = self._whole(folder, plan)
            self._check_data(folder, whole)
            with (
                _explained(folder),
                bar("teacher", _left(plan, mine, whole), verbose) as report,
            ):
                if plan.examples is None:
                    plan = self._to_the_end(folder, plan, whole, report)
                    mine, whole = list(plan.shards()), finished(folder, plan)
                self._builder(folder, plan, whole, report).build(mine)
        return plan

    def remake(self, folder: Path, plan: Manifest, shard: Shard) -> None:
        """Write one shard anew.

        Raises:
          ValueError: teacher, data or what is around them are not what made the others.
        """
        self.plan(plan, self.fingerprints())
        with locking.building(folder, (0, 1)):
            kept = [s for s in finished(folder, plan) if s != shard]
            self._builder(folder, plan, kept, lambda rows: None).build([shard])

    def fingerprints(self) -> dict[str, str]:
        """Digests of all that an answer depends on, by name."""
        found = {
            "teacher weights": self._teacher.fingerprint(),
            "teacher preprocessing": of_code(self._preprocess),
            "augmentation": of_code(self._augment),
            **self._answers.fingerprints(self._probe),
        }
        if self._seen is not None:
            found["teacher preprocessing's graph"] = identity.of_function(self._seen)
        if self._augment is not None:
            found["augmentation's graph"] = self.views.fingerprint()
        return found

    def _probe(self) -> Any:
        """The first views."""
        x = next(iter(self.source.batches(0, None, _PROBE)))[0]
        return self.views.replay(x, self.views.seeds(0, tf.range(len(keras.tree.flatten(x)[0]))))

    def _inputs(self) -> Any:
        """What the teacher takes."""
        spec = batched(self.views.spec) if self._seen is None else self._seen.structured_outputs
        return keras.tree.map_structure(
            lambda s: keras.KerasTensor((None, *s.shape[1:]), dtype=s.dtype.name), spec
        )

    def _layout(self) -> Layout:
        options = self.options
        stored = named(self.source.element) if options.store_inputs else []
        _check_fixed(stored)
        return self._answers.layout(
            top_k=options.top_k,
            dtype=options.dtype,
            layer_dtype=options.layer_dtype,
            augmented=self.views.augmented,
            inputs=tuple(Output(name, tuple(s.shape), s.dtype.name) for name, s in stored),
        )

    def _shard_examples(self, examples: int | None) -> int:
        size = min(_SHARD_EXAMPLES, _SHARD_BYTES // self.layout.record.itemsize)
        size = max(size, -(-(examples or 0) // _SHARDS), 1)
        return -(-size // self.options.batch_size) * self.options.batch_size

    def _builder(
        self, folder: Path, plan: Manifest, whole: list[Shard], report: Callable[[int], None]
    ) -> Builder:
        done = {shard.index for shard in whole}
        return Builder(folder, plan, self.source, self.views, lambda: self._encode, done, report)

    def _whole(self, folder: Path, plan: Manifest) -> list[Shard]:
        record = plan.layout.record
        found = [s for s in finished(folder, plan) if problem_of(folder, s, record) is None]
        if plan.examples is None:
            # A stream is written from the front: what follows a damaged shard comes again.
            return leading(found)
        return found

    def _check_data(self, folder: Path, whole: list[Shard]) -> None:
        first = leading(whole)
        check_inputs(self.source, folder, first, self.layout.record, whole=False)
        check_views(self.source, self.views, folder, first, 0)

    def _to_the_end(
        self, folder: Path, plan: Manifest, whole: list[Shard], report: Callable[[int], None]
    ) -> Manifest:
        rows = [records_in(folder, shard, plan.layout.record) for shard in whole]
        end = sum(rows)
        if not rows or rows[-1] == plan.shard_examples:
            next_one = plan.shard(0, len(rows))
            end = self._builder(folder, plan, whole, report).build_to_the_end(next_one)
        plan = dataclasses.replace(plan, examples=end)
        plan.write(folder)
        return plan


def _words(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _part(shards: list[Shard], part: int, parts: int) -> list[Shard]:
    """Neighbours, so that a machine passes over its part of the data alone."""
    return shards[len(shards) * part // parts : len(shards) * (part + 1) // parts]


def _left(plan: Manifest, shards: Sequence[Shard], whole: Sequence[Shard]) -> int | None:
    if plan.examples is None:
        return None
    done = {shard.index for shard in whole}
    return sum((s.stop or 0) - s.start for s in shards if s.index not in done)


def _traced(preprocess: Callable, spec: Any) -> Any:
    function = tf.function(
        lambda *flat: preprocess(keras.tree.pack_sequence_as(spec, flat)), autograph=False
    )
    return function.get_concrete_function(*keras.tree.flatten(spec))


@contextlib.contextmanager
def _explained(folder: Path):
    try:
        yield
    except KeyboardInterrupt:
        LOG.info("Stopped. What is finished in %s stays; the same call goes on from there.", folder)
        raise


def _check_fixed(outputs: Sequence[tuple[str, tf.TensorSpec]]) -> None:
    for name, spec in outputs:
        if None in spec.shape or spec.dtype == tf.string:
            raise ValueError(
                f"store_inputs=True needs numbers of one shape; {name} is {spec.dtype.name} "
                f"{tuple(spec.shape)}. Resize or pad the examples, or leave store_inputs=False."
            )
