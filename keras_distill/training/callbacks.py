"""Callbacks for `fit` that know a Distiller from its student."""

import os
from typing import Any

import keras

from keras_distill import _files
from keras_distill.data import qualified_name
from keras_distill.training.saving import WholeFiles

__all__ = ["StudentCheckpoint"]


class StudentCheckpoint(keras.callbacks.ModelCheckpoint):
    """As `keras.callbacks.ModelCheckpoint`, of the student alone: what is deployed afterwards.

    `ModelCheckpoint` in a Distiller's `fit` keeps the whole distiller, to train on; this one writes
    what `distiller.student.save` does, whole or not at all. Of a `MutualDistiller` that is the
    model that holds all students.

    Args: as `keras.callbacks.ModelCheckpoint`.

    Raises:
      TypeError: `fit` is of another model than a distiller.

    >>> StudentCheckpoint("best.keras", monitor="val_loss", save_best_only=True).filepath
    'best.keras'
    """

    def set_model(self, model: Any) -> None:
        """Take up whose student is kept."""
        if not isinstance(model, WholeFiles):
            raise TypeError(
                f"StudentCheckpoint keeps a distiller's student, and this fit is of "
                f"{qualified_name(model)}. Use keras.callbacks.ModelCheckpoint."
            )
        super().set_model(_StudentsFile(model))


class _StudentsFile:
    """What ModelCheckpoint asks of a model: the distiller's metrics, the student's files."""

    def __init__(self, distiller: WholeFiles):
        self._distiller = distiller

    @property
    def metrics(self) -> list:
        """By which the direction of what is monitored is known."""
        return self._distiller.metrics

    def save(self, filepath: Any, overwrite: bool = True) -> None:
        """The student's file."""
        self._write(self._distiller.student.save, filepath)

    def save_weights(self, filepath: Any, overwrite: bool = True) -> None:
        """The file of the student's weights."""
        self._write(self._distiller.student.save_weights, filepath)

    def _write(self, save: Any, filepath: Any) -> None:
        if "://" in os.fspath(filepath):  # Keras uploads it
            save(filepath)
            return
        with _files.whole(filepath) as fresh:
            save(fresh)
