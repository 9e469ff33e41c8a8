"""The layers of a file: what they are stored as, their zeros, how far they are from the model's."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_distill import edge
from keras_distill.edge.tflite_file import weight_sparsity
from keras_distill.litert.runner import load_tflite

__all__ = ["MOST_LAYERS", "LayerRow", "layers"]

MOST_LAYERS = 80
_EXAMPLES = 32


@dataclass(frozen=True)
class LayerRow:
    """A layer of a file, or where no model is there a tensor that an operation writes.

    Attributes:
      file: the row of the report.
      layer: its path in the model; the tensor's name without a model.
      op, dtype, shape: the operation that makes it, and how the file stores it.
      sparsity: share of zeros among the operation's weights, 0 to 1; None without weights.
      snr_db: signal to noise beside the same layer of the model, in decibels; None without a
        model, or where `equal`.
      equal: whether it answers with the model's very numbers.
    """

    file: str
    layer: str
    op: str
    dtype: str
    shape: tuple[int, ...]
    sparsity: float | None = None
    snr_db: float | None = None
    equal: bool = False


def layers(name: str, path: Path, model: keras.Model | None, x: Any) -> Iterator[LayerRow]:
    """The rows of a file, `MOST_LAYERS` at most: those furthest from the model, in its order.

    Args:
      name: of the file's row.
      path: of the file.
      model: that it came from; None where it is not there.
      x: inputs, of which a few are asked.
    """
    rows = _beside(name, path, model, x) if model is not None else []
    rows = rows or _tensors(name, path)
    order = sorted(range(len(rows)), key=lambda i: _distance(rows[i]))[:MOST_LAYERS]
    return (rows[i] for i in sorted(order))


def _distance(row: LayerRow) -> float:
    return np.inf if row.snr_db is None else row.snr_db


def _beside(name: str, path: Path, model: keras.Model, x: Any) -> list[LayerRow]:
    try:
        found = edge.debug(path, model, x, examples=_EXAMPLES)
    # A model without a graph, or with other names than the file's: its tensors are told instead.
    except (TypeError, ValueError, RuntimeError):
        return []
    return [
        LayerRow(
            name,
            one.layer,
            one.op,
            one.dtype,
            one.shape,
            one.sparsity,
            float(one.snr_db) if np.isfinite(one.snr_db) else None,
            one.snr_db == np.inf,
        )
        for one in found.layers
    ]


def _tensors(name: str, path: Path) -> list[LayerRow]:
    try:
        tensors = load_tflite(path).kept_run().tensors
        zeros = weight_sparsity(path)
    except (ValueError, RuntimeError):
        return []
    return [
        LayerRow(
            name,
            one.info.name,
            one.op,
            one.info.dtype,
            tuple(int(size or 1) for size in one.info.shape),
            zeros.get(one.index),
        )
        for one in tensors
    ]
