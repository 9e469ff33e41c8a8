"""Files that a command writes: refused before the work, whole after it."""

import contextlib
import os
from pathlib import Path

import keras

from keras_distill import _files
from keras_distill.training.stages import UsageError

__all__ = ["check", "check_place", "save"]


def check(path: Path, suffix: str, overwrite: bool) -> None:
    """Whether a file can be written at `path`.

    Raises:
      UsageError: it is there already and `overwrite` is False, there is no such folder or no
        permission, or the name has another ending.
    """
    if path.suffix != suffix:
        raise UsageError(f"--output must end in {suffix}; got {path}.")
    check_place(path)
    if path.exists() and not overwrite:
        raise UsageError(f"{path} is there already: --overwrite replaces it.")


def check_place(path: Path) -> None:
    """Whether a file can be written at `path`, or in the place of what is there.

    Raises:
      UsageError: it is a folder, its name is too long, there is no such folder or no permission.
    """
    try:
        # Its own name may be longer than that of the folder beside.
        with contextlib.suppress(FileNotFoundError):
            os.stat(path)
        if path.is_dir():
            raise IsADirectoryError("it is a folder. Name a file.")
        with _files.scratch(path.absolute().parent, path.name):
            pass
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} can't be written: {error}") from error


def save(model: keras.Model, path: Path) -> None:
    """Write a model without its optimiser, whole or not at all."""
    with _files.whole(path) as fresh:
        model.save(fresh, include_optimizer=False)
