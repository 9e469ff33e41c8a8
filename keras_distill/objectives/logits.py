"""Objectives on the models' answers: one class of many an example, no label needed."""

from typing import Any, ClassVar

import keras

from keras_distill import functional, schedules
from keras_distill.functional.tensors import Tensor, check_several
from keras_distill.objectives.logits_base import (
    LogitsObjective,
    check_constant,
    check_not_negative,
    check_positive,
    check_temperature,
)
from keras_distill.signals import Signals

__all__ = ["DIST", "GeneralizedJSD", "HardTargets", "LogitsMSE", "SoftTargets"]


@keras.saving.register_keras_serializable("keras_distill")
class SoftTargets(LogitsObjective):
    """The teacher's softened answer as the target: `T^2 KL(teacher || student)`.

    Positions between batch and classes (pixels, tokens) are averaged.

    Args:
      temperature: T > 0, a number, a schedule or `schedules.TeacherEntropy`; the higher, the more
        the small probabilities count.
      standardize: z-score both logits first (Sun et al., CVPR 2024).
      weight, output, name: see `Objective`.

    Raises:
      ValueError: the temperature is not positive.

    Source: Hinton, Vinyals, Dean 2015.

    >>> SoftTargets(temperature=2.0).name
    'soft_targets'
    """

    examples = ({}, {"temperature": 2.0, "standardize": True})

    def __init__(
        self, *, temperature: Any = 2.0, standardize: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        check_temperature("SoftTargets", temperature)
        self.temperature = temperature
        self.standardize = standardize

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        return functional.soft_target_kl(
            student.logits,
            teacher.logits,
            temperature=self.temperature,
            standardize=self.standardize,
        )


@keras.saving.register_keras_serializable("keras_distill")
class HardTargets(LogitsObjective):
    """The teacher's most likely class as the label.

    Args:
      weight, output, name: see `Objective`.

    Source: Lee 2013; Touvron et al., ICML 2021.

    >>> HardTargets(weight=0.5).weight
    0.5
    """

    at_teacher: ClassVar[str] = "elsewhere"

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        return functional.hard_target_ce(student.logits, teacher.logits)


@keras.saving.register_keras_serializable("keras_distill")
class LogitsMSE(LogitsObjective):
    """Squared distance of the logits, mean over classes.

    It compares unnormalised logits, so both models must have them to give: a model that ends in
    a sigmoid, or in a softmax whose input is out of reach, is refused.

    Args:
      half_squared_norm: the sum over the classes, halved, as the paper writes it.
      weight, output, name: see `Objective`.

    Source: Ba and Caruana, NeurIPS 2014.

    >>> LogitsMSE().name
    'logits_mse'
    """

    shift_invariant: ClassVar[bool] = False
    kinds: ClassVar[tuple[str, ...]] = ("logits",)
    examples = ({}, {"half_squared_norm": True})

    def __init__(self, *, half_squared_norm: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.half_squared_norm = half_squared_norm

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        return functional.logits_mse(
            student.logits, teacher.logits, half_squared_norm=self.half_squared_norm
        )


@keras.saving.register_keras_serializable("keras_distill")
class GeneralizedJSD(LogitsObjective):
    """The teacher's distribution, met between both directions of the divergence.

    See `functional.generalized_jsd` for the formula. `SoftTargets` makes a student cover all that
    the teacher finds likely; one too small for that does better at a beta near 1, where it chooses
    among it.

    Args:
      beta: 0 is `KL(teacher || student)`, 1 is `KL(student || teacher)`, in between it is the
        Jensen-Shannon divergence of that mixture; a number.
      temperature: T > 0.
      weight, output, name: see `Objective`.

    Raises:
      ValueError: beta is out of range or a schedule, or the temperature is not positive.

    Source: Agarwal et al., "On-Policy Distillation of Language Models", ICLR 2024. There the texts
    are the student's own; this objective learns on whatever `fit` is given.

    >>> GeneralizedJSD(beta=0.9).name
    'generalized_jsd'
    """

    examples = ({}, {"beta": 0.0}, {"beta": 1.0}, {"beta": 0.1})

    def __init__(self, *, beta: float = 0.5, temperature: Any = 1.0, **options: Any) -> None:
        super().__init__(**options)
        check_constant("GeneralizedJSD", beta=beta)
        schedules.check_within("GeneralizedJSD", "beta", beta, 0, 1)
        check_temperature("GeneralizedJSD", temperature)
        self.beta, self.temperature = beta, temperature

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        return functional.generalized_jsd(
            student.logits, teacher.logits, beta=self.beta, temperature=self.temperature
        )


@keras.saving.register_keras_serializable("keras_distill")
class DIST(LogitsObjective):
    """The teacher's relations between classes and between examples, by Pearson's correlation.

    `T^2 * (beta * (1 - r over classes) + gamma * (1 - r over the batch))`. The second part needs
    batches large enough to correlate over; the authors use 128 and more.

    Args:
      beta: weight of the relation between the classes of an example.
      gamma: weight of the relation between the examples of a class.
      temperature: T > 0.
      weight, output, name: see `Objective`.

    Raises:
      ValueError: a weight is negative, or the temperature not positive.

    Source: Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022. The
    authors set beta and gamma to 2 and T to 4 on CIFAR-100, to 1 or 2 and T to 1 on ImageNet.

    >>> DIST(beta=2.0, gamma=2.0, temperature=4.0).relational
    True
    """

    relational: ClassVar[bool] = True
    per_position: ClassVar[bool] = False

    def __init__(
        self, *, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0, **options: Any
    ) -> None:
        super().__init__(**options)
        check_not_negative("DIST", beta=beta, gamma=gamma)
        check_positive("DIST", temperature=temperature)
        self.beta, self.gamma, self.temperature = beta, gamma, temperature

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        if len(student.logits.shape) == 2:
            check_several(self.name, student.logits)
        return functional.dist_relation(
            student.logits,
            teacher.logits,
            beta=self.beta,
            gamma=self.gamma,
            temperature=self.temperature,
        )
