"""What each layer of a model costs at 4, 8 and 16 bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_distill import _keras
from keras_distill._records import Record, Table
from keras_distill.data import batches
from keras_distill.edge.search.divergence import are_shares, divergence
from keras_distill.edge.search.rounded import Bits, Rounded
from keras_distill.edge.verification.asking import Asked
from keras_distill.edge.verification.heads import Head
from keras_distill.graph.cost.profiling import profile
from keras_distill.graph.replay import functional
from keras_distill.progress import bar

__all__ = ["LayerSensitivity", "Sensitivity", "sensitivity"]

# Weights and activations, as a file holds them: int16 activations go with int8 weights.
WIDTHS = {4: (4, 8), 8: (8, 8), 16: (8, 16)}


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer, alone in integers.

    Attributes:
      path, type: where it is and its class.
      weights: numbers in its kernels.
      macs: multiply-accumulates for one example.
      at_4, at_8, at_16: the divergence from the reference that its rounding adds, with weights of
        4, 8, 8 bits and activations of 8, 8, 16. `at_4` is None where a file has no 4 bits for it.
    """

    path: str
    type: str
    weights: int
    macs: int
    at_4: float | None
    at_8: float
    at_16: float


@dataclass(frozen=True)
class Sensitivity(Record):
    """A row a layer; printed as a table, drawn by `plot`.

    Attributes:
      model: its name.
      rows: a `LayerSensitivity` each, in the model's order.
      float_divergence: of the float model from the reference: 0 without a teacher.
      examples: how many rows it was measured on.
    """

    model: str
    rows: tuple[LayerSensitivity, ...]
    float_divergence: float
    examples: int

    def parts(self) -> Iterator[str | Table]:
        """A row a layer."""
        numbers = ("weights", "MACs", "bytes at 4", "bytes at 8", "4 bits", "8 bits", "16 bits")
        rows = tuple(
            (
                row.path,
                row.type,
                f"{row.weights:,}",
                f"{row.macs:,}",
                "-" if row.at_4 is None else f"{-(-row.weights // 2):,}",
                f"{row.weights:,}",
                *("-" if at is None else f"{at:.2e}" for at in (row.at_4, row.at_8, row.at_16)),
            )
            for row in self.rows
        )
        yield Table(("layer", "type", *numbers), rows, numbers=numbers, title=self.model)
        yield (
            f"Each layer alone in integers, all others in float: what it adds to the divergence "
            f"from the reference on {self.examples:,} examples (the float model: "
            f"{self.float_divergence:.2e})."
        )

    def plot(self) -> Any:
        """A matplotlib figure: a line a layer, a mark for each number of bits."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7.0, 1.2 + 0.26 * len(self.rows)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        places = np.arange(len(self.rows))[::-1]
        for name, mark in (("at_4", "o"), ("at_8", "s"), ("at_16", "^")):
            found = [getattr(row, name) for row in self.rows]
            # What is not above zero has no place on a scale of powers.
            kept = [(at, place) for at, place in zip(found, places, strict=True) if at and at > 0]
            if kept:
                axes.plot(*zip(*kept, strict=True), mark, label=f"{name[3:]} bits")
        axes.set_xscale("log")
        axes.set_yticks(places, [row.path for row in self.rows], fontsize=8)
        axes.grid(axis="x", alpha=0.3)
        axes.set(xlabel="divergence that the layer adds", title=self.model)
        axes.legend(frameon=False)
        return figure


def sensitivity(
    model: keras.Model, data: Any, *, teacher: Any = None, show_progress: bool = True
) -> Sensitivity:
    """What each layer costs at 4, 8 and 16 bits, all others left in float.

    Args:
      model: a built Functional or Sequential model of Keras 3 in float. It is not changed.
      data: inputs like those to come, some hundred; any data argument, labels are ignored. They
        set the ranges, too.
      teacher: a Keras model or a callable whose answers are the reference; None for `model`'s own.
      show_progress: a bar over the layers.

    Returns:
      A `Sensitivity`: for outputs whose last axis is longer than 1, which count as scores or shares
      of classes, by KL(reference || model) in nats, else by the squared error as part of the
      reference's variance.

    Raises:
      TypeError, ValueError: as `quantize_aware` and `calibrate`; a teacher with other outputs.

    Source: Dong et al. 2019, "HAWQ", and Wu et al. 2020, "Integer Quantization for Deep Learning
    Inference", section 5.1, for measuring one layer at a time.

    Example:
      found = sensitivity(student, x[:500], teacher=teacher)
      print(found)
    """
    return Measured(model, data, teacher, show_progress).sensitivity()


class Measured:
    """A model in integers of any bits, beside the reference, on some data.

    Attributes:
      rounded: the model under any bits.
      first_rows: the first batch of inputs.
    """

    def __init__(self, model: keras.Model, data: Any, teacher: Any, show_progress: bool):
        read = list(batches(data))
        self.model, self._shown = model, show_progress
        self._x, self.first_rows = [x for x, _, _ in read], read[0][0]
        self.rounded = Rounded(model, data)
        self.float_answers = self.answers({})
        guide = None if teacher is None else Asked(teacher)
        self.reference = self.float_answers if guide is None else _joined(map(guide, self._x))
        shapes = [[one.shape for one in side] for side in (self.float_answers, self.reference)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"Expected the teacher to answer in the shapes of {model.name!r}, {shapes[0]}; got "
                f"{shapes[1]}."
            )
        self._labels = _labels([y for _, y, _ in read], _output_names(model))
        self._shares = list(map(are_shares, self.float_answers))

    def answers(self, bits: Bits) -> list[np.ndarray]:
        """The outputs for all rows."""
        return _joined(self.rounded(x, bits) for x in self._x)

    def divergence(self, bits: Bits) -> float:
        """From the reference."""
        return divergence(self.reference, self.answers(bits), self._shares)

    def drop(self, answers: list[np.ndarray]) -> float:
        """What `answers` lose beside the float model's, in the output that loses most."""
        columns = zip(
            answers, self.float_answers, self.reference, self._labels, strict=True
        )  # fmt: skip
        return max(_lost(*column) for column in columns)

    def sensitivity(self) -> Sensitivity:
        """Each layer by itself."""
        costs = {row.layer: row for row in profile(self.model).rows}
        paths, of_float = self.rounded.paths, self.divergence({})
        rows = []
        with bar("Sensitivity", len(paths), self._shown) as advance:
            for path in paths:
                narrow = path in self.rounded.narrow
                added = {
                    width: self.divergence({path: pair}) - of_float
                    for width, pair in WIDTHS.items()
                    if narrow or width > 4
                }
                cost = costs.get(path)
                rows.append(
                    LayerSensitivity(
                        path=path,
                        type=cost.type if cost else "range of an input",
                        weights=sum(self.rounded.kernels[path]),
                        macs=cost.macs if cost else 0,
                        at_4=added.get(4),
                        at_8=added[8],
                        at_16=added[16],
                    )
                )
                advance(1)
        examples = len(self.reference[0])
        return Sensitivity(self.model.name, tuple(rows), of_float, examples)


def _joined(answers: Any) -> list[np.ndarray]:
    """Batches of outputs as one array an output."""
    columns = zip(*(map(np.asarray, keras.tree.flatten(one)) for one in answers), strict=True)
    return [np.concatenate(parts) for parts in columns]


def _output_names(model: keras.Model) -> list[str]:
    """In the order of the flat outputs."""
    graph = functional(model)
    if isinstance(graph.output, dict):
        return sorted(graph.output)
    return [_keras.history(tensor).operation.name for tensor in graph.outputs]


def _labels(given: list[Any], names: list[str]) -> list[np.ndarray | None]:
    """Labels for each output, None where there are none or nobody says whose they are."""
    if isinstance(given[0], dict):
        columns = [[y.get(name) for y in given] for name in names]
    else:
        flat = [keras.tree.flatten(y) for y in given]
        columns = [list(parts) for parts in zip(*flat, strict=True)]
    if given[0] is None or len(columns) != len(names):
        return [None] * len(names)
    return [None if parts[0] is None else np.concatenate(parts) for parts in columns]


def _lost(ours: Any, of_float: Any, reference: Any, labels: Any) -> float:
    before, after = (Head.of("", one, reference, labels) for one in (of_float, ours))
    hits = [head.hits(head.file) for head in (before, after)]
    if hits[0] is not None and hits[1] is not None:
        return float(hits[0].mean() - hits[1].mean())
    was, now = (head.agreement(reference) for head in (before, after))
    if was is None or now is None:
        was, now = (head.correlation(reference) for head in (before, after))
    return was - now
