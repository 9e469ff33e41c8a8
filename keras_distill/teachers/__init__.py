"""WHERE the knowledge comes from."""

from keras_distill.teachers.base import Teacher
from keras_distill.teachers.model import Model

__all__ = ["Model", "Teacher"]
