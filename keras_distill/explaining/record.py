"""What came of comparing a student with its teacher, as frozen records."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_distill._records import NOT_IN_JSON, Record
from keras_distill.explaining.calibration import Calibration
from keras_distill.explaining.similarity import Similarity


@dataclass(frozen=True, eq=False)
class ModelAnswers(Record):
    """One model's answers over the whole data.

    Attributes:
      name: the model's.
      accuracy: share of right answers among the labelled examples; None without labels.
      confidence: mean probability of the answers.
      entropy_nats: mean entropy of the predicted distributions.
      entropy_counts: `(bins,)`, examples by entropy, in bins of equal width from 0 to
        `log(classes)`.
      calibration: see `Calibration`; None without labels.
    """

    name: str
    accuracy: float | None
    confidence: float
    entropy_nats: float
    entropy_counts: np.ndarray
    calibration: Calibration | None

    derived = ("ece",)

    @property
    def ece(self) -> float | None:
        """The expected calibration error, 0 to 1; None without labels."""
        return None if self.calibration is None else self.calibration.ece


@dataclass(frozen=True)
class ClassChange:
    """What became of one class between teacher and student.

    Attributes:
      name: the class'.
      examples: how many are labelled so.
      accuracy_teacher, accuracy_student: share of these that each gets right; None without any.
      gained: examples that the student gets right and the teacher does not.
      lost: examples that the teacher gets right and the student does not.
    """

    name: str
    examples: int
    accuracy_teacher: float | None
    accuracy_student: float | None
    gained: int
    lost: int


@dataclass(frozen=True, eq=False)
class LostExample:
    """An example where the student knows less than its teacher.

    Attributes:
      index: its place in the data as read, from 0.
      lost_nats: what the label adds to `kl_nats`, `p_teacher log(p_teacher / p_student)`: large
        where the teacher knows the label and the student does not. `kl_nats` where there is none.
      kl_nats: divergence of the student's answer from the teacher's.
      label: class number, or None.
      teacher, student: the class that each chooses.
      teacher_probability, student_probability: what each gives the class that it chooses.
      inputs: the example as the data has it, without a batch axis; no part of the JSON.
    """

    index: int
    lost_nats: float
    kl_nats: float
    label: int | None
    teacher: int
    teacher_probability: float
    student: int
    student_probability: float
    inputs: Any = dataclasses.field(default=None, repr=False, metadata=NOT_IN_JSON)


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `Explanation` prints and draws; see there."""

    examples: int
    labelled: int
    class_names: tuple[str, ...]
    agreement: np.ndarray
    kl_nats: float
    teacher: ModelAnswers
    student: ModelAnswers
    classes: tuple[ClassChange, ...]
    similarity: Similarity | None
    no_similarity: str
    lost: tuple[LostExample, ...]

    @property
    def agreement_share(self) -> float:
        """Share of the examples where both choose the same class."""
        return float(np.trace(self.agreement) / self.examples)

    @property
    def layer_map(self) -> dict[str, str]:
        """For layers of the student, the teacher's that should teach them; empty without any.

        Ready for hints: `AttentionTransfer(list(layer_map), list(layer_map.values()))`, a
        `FeatureHint` for each of `layer_map.items()`, `HiddenStates(layer_map)` on sequences.
        """
        return {} if self.similarity is None else dict(self.similarity.layer_map)
