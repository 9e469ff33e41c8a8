"""A teacher to ask questions of, beside the one that may be teaching already."""

from __future__ import annotations

import copy
from typing import Any

import keras

from keras_distill.explaining.layers import default_layers
from keras_distill.signals.specs import is_legacy
from keras_distill.teachers import Ensemble, Model, MovingAverage, MultiTask, Noisy, Teacher
from keras_distill.teachers.model import as_teacher


def twin_of(teacher: Any) -> Teacher:
    """A teacher of the same weights, whose preparation leaves the given one as it is.

    `Teacher.prepare` settles which layers are tapped: a Distiller that trains with a teacher would
    lose those of its objectives.
    """
    return _twin(teacher) if isinstance(teacher, Teacher) else as_teacher(teacher)


def teacher_layers(teacher: Teacher, output: str | None) -> tuple[str, ...]:
    """The layers of a teacher that are worth a look, as its taps name them.

    Args:
      teacher: any; it has met its student.
      output: the one that is looked at, in a model of several.

    Returns:
      The names; none where no Keras model stands behind the teacher.
    """
    if isinstance(teacher, Model):
        model = teacher._model
        return default_layers(model) if isinstance(model, keras.Model) or is_legacy(model) else ()
    if isinstance(teacher, MovingAverage):
        return default_layers(teacher._student)
    if isinstance(teacher, Noisy):
        return teacher_layers(teacher.members[0], output)
    if isinstance(teacher, Ensemble):
        return teacher_layers(teacher.members[teacher._taps_from], output)
    if isinstance(teacher, MultiTask) and output in teacher.teachers:
        names = teacher_layers(teacher.teachers[output], output)
        return tuple(f"{output}/{name}" for name in names)
    return ()


def _twin(value: Any) -> Any:
    if isinstance(value, Teacher):
        twin = copy.copy(value)
        vars(twin).update({name: _twin(held) for name, held in vars(value).items()})
        return twin
    if type(value) in (list, tuple) and any(isinstance(one, Teacher) for one in value):
        return type(value)(_twin(one) for one in value)
    if type(value) is dict and any(isinstance(one, Teacher) for one in value.values()):
        return {key: _twin(one) for key, one in value.items()}
    return value
