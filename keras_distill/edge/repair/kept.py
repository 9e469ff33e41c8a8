"""What a repair keeps of each part, in a folder or in memory, so that a stopped one goes on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np

from keras_distill.edge.compress.repaired import Repaired
from keras_distill.teachers.identity import content_of
from keras_distill.training.architecture import architecture_digest
from keras_distill.training.stages import RECORD, Folder, Stage, run_stages

__all__ = ["Kept", "Part", "assign", "digest", "kept_on"]

Weights = Mapping[str, np.ndarray]
_BEFORE, _AFTER = "before ", "after "
_EARLIER = " (finished earlier)"


class Remembering(Protocol):
    """A layer on which a repair is remembered."""

    repaired: Repaired | None


class Part(Protocol):
    """What a repair changes at a time.

    Attributes:
      path: its name among the others.
      layer: where the repair is remembered.
      weights: the variables that it changes, by their names in it.
    """

    @property
    def path(self) -> str: ...

    @property
    def layer(self) -> Remembering: ...

    @property
    def weights(self) -> dict[str, keras.Variable]: ...


class Kept:
    """The parts of a model, each learned or found in the folder, in order.

    A part's weights before and after are held. A model in which finished parts have learned
    already, as an interrupted call leaves it, is known by that, and gets the earlier ones back.

    Args:
      folder: where; None for the layers' wrappers, in memory.
      model, parts: a quantised model and what is learned in it.
      settings: what else decides the result, in JSON's types.
      left: parts that are not learned this time, and get back what they had before earlier calls.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None,
        model: keras.Model,
        parts: Sequence[Part],
        settings: Mapping[str, Any],
        left: Sequence[Part] = (),
    ):
        self._folder = None if folder is None else Folder(Path(folder))
        self._model, self._parts, self._settings = model, parts, settings
        self._left = left

    def each(
        self, learn: Callable[[Part], tuple[Weights, str]]
    ) -> Iterator[tuple[Part, Weights, str]]:
        """Every part with its learned weights and what came out, in words.

        Args:
          learn: gives both for a part, of which all before it have theirs.

        Raises:
          ValueError: the folder holds another repair.
        """
        stages = [self._stage(number, learn) for number in range(len(self._parts))]
        left = [(part, kept.before) for part in self._left if (kept := kept_on(part))]
        earlier = [*self._earlier(stages), *left]
        settings = {"model": self._identity(earlier), **self._settings}
        with self._opened(settings, stages):
            found = {id(part): kept_on(part) for part in self._parts}
            for part, weights in earlier:
                assign(part, weights)
            said = json.dumps(settings, sort_keys=True)
            if self._folder is None:
                each = self._in_memory(learn, said, found)
            else:
                each = self._in_folder(stages, self._folder)
            for part, before, after, words in each:
                part.layer.repaired = Repaired(said, before, after, words.removesuffix(_EARLIER))
                yield part, after, words

    def _opened(
        self, settings: dict[str, Any], stages: Sequence[Stage]
    ) -> contextlib.AbstractContextManager[Any]:
        if self._folder is None:
            return contextlib.nullcontext()
        return self._folder.open(settings, stages)

    def _in_memory(
        self,
        learn: Callable[[Part], tuple[Weights, str]],
        settings: str,
        found: Mapping[int, Repaired | None],
    ) -> Iterator[tuple[Part, Weights, Weights, str]]:
        for part in self._parts:
            kept = found[id(part)]
            if kept is not None and kept.settings == settings:
                yield part, kept.before, kept.after, kept.words + _EARLIER
                continue
            before = {key: variable.numpy() for key, variable in part.weights.items()}
            yield part, before, *learn(part)

    def _in_folder(
        self, stages: Sequence[Stage], folder: Folder
    ) -> Iterator[tuple[Part, Weights, Weights, str]]:
        done = run_stages(stages, folder)
        for part, (stage, words, reused) in zip(self._parts, done, strict=True):
            before, after = _read(folder.path / stage.artefacts[0])
            yield part, before, after, words + _EARLIER if reused else words

    def _stage(self, number: int, learn: Callable[[Part], tuple[Weights, str]]) -> Stage:
        part, file = self._parts[number], f"{number + 1:03d}.npz"

        def make(into: Path) -> str:
            before = {key: variable.numpy() for key, variable in part.weights.items()}
            after, words = learn(part)
            _write(into / file, before, after)
            return words

        return Stage(f"{number + 1} {part.path}", (file,), make)

    def _earlier(self, stages: Sequence[Stage]) -> list[tuple[Part, Weights]]:
        """What finished parts had before, where the model has what they have learned."""
        found = []
        for part, stage in zip(self._parts, stages, strict=True):
            before, after = self._of_folder(stage)
            if after and _has(part, after):
                found.append((part, before))
            elif kept := kept_on(part):
                found.append((part, kept.before))
        return found

    def _of_folder(self, stage: Stage) -> tuple[Weights, Weights]:
        if self._folder is None or not (self._folder.path / RECORD).exists():
            return {}, {}
        path = self._folder.path / stage.artefacts[0]
        return _read(path) if path.exists() else ({}, {})

    def _identity(self, earlier: Iterable[tuple[Part, Weights]]) -> str:
        values = {id(variable): variable.numpy() for variable in self._model.variables}
        for part, weights in earlier:
            values.update({id(part.weights[key]): value for key, value in weights.items()})
        return digest([architecture_digest(self._model).encode(), *values.values()])


def kept_on(part: Part) -> Repaired | None:
    """What an earlier call made of a part, unless something has moved its weights since."""
    kept = part.layer.repaired
    return kept if kept is not None and _has(part, kept.after) else None


def _has(part: Part, weights: Weights) -> bool:
    ours = part.weights
    return set(weights) == set(ours) and all(
        np.array_equal(ours[key].numpy(), value) for key, value in weights.items()
    )


def assign(part: Part, weights: Weights) -> None:
    """Gives a part these weights."""
    for key, value in weights.items():
        part.weights[key].assign(value)


def digest(arrays: Iterable[Any]) -> str:
    """A digest of arrays, or of bytes, in their order."""
    found = hashlib.blake2b(digest_size=16)
    for array in map(np.asarray, arrays):
        found.update(f"{array.dtype}{array.shape}".encode())
        plain = array.dtype != object
        found.update(content_of(array) if plain else repr(array.tolist()).encode())
    return found.hexdigest()


def _write(path: Path, before: Weights, after: Weights) -> None:
    arrays: dict[str, Any] = {f"{_BEFORE}{key}": value for key, value in before.items()}
    arrays |= {f"{_AFTER}{key}": value for key, value in after.items()}
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _read(path: Path) -> tuple[Weights, Weights]:
    """The weights before and after; none of a file that is broken."""
    try:
        with np.load(path, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
    except (OSError, ValueError, zipfile.BadZipFile):
        return {}, {}
    before, after = (
        {name.removeprefix(mark): array for name, array in arrays.items() if name.startswith(mark)}
        for mark in (_BEFORE, _AFTER)
    )
    return before, after
