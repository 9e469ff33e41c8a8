"""Several answers to one question: what mutual learning and self-distillation share."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from keras_distill.objectives import Signals
from keras_distill.signals.reader import student_reader
from keras_distill.teachers.base import Teacher
from keras_distill.training.distiller import Distiller

__all__ = ["JointDistiller", "Peers"]


class JointDistiller(Distiller):
    """A Distiller whose student has several outputs for one label, which teach each other.

    Its teacher is `Peers`. A loss, metrics, labels and sample weights not given by output serve
    every output.
    """

    _teacher: "Peers"

    def compile(  # type: ignore[override] # metrics may be third by place, which names no head
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        **options: Any,
    ) -> None:
        """As `Distiller.compile`; a loss or metrics not given by output serve every one."""
        loss, metrics, weighted_metrics = map(self._for_each, (loss, metrics, weighted_metrics))
        super().compile(
            optimizer, loss, metrics=metrics, weighted_metrics=weighted_metrics, **options
        )

    def train_step(self, data: Any) -> dict[str, Any]:
        """One update: one forward and one backward, and no other teacher than the outputs."""
        return super().train_step(self._labels_for_each(data))

    def test_step(self, data: Any) -> dict[str, Any]:
        """Every output's label loss and metrics."""
        return super().test_step(self._labels_for_each(data))

    def get_config(self) -> dict:
        config = super().get_config()
        for unused in ("teacher_spec", "teacher_preprocess"):
            config.pop(unused)
        return config

    @staticmethod
    def load(path: Any, teacher: None = None, custom_objects: dict | None = None) -> Any:
        """A saved distiller, ready to train on: its teachers are in it."""
        if teacher is not None:
            raise ValueError("This distiller has no teacher besides its student: give none.")
        return keras.saving.load_model(path, custom_objects=custom_objects)

    def _student_taps(self) -> list:
        taught = [key for objective in self._objectives for key in objective.teacher_taps]
        return [*super()._student_taps(), *taught]

    def _learner_spec(self) -> Signals:
        return self._teacher.pairs(super()._learner_spec())[0][0]

    def _pairs(
        self, x: Any, y: Any, student: Signals, training: bool = True
    ) -> list[tuple[Signals, Signals]]:
        # No gradient to whoever said it.
        return [
            (ours, theirs.holding(map(tf.stop_gradient, theirs.tensors())))
            for ours, theirs in self._teacher.pairs(student)
        ]

    def _for_each(self, given: Any) -> Any:
        names = self._reader.spec.names
        if given is None or (isinstance(given, Mapping) and set(given) <= set(names)):
            return given
        return {name: keras.tree.map_structure(_anew, given) for name in names}

    def _labels_for_each(self, data: Any) -> tuple:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        names = self._reader.spec.names
        y, sample_weight = (
            part if part is None or isinstance(part, Mapping) else dict.fromkeys(names, part)
            for part in (y, sample_weight)
        )
        return x, y, sample_weight


class Peers(Teacher):
    """What a student's outputs look like to each other, before there are any.

    Args:
      student: the model of several outputs.
      output: what they are, as `Distiller(student_output=)`.
      pairs: from the student's Signals to a list of (learner, teacher), over which objectives are
        averaged.
    """

    def __init__(self, student: keras.Model, output: str, pairs: Callable[[Signals], list]):
        self._student, self._output, self.pairs = student, output, pairs

    def prepare(self, input_spec: Any, taps: tuple) -> Signals:
        return self.pairs(student_reader(self._student, taps, self._output).spec)[0][1]

    def fingerprint(self) -> str:
        return "peers"


def _anew(given: Any) -> Any:
    """A loss or metric for one more output: metrics keep a state, and none may be shared."""
    if isinstance(given, keras.metrics.Metric):
        return type(given).from_config(given.get_config())
    return given
