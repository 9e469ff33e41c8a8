"""Sums over both models' numbers, batch by batch: memory does not grow with the data."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_distill.explaining.answers import Answers
from keras_distill.explaining.numbers import LostNumber, NumberErrors, NumbersExplanation
from keras_distill.explaining.similarity import Similarity
from keras_distill.measures.agreement import Moments

_MOST_POINTS = 2000
# As large a difference, in the column's spread, two engines of one model make by rounding.
_ROUNDING = 1e-5


class ErrorTally:
    """One model's errors, column by column."""

    def __init__(self, columns: int):
        self._absolute, self._square, self._signed = np.zeros((3, columns))

    def add(self, answers: np.ndarray, others: np.ndarray) -> None:
        """Take in `(rows, columns)`; NaN in the others does not count."""
        error = np.nan_to_num(answers - others)
        self._absolute += np.abs(error).sum(axis=0)
        self._square += np.square(error).sum(axis=0)
        self._signed += error.sum(axis=0)

    def rms(self, count: np.ndarray) -> np.ndarray:
        """Root mean square, of so many."""
        return np.sqrt(_over(self._square, count))

    def result(self, name: str, labels: Moments) -> NumberErrors:
        """The record, against labels of these moments."""
        if not labels.count.any():
            return NumberErrors(name, None, None, None, None)
        return NumberErrors(
            name=name,
            mae=_over(self._absolute, labels.count),
            rmse=self.rms(labels.count),
            bias=_over(self._signed, labels.count),
            r2=1.0 - _over(self._square, labels.squares),
        )


class NumbersTally:
    """All that `NumbersExplanation` tells of the answers.

    Args:
      columns: how many numbers there are.
      worst: how many examples to keep.
    """

    def __init__(self, columns: int, worst: int):
        self._examples = 0
        self._labels, self._pair = Moments(columns), Moments(columns)
        self._between, self._student, self._teacher = (ErrorTally(columns) for _ in range(3))
        self._lost = LostNumbers(columns, worst)
        self._points = np.zeros((3, 0, columns))
        self._stride, self._seen = 1, 0

    def add(self, answers: Answers, inputs: Any) -> None:
        """Take in one batch, with what the models were given."""
        columns = answers.student.shape[-1]
        student, teacher, labels = (
            part.reshape(-1, columns) for part in (answers.student, answers.teacher, answers.labels)
        )
        self._labels.add(labels, labels)
        self._pair.add(teacher, student)
        self._between.add(student, teacher)
        self._student.add(student, labels)
        self._teacher.add(teacher, labels)
        self._keep(np.stack([labels, teacher, student]))
        self._lost.add(answers, inputs)
        self._examples += len(answers.student)

    def result(
        self,
        names: tuple[str, ...],
        teacher: str,
        student: str,
        similarity: Similarity | None,
        no_similarity: str,
    ) -> NumbersExplanation:
        """The record; what was lost counts by the spread of labels, or of the teacher's answers."""
        spread, answers = (_over(one.squares, one.count) for one in (self._labels, self._pair))
        return NumbersExplanation(
            examples=self._examples,
            labelled=self._labels.count.astype(int),
            names=names,
            rms_between=self._between.rms(self._pair.count),
            correlation=self._pair.correlation,
            teacher=self._teacher.result(teacher, self._labels),
            student=self._student.result(student, self._labels),
            similarity=similarity,
            no_similarity=no_similarity,
            lost=self._lost.result(np.sqrt(np.where(spread > 0, spread, answers))),
            points=self._points,
        )

    def _keep(self, found: np.ndarray) -> None:
        """Every so many of all points, however the data was batched."""
        places = np.arange(self._seen, self._seen + found.shape[1])
        self._seen += found.shape[1]
        self._points = np.concatenate([self._points, found[:, places % self._stride == 0]], axis=1)
        while self._points.shape[1] > _MOST_POINTS:
            self._points, self._stride = self._points[:, ::2], 2 * self._stride


class LostNumbers:
    """Keeps, of each column, the examples where the student lost the most."""

    def __init__(self, columns: int, most: int):
        self._most, self._seen = most, 0
        self._kept: list[list[LostNumber]] = [[] for _ in range(columns)]

    def add(self, answers: Answers, inputs: Any) -> None:
        """Take in one batch, with what the models were given."""
        known = ~np.isnan(answers.labels)
        apart = np.abs(answers.student - answers.teacher)
        more = np.abs(answers.student - answers.labels) - np.abs(answers.teacher - answers.labels)
        lost = _by_example(np.where(known, more, apart))
        figures = [_by_example(part) for part in (answers.labels, answers.teacher, answers.student)]
        for column, kept in enumerate(self._kept):
            worst = np.argsort(-lost[:, column], kind="stable")[: self._most]
            for row in worst.tolist():
                if len(kept) == self._most and lost[row, column] <= kept[-1].lost:
                    break
                label, teacher, student = (float(part[row, column]) for part in figures)
                one = LostNumber(
                    index=self._seen + row,
                    column=column,
                    lost=float(lost[row, column]),
                    label=None if np.isnan(label) else label,
                    teacher=teacher,
                    student=student,
                    # A copy: a view would keep its whole batch alive.
                    inputs=keras.tree.map_structure(
                        lambda leaf, at=row: np.array(leaf[at]), inputs
                    ),
                )
                kept.append(one)
            kept.sort(key=lambda one: (-one.lost, one.index))
            del kept[self._most :]
        self._seen += len(lost)

    def result(self, spread: np.ndarray) -> tuple[LostNumber, ...]:
        """The worst first: by what was lost over the spread of the column."""
        scaled = [
            (one.lost / scale if scale > 0 else one.lost, one)
            for kept, scale in zip(self._kept, spread, strict=True)
            for one in kept
        ]
        scaled.sort(key=lambda pair: (-pair[0], pair[1].index, pair[1].column))
        return tuple(one for value, one in scaled[: self._most] if value > _ROUNDING)


def _by_example(values: np.ndarray) -> np.ndarray:
    """`(batch, columns)`: the mean over the positions between."""
    return values.reshape(len(values), -1, values.shape[-1]).mean(axis=1)


def _over(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
