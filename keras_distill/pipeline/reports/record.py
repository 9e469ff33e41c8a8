"""A run's report as a frozen record."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keras_distill import _files, _json
from keras_distill._records import Record, Table
from keras_distill.pipeline.reports.layers import LayerRow
from keras_distill.pipeline.reports.robustness import Robustness

__all__ = ["Beside", "ClassRow", "Row", "RunReport"]


@dataclass(frozen=True)
class Beside:
    """A metric's difference from another model's on the same examples.

    Attributes:
      difference, low, high: ours minus theirs, and its interval.
      verdict: "better", "worse" or "not told apart", by the interval.
    """

    difference: float
    low: float
    high: float
    verdict: str


@dataclass(frozen=True)
class Row:
    """One model, or one file, measured.

    Attributes:
      name, line, stage, seconds, outcome: see `Made`.
      file: what its file is called.
      is_file: whether it is a `.tflite`.
      parameters: of the model; of a `.tflite` those of the model it was exported from, None where
        that is not known.
      bytes, bytes_zipped: of its file, and deflated as in a phone's package.
      value, low, high: the report's metric and its interval; None where it could not be asked.
      figures: the task's other metrics.
      agreement: with the teacher: share of the same choice, of numbers Pearson's correlation.
      from_teacher, from_twin: None for these themselves, and where there are none.
      litert_p50_ms: median time of one example in LiteRT with one thread; of a Keras model that of
        a float32 file made from it.
      litert_bytes: of that file.
      keras_p50_ms: median time of one example in Keras, its overhead included; None for a file.
      sparsity: share of zeros among a file's weights; None for a Keras model.
      dtypes: how many tensors of each kind a file reads and writes.
      verified: what a stage `verify` said of the file; None without one.
      note: why a figure is missing.
    """

    name: str
    line: str
    stage: str
    file: str
    is_file: bool
    bytes: int
    bytes_zipped: int
    parameters: int | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    figures: Mapping[str, float | None] = field(default_factory=dict)
    agreement: float | None = None
    from_teacher: Beside | None = None
    from_twin: Beside | None = None
    litert_p50_ms: float | None = None
    litert_bytes: int | None = None
    keras_p50_ms: float | None = None
    sparsity: float | None = None
    dtypes: Mapping[str, int] = field(default_factory=dict)
    verified: bool | None = None
    seconds: float | None = None
    outcome: str = ""
    note: str = ""


@dataclass(frozen=True)
class ClassRow:
    """One class.

    Attributes:
      name: of the class.
      examples: of the test data that are labelled so.
      values: by row the metric on these alone; None where it has none.
    """

    name: str
    examples: int
    values: Mapping[str, float | None]


@dataclass(frozen=True)
class RunReport(Record):
    """All that a run came to; print it, or write it `to_html`, `to_markdown` or with `save`.

    Attributes:
      title, description, command, seed, environment, data, recipe: see `Facts`.
      metric: what `value` is.
      share: whether it is one from 0 to 1, shown in per cent.
      better: 1 where more of it is better, -1 where less is.
      task: "classes", "yes or no" or "numbers".
      confidence: of the intervals, 0 to 1.
      test_rows: examples behind the figures.
      teacher, twin: the names of the rows that others are compared with; None where there is none.
      rows: in the order in which they were made.
      classes: a `ClassRow` each; none where the labels are no classes.
      curves: by row the history of its training.
      layers: of the files.
      robustness: what stages `judge` found under conditions.
      host: the machine that took the times.
      labelled: False where the test data had no labels, and answers stood for them.
    """

    title: str
    description: str
    command: str
    seed: int
    environment: Mapping[str, str]
    data: Mapping[str, Any]
    recipe: str
    metric: str
    share: bool
    better: int
    task: str
    confidence: float
    test_rows: int
    teacher: str | None
    twin: str | None
    rows: tuple[Row, ...]
    classes: tuple[ClassRow, ...] = ()
    curves: Mapping[str, Mapping[str, tuple[float | None, ...]]] = field(default_factory=dict)
    layers: tuple[LayerRow, ...] = ()
    robustness: tuple[Robustness, ...] = ()
    host: str = ""
    labelled: bool = True

    def __getitem__(self, name: str) -> Row:
        """The row of a name.

        Raises:
          KeyError: there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"The report has no {name!r}; it has {[row.name for row in self.rows]}.")

    @property
    def passed(self) -> bool:
        """Whether no file failed its verification."""
        return all(row.verified is not False for row in self.rows)

    def student(self) -> Row | None:
        """The last Keras model that is neither teacher nor twin."""
        found = [row for row in self._students() if not row.is_file]
        return found[-1] if found else None

    def file(self) -> Row | None:
        """The student's smallest file; where it has none, that of others but teacher and twin."""
        files = [row for row in self._students() if row.is_file]
        student = self.student()
        own = [row for row in files if student is not None and row.line == student.line]
        return min(own or files, key=lambda row: row.bytes, default=None)

    def _students(self) -> list[Row]:
        lines = {self[name].line for name in (self.teacher, self.twin) if name is not None}
        return [row for row in self.rows if row.line not in lines]

    def front(self, cost: str) -> tuple[Row, ...]:
        """The Pareto front, the cheapest first: what no other row beats in the metric and the cost.

        Args:
          cost: "bytes" or "litert_p50_ms"; rows without it are left out.
        """
        priced = [
            (getattr(row, cost), -self.better * row.value, row)
            for row in self.rows
            if row.value is not None and getattr(row, cost) is not None
        ]
        found: list[Row] = []
        best = float("inf")
        for _, lack, row in sorted(priced, key=lambda one: one[:2]):
            if lack < best:
                found.append(row)
                best = lack
        return tuple(found)

    def table(self) -> Table:
        """A line a model or file, in 80 columns."""
        from keras_distill.pipeline.reports.tables import terminal_table

        return terminal_table(self)

    def words(self) -> list[str]:
        """What the numbers say, gains and losses alike, in sentences."""
        from keras_distill.pipeline.reports.sentences import sentences

        return list(sentences(self))

    def parts(self) -> Iterator[str | Table]:
        """The table, and what it says in sentences."""
        name = self.data.get("name")
        yield f"{self.title}: {self.test_rows:,} test examples{f' of {name}' if name else ''}\n"
        yield self.table()
        yield "\n" + "\n".join(self.words())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, whole or not at all."""
        _files.write(path, (self.to_json() + "\n").encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RunReport:
        """Read what `save` wrote.

        Raises:
          FileNotFoundError: there is none.
          ValueError: it is no report.
        """
        from keras_distill.pipeline.reports.reading import report_of

        return report_of(_json.read(path), str(path))

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write one page that needs no network; without matplotlib it has no pictures."""
        from keras_distill.pipeline.reports.page import html

        _files.write(Path(path), html(self).encode())

    def to_markdown(self, path: str | os.PathLike[str]) -> None:
        """Write the page's tables and sentences as Markdown."""
        from keras_distill.pipeline.reports.markdown import markdown

        _files.write(Path(path), markdown(self).encode())
