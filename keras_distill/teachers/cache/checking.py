"""Whether data and augmentation are those that a cache was built over."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill._pages import see
from keras_distill.teachers.cache.elements import as_is, described, untuned
from keras_distill.teachers.cache.fingerprints import of_code, of_rows
from keras_distill.teachers.cache.manifest import Manifest, Shard
from keras_distill.teachers.cache.shards import problem_of
from keras_distill.teachers.cache.sources import Arrays, Batches, Source
from keras_distill.teachers.cache.views import Views

__all__ = ["check_inputs", "check_same", "check_views", "column"]

_CHUNK = 4096
# Arrays up to this size are checked whole when a cache is opened; of more, samples.
_WHOLE_BYTES = 2**32
_SAMPLES = 64


def column(folder: Path, shards: Sequence[Shard], name: str) -> np.ndarray:
    """One field of all records of these shards, in order."""
    parts = []
    for shard in shards:
        records = np.load(folder / shard.name, mmap_mode="r", allow_pickle=False)
        parts.append(np.array(records[name]))
    return np.concatenate(parts)


def check_inputs(
    source: Source, folder: Path, shards: Sequence[Shard], record: np.dtype, whole: bool
) -> None:
    """The data gives the inputs that the teacher answered.

    Args:
      source: the data.
      folder: of the cache.
      shards: of the first epoch, those that are finished, from the first on.
      record: of their layout.
      whole: look at every example; else at arrays of moderate size whole, at others here and there.

    Raises:
      ValueError: an example differs, or the order, or the length, or a label that is stored.
    """
    if not shards:
        return
    stored, labels = column(folder, shards, "input"), _stored_labels(folder, shards, record)
    for start, element in _elements(source, len(stored), whole):
        found = of_rows(element[0]).numpy()
        span = slice(start, start + len(found))
        same = len(found) > 0 and np.array_equal(stored[span], found)
        relabelled = [] if labels is None or not same else labels[span] != of_rows(element[1:])
        if same and not np.any(relabelled):
            continue
        # What differs may be the cache: then its data can't be judged, and it can be mended.
        if any(problem_of(folder, shard, record) for shard in shards):
            warnings.warn(
                f"The cache in {folder} is damaged: see verify(), and rebuild.", stacklevel=4
            )
            return
        if same:
            _refuse_labels(start + int(np.flatnonzero(relabelled)[0]))
        _refuse(start, stored[span], found, stored)


def check_views(
    source: Source, views: Views, folder: Path, shards: Sequence[Shard], epoch: int
) -> None:
    """The augmentation gives the views that the teacher answered, on the first examples.

    Raises:
      ValueError: another view comes out.
    """
    if not views.augmented or not shards:
        return
    stored = column(folder, shards[:1], "view")[:_SAMPLES]
    x = next(iter(source.batches(0, len(stored), len(stored))))[0]
    found = _view_fingerprints(views, x, views.seeds(epoch, np.arange(len(stored))))
    if not np.array_equal(stored, found):
        wrong = int(np.flatnonzero(stored != found)[0])
        raise ValueError(
            f"augment gives another view of example {wrong} (epoch {epoch}) than the one that the "
            f"teacher answered, though its code is the same: something it calls, or TensorFlow "
            f"itself, has changed. Build the cache anew in another folder."
        )


def check_same(manifest: Manifest, source: Source, augment: Callable | None) -> None:
    """The data is as long and of the shapes, and the augmentation the one, that were cached.

    Raises:
      ValueError: one is not; which, is named.
    """
    found: dict[str, Any] = {
        "inputs": described(source.inputs),
        "augmentation": of_code(augment),
    }
    expected: dict[str, Any] = {
        "inputs": manifest.inputs,
        "augmentation": manifest.fingerprints.get("augmentation"),
    }
    if source.examples is not None and manifest.examples is not None:
        found["examples"], expected["examples"] = source.examples, manifest.examples
    differing = [
        f"{name}: {expected[name]} in the cache, {found[name]} now"
        for name in found
        if found[name] != expected[name]
    ]
    if differing:
        raise ValueError(
            "The cache was built over something else. What differs:\n  "
            + "\n  ".join(differing)
            + "\nGive the data and the augment= that it was built with, or build another."
        )


def _view_fingerprints(views: Views, x: Any, seeds: np.ndarray) -> np.ndarray:
    pair = tf.data.Dataset.from_tensors((x, seeds))
    rows = pair.map(as_is(lambda x, seeds: of_rows(views.replay(x, seeds))))
    return next(iter(rows)).numpy()


def _stored_labels(folder: Path, shards: Sequence[Shard], record: np.dtype) -> np.ndarray | None:
    """Fingerprints of the labels and weights that lie in the cache, if any do."""
    names = [n for n in record.names or () if n.partition("/")[0] in ("y", "weight")]
    return of_rows([column(folder, shards, name) for name in names]).numpy() if names else None


def _elements(source: Source, stop: int, whole: bool) -> Iterator[tuple[int, tuple]]:
    """Spans of the data: where they start, and their elements."""
    for start, end in [(0, stop)] if whole else _spans(source, stop):
        at = start
        # Where all of it is looked at, what comes after the end is found too.
        batches = source.batches(start, None if whole else end, min(_CHUNK, end - start))
        for element in untuned(batches):
            left = None if whole else end - at
            yield at, keras.tree.map_structure(lambda t, left=left: t[:left], element)
            at += len(keras.tree.flatten(element)[0])
        if at < end:
            yield at, source.nothing()


def _spans(source: Source, stop: int) -> list[tuple[int, int]]:
    """Which examples are looked at."""
    if isinstance(source, Arrays) and source.bytes <= _WHOLE_BYTES:
        return [(0, stop)]
    if not isinstance(source, (Arrays, Batches)):
        return [(0, min(_SAMPLES, stop))]
    size = source.batch_size if isinstance(source, Batches) else _CHUNK
    numbers = np.unique(np.linspace(0, (stop - 1) // size, 8).astype(int))
    return [(n * size, min((n + 1) * size, stop)) for n in numbers.tolist()]


def _refuse_labels(example: int) -> None:
    raise ValueError(
        f"The cache holds the labels and sample weights too (store_inputs=True), and those of "
        f"example {example} are others than the data's. Give the data as it was, or none to train "
        f"on what is stored; without store_inputs labels are read from the data."
    )


def _refuse(start: int, expected: np.ndarray, found: np.ndarray, stored: np.ndarray) -> None:
    if not len(found):
        raise ValueError(
            f"The data set is not the one that the cache was built over: it ends after {start} "
            f"examples, and {len(stored)} were answered."
        )
    rows = min(len(expected), len(found))
    wrong = np.flatnonzero(expected[:rows] != found[:rows])
    if not len(wrong):
        raise ValueError(
            f"The data set is not the one that the cache was built over: it has more than the "
            f"{len(stored)} examples that were answered."
        )
    first = int(wrong[0])
    former = np.flatnonzero(stored == found[first])
    why = (
        f"example {start + first} is what example {former[0]} was: its order changed"
        if len(former)
        else f"example {start + first} is another ({len(wrong)} of {rows} looked at differ)"
    )
    raise ValueError(
        f"The data set is not the one that the cache was built over: {why}. Give that data set, "
        f"in that order and unshuffled (cache.dataset shuffles), or build a cache over this one in "
        f"another folder.{see('cache')}"
    )
