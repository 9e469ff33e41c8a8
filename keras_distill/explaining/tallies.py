"""Counts over both models' answers, batch by batch: memory does not grow with the data."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_distill.explaining.answers import UNLABELLED, Answers
from keras_distill.explaining.calibration import CalibrationTally
from keras_distill.explaining.explanation import Explanation
from keras_distill.explaining.record import ClassChange, LostExample, ModelAnswers
from keras_distill.explaining.similarity import Similarity

ENTROPY_BINS = 20
# Two engines of one model differ by rounding alone, and nothing is lost by that.
_ROUNDING_NATS = 1e-4
_LOWEST = np.finfo("float64").min


def entropy(log_probs: np.ndarray) -> np.ndarray:
    """In nats, of each row of `(batch, classes)` log-probabilities, `(batch,)`."""
    # A class that can't happen adds nothing: 0 * -inf is NaN.
    return -(np.exp(log_probs) * np.maximum(log_probs, _LOWEST)).sum(axis=-1)


def divergence(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    """`KL(teacher || student)` in nats, of each row of log-probabilities, `(batch,)`."""
    return divergence_terms(teacher, student).sum(axis=-1)


def divergence_terms(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    """What each class adds to the divergence, `(batch, classes)`; negative where it gains."""
    # What can't happen counts nothing, even where both say -inf.
    possible = ~np.isneginf(teacher)
    gap = np.subtract(teacher, student, out=np.zeros_like(teacher), where=possible)
    return np.exp(teacher) * gap


class ClassesTally:
    """All that `Explanation` tells of the answers.

    Args:
      classes: how many there are.
      worst: how many examples to keep.
      bins: of the calibration.
    """

    def __init__(self, classes: int, worst: int, bins: int):
        self._pair, self._lost = PairTally(classes), LostTally(worst)
        self._student, self._teacher = (ModelTally(classes, bins) for _ in range(2))

    def add(self, answers: Answers, inputs: Any) -> None:
        """Take in one batch, with what the models were given."""
        self._student.add(answers.student, answers.labels)
        self._teacher.add(answers.teacher, answers.labels)
        self._pair.add(answers)
        self._lost.add(answers, inputs)

    def result(
        self,
        names: tuple[str, ...],
        teacher: str,
        student: str,
        similarity: Similarity | None,
        no_similarity: str,
    ) -> Explanation:
        """The record."""
        return Explanation(
            examples=self._pair.examples,
            labelled=self._pair.labelled,
            class_names=names,
            agreement=self._pair.agreement,
            kl_nats=self._pair.kl_nats,
            teacher=self._teacher.result(teacher),
            student=self._student.result(student),
            classes=self._pair.classes(names),
            similarity=similarity,
            no_similarity=no_similarity,
            lost=self._lost.result(),
        )


class ModelTally:
    """One model's answers.

    Args:
      classes: how many there are.
      bins: of the calibration.
    """

    def __init__(self, classes: int, bins: int):
        self._highest = np.log(classes)
        self._calibration = CalibrationTally(bins)
        self._entropy_counts = np.zeros(ENTROPY_BINS, "int64")
        self._entropy = self._confidence = 0.0
        self._examples = self._labelled = self._right = 0

    def add(self, log_probs: np.ndarray, labels: np.ndarray) -> None:
        """Take in one batch: `(batch, classes)` and `(batch,)`, -1 for none."""
        confidence, found = np.exp(log_probs.max(axis=-1)), entropy(log_probs)
        places = (found / self._highest * ENTROPY_BINS).astype(int)
        self._entropy_counts += np.bincount(
            np.clip(places, 0, ENTROPY_BINS - 1), minlength=ENTROPY_BINS
        )
        self._examples += len(labels)
        self._entropy += found.sum()
        self._confidence += confidence.sum()
        known = labels != UNLABELLED
        right = (log_probs.argmax(axis=-1) == labels)[known]
        self._calibration.add(confidence[known], right)
        self._labelled += int(known.sum())
        self._right += int(right.sum())

    def result(self, name: str) -> ModelAnswers:
        """The record."""
        return ModelAnswers(
            name=name,
            accuracy=self._right / self._labelled if self._labelled else None,
            confidence=float(self._confidence / self._examples),
            entropy_nats=float(self._entropy / self._examples),
            entropy_counts=self._entropy_counts,
            calibration=self._calibration.result(),
        )


class PairTally:
    """What only both models' answers together tell.

    Args:
      classes: how many there are.
    """

    def __init__(self, classes: int):
        self.agreement = np.zeros((classes, classes), "int64")
        self.examples = self.labelled = 0
        self._kl = 0.0
        # By class: labelled so, right by the teacher, right by the student, right by both.
        self._counts = np.zeros((4, classes), "int64")

    def add(self, answers: Answers) -> None:
        """Take in one batch."""
        teacher, student = answers.teacher.argmax(axis=-1), answers.student.argmax(axis=-1)
        np.add.at(self.agreement, (teacher, student), 1)
        self._kl += divergence(answers.teacher, answers.student).sum()
        self.examples += len(teacher)
        known = answers.labels != UNLABELLED
        labels = answers.labels[known]
        self.labelled += len(labels)
        right = teacher[known] == labels, student[known] == labels
        for row, chosen in enumerate((np.ones_like(right[0]), *right, right[0] & right[1])):
            self._counts[row] += np.bincount(labels[chosen], minlength=len(self.agreement))

    @property
    def kl_nats(self) -> float:
        """Mean over the examples."""
        return float(self._kl / self.examples)

    def classes(self, names: Sequence[str]) -> tuple[ClassChange, ...]:
        """A record a class; none without labels."""
        if not self.labelled:
            return ()
        return tuple(
            ClassChange(
                name=name,
                examples=rows,
                accuracy_teacher=teacher / rows if rows else None,
                accuracy_student=student / rows if rows else None,
                gained=student - both,
                lost=teacher - both,
            )
            for name, (rows, teacher, student, both) in zip(
                names, self._counts.T.tolist(), strict=True
            )
        )


class LostTally:
    """Keeps the examples where the student lost the most.

    Args:
      most: how many to keep.
    """

    def __init__(self, most: int):
        self._most = most
        self._kept: list[LostExample] = []
        self._seen = 0

    def add(self, answers: Answers, inputs: Any) -> None:
        """Take in one batch, with what the models were given."""
        terms = divergence_terms(answers.teacher, answers.student)
        divergences = terms.sum(axis=-1)
        rows = np.arange(len(terms))
        # Where no label is known the term of class -1 is not looked at.
        lost = np.where(answers.labels == UNLABELLED, divergences, terms[rows, answers.labels])
        worst = np.argsort(-lost, kind="stable")[: self._most]
        found = [
            self._example(answers, inputs, row, float(lost[row]), float(divergences[row]))
            for row in worst.tolist()
            if lost[row] > _ROUNDING_NATS
        ]
        self._kept = heapq.nlargest(
            self._most, [*self._kept, *found], key=lambda one: (one.lost_nats, -one.index)
        )
        self._seen += len(rows)

    def result(self) -> tuple[LostExample, ...]:
        """The worst first."""
        return tuple(self._kept)

    def _example(
        self, answers: Answers, inputs: Any, row: int, lost: float, divergence: float
    ) -> LostExample:
        teacher, student = int(answers.teacher[row].argmax()), int(answers.student[row].argmax())
        label = int(answers.labels[row])
        return LostExample(
            index=self._seen + row,
            lost_nats=lost,
            kl_nats=divergence,
            label=None if label == UNLABELLED else label,
            teacher=teacher,
            teacher_probability=float(np.exp(answers.teacher[row, teacher])),
            student=student,
            student_probability=float(np.exp(answers.student[row, student])),
            # A copy: a view would keep its whole batch alive.
            inputs=keras.tree.map_structure(lambda leaf: np.array(leaf[row]), inputs),
        )
