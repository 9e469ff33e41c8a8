"""What is no teacher, and the class that serves in its place."""

import inspect
import os
from collections.abc import Mapping
from typing import Any

from keras_distill.teachers.base import Teacher

__all__ = ["not_a_teacher"]


def not_a_teacher(value: Any) -> TypeError | None:
    """The error for a value that can't teach; None for one that can."""
    if isinstance(value, Teacher) or (callable(value) and not inspect.isclass(value)):
        return None
    return TypeError(
        f"A teacher is a Keras model, a callable that returns logits or a "
        f"keras_distill.teachers.Teacher; got {_came(value)}. {_mend(value)}"
    )


def _came(value: Any) -> str:
    kind = value if inspect.isclass(value) else type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    return f"the class {name}" if kind is value else name


def _mend(value: Any) -> str:
    if inspect.isclass(value):
        return f"Give an instance: {value.__name__}(...)."
    if isinstance(value, (str, os.PathLike)):
        return _mend_path(os.fspath(value))
    if isinstance(value, Mapping):
        return "One teacher an output of the student: keras_distill.teachers.MultiTask({...})."
    if isinstance(value, (list, tuple)):
        return "Several teachers as one: keras_distill.teachers.Ensemble([...])."
    if value is None:
        return "Without a teacher: keras_distill.teachers.Virtual(num_classes)."
    if hasattr(value, "predict_proba") or hasattr(value, "predict"):
        return "A fitted scikit-learn estimator teaches so: keras_distill.teachers.Estimator(it)."
    return "Wrap what it does in a function of a batch."


def _mend_path(path: str) -> str:
    if path.endswith(".tflite"):
        return f"Load it first: keras_distill.edge.load_tflite({path!r})."
    if path.endswith((".keras", ".h5", ".hdf5")):
        return f"Load it first: keras_distill.load_model({path!r})."
    return (
        "Load it first: keras_distill.load_model(path), keras_distill.edge.load_tflite(path), or "
        "tf.saved_model.load(path).signatures['serving_default'] for a SavedModel of no Keras."
    )
