"""WHAT is learned from the teacher: one file a family, one small class a method."""

from keras_distill.objectives.base import Objective, Signals
from keras_distill.objectives.features import FeatureHint
from keras_distill.objectives.logits import HardTargets, LogitsMSE, SoftTargets

__all__ = ["FeatureHint", "HardTargets", "LogitsMSE", "Objective", "Signals", "SoftTargets"]
