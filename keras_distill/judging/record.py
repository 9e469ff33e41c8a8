"""What the judge found, as a frozen record."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_distill._records import Record, Table

__all__ = ["CLEAN", "Figure", "Gap", "Judgement", "SplitFigures"]

CLEAN = "clean"
_WORDS = {1: "better", -1: "worse", 0: "not told apart"}


@dataclass(frozen=True)
class Figure:
    """One model, one condition, one metric.

    Attributes:
      model, condition, metric: their names.
      value, low, high: the figure and its interval.
      difference, difference_low, difference_high: from the baseline on the same examples, likewise;
        0 for the baseline itself.
      verdict: "better", "worse" or "not told apart", by the difference's interval.
      p_value: McNemar's test of accuracy against the baseline's, two-sided; None for other metrics.
      better: 1 where more is better, -1 where less is.
      share: from 0 to 1, shown in per cent.
    """

    model: str
    condition: str
    metric: str
    value: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float
    verdict: str
    p_value: float | None
    better: int
    share: bool

    @staticmethod
    def words(told: int, better: int) -> str:
        """The verdict, by the side of 0 that a difference lies on."""
        return _WORDS[told * better]


@dataclass(frozen=True)
class SplitFigures:
    """One model's metric on the parts of a split.

    Attributes:
      model, metric, split: their names.
      parts: the figure by part.
      deviation: sample standard deviation over the parts.
      lowest, highest: the extremes.
    """

    model: str
    metric: str
    split: str
    parts: dict[str, float]

    @property
    def deviation(self) -> float:
        """Of the figures that there are; 0 of one."""
        known = [value for value in self.parts.values() if not np.isnan(value)]
        return float(np.std(known, ddof=1)) if len(known) > 1 else 0.0


@dataclass(frozen=True)
class Gap:
    """How much better a model is on what it was trained on.

    Attributes:
      model, metric: their names.
      train, test: the figures.
      gap, low, high: train minus test, turned so that above 0 means better on the training data.
    """

    model: str
    metric: str
    train: float
    test: float
    gap: float
    low: float
    high: float


@dataclass(frozen=True)
class Judgement(Record):
    """Models and files on the same examples.

    Attributes:
      models: the names of those judged, in order.
      baseline: the one that others are compared with.
      task: "classes", "yes or no" or "numbers".
      rows: examples, as they are.
      labelled: False where the baseline's answers stood for labels.
      confidence: of the intervals, 0 to 1.
      conditions: in order, "clean" first.
      metrics: in order.
      figures: a `Figure` for each model, condition and metric.
      agreement: with the baseline on clean data: share of the same choice, of numbers Pearson's
        correlation.
      corruption_errors: by model the mean over corruptions of its errors over the baseline's, each
        summed over severities (mCE, 1 for the baseline); empty without corruptions or accuracy.
      splits: `SplitFigures`.
      gaps: a `Gap` a model, where training data were given.
      failed: by name why a file could not be judged.
      data_sha256: a digest of inputs and labels.
    """

    models: tuple[str, ...]
    baseline: str
    task: str
    rows: int
    labelled: bool
    confidence: float
    conditions: tuple[str, ...]
    metrics: tuple[str, ...]
    figures: tuple[Figure, ...]
    agreement: dict[str, float]
    corruption_errors: dict[str, float] = field(default_factory=dict)
    splits: tuple[SplitFigures, ...] = ()
    gaps: tuple[Gap, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    data_sha256: str = ""

    def figure(self, model: str, metric: str, condition: str = CLEAN) -> Figure:
        """One of the figures.

        Raises:
          KeyError: there is none of these names.
        """
        for one in self.figures:
            if (one.model, one.metric, one.condition) == (model, metric, condition):
                return one
        raise KeyError(
            f"There is no {metric} of {model!r} on {condition!r}. Models: "
            f"{', '.join(self.models)}; metrics: {', '.join(self.metrics)}; conditions: "
            f"{', '.join(self.conditions)}."
        )

    def parts(self) -> Iterator[str | Table]:
        """The clean table, a table of conditions, splits, gaps, and what failed."""
        against = "labels" if self.labelled else f"the answers of {self.baseline}"
        yield (
            f"{self.rows:,} examples, against {against}; intervals of {self.confidence:.0%}; "
            f"differences from {self.baseline}, on the same examples."
        )
        yield self._clean()
        if len(self.conditions) > 1:
            yield self._by_condition()
        if self.corruption_errors:
            words = ", ".join(f"{n} {v:.3f}" for n, v in self.corruption_errors.items())
            yield f"\nMean corruption error (errors over those of {self.baseline}): {words}."
        if self.splits:
            yield self._splits()
        if self.gaps:
            yield self._gaps()
        for name, why in self.failed.items():
            yield f"\n{name} was not judged: {why}"

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """The record as one HTML page, with its picture inside; written to `path` where given."""
        from keras_distill.judging.page import page

        return page(self, path)

    def plot(self) -> Any:
        """A matplotlib figure: each model's first metric under every condition, with intervals.

        Raises:
          ModuleNotFoundError: matplotlib is missing, which the extra "demo" brings.
        """
        from keras_distill.judging.picture import draw

        return draw(self)

    def _clean(self) -> Table:
        rows = []
        for model in self.models:
            cells = [model]
            for metric in self.metrics:
                cells.append(cell(self.figure(model, metric), model == self.baseline))
            rows.append((*cells, _agreement(self.agreement[model], self.task)))
        headings = ("model", *self.metrics, "agrees")
        return Table(headings, tuple(rows), title="\nOn the data as they are", width=200)

    def _by_condition(self) -> Table:
        first = self.metrics[0]
        rows = [
            (c, *(cell(self.figure(m, first, c), m == self.baseline) for m in self.models))
            for c in self.conditions
        ]
        title = f"\n{first} under what may happen to the data"
        return Table(("condition", *self.models), tuple(rows), title=title, width=200)

    def _splits(self) -> Table:
        rows = []
        for one in self.splits:
            known = {k: v for k, v in one.parts.items() if not np.isnan(v)}
            if not known:
                continue
            lowest, highest = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
            share = self.figure(one.model, one.metric).share
            rows.append(
                (
                    one.split,
                    one.model,
                    one.metric,
                    number(float(np.mean(list(known.values()))), share),
                    number(one.deviation, share),
                    f"{number(known[lowest], share)} ({lowest})",
                    f"{number(known[highest], share)} ({highest})",
                )
            )
        headings = ("split", "model", "metric", "mean", "deviation", "lowest", "highest")
        title = "\nThe same answers on parts of the rows"
        return Table(headings, tuple(rows), ("mean", "deviation"), title=title, width=200)

    def _gaps(self) -> Table:
        rows = tuple(
            (
                one.model,
                one.metric,
                number(one.train, self.figure(one.model, one.metric).share),
                number(one.test, self.figure(one.model, one.metric).share),
                _range(one.gap, one.low, one.high, self.figure(one.model, one.metric).share),
            )
            for one in self.gaps
        )
        title = "\nOverfitting: better on the training data by"
        return Table(("model", "metric", "train", "test", "gap"), rows, title=title, width=200)


def number(value: float, share: bool) -> str:
    """A figure in words: shares in per cent."""
    if np.isnan(value):
        return "-"
    return f"{100 * value:.2f} %" if share else f"{value:.4g}"


def cell(one: Figure, is_baseline: bool) -> str:
    """A figure, and behind it how far it lies from the baseline's, with the verdict."""
    words = number(one.value, one.share)
    if is_baseline:
        scale = 100 if one.share else 1
        return f"{words} ({scale * one.low:.4g} to {scale * one.high:.4g})"
    apart = _range(one.difference, one.difference_low, one.difference_high, one.share)
    return f"{words} [{apart}, {one.verdict}]"


def _range(value: float, low: float, high: float, share: bool) -> str:
    scale = 100 if share else 1
    return f"{scale * value:+.3g} ({scale * low:+.3g} to {scale * high:+.3g})"


def _agreement(value: float, task: str) -> str:
    return f"r = {value:.4f}" if task == "numbers" else f"{value:.2%}"
