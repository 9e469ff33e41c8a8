"""Objectives on answers other than one class an example: numbers, several labels, maps."""

from typing import Any, ClassVar

import keras

from keras_distill import functional
from keras_distill.functional.tensors import Tensor
from keras_distill.objectives.logits_base import (
    LogitsObjective,
    before_sigmoid,
    check_not_negative,
    check_positive,
)
from keras_distill.signals import Signals

__all__ = [
    "AttentiveRegression",
    "BoundedRegression",
    "ChannelWiseTargets",
    "MultiLabelTargets",
    "RegressionTargets",
]


class _Regression(LogitsObjective):
    """What the objectives on numbers share: the error, squared or Huber's."""

    shift_invariant: ClassVar[bool] = False
    kinds: ClassVar[tuple[str, ...]] = ("logits", "sigmoid")

    def __init__(self, *, delta: float | None = None, **options: Any) -> None:
        super().__init__(**options)
        if delta is not None:
            check_positive(type(self).__name__, delta=delta)
        self.delta = delta


@keras.saving.register_keras_serializable("keras_distill")
class RegressionTargets(_Regression):
    """The teacher's numbers as the targets, by squared or Huber's error.

    Args:
      delta: None for the squared error, else Huber's threshold in the label's units.
      weight, output, name: see `Objective`.

    Raises:
      ValueError: delta is not positive.

    Source: Ba and Caruana, NeurIPS 2014; Huber 1964.

    >>> RegressionTargets(delta=1.0).name
    'regression_targets'
    """

    examples = ({}, {"delta": 1.0})

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        return functional.regression_distance(student.logits, teacher.logits, delta=self.delta)


@keras.saving.register_keras_serializable("keras_distill")
class AttentiveRegression(_Regression):
    """The teacher's numbers as the targets, the less the further the teacher is from the label.

    Args:
      max_teacher_error: the teacher's error from which on it is not heard: squared units of the
        label, or Huber's.
      delta: None for the squared error, else Huber's threshold in the label's units.
      weight, output, name: see `Objective`.

    Raises:
      ValueError: a parameter is not positive.

    Source: Saputra et al., "Distilling Knowledge From a Deep Pose Regressor Network", ICCV 2019.

    >>> AttentiveRegression(max_teacher_error=4.0).label_kind
    'values'
    """

    needs_labels: ClassVar[bool] = True
    label_kind: ClassVar[str] = "values"
    examples = (
        {"max_teacher_error": 50.0},
        {"max_teacher_error": 9.0, "delta": 1.0},
    )

    def __init__(self, *, max_teacher_error: float, **options: Any) -> None:
        super().__init__(**options)
        check_positive("AttentiveRegression", max_teacher_error=max_teacher_error)
        self.max_teacher_error = max_teacher_error

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        return functional.attentive_regression(
            student.logits,
            teacher.logits,
            labels,
            max_teacher_error=self.max_teacher_error,
            delta=self.delta,
        )


@keras.saving.register_keras_serializable("keras_distill")
class BoundedRegression(_Regression):
    """The student's error to the label, only where the teacher does better: an upper bound.

    Args:
      margin: by how much the student has to beat the teacher before it is left alone: squared
        units of the label, or Huber's.
      delta: None for the squared error, else Huber's threshold in the label's units.
      weight, output, name: see `Objective`.

    Raises:
      ValueError: the margin is negative, or delta not positive.

    Source: Chen et al., "Learning Efficient Object Detection Models with Knowledge Distillation",
    NeurIPS 2017.

    >>> BoundedRegression(margin=0.1).needs_labels
    True
    """

    needs_labels: ClassVar[bool] = True
    label_kind: ClassVar[str] = "values"
    examples = ({}, {"delta": 1.0})

    def __init__(self, *, margin: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        check_not_negative("BoundedRegression", margin=margin)
        self.margin = margin

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        return functional.bounded_regression(
            student.logits, teacher.logits, labels, margin=self.margin, delta=self.delta
        )


@keras.saving.register_keras_serializable("keras_distill")
class MultiLabelTargets(LogitsObjective):
    """Soft targets where an example can have several labels: each a yes or no of its own.

    It works on logits, before the sigmoid; one output is a binary classifier.

    Args:
      temperature: T > 0.
      sigmoid: "student", "teacher" or "both" where these models end in a sigmoid; None for those of
        which the graph tells so. Its input is read where Keras keeps it, as a student of Keras' own
        layers does; else it is taken back (to a logit of 16 either way: more, float32 probabilities
        do not hold).
      weight, output, name: see `Objective`.

    Raises:
      ValueError: the temperature is not positive, or another `sigmoid`.

    Source: Hinton, Vinyals, Dean 2015, on independent labels; Yang et al., "Multi-Label Knowledge
    Distillation", ICCV 2023.

    >>> MultiLabelTargets().temperature
    1.0
    """

    shift_invariant: ClassVar[bool] = False
    kinds: ClassVar[tuple[str, ...]] = ("logits", "sigmoid")

    examples = ({}, {"temperature": 3.0})

    def __init__(
        self, *, temperature: float = 1.0, sigmoid: str | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        check_positive("MultiLabelTargets", temperature=temperature)
        if sigmoid not in (None, "student", "teacher", "both"):
            raise ValueError(
                f"MultiLabelTargets: sigmoid must be None, 'student', 'teacher' or 'both'; got "
                f"{sigmoid!r}."
            )
        self.temperature, self.sigmoid = temperature, sigmoid

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        return functional.multilabel_kl(
            self._logits(student, "student"),
            self._logits(teacher, "teacher"),
            temperature=self.temperature,
        )

    def _logits(self, signals: Signals, who: str) -> Tensor:
        if self.sigmoid not in (who, "both") and not signals.from_sigmoid:
            return signals.logits
        return before_sigmoid(signals.logits)


@keras.saving.register_keras_serializable("keras_distill")
class ChannelWiseTargets(LogitsObjective):
    """Where in its map the teacher sees each class: for models that answer position by position.

    Each class' logits become a distribution over the positions. `SoftTargets` on the same models
    compares the classes of each pixel; the two go together.

    Args:
      temperature: T > 0; the higher, the wider the area that counts.
      weight, output, name: see `Objective`.

    Raises:
      ValueError: the temperature is not positive.

    Source: Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021.

    >>> ChannelWiseTargets().temperature
    4.0
    """

    shift_invariant: ClassVar[bool] = False
    per_position: ClassVar[bool] = False
    kinds: ClassVar[tuple[str, ...]] = ("logits",)

    def __init__(self, *, temperature: float = 4.0, **options: Any) -> None:
        super().__init__(**options)
        check_positive("ChannelWiseTargets", temperature=temperature)
        self.temperature = temperature

    def build(self, student: Signals, teacher: Signals) -> dict[str, keras.layers.Layer]:
        shape = tuple(student.logits.shape)
        if len(shape) < 3:
            raise ValueError(
                f"{self.name}: the student answers with {shape}, and there are no positions to "
                f"compare. It takes maps (batch, ..., classes); for one answer an example use "
                f"SoftTargets."
            )
        return super().build(student, teacher)

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        return functional.channel_wise_kl(
            student.logits, teacher.logits, temperature=self.temperature
        )
