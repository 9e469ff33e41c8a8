"""The record's pictures, drawn without pyplot: no global state, no display."""

from __future__ import annotations

import io
import posixpath
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from keras_distill.explaining.record import ClassChange, Comparison, LostExample, ModelAnswers
from keras_distill.explaining.words import answers_of

TEACHER, STUDENT = "#4c72b0", "#dd8452"
_GAINED, _LOST = "#55a868", "#c44e52"
# More numbers than these in a picture nobody reads.
_MOST_CELLS, _MOST_TICKS, _MOST_CLASSES, _MOST_IMAGES = 20, 40, 30, 16


def draw(record: Comparison) -> dict[str, Figure]:
    """The figures that the record has data for, by name."""
    drawn = {name: picture(record) for name, picture in PICTURES.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _agreement(record: Comparison) -> Figure:
    counts, names = record.agreement, record.class_names
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = np.clip(2.5 + 0.45 * len(names), 5.0, 10.0)
    figure = new_figure(side + 1.0, side)
    axes = figure.add_subplot()
    # The root makes the few disagreements visible beside a diagonal near 1.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0.0, 1.0))
    if len(names) <= _MOST_CELLS:
        _write_cells(axes, counts, shares > 0.4, lambda count: str(count) if count else "")
    _name_ticks(axes, names, names)
    axes.set(
        xlabel="student's answer",
        ylabel="teacher's answer",
        title=f"Same answer on {record.agreement_share:.1%} of {record.examples:,} examples",
    )
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the teacher's answers")
    return figure


def _classes(record: Comparison) -> Figure | None:
    if not record.classes:
        return None
    shown = _most_changed(record.classes)
    figure = new_figure(8.0, 1.8 + 0.32 * len(shown))
    axes = figure.add_subplot()
    places = np.arange(len(shown))
    gained, lost = (np.array([getattr(one, name) for one in shown]) for name in ("gained", "lost"))
    bars = (
        axes.barh(places, -lost, color=_LOST, label="lost: only the teacher is right"),
        axes.barh(places, gained, color=_GAINED, label="gained: only the student is right"),
    )
    for bar, values in zip(bars, (lost, gained), strict=True):
        axes.bar_label(bar, [str(value) if value else "" for value in values], padding=3)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(places, [f"{one.name}  ({one.examples:,})" for one in shown])
    axes.invert_yaxis()
    reach = max(1, gained.max(), lost.max())
    axes.set_xlim(-1.15 * reach, 1.15 * reach)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    axes.set(xlabel="examples", ylabel="class (labelled examples)", title=_accuracies(record))
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def _most_changed(classes: Sequence[ClassChange]) -> list[ClassChange]:
    """Those where most examples changed, in the classes' order."""
    order = sorted(range(len(classes)), key=lambda i: -(classes[i].gained + classes[i].lost))
    return [classes[place] for place in sorted(order[:_MOST_CLASSES])]


def _accuracies(record: Comparison) -> str:
    return (
        f"Accuracy on {record.labelled:,} labelled examples: teacher "
        f"{record.teacher.accuracy:.1%}, student {record.student.accuracy:.1%}"
    )


def _calibration(record: Comparison) -> Figure:
    sides = (("teacher", record.teacher, TEACHER), ("student", record.student, STUDENT))
    labelled = record.teacher.calibration is not None
    figure = new_figure(12.0 if labelled else 5.5, 4.5)
    columns = figure.subplots(1, 3) if labelled else [figure.add_subplot()]
    if labelled:
        for axes, (whose, answers, colour) in zip(columns, sides, strict=False):
            _draw_reliability(axes, whose, answers, colour)
        figure.legend(*columns[0].get_legend_handles_labels(), loc="outside lower left", ncols=2)
    _draw_entropies(columns[-1], sides, len(record.class_names))
    return figure


def _draw_reliability(axes: Any, whose: str, answers: ModelAnswers, colour: str) -> None:
    calibration = answers.calibration
    assert calibration is not None
    width = 1.0 / len(calibration.counts)
    middles = (np.arange(len(calibration.counts)) + 0.5) * width
    filled = calibration.counts > 0
    bars = axes.bar(middles, calibration.accuracy, width, color=colour, edgecolor="white")
    for bar, count in zip(bars, calibration.counts, strict=True):
        bar.set_alpha(0.2 + 0.8 * np.sqrt(count / calibration.counts.max()))
    axes.plot(
        calibration.confidence[filled],
        calibration.accuracy[filled],
        "o",
        color="black",
        markersize=4,
        label="accuracy at the bin's mean confidence (paler bar: fewer examples)",
    )
    axes.plot([0, 1], [0, 1], "--", color="grey", label="as sure as right")
    axes.set(
        xlim=(0, 1),
        ylim=(0, 1.02),
        aspect="equal",
        xlabel="confidence",
        ylabel="accuracy",
        title=f"{whose}: ECE {calibration.ece:.3f}",
    )


def _draw_entropies(axes: Any, sides: Sequence[tuple], classes: int) -> None:
    edges = np.linspace(0.0, np.log(classes), len(sides[0][1].entropy_counts) + 1)
    for whose, answers, colour in sides:
        shares = answers.entropy_counts / answers.entropy_counts.sum()
        label = f"{whose}: mean {answers.entropy_nats:.3f}"
        axes.stairs(shares, edges, color=colour, fill=True, alpha=0.35)
        axes.stairs(shares, edges, color=colour, linewidth=1.6, label=label)
    axes.set(
        xlim=(0, edges[-1]),
        xlabel=f"entropy of an answer, nats (at most {edges[-1]:.2f})",
        ylabel="share of the examples",
        title="How sure both are",
    )
    axes.legend()


def similarity_of(record: Any) -> Figure | None:
    """Of the layers of either kind of record; None where none were compared."""
    similarity = record.similarity
    if similarity is None:
        return None
    ours, theirs = similarity.student_layers, similarity.teacher_layers
    names = [name.removeprefix(_holder(ours)) for name in ours]
    teachers = [name.removeprefix(_holder(theirs)) for name in theirs]
    figure = new_figure(
        max(5.5, 2.6 + 0.1 * max(map(len, names)) + 0.6 * len(teachers)),
        max(3.5, 1.8 + 0.1 * max(map(len, teachers)) + 0.45 * len(names)),
    )
    axes = figure.add_subplot()
    image = axes.imshow(similarity.cka, cmap="viridis", vmin=0.0, vmax=1.0, aspect="auto")
    _write_cells(axes, similarity.cka, similarity.cka < 0.6, lambda value: f"{value:.2f}")
    _name_ticks(axes, teachers, names)
    for layer, partner in similarity.layer_map.items():
        corner = theirs.index(partner) - 0.48, ours.index(layer) - 0.48
        axes.add_patch(Rectangle(corner, 0.96, 0.96, fill=False, color=_LOST, linewidth=2.5))
    axes.set(
        xlabel=f"teacher's layers {_holder(theirs)}",
        ylabel=f"student's layers {_holder(ours)}",
        title="Similarity of layers\n(framed: the proposed layer map)",
    )
    figure.colorbar(image, ax=axes, label="linear CKA")
    return figure


def _holder(paths: Sequence[str]) -> str:
    """The path of the nested model that holds all of the layers, with its slash; else nothing."""
    shared = posixpath.commonpath([path.rpartition("/")[0] for path in paths])
    return f"{shared}/" if shared else ""


def lost_of(record: Any, caption: Callable[[Any, Sequence[str]], str]) -> Figure | None:
    """The worst examples of either kind of record, where they are images."""
    names = record.class_names if isinstance(record, Comparison) else record.names
    found = [(one, _image(one)) for one in record.lost[:_MOST_IMAGES]]
    shown = [(one, image) for one, image in found if image is not None]
    if not shown:
        return None
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(2.6 * columns, 2.75 * rows + 0.5)
    figure.suptitle("Where the student lost the most")
    for axes in (grid := figure.subplots(rows, columns, squeeze=False).ravel()):
        axes.axis("off")
    for axes, (one, image) in zip(grid, shown, strict=False):
        axes.imshow(image, cmap="gray" if image.ndim == 2 else None)
        axes.set_title(caption(one, names), fontsize=8, loc="left")
    return figure


def _image(one: Any) -> np.ndarray | None:
    """The example as matplotlib shows images, its own range stretched to [0, 1]; else None."""
    inputs = one.inputs
    if not isinstance(inputs, np.ndarray) or inputs.dtype.kind not in "fiu":
        return None
    image = inputs[..., 0] if inputs.ndim == 3 and inputs.shape[-1] == 1 else inputs
    if (image.ndim == 3 and image.shape[-1] != 3) or image.ndim not in (2, 3):
        return None
    image = image.astype("float64")
    low, high = image.min(), image.max()
    return (image - low) / (high - low) if high > low else np.zeros_like(image)


def _caption(one: LostExample, names: Sequence[str]) -> str:
    label = "" if one.label is None else f", label {names[one.label]}"
    teacher, student = answers_of(one, names)
    return f"example {one.index}{label}\nteacher {teacher}\nstudent {student}"


def _write_cells(axes: Any, values: np.ndarray, light: np.ndarray, words: Any) -> None:
    for row, column in np.ndindex(*values.shape):
        colour = "white" if light[row, column] else "black"
        text = words(values[row, column])
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)


def _name_ticks(axes: Any, horizontal: Sequence[str], vertical: Sequence[str]) -> None:
    for axis, names in ((axes.xaxis, horizontal), (axes.yaxis, vertical)):
        places = range(0, len(names), -(-len(names) // _MOST_TICKS))
        axis.set_ticks(places, [names[place] for place in places])
    if max(map(len, horizontal)) > 3:
        axes.tick_params(axis="x", rotation=90)


class Picture(Figure):
    """A figure that a notebook shows by itself, where pyplot has drawn nothing yet, too."""

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="png")
        return content.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """A figure that no display has to do with."""
    figure = Picture(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


PICTURES = {
    "agreement": _agreement,
    "classes": _classes,
    "calibration": _calibration,
    "similarity": similarity_of,
    "lost": lambda record: lost_of(record, _caption),
}
