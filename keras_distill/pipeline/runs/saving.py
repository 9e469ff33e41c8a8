"""A model's file that holds the same bytes whenever it is written."""

import contextlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from keras_distill import _files

__all__ = ["save_model"]

_DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip archive can hold


def save_model(model: keras.Model, path: Path) -> None:
    """Write a model without its optimiser, whole or not at all, the same bytes in any process.

    Keras writes the hour into `metadata.json` and each member of the archive, and objects' places
    in memory, by which shared ones are known, into `config.json`.
    """
    with _files.scratch(path.parent, path.name) as folder:
        with _uncompiled(model):
            model.save(folder / "dated.keras")
        undated = folder / path.name
        with (
            zipfile.ZipFile(folder / "dated.keras") as source,
            zipfile.ZipFile(undated, "w") as target,
        ):
            for name in sorted(source.namelist()):
                content = source.read(name)
                if name == "metadata.json":
                    facts = json.loads(content)
                    facts.pop("date_saved", None)
                    content = json.dumps(facts).encode()
                elif name == "config.json":
                    content = json.dumps(_numbered(json.loads(content), {})).encode()
                target.writestr(zipfile.ZipInfo(name, _DATE), content)
        _files.place(undated, path)


@contextlib.contextmanager
def _uncompiled(model: keras.Model) -> Iterator[None]:
    """Without its optimiser, which Keras writes into a `.keras` whatever one asks for."""
    if not model.compiled:
        yield
        return
    optimizer, model.optimizer, model.compiled = model.optimizer, None, False
    try:
        yield
    finally:
        model.optimizer, model.compiled = optimizer, True


def _numbered(value: Any, numbers: dict[int, int]) -> Any:
    """The same config with shared objects numbered in their order."""
    if isinstance(value, list):
        return [_numbered(one, numbers) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: numbers.setdefault(one, len(numbers))
        if key == "shared_object_id"
        else _numbered(one, numbers)
        for key, one in value.items()
    }
