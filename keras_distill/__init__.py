"""keras_distill: from a large Keras teacher to a small student, verified inside its .tflite."""

from keras_distill import data, edge, functional, objectives, teachers, transfer
from keras_distill.distiller import Distiller
from keras_distill.objectives import (
    DIST,
    DKD,
    AttentionTransfer,
    FeatureHint,
    HardTargets,
    LogitsMSE,
    Objective,
    RelationalKD,
    ReviewKD,
    Signals,
    SimilarityPreserving,
    SoftTargets,
)
from keras_distill.teachers import Teacher, TeacherCache

__version__ = "0.1.0"

__all__ = [
    "DIST",
    "DKD",
    "AttentionTransfer",
    "Distiller",
    "FeatureHint",
    "HardTargets",
    "LogitsMSE",
    "Objective",
    "RelationalKD",
    "ReviewKD",
    "Signals",
    "SimilarityPreserving",
    "SoftTargets",
    "Teacher",
    "TeacherCache",
    "data",
    "edge",
    "functional",
    "objectives",
    "teachers",
    "transfer",
]
