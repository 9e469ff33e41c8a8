"""Which layers can do with 4 bits."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_distill._records import Record, Table, pairs
from keras_distill.edge.export.tflite import export_tflite
from keras_distill.edge.quantize.aware import quantize_aware
from keras_distill.edge.search.rounded import Bits
from keras_distill.edge.search.sensitivity import Measured, Sensitivity

__all__ = ["BitSearch", "search_bits"]


@dataclass(frozen=True)
class BitSearch(Record):
    """The bits that were chosen, and what they cost.

    Attributes:
      weight_bits: by layer, for `quantize_aware(model, weight_bits=)`: those of 4 bits.
      bytes, bytes_at_8: of the file as it is, and with all layers at 8 bits.
      drop, drop_at_8: what is lost on the data before any training, 0.01 being one point: accuracy
        where it has labels, else agreement with the reference's classes, else correlation.
      divergence: from the reference, as in `sensitivity`.
      sensitivity: what each layer costs alone.
    """

    weight_bits: dict[str, int]
    bytes: int
    bytes_at_8: int
    drop: float
    drop_at_8: float
    divergence: float
    sensitivity: Sensitivity

    def parts(self) -> Iterator[str | Table]:
        """The choice, its price, and the layers."""
        layers = ", ".join(self.weight_bits) or "none"
        yield pairs(
            {
                "4 bits": layers,
                "bytes": f"{self.bytes:,} ({self.bytes_at_8:,} with all layers at 8 bits)",
                "drop": f"{100 * self.drop:+.2f} points ({100 * self.drop_at_8:+.2f} at 8 bits)",
                "divergence": f"{self.divergence:.2e}",
            }
        )
        yield from self.sensitivity.parts()


def search_bits(
    model: keras.Model,
    data: Any,
    *,
    max_bytes: int | None = None,
    max_drop: float | None = None,
    teacher: Any = None,
    show_progress: bool = True,
) -> BitSearch:
    """Chooses 4 or 8 bits for each layer's weights: a file that fits, or the smallest right one.

    Layers go to 4 bits in the order of what a saved byte costs: the divergence that 4 bits add
    beyond 8, over half the layer's weights. With `max_bytes` until the file fits; with `max_drop`
    as far as the answers allow, which are measured with all chosen layers together. Activations
    have 8 bits. What is lost is lost before training: go on with
    `quantize_aware(model, weight_bits=found.weight_bits)`, in a Distiller at best.

    Args:
      model: a built Functional or Sequential model of Keras 3 in float. It is not changed.
      data: some hundred rows, with labels or without; any data argument.
      max_bytes: the largest int8 file. One is written to a temporary folder and counted.
      max_drop: what may be lost, 0.01 being one point: see `BitSearch.drop`.
      teacher: a Keras model or a callable whose answers are the reference; None for `model`'s own.
      show_progress: a bar over the layers.

    Returns:
      A `BitSearch`.

    Raises:
      ValueError: neither bound is given; no choice keeps them: the nearest is named.
      TypeError, ValueError: as `quantize_aware`, `calibrate` and `sensitivity`.

    Example:
      found = search_bits(student, (x_val, y_val), max_bytes=60_000)
      small = quantize_aware(student, calibration_data=x, weight_bits=found.weight_bits)
    """
    _check_bounds(max_bytes, max_drop)
    measured = Measured(model, data, teacher, show_progress)
    found = measured.sensitivity()
    search = _Search(measured, _in_order(found))
    drop_at_8, bytes_at_8 = search.drop(0), search.bytes(0)
    count = 0
    if max_bytes is not None:
        count = search.least_that_fits(max_bytes)
    if max_drop is not None:
        allowed = search.most_that_is_right(max_drop)
        if max_bytes is None:
            count = allowed
        elif count > allowed:
            raise ValueError(
                f"No choice of 4 and 8 bits keeps both max_bytes={max_bytes:,} and "
                f"max_drop={max_drop}. The smallest file within the drop has "
                f"{search.bytes(allowed):,} bytes; the least drop of a file that fits is "
                f"{search.drop(count):.4f}, before any training."
            )
    return BitSearch(
        weight_bits=dict.fromkeys(search.order[:count], 4),
        bytes=search.bytes(count),
        bytes_at_8=bytes_at_8,
        drop=search.drop(count),
        drop_at_8=drop_at_8,
        divergence=measured.divergence(search.bits(count)),
        sensitivity=found,
    )


def _check_bounds(max_bytes: Any, max_drop: Any) -> None:
    if max_bytes is None and max_drop is None:
        raise ValueError("Expected max_bytes or max_drop, or both: how small, or how right.")
    if max_bytes is not None and (isinstance(max_bytes, bool) or max_bytes <= 0):
        raise ValueError(f"Expected max_bytes of 1 or more; got {max_bytes!r}.")
    if max_drop is not None and not 0 <= max_drop <= 1:
        raise ValueError(f"Expected max_drop from 0 to 1, 0.01 being one point; got {max_drop!r}.")


def _in_order(found: Sensitivity) -> list[str]:
    """The layers that can have 4 bits, the cheapest saved byte first."""
    costs = {
        row.path: (row.at_4 - row.at_8) / row.weights
        for row in found.rows
        if row.at_4 is not None and row.weights > 1
    }
    return sorted(costs, key=costs.__getitem__)


class _Search:
    """Choices by how many layers of `order`, from the first, have 4 bits."""

    def __init__(self, measured: Measured, order: list[str]):
        self.order = order
        self._measured = measured
        self._bytes: dict[int, int] = {}
        self._drops: dict[int, float] = {}

    def bits(self, count: int) -> Bits:
        narrow = set(self.order[:count])
        paths = self._measured.rounded.paths
        return {path: (4 if path in narrow else 8, 8) for path in paths}

    def bytes(self, count: int) -> int:
        """Of the file, written and counted."""
        if count not in self._bytes:
            bits = dict.fromkeys(self.order[:count], 4)
            rows = self._measured.first_rows
            small = quantize_aware(self._measured.model, calibration_data=rows, weight_bits=bits)
            with tempfile.TemporaryDirectory() as folder:
                export = export_tflite(small, Path(folder) / "found.tflite", precision="int8")
            self._bytes[count] = export.bytes
        return self._bytes[count]

    def drop(self, count: int) -> float:
        if count not in self._drops:
            self._drops[count] = self._measured.drop(self._measured.answers(self.bits(count)))
        return self._drops[count]

    def least_that_fits(self, most: int) -> int:
        kernels = self._measured.rounded.kernels
        saved = np.cumsum([0, *(sum(n // 2 for n in kernels[path]) for path in self.order)])
        # From about there on by the files themselves.
        count = int(np.searchsorted(saved, self.bytes(0) - most)) if self.bytes(0) > most else 0
        count = min(count, len(self.order))
        while self.bytes(count) > most:
            if count == len(self.order):
                raise ValueError(
                    f"No choice of 4 and 8 bits gives a file of {most:,} bytes: the smallest has "
                    f"{self.bytes(count):,}. Take fewer weights (kd.transfer.shrink)."
                )
            count += 1
        return count

    def most_that_is_right(self, most: float) -> int:
        if self.drop(0) > most:
            raise ValueError(
                f"With all layers at 8 bits {self.drop(0):.4f} is lost before any training, more "
                f"than max_drop={most}. Train with quantize_aware, or leave layers in float by "
                f"skip: sensitivity(model, data) names them."
            )
        low, high = 0, len(self.order)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.drop(middle) <= most else (low, middle - 1)
        return low
