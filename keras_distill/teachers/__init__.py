"""WHERE the knowledge comes from."""

from keras_distill.teachers.base import Teacher
from keras_distill.teachers.cache import TeacherCache
from keras_distill.teachers.ensemble import Ensemble
from keras_distill.teachers.estimator import Estimator
from keras_distill.teachers.model import Model
from keras_distill.teachers.moving_average import MovingAverage
from keras_distill.teachers.multitask import MultiTask
from keras_distill.teachers.noisy import Noisy
from keras_distill.teachers.virtual import Virtual

__all__ = [
    "Ensemble",
    "Estimator",
    "Model",
    "MovingAverage",
    "MultiTask",
    "Noisy",
    "Teacher",
    "TeacherCache",
    "Virtual",
]
