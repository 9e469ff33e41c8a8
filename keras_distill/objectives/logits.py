"""Objectives on the models' answers."""

from typing import Any

import keras

from keras_distill import functional
from keras_distill.objectives.base import Objective, Signals

__all__ = ["HardTargets", "LogitsMSE", "SoftTargets"]


class _LogitsObjective(Objective):
    def build(self, student: Signals, teacher: Signals) -> dict:
        ours, theirs = student.logits.shape, teacher.logits.shape
        if ours[-1] != theirs[-1]:
            raise ValueError(
                f"{self.name}: the student has {ours[-1]} classes (output {tuple(ours)}) and the "
                f"teacher {theirs[-1]} (output {tuple(theirs)}). Both must answer over the same "
                f"classes: rebuild the student's last layer, or give the head with output=."
            )
        if ours[-1] == 1:
            raise ValueError(
                f"{self.name}: both models answer with one number an example ({tuple(ours)}), and "
                f"a softmax over one class is always 1. Use two classes, or LogitsMSE."
            )
        return {}


@keras.saving.register_keras_serializable("keras_distill")
class SoftTargets(_LogitsObjective):
    """The teacher's softened answer as the target: `T^2 KL(teacher || student)`.

    Args:
      temperature: T > 0; the higher, the more the small probabilities count.
      standardize: z-score both logits first (Sun et al., CVPR 2024).
      weight, output, name: see `Objective`.

    Raises:
      ValueError: the temperature is not positive.

    Source: Hinton, Vinyals, Dean 2015.

    >>> SoftTargets(temperature=2.0).name
    'soft_targets'
    """

    def __init__(
        self, *, temperature: float = 4.0, standardize: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        if not 0 < temperature < float("inf"):
            raise ValueError(f"SoftTargets: temperature must be positive; got {temperature}.")
        self.temperature = temperature
        self.standardize = standardize

    def __call__(self, student: Signals, teacher: Signals, labels: Any):
        return functional.soft_target_kl(
            student.logits,
            teacher.logits,
            temperature=self.temperature,
            standardize=self.standardize,
        )

    def get_config(self) -> dict:
        config = {"temperature": self.temperature, "standardize": self.standardize}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("keras_distill")
class HardTargets(_LogitsObjective):
    """The teacher's most likely class as the label.

    Args:
      weight, output, name: see `Objective`.

    Source: Lee 2013; Touvron et al., ICML 2021.

    >>> HardTargets(weight=0.5).weight
    0.5
    """

    def __call__(self, student: Signals, teacher: Signals, labels: Any):
        return functional.hard_target_ce(student.logits, teacher.logits)


@keras.saving.register_keras_serializable("keras_distill")
class LogitsMSE(_LogitsObjective):
    """Squared distance of the logits, mean over classes.

    It compares unnormalised logits, so both models must have them to give: a model that ends in
    a softmax whose input is out of reach is refused.

    Args:
      weight, output, name: see `Objective`.

    Source: Ba and Caruana, NeurIPS 2014.

    >>> LogitsMSE().get_config()
    {'weight': 1.0, 'output': None, 'name': 'logits_mse'}
    """

    def build(self, student: Signals, teacher: Signals) -> dict:
        for who, signals in (("student", student), ("teacher", teacher)):
            if signals.from_probabilities:
                raise ValueError(
                    f"{self.name}: the {who} gives probabilities, and their logits are known only "
                    f"up to a constant. Use SoftTargets, or a {who} without the final softmax."
                )
        if student.logits.shape[-1] == teacher.logits.shape[-1] == 1:
            return {}
        return super().build(student, teacher)

    def __call__(self, student: Signals, teacher: Signals, labels: Any):
        return functional.logits_mse(student.logits, teacher.logits)
