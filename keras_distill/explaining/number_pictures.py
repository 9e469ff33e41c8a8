"""The pictures of a record of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from keras_distill.explaining.numbers import LostNumber, NumbersExplanation, figures_of
from keras_distill.explaining.pictures import (
    STUDENT,
    TEACHER,
    lost_of,
    new_figure,
    similarity_of,
)

_MOST_COLUMNS = 6


def draw(record: NumbersExplanation) -> dict[str, Figure]:
    """The figures that the record has data for, by name."""
    drawn = {name: picture(record) for name, picture in NUMBER_PICTURES.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _numbers(record: NumbersExplanation) -> Figure:
    """Answers against the labels; without any, the student's against the teacher's."""
    places = record.worst_columns()[:_MOST_COLUMNS]
    width, height = min(3, len(places)), -(-len(places) // 3)
    figure = new_figure(max(5.0, 4.0 * width), 4.0 * height + 0.4)
    grid = figure.subplots(height, width, squeeze=False).ravel()
    for axes in grid[len(places) :]:
        axes.axis("off")
    for axes, place in zip(grid, places, strict=False):
        _draw_column(axes, record, place)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _draw_column(axes: Any, record: NumbersExplanation, place: int) -> None:
    labels, teacher, student = record.points[:, :, place]
    known = ~np.isnan(labels)
    sides, at, across = [(student, "student", STUDENT)], teacher, "teacher's answer"
    if known.any():
        sides, at, across = [(teacher, "teacher", TEACHER), *sides], labels[known], "label"
    else:
        known = np.ones_like(known)
    for answers, whose, colour in sides:
        axes.plot(at, answers[known], ".", color=colour, alpha=0.5, markersize=4, label=whose)
    ends = [at.min(), at.max()]
    axes.plot(ends, ends, "--", color="grey", linewidth=1)
    axes.set(xlabel=across, ylabel="answer", title=record.names[place])


def _caption(one: LostNumber, names: Sequence[str]) -> str:
    label, teacher, student, lost = figures_of(one)
    said = "" if label is None else f", label {label:.4g}"
    return f"example {one.index}, {names[one.column]}{said}\nteacher {teacher:.4g}\nstudent " + (
        f"{student:.4g} (lost {lost:.3g})"
    )


NUMBER_PICTURES = {
    "numbers": _numbers,
    "similarity": similarity_of,
    "lost": lambda record: lost_of(record, _caption),
}
