"""Objectives that weigh the teacher's answer and the labels against each other."""

from collections.abc import Sequence
from typing import Any, ClassVar

import keras

from keras_distill import functional, schedules
from keras_distill.functional.tensors import Tensor
from keras_distill.objectives.logits_base import (
    LogitsObjective,
    check_class_labels,
    check_constant,
    check_not_negative,
    check_temperature,
)
from keras_distill.signals import Signals

__all__ = ["BalancedTargets", "BootstrappedLabels", "HardExamples", "WeightedSoftTargets"]


@keras.saving.register_keras_serializable("keras_distill")
class HardExamples(LogitsObjective):
    """Cross-entropy on the labels, weighted to the examples that the teacher finds hard.

    For clean labels: a wrong label looks hard too (see `BootstrappedLabels`). A row labelled -1
    counts zero.

    Args:
      focus: "disagreement" (the teacher gives the label little) or "margin" (the teacher wavers
        between two classes).
      focusing: exponent of the difficulty, at least 0.
      weight, output, name: see `Objective`.

    Raises:
      ValueError: another focus, or a negative exponent.

    Source: as the focal loss, Lin et al., ICCV 2017, with the teacher's probability; Malach and
    Shalev-Shwartz, NeurIPS 2017; Scheffer et al., IDA 2001.

    >>> HardExamples(focus="margin").focus
    'margin'
    """

    needs_labels: ClassVar[bool] = True
    at_teacher: ClassVar[str] = "elsewhere"
    examples = ({}, {"focus": "margin", "focusing": 1.0})

    def __init__(
        self, *, focus: str = "disagreement", focusing: float = 2.0, **options: Any
    ) -> None:
        super().__init__(**options)
        check_not_negative("HardExamples", focusing=focusing)
        if focus not in ("disagreement", "margin"):
            raise ValueError(
                f"HardExamples: focus must be 'disagreement' or 'margin'; got {focus!r}."
            )
        self.focus, self.focusing = focus, focusing

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        return functional.hard_example_ce(
            student.logits,
            teacher.logits,
            check_class_labels(self.name, labels, student.logits),
            focus=self.focus,
            focusing=self.focusing,
        )


@keras.saving.register_keras_serializable("keras_distill")
class BootstrappedLabels(LogitsObjective):
    """Noisy labels, which a sure teacher overrules where it names another class.

    Where the two differ, the target moves from the label to the teacher's probabilities by the
    teacher's confidence. A row labelled -1 learns from the teacher alone. It takes the label loss'
    place: give the Distiller `label_weight=0.0`, or `compile(loss=None)`, else the noise comes in
    by the other door.

    Args:
      min_confidence: the teacher's confidence below which the label stands, in [0, 1].
      weight, output, name: see `Objective`.

    Raises:
      ValueError: the confidence is outside [0, 1].

    Source: Reed et al., ICLR workshop 2015; Li et al., "Learning from Noisy Labels with
    Distillation", ICCV 2017.

    >>> BootstrappedLabels(min_confidence=0.8).needs_labels
    True
    """

    needs_labels: ClassVar[bool] = True
    at_teacher: ClassVar[str] = "elsewhere"
    examples = ({}, {"min_confidence": 0.6})

    def __init__(self, *, min_confidence: Any = 0.0, **options: Any) -> None:
        super().__init__(**options)
        schedules.check_within("BootstrappedLabels", "min_confidence", min_confidence, 0, 1)
        self.min_confidence = min_confidence

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        return functional.bootstrapped_ce(
            student.logits,
            teacher.logits,
            check_class_labels(self.name, labels, student.logits),
            min_confidence=self.min_confidence,
        )


@keras.saving.register_keras_serializable("keras_distill")
class WeightedSoftTargets(LogitsObjective):
    """Soft targets that count for less where the student knows the label better than the teacher.

    See `functional.weighted_soft_target_kl` for the formula. A row labelled -1 counts zero: nothing
    says how well the two models know it.

    Args:
      temperature: T > 0.
      weight, output, name: see `Objective`.

    Raises:
      ValueError: the temperature is not positive.

    Source: Zhou et al., ICLR 2021 (WSLD). The authors add it to the label loss, in their code for
    ImageNet with T 2 and weight 2.5: `label_weight=0.5` has the same proportion.

    >>> WeightedSoftTargets(temperature=2.0, weight=2.5).name
    'weighted_soft_targets'
    """

    needs_labels: ClassVar[bool] = True
    detached: ClassVar[bool] = True
    examples = ({}, {"temperature": 2.0})

    def __init__(self, *, temperature: Any = 2.0, **options: Any) -> None:
        super().__init__(**options)
        check_temperature("WeightedSoftTargets", temperature)
        self.temperature = temperature

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        return functional.weighted_soft_target_kl(
            student.logits,
            teacher.logits,
            check_class_labels(self.name, labels, student.logits),
            temperature=self.temperature,
        )


@keras.saving.register_keras_serializable("keras_distill")
class BalancedTargets(LogitsObjective):
    """Soft targets for data of unequal classes: what is said of a rare class counts more.

    Weights by the label itself, for the label loss and every objective alike, are `fit`'s
    `class_weight=`; this one needs no label, and weighs each class of the teacher's answer.

    Args:
      class_counts: how often each class occurs in the training data. The weight of a class is one
        over its effective number of examples, `(1 - beta^n) / (1 - beta)`, scaled to the mean 1.
      class_weights: the weights themselves, positive, in place of counts.
      beta: in [0, 1): at 0 all weigh alike, towards 1 by one over the count.
      temperature: T > 0.
      weight, output, name: see `Objective`.

    Raises:
      ValueError: neither or both of counts and weights, one of them not positive, or another
        number of them than of classes; a parameter out of range.

    Source: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019;
    Zhang et al., "Balanced Knowledge Distillation for Long-tailed Learning", Neurocomputing 2023.

    >>> [round(w, 3) for w in BalancedTargets(class_counts=[90, 10], beta=0.99).weights]
    [0.277, 1.723]
    """

    at_teacher: ClassVar[str] = "elsewhere"
    examples = (
        {"class_counts": [50, 20, 10, 5, 2]},
        {"class_weights": [0.5, 0.5, 1.0, 2.0, 4.0], "temperature": 1.0},
    )

    def __init__(
        self,
        *,
        class_counts: Sequence[float] | None = None,
        class_weights: Sequence[float] | None = None,
        beta: float = 0.9999,
        temperature: float = 2.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_temperature("BalancedTargets", temperature)
        if (class_counts is None) == (class_weights is None):
            raise ValueError("BalancedTargets: give either class_counts or class_weights.")
        check_constant("BalancedTargets", beta=beta)
        if not 0 <= beta < 1:
            raise ValueError(f"BalancedTargets: beta must be in [0, 1); got {beta}.")
        self.class_counts = _positive_list("class_counts", class_counts)
        self.class_weights = _positive_list("class_weights", class_weights)
        self.beta = beta
        self.temperature = temperature

    @property
    def weights(self) -> list[float]:
        """The weight of each class."""
        if self.class_weights is not None:
            return self.class_weights
        counts = self.class_counts or []
        inverse = [(1 - self.beta) / (1 - self.beta**n) for n in counts]
        return [len(inverse) * value / sum(inverse) for value in inverse]

    def build(self, student: Signals, teacher: Signals) -> dict[str, keras.layers.Layer]:
        classes = student.logits.shape[-1]
        if len(self.weights) != classes:
            raise ValueError(
                f"{self.name}: {len(self.weights)} class counts or weights were given, and the "
                f"student has {classes} classes (output {tuple(student.logits.shape)})."
            )
        return super().build(student, teacher)

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        return functional.balanced_kl(
            student.logits,
            teacher.logits,
            class_weights=self.weights,
            temperature=self.temperature,
        )


def _positive_list(name: str, values: Sequence[float] | None) -> list[float] | None:
    if values is None:
        return None
    numbers = [float(value) for value in values]
    if not numbers or not all(0 < number < float("inf") for number in numbers):
        raise ValueError(
            f"BalancedTargets: {name} must be positive numbers, one a class; got {numbers}. A "
            f"class without examples has no weight: leave it out of both models' outputs."
        )
    return numbers
