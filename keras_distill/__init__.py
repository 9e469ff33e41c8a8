"""keras_distill: from a large Keras teacher to a small student, verified inside its .tflite."""

from typing import TYPE_CHECKING, Any

from keras_distill import data, edge, functional, objectives, schedules, teachers, transfer
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
from keras_distill.training import callbacks
from keras_distill.training.distiller import Distiller
from keras_distill.training.exits import SelfDistiller, with_exits
from keras_distill.training.mutual import MutualDistiller

if TYPE_CHECKING:
    from keras_distill import judging, pipeline
    from keras_distill.edge.loading.loader import load_model
    from keras_distill.explaining import explain
    from keras_distill.judging.judge import judge
    from keras_distill.training.chain import distill_chain

__version__ = "0.1.0"

__all__ = [
    "DIST",
    "DKD",
    "AttentionTransfer",
    "Distiller",
    "FeatureHint",
    "HardTargets",
    "LogitsMSE",
    "MutualDistiller",
    "Objective",
    "RelationalKD",
    "ReviewKD",
    "SelfDistiller",
    "Signals",
    "SimilarityPreserving",
    "SoftTargets",
    "Teacher",
    "TeacherCache",
    "callbacks",
    "data",
    "distill_chain",
    "edge",
    "explain",
    "functional",
    "judge",
    "judging",
    "load_model",
    "objectives",
    "pipeline",
    "schedules",
    "teachers",
    "transfer",
    "with_exits",
]


def __getattr__(name: str) -> Any:
    # Imported when they are asked for: who only trains does not wait for them.
    if name == "explain":
        from keras_distill.explaining import explain

        return explain
    if name == "judge":
        from keras_distill.judging.judge import judge

        return judge
    if name == "judging":
        # `from keras_distill import judging` would ask here again.
        import keras_distill.judging

        return keras_distill.judging
    if name == "pipeline":
        import keras_distill.pipeline

        return keras_distill.pipeline
    if name == "load_model":
        from keras_distill.edge.loading.loader import load_model

        return load_model
    if name == "distill_chain":
        from keras_distill.training.chain import distill_chain

        return distill_chain
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
