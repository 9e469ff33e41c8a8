"""How many zeros there are in a model's kernels, beside what was promised."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_distill._records import Record, Table
from keras_distill.edge.compress.kernels import kernels
from keras_distill.edge.compress.layer import Compressed
from keras_distill.edge.compress.pruning import Mask
from keras_distill.edge.interface import as_keras3
from keras_distill.graph.replay import trace


@dataclass(frozen=True)
class WeightSparsity(Record):
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

    derived = ("sparsity",)

    @property
    def sparsity(self) -> float:
        """The share of zeros, 0 to 1."""
        return self.zeros / self.size


@dataclass(frozen=True)
class SparsityReport(Record):
    """A row a kernel; printed as a table."""

    model: str
    rows: tuple[WeightSparsity, ...]

    derived = ("zeros", "size", "sparsity")

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

    def parts(self) -> Iterator[str | Table]:
        """A row a kernel, and the sum."""
        rows = tuple(
            (
                row.layer,
                row.weight,
                " x ".join(map(str, row.shape)),
                _pattern(row.pattern),
                f"{row.zeros:,}",
                f"{row.size:,}",
                f"{row.sparsity:.1%}",
                "-" if row.promised is None else f"{row.promised:.1%}",
            )
            for row in self.rows
        )
        numbers = ("zeros", "size", "sparsity", "promised")
        columns = ("layer", "weight", "shape", "pattern", *numbers)
        yield Table(columns, rows, numbers=numbers, title=self.model, width=120)
        yield f"{self.zeros:,} of {self.size:,} numbers in kernels are zero: {self.sparsity:.1%}"


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
