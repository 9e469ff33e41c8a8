"""What a command is given, read: models, data, and what the toolkit refuses as one line."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.data import load_digits, load_fashion_mnist
from keras_distill.edge.analysis import Analysis
from keras_distill.edge.bridge import closed_list
from keras_distill.edge.loading import loader
from keras_distill.litert.converter import CALIBRATED
from keras_distill.pipeline import arguments
from keras_distill.pipeline.images import load_images
from keras_distill.training.stages import UsageError

__all__ = [
    "Data",
    "load_data",
    "load_model",
    "one_line",
    "read_npz",
    "representative",
    "usage_errors",
]

LOADERS = {"digits": load_digits, "fashion_mnist": load_fashion_mnist}


@dataclass(frozen=True)
class Data:
    """What a command reads.

    Attributes:
      examples: a data argument: x, (x, y) or batches.
      rows: how many examples it has.
      class_names: by number, where the data has names.
    """

    examples: Any
    rows: int
    class_names: tuple[str, ...] | None = None

    @property
    def labelled(self) -> bool:
        """Whether there are labels."""
        if isinstance(self.examples, tf.data.Dataset):
            return isinstance(self.examples.element_spec, tuple)
        return isinstance(self.examples, tuple)


def load_model(path: Path) -> keras.Model:
    """The Keras 3 model at `path`, as `keras_distill.load_model` reads it.

    What it did is said on the standard error: the other output may be a record's JSON.

    Raises:
      UsageError: there is none, or it does not load.
    """
    try:
        loaded = loader.read(path)
    except FileNotFoundError as error:
        raise UsageError(str(error)) from error
    except ValueError as error:
        mend = " Name the module that defines it: --import MODULE." if _unknown(error) else ""
        raise UsageError(one_line(error) + mend) from error
    if loaded.words is not None:
        sys.stderr.write(f"{loaded.words}\n")
    return loaded.model


def _unknown(error: Exception) -> bool:
    words = str(error)
    if isinstance(error.__cause__, closed_list.RefusedError):
        return "code at" not in words
    return "Could not locate" in words or "Unknown" in words or "Could not interpret" in words


def load_data(
    name: str,
    model: keras.Model,
    *,
    limit: int | None = None,
    part: str = "test",
    batch_size: int = 32,
    shuffle: bool = False,
    image_size: str | None = None,
    rescale: str | None = None,
) -> Data:
    """A data set of ours, the arrays of a .npz, or a folder of images.

    Args:
      name: "digits", "fashion_mnist", or a path.
      model: that is to take the images of a folder.
      limit: rows: the first ones, of a folder of images drawn from all classes.
      part: of a data set of ours: "train", "validation" or "test".
      batch_size, shuffle: of a folder of images.
      image_size, rescale: of a folder of images, in the words of the command line.

    Raises:
      UsageError: no such data, a file without `x`, with pickled objects or damaged, a folder that
        does not suit the model, or an option that is for folders alone.
    """
    if Path(name).is_dir():
        with usage_errors():
            found = load_images(
                Path(name),
                model,
                limit=limit,
                image_size=None if image_size is None else arguments.image_size(image_size),
                rescale=None if rescale is None else arguments.rescale(rescale),
                batch_size=batch_size,
                shuffle=shuffle,
            )
        return Data(*found)
    if image_size is not None or rescale is not None:
        raise UsageError(f"--image-size and --rescale are for a folder of images; got {name}.")
    names = None
    if name in LOADERS:
        try:
            splits = LOADERS[name]()
        except (ImportError, OSError, ValueError) as error:
            raise UsageError(one_line(error)) from error
        x, y = getattr(splits, f"x_{part}"), getattr(splits, f"y_{part}")
        names = splits.class_names
    else:
        x, y = read_npz(Path(name))
    x, y = x[:limit], None if y is None else y[:limit]
    return Data(x if y is None else (x, y), len(x), names)


def representative(
    model: keras.Model, precision: str, data: str | None, **options: Any
) -> dict[str, Any]:
    """What `export_tflite` is given of the data: examples, and a folder's class names.

    Args:
      model: to be exported.
      precision: see `export_tflite`.
      data, **options: see `load_data`; None for no data.

    Raises:
      UsageError: there is data that is not used, none where it is needed, or it can't be read.
    """
    if data is None:
        if any(options.get(name) is not None for name in ("image_size", "rescale")):
            raise UsageError("--image-size and --rescale are for a folder of images: add --data.")
        if precision in CALIBRATED and not Analysis(model).has_ranges:
            raise UsageError(
                f"--precision {precision} needs --data, some hundred examples like those to come; "
                f"or a model that keras-distill quantize made."
            )
        return {}
    if precision not in CALIBRATED:
        raise UsageError(f"--data is for {' and '.join(CALIBRATED)}; at {precision} leave it out.")
    found = load_data(data, model, part="train", **options)
    names = found.class_names if Path(data).is_dir() else None
    return {"representative_data": found.examples, "labels": names}


def read_npz(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The arrays x and y of a .npz, no pickled objects; y is None where there is none.

    Raises:
      UsageError: it is no such file.
    """
    if path.suffix != ".npz":
        raise UsageError(
            f"--data takes {', '.join(LOADERS)} or a .npz file, or a folder of images; got {path}."
        )
    if not path.is_file():
        raise UsageError(f"there is no data file at {path}.")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in ("x", "y") if key in archive}
            found = list(archive)
    # NumPy and zipfile raise what the content makes them stumble over: MemoryError, zlib.error, ...
    except Exception as error:
        raise UsageError(
            f"{path} is no .npz of plain arrays, as np.savez(path, x=x, y=y) writes it: "
            f"{one_line(error)}"
        ) from error
    # NumPy hands a member that is no array out as its bytes.
    x = arrays.get("x")
    if not all(isinstance(one, np.ndarray) for one in (x, arrays.get("y", x))):
        x = None
    if x is None or not x.ndim or not len(x):
        raise UsageError(f"{path} needs an array x with a row for each example; it has {found}.")
    return x, arrays.get("y")


@contextlib.contextmanager
def usage_errors(passing: type[Exception] = UsageError) -> Iterator[None]:
    """What the toolkit refuses is a wrong usage of the command: one line, no traceback.

    Args:
      passing: what is none, and for the caller.
    """
    try:
        yield
    except (UsageError, passing):
        raise
    except (ValueError, TypeError, RuntimeError, OSError, tf.errors.OpError) as error:
        raise UsageError(one_line(error)) from error


def one_line(error: BaseException, limit: int = 400) -> str:
    """An error's words in one line, of `limit` characters at most: the middle is left out.

    Who speaks is at the beginning, and the cause often at the end.

    >>> one_line(ValueError("two\\n  lines"))
    'two lines'
    >>> one_line(ValueError("it is in the way"), 13)
    'it i ... way'
    """
    words = " ".join(str(error).split()) or type(error).__name__
    if len(words) <= limit:
        return words
    end = (limit - 5) // 2
    return f"{words[: limit - 5 - end].rstrip()} ... {words[-end:].lstrip()}"
