"""Files that a command writes: refused before the work, whole after it."""

from pathlib import Path

import keras

from .. import _files
from .stages import UsageError

__all__ = ["check", "save"]


def check(path: Path, suffix: str, overwrite: bool) -> None:
    """Whether a file can be written at `path`.

    Raises:
      UsageError: it is there already and `overwrite` is False, there is no such folder or no
        permission, or the name has another ending.
    """
    if path.suffix != suffix:
        raise UsageError(f"--output must end in {suffix}; got {path}.")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} is there already: --overwrite replaces it.")
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file.")
    try:
        with _files.scratch(path.parent, path.name):
            pass
    except OSError as error:
        raise UsageError(f"{path} can't be written: {error}") from error


def save(model: keras.Model, path: Path) -> None:
    """Write a model without its optimiser, whole or not at all."""
    with _files.whole(path) as fresh:
        model.save(fresh, include_optimizer=False)
