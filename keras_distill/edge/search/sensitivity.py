"""What each layer of a model costs at 4, 8 and 16 bits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_distill._records import Record, Table
from keras_distill.edge.quantize.weights import FLOAT
from keras_distill.edge.search.measured import Measured
from keras_distill.graph.cost.profiling import profile
from keras_distill.progress import bar

__all__ = ["LayerSensitivity", "Sensitivity", "measure", "sensitivity", "weights_sha256"]

# Weights and activations, as a file holds them: int16 activations go with int8 weights.
_WIDTHS = {4: (4, 8), 8: (8, 8), 16: (8, 16), 32: (FLOAT, 8)}


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer, alone in integers.

    Attributes:
      path, type: where it is and its class.
      weights: numbers in its kernels.
      macs: multiply-accumulates for one example.
      at_4, at_8, at_16: the divergence from the reference that its rounding adds, with weights of
        4, 8, 8 bits and activations of 8, 8, 16. `at_4` is None where a file has no 4 bits for it.
      at_float: with its kernels in float and activations of 8 bits; None without kernels.
    """

    path: str
    type: str
    weights: int
    macs: int
    at_4: float | None
    at_8: float
    at_16: float
    at_float: float | None = None


@dataclass(frozen=True)
class Sensitivity(Record):
    """A row a layer; printed as a table, drawn by `plot`.

    Attributes:
      model: its name.
      rows: a `LayerSensitivity` each, in the model's order.
      float_divergence: of the float model from the reference: 0 without a teacher.
      examples: how many rows it was measured on.
      outputs: as what each output was read: "logits", "probabilities", "sigmoid" or "numbers".
      weights_sha256: the digest of the model's weights, which `search_bits(sensitivity=)` asks for.
    """

    model: str
    rows: tuple[LayerSensitivity, ...]
    float_divergence: float
    examples: int
    outputs: dict[str, str] = field(default_factory=dict)
    weights_sha256: str = ""

    def parts(self) -> Iterator[str | Table]:
        """A row a layer."""
        sizes = ("weights", "MACs", "bytes at 4", "bytes at 8")
        numbers = (*sizes, "4 bits", "8 bits", "16 bits", "float")
        rows = tuple(
            (
                row.path,
                row.type,
                f"{row.weights:,}",
                f"{row.macs:,}",
                "-" if row.at_4 is None else f"{-(-row.weights // 2):,}",
                f"{row.weights:,}",
                *(
                    "-" if at is None else f"{at:.2e}"
                    for at in (row.at_4, row.at_8, row.at_16, row.at_float)
                ),
            )
            for row in self.rows
        )
        yield Table(("layer", "type", *numbers), rows, numbers=numbers, title=self.model)
        yield (
            f"Each layer alone in integers, all others in float: what it adds to the divergence "
            f"from the reference on {self.examples:,} examples (the float model: "
            f"{self.float_divergence:.2e}). 16 bits: of what it puts out; float: of its kernels."
        )
        if self.outputs:
            read = ", ".join(f"{name!r} as {kind}" for name, kind in self.outputs.items())
            yield f"Read: {read}."

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
    model: keras.Model,
    data: Any,
    *,
    teacher: Any = None,
    output: Any = "auto",
    show_progress: bool = True,
) -> Sensitivity:
    """What each layer costs at 4, 8 and 16 bits, all others left in float.

    Args:
      model: a built Functional or Sequential model of Keras 3 in float. It is not changed.
      data: inputs like those to come, some hundred; any data argument. They set the ranges, too.
        Labels serve for nothing but to tell what an output is.
      teacher: a model, a callable or a `Teacher` whose answers are the reference; None for
        `model`'s own. Outputs go together by name, by place where no name occurs on both sides.
      output: what the model's outputs are: "logits" or "probabilities" of classes, "sigmoid" (yes
        or no each, as scores or behind the sigmoid), "numbers" (values, boxes), or a dict of these
        by name. "auto" finds a softmax and a sigmoid in the graph, else goes by the labels; what
        has none counts as logits where its last axis is longer than 1, and else as numbers.
      show_progress: a bar over the layers.

    Returns:
      A `Sensitivity`: the sum over the outputs of KL(reference || model) over the classes in nats,
      of a sigmoid's summed over its yes or no, of numbers the squared error as part of the
      reference's variance. Infinite where an answer is NaN.

    Raises:
      TypeError, ValueError: as `quantize_aware` and `calibrate`; a teacher whose outputs have
        other names, shapes or meanings, or NaN; labels that do not belong to the outputs.

    Source: Dong et al. 2019, "HAWQ", and Wu et al. 2020, "Integer Quantization for Deep Learning
    Inference", section 5.1, for measuring one layer at a time.

    Example:
      found = sensitivity(student, x[:500], teacher=teacher)
      print(found)
    """
    return measure(Measured(model, data, teacher, output), show_progress)


def measure(model: Measured, show_progress: bool = True) -> Sensitivity:
    """Each layer by itself.

    Args:
      model: with its reference.
      show_progress: a bar over the layers.
    """
    costs = {row.layer: row for row in profile(model.model).rows}
    paths, of_float = model.rounded.paths, model.divergence(model.answers({}))
    rows = []
    with bar("Sensitivity", len(paths), show_progress) as advance:
        for path in paths:
            kernels = model.rounded.kernels[path]
            able = {8: True, 16: True, 4: path in model.rounded.narrow, 32: bool(kernels)}
            added = {
                width: model.divergence(model.answers({path: pair})) - of_float
                for width, pair in _WIDTHS.items()
                if able[width]
            }
            cost = costs.get(path)
            rows.append(
                LayerSensitivity(
                    path=path,
                    type=cost.type if cost else "range of an input",
                    weights=sum(kernels),
                    macs=cost.macs if cost else 0,
                    at_4=added.get(4),
                    at_8=added[8],
                    at_16=added[16],
                    at_float=added.get(32),
                )
            )
            advance(1)
    read = {output.name: output.kind for output in model.outputs}
    return Sensitivity(
        model=model.model.name,
        rows=tuple(rows),
        float_divergence=of_float,
        examples=model.examples,
        outputs=read,
        weights_sha256=weights_sha256(model.model),
    )


def weights_sha256(model: keras.Model) -> str:
    """The digest of a model's weights in their order, in hexadecimal."""
    digest = hashlib.sha256()
    for weight in model.weights:
        value = np.ascontiguousarray(weight)
        digest.update(f"{value.dtype} {value.shape};".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
