"""A recipe's data as arrays: training, validation and test, each with its digest."""

import csv
import hashlib
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_distill import datasets
from keras_distill.pipeline.inputs import one_line
from keras_distill.pipeline.recipes.sources import Data
from keras_distill.pipeline.runs.importing import imported
from keras_distill.pipeline.runs.tones import load_tones
from keras_distill.training.stages import UsageError

__all__ = ["Examples", "Part", "inside", "load_examples"]

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Part:
    """Inputs and labels, a row an example."""

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def first(self, rows: int | None) -> "Part":
        """The first rows; all without a number."""
        return Part(self.x[:rows], self.y[:rows])

    def digest(self) -> str:
        """SHA-256 of shapes, types and values."""
        found = hashlib.sha256()
        for array in (self.x, self.y):
            found.update(f"{array.dtype.str} {array.shape} ".encode())
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()


@dataclass(frozen=True)
class Examples:
    """What a run learns from.

    Args:
      name: of the data.
      train: with all labels.
      known: the training labels that students know, -1 for the others.
      validation, test: see `Data`.
      class_names: by number; None where the labels are numbers or have no names.
    """

    name: str
    train: Part
    known: np.ndarray
    validation: Part
    test: Part
    class_names: tuple[str, ...] | None = None

    @property
    def classes(self) -> bool:
        """Whether the labels are class numbers."""
        return np.issubdtype(self.train.y.dtype, np.integer)

    @property
    def units(self) -> int:
        """How many numbers a model answers with."""
        if self.classes:
            return max(len(self.class_names or ()), *(int(one.y.max()) + 1 for one in self.parts()))
        return 1 if self.train.y.ndim == 1 else self.train.y.shape[-1]

    def parts(self) -> tuple[Part, ...]:
        """Training, validation, test."""
        return self.train, self.validation, self.test

    def facts(self) -> dict[str, Any]:
        """Name, rows and digests, as JSON takes them."""
        known = int((self.known >= 0).sum()) if self.classes else len(self.known)
        rows = {name: len(part) for name, part in zip(PARTS, self.parts(), strict=True)}
        digests = {name: part.digest() for name, part in zip(PARTS, self.parts(), strict=True)}
        found = {"name": self.name, "rows": rows, "labelled": known, "sha256": digests}
        names = self.class_names
        return found | ({} if names is None else {"class_names": list(names)})


def load_examples(data: Data, seed: int, root: Path, allowed: Collection[str] = ()) -> Examples:
    """What a recipe's `data` names.

    Args:
      data: see there.
      seed: of the choice of labels.
      root: the folder that paths start from, and stay inside.
      allowed: modules that may run, see `imported`.

    Raises:
      UsageError: it can't be had, or is not what it should be.
    """
    try:
        found, names = _read(data, root, allowed)
    except UsageError:
        raise
    # Keras raises a bare Exception where a download fails, a user's function what it likes.
    except Exception as error:
        raise UsageError(f"data: {data.name} can't be had: {one_line(error)}") from error
    parts = _split(found, data)
    if data.rows is not None:
        limits = (data.rows, data.rows // 2, data.rows // 2)
        parts = [part.first(limit) for part, limit in zip(parts, limits, strict=True)]
    train, validation, test = parts
    name = Path(data.name).name if data.folder or data.csv or data.npz else data.name
    examples = Examples(name, train, train.y, validation, test, names)
    if data.labels < 1.0:
        if not examples.classes:
            raise UsageError("data.labels: only class numbers can be left out; these are numbers.")
        examples = replace(examples, known=keep_labels(train.y, data.labels, seed))
    return examples


def inside(path: str, key: str, root: Path) -> Path:
    """A path of a recipe: in the recipe's folder, or in that of `KERAS_DISTILL_DATA`.

    Raises:
      UsageError: it leads out of them.
    """
    roots = [root, *([Path(own)] if (own := os.environ.get("KERAS_DISTILL_DATA")) else [])]
    tried = [(one / path).resolve() for one in roots]
    within = [
        there
        for there, one in zip(tried, roots, strict=True)
        if there.is_relative_to(one.resolve())
    ]
    if not within:
        raise UsageError(
            f"{key}: {path} leads out of {' and '.join(map(str, roots))}. Run it from the folder "
            f"that holds the data (--data-folder), or name that in KERAS_DISTILL_DATA."
        )
    return next((one for one in within if one.exists()), within[0])


def keep_labels(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """The labels with all but `fraction` of every class set to -1, at least one a class kept."""
    random = np.random.default_rng(seed)
    kept = np.full(labels.shape, -1, np.int64)
    for value in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == value))
        rows = rows[: max(1, round(fraction * len(rows)))]
        kept[rows] = value
    return kept


Found = Mapping[str, np.ndarray]


def _read(data: Data, root: Path, allowed: Collection[str]) -> tuple[Found, tuple[str, ...] | None]:
    if data.set is not None:
        return _of_set(data.set)
    if data.function is not None:
        found = imported(data.function, "data.function", allowed)()
        names = found.get("class_names") if isinstance(found, Mapping) else None
        if not isinstance(found, Mapping):
            raise UsageError(
                f"data.function: {data.function} must return a dict of arrays, x and y or x_train, "
                f"y_train and so on; got {type(found).__name__}."
            )
        arrays = {key: np.asarray(value) for key, value in found.items() if key != "class_names"}
        return arrays, None if names is None else tuple(map(str, names))
    if data.npz is not None:
        with np.load(_there(data.npz, "data.npz", root), allow_pickle=False) as archive:
            return {key: archive[key] for key in archive if key[:2] in ("x", "y", "x_", "y_")}, None
    if data.csv is not None:
        return _of_table(_there(data.csv, "data.csv", root), str(data.label))
    assert data.folder is not None
    return _of_folder(_there(data.folder, "data.folder", root), data)


def _there(path: str, key: str, root: Path) -> Path:
    found = inside(path, key, root)
    if not found.exists():
        raise UsageError(f"{key}: there is nothing at {found}.")
    return found


def _of_set(name: str) -> tuple[Found, tuple[str, ...]]:
    if name in ("spoken_digits", "tones"):
        return _recordings(name)
    loaders: dict[str, Callable[[], datasets.ImageSplits]] = {
        "digits": datasets.load_digits,
        "fashion_mnist": partial(datasets.load_fashion_mnist, download=True),
        "cifar10": datasets.load_cifar10,
    }
    images = loaders[name]()
    names = (f"{letter}_{part}" for letter in "xy" for part in PARTS)
    return {key: getattr(images, key) for key in names}, images.class_names


def _recordings(name: str) -> tuple[Found, tuple[str, ...]]:
    """Recordings, the last two speakers put aside: for validation and for the test."""
    found = load_tones() if name == "tones" else datasets.load_spoken_digits()
    *heard, first, last = range(len(found.speaker_names))
    parts = {"train": found.of(*heard), "validation": found.of(first), "test": found.of(last)}
    arrays = {f"x_{key}": part.samples for key, part in parts.items()}
    arrays |= {f"y_{key}": part.labels for key, part in parts.items()}
    return arrays, found.class_names


def _of_table(path: Path, label: str) -> tuple[Found, tuple[str, ...] | None]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or label not in rows[0]:
        there = ", ".join(rows[0]) if rows else "none"
        raise UsageError(f"data.label: {path.name} has no column {label}; it has {there}.")
    columns = [key for key in rows[0] if key != label]
    values = np.empty((len(rows), len(columns)), np.float32)
    for number, row in enumerate(rows):
        for place, key in enumerate(columns):
            try:
                values[number, place] = float(row[key])
            except (TypeError, ValueError) as error:
                raise UsageError(
                    f"data.csv: line {number + 2} of {path.name} has {row[key]!r} in {key}, and "
                    f"needs a number. Leave the column out, or give numbers."
                ) from error
    labels = np.array([row[label] or "" for row in rows])
    if (empty := np.flatnonzero(labels == "")).size:
        raise UsageError(f"data.csv: line {empty[0] + 2} of {path.name} has no {label}.")
    try:
        numbers = labels.astype(np.float64)
    except ValueError:
        names, found = np.unique(labels, return_inverse=True)
        return {"x": values, "y": found}, tuple(map(str, names))
    whole = np.equal(np.mod(numbers, 1), 0).all() and len(np.unique(numbers)) <= 100
    return {"x": values, "y": numbers.astype(np.int64 if whole else np.float32)}, None


def _of_folder(path: Path, data: Data) -> tuple[Found, tuple[str, ...]]:
    parts = {name: path / name for name in PARTS if (path / name).is_dir()}
    arrays: dict[str, np.ndarray] = {}
    names: tuple[str, ...] | None = None
    for name, folder in (parts or {"": path}).items():
        images = keras.utils.image_dataset_from_directory(
            folder,
            label_mode="int",
            batch_size=None,
            image_size=data.image_size,
            shuffle=False,
            verbose=False,
        )
        if names is not None and tuple(images.class_names) != names:
            raise UsageError(f"data.folder: {folder} has other classes than {', '.join(names)}.")
        names = tuple(images.class_names)
        pixels, labels = zip(*images.as_numpy_iterator(), strict=True)
        end = f"_{name}" if name else ""
        arrays[f"x{end}"] = data.rescale * np.stack(pixels).astype(np.float32)
        arrays[f"y{end}"] = np.asarray(labels)
    assert names is not None
    return arrays, names


def _split(found: Found, data: Data) -> list[Part]:
    """The parts that there are, and the others drawn from training's or from all rows.

    What is held out is the same whatever the recipe's seed, so that figures compare.
    """
    whole = "x" if "x" in found else "x_train"
    rest = _part(found, whole, data)
    order = np.random.default_rng(0).permutation(len(rest))
    parts: dict[str, Part] = {}
    taken, shuffled = 0, False
    for name, fraction in (("test", data.test), ("validation", data.validation)):
        if f"x_{name}" in found:
            parts[name] = _part(found, f"x_{name}", data)
            continue
        size, shuffled = max(1, round(fraction * len(rest))), True
        rows = order[taken : taken + size]
        parts[name] = Part(rest.x[rows], rest.y[rows])
        taken += size
    if shuffled:
        rest = Part(rest.x[order[taken:]], rest.y[order[taken:]])
    return [rest, parts["validation"], parts["test"]]


def _part(found: Found, key: str, data: Data) -> Part:
    labels = "y" + key[1:]
    if key not in found or labels not in found:
        raise UsageError(
            f"data: {data.name} needs arrays x and y, or x_train and y_train; it has "
            f"{', '.join(found) or 'none'}."
        )
    x, y = found[key], found[labels]
    if len(x) != len(y) or not len(x):
        raise UsageError(f"data: {key} has {len(x)} rows, {labels} has {len(y)}.")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if np.issubdtype(x.dtype, np.floating) or x.dtype == bool:
        x = x.astype(np.float32)
    if np.issubdtype(y.dtype, np.integer) or y.dtype == bool:
        return Part(x, y.astype(np.int64))
    return Part(x, y.astype(np.float32))
