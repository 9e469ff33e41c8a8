"""Keras 2 (`tf_keras`) and TFMOT, imported late and without a trace in the process."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from keras_distill import _keras
from keras_distill._extras import legacy_hint
from keras_distill._pages import see

_SWITCH = "TF_USE_LEGACY_KERAS"


@functools.cache
def tf_keras() -> Any:
    """The module `tf_keras`.

    Raises:
      ModuleNotFoundError: it is not installed; the message has the command.

    >>> tf_keras().__name__
    'tf_keras'
    """
    return _imported("tf_keras")


@functools.cache
def tfmot() -> Any:
    """The module `tensorflow_model_optimization`.

    Its import sets `TF_USE_LEGACY_KERAS` for the process and its children; here the environment is
    as it was, and TensorFlow's own name for Keras means what it would have meant.

    Raises:
      ModuleNotFoundError: it is not installed; the message has the command.
    """
    return _imported("tensorflow_model_optimization")


def _imported(module: str) -> Any:
    with _unchanged_environment():
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            raise ModuleNotFoundError(
                f"Expected {module!r} to be installed, for models of Keras 2 and TFMOT's wrappers: "
                f"{legacy_hint(tf.__version__)}.{see('tf_keras')}",
                name=module,
            ) from None


@contextlib.contextmanager
def _unchanged_environment() -> Iterator[None]:
    # TensorFlow's lazy name for Keras reads the variable when it is first used, and never again.
    dir(getattr(tf, "keras"))  # noqa: B009
    before = os.environ.get(_SWITCH)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_SWITCH, None)
        else:
            os.environ[_SWITCH] = before


def is_symbolic(value: Any) -> bool:
    """Whether `value` is a tensor of a tf_keras graph under construction."""
    return _keras.legacy.is_symbolic(value)
