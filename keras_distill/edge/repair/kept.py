"""What a repair keeps in a folder, block by block, so that a stopped one goes on."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_distill.edge.repair.blocks import Block
from keras_distill.teachers.identity import content_of
from keras_distill.training.architecture import architecture_digest
from keras_distill.training.stages import RECORD, Folder, Stage, run_stages

__all__ = ["Kept", "assign", "digest"]

Weights = Mapping[str, np.ndarray]
_BEFORE, _AFTER = "before ", "after "


class Kept:
    """The blocks of a model, each learned or found in the folder, in order.

    A block's file holds its weights before and after. A model in which finished blocks have learned
    already, as an interrupted call leaves it, is known by that, and gets the earlier ones back.

    Args:
      folder: where; None keeps nothing.
      model, blocks: a quantised model and what is learned in it.
      settings: what else decides the result, in JSON's types.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None,
        model: keras.Model,
        blocks: Sequence[Block],
        settings: Mapping[str, Any],
    ):
        self._folder = None if folder is None else Folder(Path(folder))
        self._model, self._blocks, self._settings = model, blocks, settings

    def each(
        self, learn: Callable[[Block], tuple[Weights, str]]
    ) -> Iterator[tuple[Block, Weights, str]]:
        """Every block with its learned weights and what came out, in words.

        Args:
          learn: gives both for a block, of which all before it have theirs.

        Raises:
          ValueError: the folder holds another repair.
        """
        if self._folder is None:
            for block in self._blocks:
                yield block, *learn(block)
            return
        stages = [self._stage(number, learn) for number in range(len(self._blocks))]
        earlier = self._earlier(stages)
        settings = {"model": self._identity(earlier), **self._settings}
        with self._folder.open(settings, stages):
            for block, weights in earlier:
                assign(block, weights)
            done = run_stages(stages, self._folder)
            for block, (stage, words, reused) in zip(self._blocks, done, strict=True):
                _, weights = _read(self._folder.path / stage.artefacts[0])
                yield block, weights, f"{words} (finished earlier)" if reused else words

    def _stage(self, number: int, learn: Callable[[Block], tuple[Weights, str]]) -> Stage:
        block, file = self._blocks[number], f"{number + 1:03d}.npz"

        def make(into: Path) -> str:
            before = {key: variable.numpy() for key, variable in block.weights.items()}
            after, words = learn(block)
            _write(into / file, before, after)
            return words

        return Stage(f"{number + 1} {block.path}", (file,), make)

    def _earlier(self, stages: Sequence[Stage]) -> list[tuple[Block, Weights]]:
        """What finished blocks had before, where the model has what they have learned."""
        assert self._folder is not None
        found = []
        if (self._folder.path / RECORD).exists():
            for block, stage in zip(self._blocks, stages, strict=True):
                path = self._folder.path / stage.artefacts[0]
                before, after = _read(path) if path.exists() else ({}, {})
                ours = block.weights
                if set(after) == set(ours) and all(
                    np.array_equal(ours[key].numpy(), value) for key, value in after.items()
                ):
                    found.append((block, before))
        return found

    def _identity(self, earlier: Iterable[tuple[Block, Weights]]) -> str:
        values = {id(variable): variable.numpy() for variable in self._model.variables}
        for block, weights in earlier:
            values.update({id(block.weights[key]): value for key, value in weights.items()})
        return digest([architecture_digest(self._model).encode(), *values.values()])


def assign(block: Block, weights: Weights) -> None:
    """Gives a block's layer these weights."""
    for key, value in weights.items():
        block.weights[key].assign(value)


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
