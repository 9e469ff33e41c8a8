"""What a student learned of a teacher that answers with numbers: a record."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_distill._records import NOT_IN_JSON, Record, Table
from keras_distill.explaining import folder as files
from keras_distill.explaining import words
from keras_distill.explaining.similarity import Similarity

# What a glance takes in; the JSON has all.
_MOST_ROWS = 10
MEASURES = {"MAE": "mae", "RMSE": "rmse", "bias": "bias", "R2": "r2"}


@dataclass(frozen=True, eq=False)
class NumberErrors:
    """One model's numbers against the labels, column by column; None without labels.

    Attributes:
      name: the model's.
      mae: mean absolute error, `(columns,)`, in the column's unit.
      rmse: root mean squared error, likewise.
      bias: mean of answer minus label, likewise.
      r2: coefficient of determination, `1 - sum (y - answer)^2 / sum (y - mean y)^2`; NaN where all
        labels are one.
    """

    name: str
    mae: np.ndarray | None
    rmse: np.ndarray | None
    bias: np.ndarray | None
    r2: np.ndarray | None


@dataclass(frozen=True, eq=False)
class LostNumber:
    """An example where the student is further off than its teacher.

    Attributes:
      index: its place in the data as read, from 0.
      column: the number's.
      lost: how much larger the student's absolute error is than the teacher's, in the column's
        unit; without a label how far the student is from the teacher. Over positions it is a mean,
        and so are the three below.
      label: None without one.
      teacher, student: what each answers.
      inputs: the example as the data has it, without a batch axis; no part of the JSON.
    """

    index: int
    column: int
    lost: float
    label: float | None
    teacher: float
    student: float
    inputs: Any = dataclasses.field(default=None, repr=False, metadata=NOT_IN_JSON)


@dataclass(frozen=True, eq=False)
class NumbersExplanation(Record):
    """A student beside its teacher on the same data, where both answer with numbers.

    Attributes:
      examples: how many were compared.
      labelled: how many numbers of each column have a label, `(columns,)`.
      names: of the columns.
      rms_between: root mean square of the student's minus the teacher's answer, `(columns,)`.
      correlation: Pearson's, of student and teacher, likewise; NaN where one says the same always.
      teacher, student: `NumberErrors` of each.
      similarity: of pairs of layers; None where none were compared.
      no_similarity: why there is none, in words; else empty.
      lost: the examples where the student lost the most, by the spread of their column, the worst
        first.
      points: labels, teacher's and student's answers, `(3, some, columns)`, evenly drawn; not in
        the JSON.
    """

    examples: int
    labelled: np.ndarray
    names: tuple[str, ...]
    rms_between: np.ndarray
    correlation: np.ndarray
    teacher: NumberErrors
    student: NumberErrors
    similarity: Similarity | None
    no_similarity: str
    lost: tuple[LostNumber, ...]
    points: np.ndarray = dataclasses.field(repr=False, metadata=NOT_IN_JSON)

    @property
    def layer_map(self) -> dict[str, str]:
        """As `Explanation.layer_map`."""
        return {} if self.similarity is None else dict(self.similarity.layer_map)

    def parts(self) -> Iterator[str | Table]:
        """The columns where the student lost the most, the layer map, the worst examples."""
        yield from self._one_number() if len(self.names) == 1 else self._several_numbers()
        if self.similarity is not None:
            yield from words.layers(self.similarity)
        else:
            yield f"\nNo layers were compared: {self.no_similarity}."
        if self.lost:
            yield from self._lost()

    def figures(self) -> dict[str, Any]:
        """The pictures, matplotlib figures by name: "numbers", "similarity", "lost" for images.

        Raises:
          ModuleNotFoundError: matplotlib is missing, which the extra "demo" brings.
        """
        with files.asking_for_matplotlib():
            from keras_distill.explaining.number_pictures import draw
        return draw(self)

    def save(self, folder: str | os.PathLike[str]) -> tuple[Path, ...]:
        """As `Explanation.save`."""
        return files.save(folder, self.to_json(), self.figures())

    def worst_columns(self) -> list[int]:
        """By how much more the student errs than the teacher, as a share of what the teacher errs.

        Without labels by what its answers have least to do with the teacher's.
        """
        ours, theirs = self.student.rmse, self.teacher.rmse
        if ours is None or theirs is None:
            more = -np.nan_to_num(self.correlation)
        else:
            more = np.nan_to_num(ours / np.maximum(theirs, 1e-30))
        return np.argsort(-more, kind="stable").tolist()

    def _one_number(self) -> Iterator[str | Table]:
        rows = [("model", self.teacher.name, self.student.name, "")]
        for heading, field in MEASURES.items():
            before, after = (getattr(one, field) for one in (self.teacher, self.student))
            if before is not None:
                change = f"{after[0] - before[0]:+.4g}"
                rows.append((heading, _figure(before[0]), _figure(after[0]), change))
        yield words.table((self.names[0], "teacher", "student", "change"), rows)
        yield (
            f"\n{self.examples:,} examples ({self.labelled[0]:,} labels); between the two an RMS "
            f"of {_figure(self.rms_between[0])}, correlation {_figure(self.correlation[0])}."
        )

    def _several_numbers(self) -> Iterator[str | Table]:
        order = self.worst_columns()[:_MOST_ROWS]
        what = f"{self.student.name} beside {self.teacher.name}, {self.examples:,} examples"
        yield words.title(f"{what}: numbers, by what was lost", len(order), len(self.names))
        found = {"RMS between": self.rms_between, "correlation": self.correlation}
        for heading in ("RMSE", "R2"):
            for whose, model in (("teacher", self.teacher), ("student", self.student)):
                values = getattr(model, MEASURES[heading])
                if values is not None:
                    found[f"{heading}, {whose}"] = values
        cells = [list(map(_figure, values)) for values in found.values()]
        rows = [(self.names[place], *(cell[place] for cell in cells)) for place in order]
        yield words.table(("number", *found), rows)

    def _lost(self) -> Iterator[str | Table]:
        shown = self.lost[:_MOST_ROWS]
        yield words.title("Examples where the student lost the most", len(shown), len(self.lost))
        rows = [
            (str(one.index), self.names[one.column], *map(_figure, figures_of(one)))
            for one in shown
        ]
        yield words.table(("example", "number", "label", "teacher", "student", "lost"), rows, 2)


def figures_of(one: LostNumber) -> tuple[float | None, float, float, float]:
    """Label, the teacher's and the student's answer, what was lost."""
    return one.label, one.teacher, one.student, one.lost


def _figure(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.4g}"
