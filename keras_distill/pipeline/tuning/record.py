"""What a search found, as a frozen record."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from keras_distill._records import Record, Table

__all__ = ["TunePoint", "TuneReport", "latency_words", "quality_words", "said"]

LATENCY_NOTE = (
    "Latencies are medians on this machine, one thread, one example; in brackets the least and "
    "the greatest of the repeats: a difference that is smaller than these is noise."
)
TEST_NOTE = "Test figures were measured once, at the end, and have chosen nothing."


@dataclass(frozen=True)
class TunePoint:
    """One finished trial.

    Attributes:
      trial: its number in the study; the first is the recipe's own point.
      values: by place in the recipe.
      metric: "accuracy", or "MAE" of numbers.
      quality_validation: that metric of the file on the validation data, which the search sees.
      bytes: of the file.
      latency_p50_ms, latency_low_ms, latency_high_ms: see `LATENCY_NOTE`.
      seconds: that the trial took.
      host: the machine that measured.
      on_front: whether no other trial is as good in all three figures and better in one.
      quality_test: the metric on the test data; only of points on the front whose files are here.
    """

    trial: int
    values: Mapping[str, Any]
    metric: str
    quality_validation: float
    bytes: int
    latency_p50_ms: float
    latency_low_ms: float
    latency_high_ms: float
    seconds: float
    host: str
    on_front: bool = False
    quality_test: float | None = None

    @property
    def costs(self) -> tuple[float, float, float]:
        """Its figures, the less the better."""
        quality = self.quality_validation
        return (
            quality if self.metric == "MAE" else -quality,
            float(self.bytes),
            self.latency_p50_ms,
        )


@dataclass(frozen=True)
class TuneReport(Record):
    """What a search found.

    Attributes:
      recipe: its name.
      study: its name in the storage.
      data: their name.
      seed: of the search.
      names: by place the short one of the table.
      points: all finished trials.
      failed: trials that gave no file.
      best: the number of the best trial within the budget; None without one.
      budget_bytes, budget_ms: what was asked.
      command: that goes on.
    """

    recipe: str
    study: str
    data: str
    seed: int
    names: Mapping[str, str]
    points: tuple[TunePoint, ...]
    failed: int
    best: int | None
    budget_bytes: int | None
    budget_ms: float | None
    command: str

    def parts(self) -> Iterator[str | Table]:
        """The points that nothing beats, beside the recipe's own."""
        front = [point for point in self.points if point.on_front]
        own = [point for point in self.points if point.trial == 0 and not point.on_front]
        rows = sorted((*front, *own), key=lambda point: point.costs)
        yield Table(self._columns(), tuple(map(self._row, rows)), self._columns(), self._title())
        notes = [LATENCY_NOTE] if rows else []
        notes += [TEST_NOTE] if any(point.quality_test is not None for point in rows) else []
        if len({point.host for point in self.points}) > 1:
            notes.append(
                "The trials ran on several kinds of machines, whose latencies do not compare: let "
                "machines of one kind share a study."
            )
        yield "\n" + "\n".join(notes)

    def _title(self) -> str:
        count = len(self.points)
        failed = f", {self.failed} failed" if self.failed else ""
        return (
            f"{self.recipe} on {self.data}: what none of {count} trials{failed} beats in all three "
            f"figures"
        )

    def _columns(self) -> tuple[str, ...]:
        metric = self.points[0].metric if self.points else "accuracy"
        figures = (f"{metric}, validation", f"{metric}, test", "bytes", "latency ms")
        return ("trial", *figures, *self.names.values())

    def _row(self, point: TunePoint) -> tuple[str, ...]:
        name = f"{point.trial}" + (" (recipe's own)" if point.trial == 0 else "")
        name += " (best in budget)" if point.trial == self.best else ""
        return (
            name,
            quality_words(point.quality_validation, point.metric),
            "" if point.quality_test is None else quality_words(point.quality_test, point.metric),
            f"{point.bytes:,}",
            latency_words(point),
            *(said(point.values[place]) for place in self.names),
        )


def latency_words(point: TunePoint) -> str:
    """The median and, in brackets, the least and the greatest of the repeats."""
    low, high = f"{point.latency_low_ms:.3g}", f"{point.latency_high_ms:.3g}"
    return f"{point.latency_p50_ms:.3g} ({low} to {high})"


def said(value: Any) -> str:
    """A searched value in a table."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping) and list(value) == ["objective"]:
        return str(value["objective"])
    if isinstance(value, list | tuple):
        return " + ".join(map(said, value))
    return value if isinstance(value, str) else json.dumps(value)


def quality_words(value: float, metric: str) -> str:
    """A figure as a person reads it."""
    return f"{value:.1%}" if metric == "accuracy" else f"{value:.4g}"
