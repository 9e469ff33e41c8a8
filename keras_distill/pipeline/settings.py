"""What decides a run of the demo: its settings, and the presets of each data set."""

from dataclasses import dataclass
from typing import Any

from keras_distill.training.stages import UsageError


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run's result; `labels` is the part of the labels that is known."""

    dataset: str
    seed: int
    labels: float
    teacher_epochs: int
    student_epochs: int
    batch_size: int
    teacher_width: int
    student_width: int
    teacher_learning_rate: float
    baseline_learning_rate: float
    distilled_learning_rate: float
    temperature: float = 2.0
    label_weight: float = 0.1

    @classmethod
    def of(
        cls, dataset: str, *, seed: int = 0, epochs: int | None = None, labels: float = 0.1
    ) -> "Settings":
        """The preset of a data set.

        Args:
          dataset: a key of `PRESETS`.
          seed: of the weights, the batches and the choice of labelled images.
          epochs: overrules the lengths of all trainings.
          labels: the part of the training labels that the student's trainings know.

        Raises:
          UsageError: `labels` is not above 0 and at most 1.
        """
        if not 0.0 < labels <= 1.0:
            raise UsageError(f"--labels must be above 0 and at most 1, and is {labels}.")
        preset = dict(PRESETS[dataset])
        if epochs is not None:
            preset |= {"teacher_epochs": epochs, "student_epochs": epochs}
        return cls(dataset=dataset, seed=seed, labels=labels, **preset)


PRESETS: dict[str, dict[str, Any]] = {
    "digits": {
        "teacher_epochs": 30,
        "student_epochs": 150,
        "batch_size": 64,
        "teacher_width": 32,
        "student_width": 8,
        "teacher_learning_rate": 3e-3,
        "baseline_learning_rate": 1e-2,
        "distilled_learning_rate": 1e-2,
    },
    "fashion_mnist": {
        "teacher_epochs": 6,
        "student_epochs": 10,
        "batch_size": 128,
        "teacher_width": 32,
        "student_width": 16,
        "teacher_learning_rate": 3e-3,
        "baseline_learning_rate": 1e-2,
        "distilled_learning_rate": 1e-2,
    },
}
