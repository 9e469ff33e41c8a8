"""What a legacy .h5 file holds, read without making anything of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from keras_distill import _json

__all__ = ["SUFFIXES", "Content", "read"]

SUFFIXES = (".h5", ".hdf5")


@dataclass(frozen=True)
class Content:
    """A legacy file's content, but for the weights.

    Attributes:
      config: the model's.
      version: of the Keras that wrote it; "1" where it does not say.
      leaves: what of it no model takes along, in words.
    """

    config: dict[str, Any]
    version: str
    leaves: tuple[str, ...]


def read(path: Path) -> Content:
    """The content of a legacy file.

    Raises:
      ValueError: no HDF5 or damaged, without a model's config, or with data from other files.
    """
    try:
        with h5py.File(path, "r") as file:
            if foreign := next(_foreign(file), None):
                raise ValueError(
                    f"{foreign!r} in it is read from another file; a model's file holds its "
                    f"weights itself"
                )
            config, version = (_text(file.attrs.get(k)) for k in ("model_config", "keras_version"))
            leaves = ("the optimiser's state",) if "optimizer_weights" in file else ()
    except OSError as error:
        raise ValueError(
            f"it is no HDF5 file, cut off or damaged: save or copy it again ({error})"
        ) from error
    if config is None:
        raise ValueError(
            "it has no model's config, so it holds weights alone: make the model and call "
            "model.load_weights(path)"
        )
    found = _json.loads(config)
    if not isinstance(found, dict):
        raise ValueError("its model_config is no config of a model")
    return Content(found, version or "1", leaves)


def _text(value: Any) -> str | None:
    return value.decode("utf-8") if isinstance(value, bytes) else value


def _foreign(group: h5py.Group) -> Iterator[str]:
    """The parts of a file that lie in others."""
    for name in group:
        if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
            yield name
        elif isinstance(part := group[name], h5py.Group):
            yield from _foreign(part)
        elif part.external or part.is_virtual:
            yield name
