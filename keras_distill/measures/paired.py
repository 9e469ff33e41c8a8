"""How sure a figure is, and whether two models on the same examples can be told apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from keras_distill.measures.metric import Answered, Metric

__all__ = ["Interval", "drawn", "interval", "mcnemar", "resampled"]

# Weights that are held at once.
_ENTRIES = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A figure, and between what it lies when other examples had been drawn."""

    value: float
    low: float
    high: float

    @property
    def told(self) -> int:
        """1 where all of it is above 0, -1 below, 0 where it is not told apart from 0."""
        return int(self.low > 0) - int(self.high < 0)


def resampled(rows: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each row is drawn in bootstrap resamples, `(some, rows)` at a time.

    The same seed gives the same, however many are held at once.

    Source: Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics, 1979.
    """
    rng = np.random.default_rng(seed)
    some = max(1, _ENTRIES // rows)
    for start in range(0, resamples, some):
        count = min(some, resamples - start)
        weights = np.empty((count, rows))
        for one in weights:
            one[:] = np.bincount(rng.integers(rows, size=rows), minlength=rows)
        yield weights


def drawn(
    models: Mapping[str, Answered], metrics: Sequence[Metric], resamples: int, seed: int
) -> dict[tuple[str, str], np.ndarray]:
    """Each model's figures in every resample, by model and metric; all are resampled alike."""
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    rows = next(iter(models.values())).rows
    for weights in resampled(rows, resamples, seed):
        for name, answered in models.items():
            for metric in metrics:
                parts = found.setdefault((name, metric.name), [])
                parts.append(metric.under(answered, weights))
    return {key: np.concatenate(parts) for key, parts in found.items()}


def interval(value: float, draws: np.ndarray, confidence: float) -> Interval:
    """A figure with the percentiles of its resamples; those without a figure are left out."""
    known = draws[~np.isnan(draws)]
    if not known.size:
        return Interval(value, math.nan, math.nan)
    low, high = np.percentile(known, 100 * np.array([(1 - confidence) / 2, (1 + confidence) / 2]))
    return Interval(value, float(low), float(high))


def mcnemar(ours: np.ndarray, theirs: np.ndarray) -> float:
    """How likely chance alone parts two counts of hits this far: McNemar's test, two-sided.

    Args:
      ours, theirs: `(n,)`, right or wrong on the same examples.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions
    or percentages", Psychometrika, 1947; exact up to a thousand examples that part the two.

    >>> round(mcnemar(np.array([True] * 5), np.array([False] * 5)), 4)
    0.0625
    """
    better, worse = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    parted = better + worse
    if not parted:
        return 1.0
    if parted > 1000:
        return math.erfc(abs(better - worse) / math.sqrt(2 * parted))
    tail = sum(math.comb(parted, count) for count in range(min(better, worse) + 1))
    return min(1.0, tail / 2 ** (parted - 1))
