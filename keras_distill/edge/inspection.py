"""What compression will do with each layer of a model, said before any training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras

from keras_distill._records import Record, Table
from keras_distill.edge.analysis import Analysis
from keras_distill.edge.compress.pruning import prunable_weights
from keras_distill.edge.interface import as_keras3
from keras_distill.edge.quantize import layout, loops
from keras_distill.edge.quantize.layer import Quantized
from keras_distill.edge.quantize.plans import Plan
from keras_distill.edge.reads import float_operations
from keras_distill.graph.replay import Step, functional
from keras_distill.graph.traits import does


@dataclass(frozen=True)
class LayerInspection:
    """One layer, or one operation between layers.

    Attributes:
      path, type: where it is and its class.
      parameters: how many numbers it holds.
      prunable: the weights that `prune` takes, by their paths in the layer.
      quantisable: "native" as TFMOT's own scheme takes it, "rewritten" into operations that
        integers can compute, "own range" with a range of ours on its output, "inside float" where
        only its output has a range until calibration data settles its inside, "float" where the
        file computes in float what LiteRT has not in integers, "no kernel" where LiteRT has nothing
        that computes it, "quantised" already, "refused" by an int8 export.
      why: in words.
    """

    path: str
    type: str
    parameters: int
    prunable: tuple[str, ...]
    quantisable: str
    why: str


@dataclass(frozen=True)
class Inspection(Record):
    """A row a layer; printed as a table."""

    model: str
    rows: tuple[LayerInspection, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many layers there are of each kind of quantisation."""
        return dict(Counter(row.quantisable for row in self.rows))

    def parts(self) -> Iterator[str | Table]:
        """A row a layer, and how many there are of each kind."""
        rows = tuple(
            (
                row.path,
                row.type,
                f"{row.parameters:,}",
                ", ".join(row.prunable) or "-",
                row.quantisable,
                row.why,
            )
            for row in self.rows
        )
        columns = ("layer", "type", "parameters", "prunable", "quantisable", "why")
        yield Table(columns, rows, numbers=("parameters",), title=self.model)
        yield ", ".join(f"{count} {kind}" for kind, count in self.counts.items())


def inspect(model: Any) -> Inspection:
    """Says of each layer what `prune` and `quantize_aware` can do with it, and why.

    Args:
      model: a built Functional or Sequential model of Keras 3, nested models included, or one of
        tf_keras.

    Returns:
      An `Inspection`.

    Raises:
      TypeError, ValueError: not a model, subclassed or not built.

    Example:
      print(inspect(student))
    """
    model = as_keras3(model)
    functional(model)  # Refuses one whose graph is hidden.
    found = Analysis(model)
    plans = layout.plan(found)
    quantised = {step.path for step in found.wrapped.steps if isinstance(step.operation, Quantized)}
    rows: dict[str, LayerInspection] = {}
    for step in found.graph.steps:
        rows.setdefault(step.path, _row(step, plans[step.path], step.path in quantised))
    return Inspection(model.name, tuple(rows.values()))


def _row(step: Step, plan: Plan, quantised: bool) -> LayerInspection:
    operation, how, why = step.operation, plan.how, plan.why
    # Recurrent layers get another form in the file.
    hidden = how in ("own range", "inside float") and not does(operation, *loops.RECURRENT)
    in_float = float_operations(step) if hidden else ()
    if quantised:
        how, why = "quantised", "it has its grid and its ranges"
        if in_float:
            why = f"it has its ranges, and is float in the file: {', '.join(in_float)}"
    elif in_float:
        how, why = "float", f"computed in float in the file: {', '.join(in_float)}"
    is_layer = isinstance(operation, keras.layers.Layer)
    if reason := loops.refusal(step):
        how, why = "refused", f"{reason[0].upper()}{reason[1:]}"
    return LayerInspection(
        path=step.path,
        type=plan.type,
        parameters=operation.count_params() if is_layer and operation.built else 0,
        prunable=tuple(prunable_weights(operation)),
        quantisable=how,
        why=why,
    )
