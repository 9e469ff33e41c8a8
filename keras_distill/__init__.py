"""keras_distill: from a large Keras teacher to a small student, verified inside its .tflite."""

from keras_distill import data, edge, functional, objectives, teachers, transfer
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
    "transfer",
]
