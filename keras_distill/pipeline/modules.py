"""Modules of the user's own: the classes and functions that a saved model names."""

import contextlib
import importlib
import inspect
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import keras

from keras_distill.pipeline.inputs import one_line
from keras_distill.training.stages import UsageError

__all__ = ["import_modules"]


def import_modules(names: Sequence[str]) -> None:
    """Import modules, the current folder's among them; models load with what these define.

    Keras finds registered classes by themselves, and the other public classes and functions of a
    module by their names.

    Args:
      names: as in an import statement: "layers", "package.layers".

    Raises:
      UsageError: one can't be imported.
    """
    found = keras.saving.get_custom_objects()
    for name in names:
        with _current_folder():
            try:
                module = importlib.import_module(name)
            # A module runs what it likes, and so raises what it likes.
            except Exception as error:
                raise UsageError(_refusal(name, error)) from error
        found |= _defined(module)
    folder = str(Path.cwd())
    if names and folder not in sys.path:
        # Behind everything else: what a module imports late is found, and shadows nothing.
        sys.path.append(folder)


def _defined(module: ModuleType) -> dict:
    return {
        name: value
        for name, value in vars(module).items()
        if (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }


@contextlib.contextmanager
def _current_folder() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _refusal(name: str, error: Exception) -> str:
    mend = ""
    if name.endswith(".py") or "/" in name:
        dotted = name.removesuffix(".py").replace("/", ".").strip(".")
        mend = f" It takes a module, not a file: --import {dotted}."
    kind = type(error).__name__
    return f"--import {name} fails in {Path.cwd()}: {kind}: {one_line(error)}.{mend}"
