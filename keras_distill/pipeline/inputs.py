"""What a command is given, read: models, data, and what the toolkit refuses as one line."""

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from ..data import load_digits, load_fashion_mnist, qualified_name
from ..distiller import Distiller
from .stages import UsageError

__all__ = ["load_data", "load_model", "one_line", "usage_errors"]

LOADERS = {"digits": load_digits, "fashion_mnist": load_fashion_mnist}


def load_model(path: Path) -> keras.Model:
    """The Keras model at `path`, in safe mode; of a saved Distiller its student.

    Raises:
      UsageError: there is none, or it does not load.
    """
    if not path.exists():
        raise UsageError(f"there is no model at {path}.")
    try:
        model = keras.saving.load_model(path, compile=False)
    # Keras raises what the file's content makes it stumble over, whatever that is.
    except Exception as error:
        raise UsageError(f"{path} does not load as a Keras model: {one_line(error)}") from error
    if isinstance(model, Distiller):
        model = model.student
    if not isinstance(model, keras.Model):
        raise UsageError(f"{path} holds no model, but a {qualified_name(model)}.")
    return model


def load_data(name: str, limit: int | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """The test images of a data set of ours, or the arrays of a .npz; the first `limit` rows.

    Raises:
      UsageError: no such data, or a file without `x`, with pickled objects or damaged.
    """
    if name in LOADERS:
        try:
            splits = LOADERS[name]()
        except (ImportError, OSError, ValueError) as error:
            raise UsageError(one_line(error)) from error
        return splits.x_test[:limit], splits.y_test[:limit]
    inputs, labels = _read_npz(Path(name))
    return inputs[:limit], None if labels is None else labels[:limit]


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    if path.suffix != ".npz":
        raise UsageError(f"--data takes {', '.join(LOADERS)} or a .npz file; got {path}.")
    if not path.is_file():
        raise UsageError(f"there is no data file at {path}.")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in ("x", "y") if key in archive}
            found = list(archive)
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{path} is no .npz of plain arrays, as np.savez(path, x=x, y=y) writes it: "
            f"{one_line(error)}"
        ) from error
    x = arrays.get("x")
    if x is None or not x.ndim or not len(x):
        raise UsageError(f"{path} needs an array x with a row for each example; it has {found}.")
    return x, arrays.get("y")


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """What the toolkit refuses is a wrong usage of the command: one line, no traceback."""
    try:
        yield
    except UsageError:
        raise
    except (ValueError, TypeError, RuntimeError, OSError, tf.errors.OpError) as error:
        raise UsageError(one_line(error)) from error


def one_line(error: BaseException, limit: int = 400) -> str:
    """An error's words in one line, cut to `limit` characters.

    >>> one_line(ValueError("two\\n  lines"))
    'two lines'
    """
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= limit else f"{words[: limit - 4]} ..."
