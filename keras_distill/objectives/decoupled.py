"""Objectives that take the label's class and the other classes apart."""

from typing import Any, ClassVar

import keras

from keras_distill import functional
from keras_distill.functional.tensors import Tensor
from keras_distill.objectives.logits_base import (
    LogitsObjective,
    check_class_labels,
    check_not_negative,
    check_temperature,
)
from keras_distill.signals import Signals

__all__ = ["DKD", "NormalizedKD"]


@keras.saving.register_keras_serializable("keras_distill")
class DKD(LogitsObjective):
    """Decoupled distillation: the label's class and the other classes, weighted apart.

    The authors ramp the whole up over the first 20 epochs (CIFAR-100): give `weight=` a schedule
    that warms up. A row labelled -1 counts zero.

    Args:
      alpha: weight of the target class' part (TCKD).
      beta: weight of the other classes' part (NCKD); the surer the teacher, the larger.
      temperature: T > 0.
      weight, output, name: see `Objective`.

    Raises:
      ValueError: a weight is negative, or the temperature not positive.

    Source: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022.

    >>> DKD(beta=2.0).get_config()["beta"]
    2.0
    """

    needs_labels: ClassVar[bool] = True

    def __init__(
        self, *, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0, **options: Any
    ) -> None:
        super().__init__(**options)
        check_not_negative("DKD", alpha=alpha, beta=beta)
        check_temperature("DKD", temperature)
        self.alpha, self.beta, self.temperature = alpha, beta, temperature

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        return functional.decoupled_kd(
            student.logits,
            teacher.logits,
            check_class_labels(self.name, labels, student.logits),
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
        )


@keras.saving.register_keras_serializable("keras_distill")
class NormalizedKD(LogitsObjective):
    """The label's class by the teacher's trust in it, and the other classes among themselves.

    See `functional.normalized_kd` for the formula. A row labelled -1 counts zero.

    Args:
      gamma: weight of the other classes' part.
      temperature: T > 0, of the other classes alone.
      weight, output, name: see `Objective`.

    Raises:
      ValueError: gamma is negative, or the temperature not positive.

    Source: Yang et al., ICCV 2023, who take gamma 1.5 and T 1 on ImageNet, and add it to the label
    loss: `label_weight=0.5` has the same proportion.

    >>> NormalizedKD(gamma=1.0).name
    'normalized_kd'
    """

    needs_labels: ClassVar[bool] = True
    at_teacher: ClassVar[str] = "elsewhere"

    def __init__(self, *, gamma: float = 1.5, temperature: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        check_not_negative("NormalizedKD", gamma=gamma)
        check_temperature("NormalizedKD", temperature)
        self.gamma, self.temperature = gamma, temperature

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        return functional.normalized_kd(
            student.logits,
            teacher.logits,
            check_class_labels(self.name, labels, student.logits),
            gamma=self.gamma,
            temperature=self.temperature,
        )
