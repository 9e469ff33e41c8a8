"""How many zeros there are in a model's kernels, beside what was promised."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from ...graph.replay import trace
from ..interface import as_keras3
from .kernels import kernels
from .layer import Compressed
from .pruning import Mask


@dataclass(frozen=True)
class WeightSparsity:
    """One kernel.

    Attributes:
      layer, weight: the layer's path in the model and the weight's in the layer.
      shape: of the weight.
      zeros, size: how many numbers are zero as the layer sees them, of how many.
      promised: the share of zeros that the schedule asks for at this update; None without one.
      pattern: of the pruning; None without it.
    """

    layer: str
    weight: str
    shape: tuple[int, ...]
    zeros: int
    size: int
    promised: float | None
    pattern: Any

    @property
    def sparsity(self) -> float:
        """The share of zeros, 0 to 1."""
        return self.zeros / self.size


@dataclass(frozen=True)
class SparsityReport:
    """A row a kernel; printed as a table."""

    model: str
    rows: tuple[WeightSparsity, ...]

    @property
    def zeros(self) -> int:
        """Zeros in all kernels."""
        return sum(row.zeros for row in self.rows)

    @property
    def size(self) -> int:
        """Numbers in all kernels."""
        return sum(row.size for row in self.rows)

    @property
    def sparsity(self) -> float:
        """The share of zeros in all kernels, 0 to 1."""
        return self.zeros / self.size if self.size else 0.0

    def __str__(self) -> str:
        table = Table(title=self.model)
        for column in ("layer", "weight", "shape", "pattern"):
            table.add_column(column)
        for column in ("zeros", "size", "sparsity", "promised"):
            table.add_column(column, justify="right")
        for row in self.rows:
            table.add_row(
                row.layer,
                row.weight,
                " x ".join(map(str, row.shape)),
                _pattern(row.pattern),
                f"{row.zeros:,}",
                f"{row.size:,}",
                f"{row.sparsity:.1%}",
                "-" if row.promised is None else f"{row.promised:.1%}",
            )
        console = Console(width=120, no_color=True)
        with console.capture() as capture:
            console.print(table)
        total = f"{self.zeros:,} of {self.size:,} numbers in kernels are zero: {self.sparsity:.1%}"
        return f"{capture.get().rstrip()}\n{total}"

    def to_json(self) -> str:
        """The record as a JSON object."""
        found = dataclasses.asdict(self)
        for row, record in zip(found["rows"], self.rows, strict=True):
            row["sparsity"] = record.sparsity
        total = {"zeros": self.zeros, "size": self.size, "sparsity": self.sparsity}
        return json.dumps({**found, **total})


def sparsity_report(model: Any) -> SparsityReport:
    """Counts the zeros in every kernel that `prune` can take.

    Args:
      model: a built Functional or Sequential model of Keras 3, plain, compressed or stripped; or
        one of tf_keras.

    Returns:
      A `SparsityReport`. Its promises are those of the last update of the optimiser.

    Raises:
      TypeError, ValueError: not a model, subclassed or not built.

    Example:
      print(sparsity_report(pruned))
    """
    model = as_keras3(model)
    rows: dict[str, list[WeightSparsity]] = {}
    for step in trace(model).steps:
        rows.setdefault(step.path, _rows(step.path, step.operation))
    return SparsityReport(model.name, tuple(row for found in rows.values() for row in found))


def _rows(path: str, operation: Any) -> list[WeightSparsity]:
    treated = operation.treated_weights() if isinstance(operation, Compressed) else {}
    rows = []
    for weight, kernel in kernels(operation).items():
        value = keras.ops.convert_to_numpy(treated.get(weight, kernel.variable))
        mask = _mask(operation, weight)
        rows.append(
            WeightSparsity(
                layer=path,
                weight=weight,
                shape=tuple(value.shape),
                zeros=int(np.sum(value == 0)),
                size=math.prod(value.shape),
                promised=None if mask is None else float(mask.promised.numpy()),
                pattern=None if mask is None else mask.pattern,
            )
        )
    return rows


def _mask(operation: Any, weight: str) -> Mask | None:
    chain = operation.treatments.get(weight, ()) if isinstance(operation, Compressed) else ()
    return next((one for one in chain if isinstance(one, Mask)), None)


def _pattern(pattern: Any) -> str:
    if pattern is None or isinstance(pattern, str):
        return pattern or "-"
    return f"{pattern[0]} x {pattern[1]}"
