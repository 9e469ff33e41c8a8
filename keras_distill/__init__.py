"""keras_distill: from a large Keras teacher to a small student, verified inside its .tflite."""

import importlib
from typing import TYPE_CHECKING, Any

from keras_distill import data, functional, objectives, teachers
from keras_distill.distiller import Distiller
from keras_distill.objectives import (
    FeatureHint,
    HardTargets,
    LogitsMSE,
    Objective,
    Signals,
    SoftTargets,
)
from keras_distill.teachers import Teacher

if TYPE_CHECKING:
    from keras_distill import edge

__version__ = "0.1.0"

__all__ = [
    "Distiller",
    "FeatureHint",
    "HardTargets",
    "LogitsMSE",
    "Objective",
    "Signals",
    "SoftTargets",
    "Teacher",
    "data",
    "edge",
    "functional",
    "objectives",
    "teachers",
]


def __getattr__(name: str) -> Any:
    # A third of the package's import time, and training needs none of it.
    if name == "edge":
        return importlib.import_module("keras_distill.edge")
    raise AttributeError(f"module 'keras_distill' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
