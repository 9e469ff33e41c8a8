"""A saved Keras model of whatever generation and format, as a Keras 3 model."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from keras_distill import _json, _keras
from keras_distill.data import qualified_name
from keras_distill.edge import legacy
from keras_distill.edge.bridge import closed_list, tfmot, to_keras3
from keras_distill.edge.loading import hdf5, kinds, older, saved_model
from keras_distill.progress import LOG
from keras_distill.training.distiller import Distiller

__all__ = ["Loaded", "load_model", "read"]


@dataclass(frozen=True)
class Loaded:
    """A model from a file.

    Attributes:
      model: of Keras 3.
      words: what was done to get it, in a line; None where Keras 3 read a format of its own.
    """

    model: keras.Model
    words: str | None = None


def load_model(
    path: str | os.PathLike[str], *, custom_objects: Mapping[str, Any] | None = None
) -> keras.Model:
    """The Keras 3 model that a file holds, of whatever Keras generation.

    Read are `.keras` files, legacy `.h5` and `.hdf5` files and folders of a Keras SavedModel. What
    the older generation wrote is read by it (`tf_keras`) and brought over as `edge.to_keras3` does,
    and a line to the logger "keras_distill" says so. Nothing of the file is run: layers are made
    from their configs, which may name only what Keras and TFMOT have or what is registered, and
    of a SavedModel's functions none is called. The model is not compiled, an optimiser's state is
    left behind. Of a saved `Distiller` it is the student.

    Args:
      path: the file or the folder.
      custom_objects: classes and functions of one's own by name, besides the registered ones.

    Returns:
      A Keras 3 model; one that tf_keras read has answered like it on a random batch.

    Raises:
      FileNotFoundError: there is nothing at `path`.
      TypeError: `path` is no path.
      ValueError: it is another kind of file, damaged, a SavedModel of no Keras model or of a
        subclassed one, or it holds code or a class that nobody registered.

    Example:
      student = kd.load_model("mobilenet.h5")
    """
    loaded = read(path, custom_objects=custom_objects)
    if loaded.words is not None:
        LOG.info(loaded.words)
    return loaded.model


def read(
    path: str | os.PathLike[str], *, custom_objects: Mapping[str, Any] | None = None
) -> Loaded:
    """`load_model`, with the words for what was done."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"Expected the path of a saved Keras model; got {qualified_name(path)}.")
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no model at {path}.")
    try:
        with keras.saving.custom_object_scope(dict(custom_objects or {})):
            model, words = _read(path)
    # What the file's content makes the readers stumble over, whatever that is.
    except Exception as error:
        why = kinds.not_a_model(path) or " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} does not load as a Keras model: {why}") from error
    if isinstance(model, Distiller):
        model = model.student
    if not isinstance(model, keras.Model):
        raise ValueError(f"{path} holds no model, but a {qualified_name(model)}.")
    return Loaded(model, words and f"{path}: {words}")


def _read(path: Path) -> tuple[Any, str | None]:
    if saved_model.is_one(path):
        return _of_saved(saved_model.read(path))
    if path.suffix in hdf5.SUFFIXES and path.is_file():
        return _of_hdf5(path)
    version = _version_of_zip(path)
    if older.is_older(version):
        return _of_zip(path, version)
    return keras.saving.load_model(path, compile=False), None


def _of_saved(saved: saved_model.Saved) -> tuple[keras.Model, str]:
    return _brought_over(saved.model, f"a SavedModel of {older.named(saved.version)}", saved.leaves)


def _of_hdf5(path: Path) -> tuple[keras.Model, str]:
    content = hdf5.read(path)
    kind = f"a legacy {path.suffix} of {older.named(content.version)}"
    if not older.is_older(content.version):
        # Keras before 3.12 runs the code of an .h5 in its safe mode as well.
        closed_list.check_code(content.config)
        model = keras.saving.load_model(path, compile=False)
        return model, f"{kind}, read by Keras {keras.__version__}{_left(content.leaves)}"
    return _by_either(path, lambda: older.of_hdf5(path, content.config), kind, content.leaves)


def _of_zip(path: Path, version: str | None) -> tuple[keras.Model, str]:
    def read() -> Any:
        with zipfile.ZipFile(path) as archive:
            return older.of_zip(path, _json.loads(archive.read("config.json")))

    return _by_either(path, read, f"a .keras of {older.named(version)}", ())


def _by_either(path: Path, read: Any, kind: str, leaves: tuple[str, ...]) -> tuple[Any, str]:
    """By the generation that wrote it; layers that are registered with Keras 3 alone, by that."""
    try:
        model = read()
    except closed_list.RefusedError:
        raise
    except Exception as error:
        try:
            model = keras.saving.load_model(path, compile=False)
        except Exception:
            raise error from None
        return model, f"{kind}, read by Keras {keras.__version__}{_left(leaves)}"
    return _brought_over(model, kind, leaves)


def _brought_over(model: Any, kind: str, leaves: tuple[str, ...]) -> tuple[keras.Model, str]:
    wrapped = any(tfmot.wrapper_of(layer).is_one for layer in _keras.layers_of(model))
    leaves = (*leaves, *(["TFMOT's wrappers"] if wrapped else []))
    made = to_keras3(model)
    by = f"read by tf_keras {legacy.tf_keras().__version__} and brought over to Keras 3"
    return made, f"{kind}, {by}{_left(leaves)}"


def _left(leaves: tuple[str, ...]) -> str:
    return f"; left behind: {', '.join(leaves)}" if leaves else ""


def _version_of_zip(path: Path) -> str | None:
    """The Keras that wrote a .keras file; None where it does not say."""
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        if "metadata.json" not in archive.namelist():
            return None
        found = _json.loads(archive.read("metadata.json"))
    return found.get("keras_version") if isinstance(found, dict) else None
