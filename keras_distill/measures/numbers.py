"""Metrics of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_distill.measures.metric import NUMBERS, Answered, Metric, ratio

__all__ = ["mae", "quantile_loss", "r2", "rmse"]

_TASKS = (NUMBERS,)


def mae() -> Metric:
    """The mean absolute error, in the label's unit.

    >>> mae()(Answered(NUMBERS, np.array([1.0, 4.0]), np.array([2.0, 2.0])))
    1.5
    """

    def under(answered: Answered, weights: np.ndarray) -> np.ndarray:
        return _mean(answered, weights, np.abs(_apart(answered)))

    return Metric("MAE", under, better=-1, tasks=_TASKS)


def rmse() -> Metric:
    """The root of the mean squared error, in the label's unit."""

    def under(answered: Answered, weights: np.ndarray) -> np.ndarray:
        return np.sqrt(_mean(answered, weights, np.square(_apart(answered))))

    return Metric("RMSE", under, better=-1, tasks=_TASKS)


def r2() -> Metric:
    """1 - sum (label - answer)^2 / sum (label - mean label)^2; NaN where all labels are one."""

    def under(answered: Answered, weights: np.ndarray) -> np.ndarray:
        labels = np.nan_to_num(answered.labels)
        mean = _mean(answered, weights, labels)
        spread = _mean(answered, weights, np.square(labels)) - np.square(mean)
        error = _mean(answered, weights, np.square(_apart(answered)))
        # What rounding leaves of equal labels is no spread.
        some = spread > 1e-12 * np.maximum(np.square(mean), 1e-300)
        return 1 - np.divide(error, spread, out=np.full(len(weights), np.nan), where=some)

    return Metric("R2", under, tasks=_TASKS)


def quantile_loss(levels: Sequence[float]) -> Metric:
    """The pinball loss, mean over levels: max(q (label - answer), (q - 1)(label - answer)).

    Args:
      levels: of the answers' last axis, each between 0 and 1; the label is `(rows, ...)` without
        it, or repeated along it.

    Source: Koenker and Bassett, "Regression Quantiles", Econometrica, 1978.
    """
    asked = np.asarray(levels, "float64")
    if not asked.size or not ((asked > 0) & (asked < 1)).all():
        raise ValueError(f"Expected quantile levels between 0 and 1; got {list(levels)}.")

    def under(answered: Answered, weights: np.ndarray) -> np.ndarray:
        if answered.answers.shape[-1] != len(asked):
            raise ValueError(
                f"Expected an answer for each of the {len(asked)} levels on the last axis; got "
                f"{answered.answers.shape}."
            )
        apart = np.nan_to_num(answered.labels) - answered.answers
        return _mean(answered, weights, np.maximum(asked * apart, (asked - 1) * apart))

    return Metric("quantile loss", under, better=-1, tasks=_TASKS)


def _apart(answered: Answered) -> np.ndarray:
    return answered.answers - np.nan_to_num(answered.labels)


def _mean(answered: Answered, weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    return ratio(weights, answered.by_row(values), answered.by_row(np.ones(values.shape)))
