"""A metric: what a model's answers are worth, under any weights of the examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["CLASSES", "NUMBERS", "YES_OR_NO", "Answered", "Metric", "quotient", "ratio"]

# What models are asked: one of several classes, a yes or no each, numbers.
CLASSES, YES_OR_NO, NUMBERS = "classes", "yes or no", "numbers"


@dataclass(frozen=True, eq=False)
class Answered:
    """One model's answers beside the labels, a row an example.

    Attributes:
      task: `CLASSES`, `YES_OR_NO` or `NUMBERS`.
      answers: float64; of classes `(rows, ..., classes)` probabilities, of yes or no `(rows, ...)`
        probabilities of yes, of numbers `(rows, ...)`.
      labels: of classes `(rows, ...)` class numbers, -1 for none; of yes or no 0, 1, or -1 for
        none; of numbers like the answers, NaN for none. Empty where there are none at all.
    """

    task: str
    answers: np.ndarray
    labels: np.ndarray

    @property
    def rows(self) -> int:
        """How many examples there are."""
        return len(self.answers)

    @property
    def known(self) -> np.ndarray:
        """Where there is a label, in the labels' shape."""
        return ~np.isnan(self.labels) if self.task == NUMBERS else self.labels != -1

    @property
    def choices(self) -> np.ndarray:
        """The class that each answer is for, in the labels' shape; 0 or 1 of yes or no."""
        return self.answers.argmax(-1) if self.task == CLASSES else self.answers > 0.5

    def by_row(self, values: np.ndarray) -> np.ndarray:
        """Sums over each example's known positions, `(rows,)`."""
        return np.where(self.known, values, 0.0).reshape(self.rows, -1).sum(-1)


@dataclass(frozen=True)
class Metric:
    """What answers are worth, as one number.

    Attributes:
      name: in tables, reports and gates.
      under: `(answered, weights)` to `(sets,)`: the figure under each of several sets of weights of
        the examples, `(sets, rows)`. So one pass of a model serves intervals, folds and groups.
      better: 1 where more is better, -1 where less is.
      share: from 0 to 1, shown in per cent; differences are points.
      tasks: what models it can judge.
    """

    name: str
    under: Callable[[Answered, np.ndarray], np.ndarray]
    better: int = 1
    share: bool = False
    tasks: tuple[str, ...] = (CLASSES, YES_OR_NO, NUMBERS)

    def __call__(self, answered: Answered) -> float:
        """The figure on all examples."""
        return float(self.under(answered, np.ones((1, answered.rows)))[0])

    @classmethod
    def of(
        cls,
        name: str,
        function: Callable[[np.ndarray, np.ndarray], float],
        *,
        better: int = 1,
        share: bool = False,
    ) -> Metric:
        """A metric of your own, or a library's.

        Args:
          name: in tables and gates.
          function: of answers and labels, rows of examples, to a number. Resamples repeat rows.
          better: 1 where more is better, -1 where less is.
          share: whether it is one from 0 to 1.

        >>> largest = Metric.of("largest error", lambda a, y: float(abs(a - y).max()), better=-1)
        >>> largest(Answered(NUMBERS, np.array([1.0, 3.0]), np.array([1.5, 1.0])))
        2.0
        """

        def under(answered: Answered, weights: np.ndarray) -> np.ndarray:
            places = np.arange(answered.rows)
            drawn = (np.repeat(places, np.rint(one).astype(int)) for one in weights)
            return np.array([function(answered.answers[i], answered.labels[i]) for i in drawn])

        return cls(name, under, better, share)


def ratio(weights: np.ndarray, above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Weighted sums of `above` over those of `below`, both `(rows, ...)`; NaN over nothing."""
    return quotient(weights @ above, weights @ below)


def quotient(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """`total` over `count`; NaN over nothing."""
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
