"""Which layers can do with 4 bits, and which want to stay in float."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_distill._records import Record, Table, pairs
from keras_distill.edge.quantize.weights import FLOAT
from keras_distill.edge.search.bounds import Bounds, check_bits
from keras_distill.edge.search.chain import Option, chain
from keras_distill.edge.search.choosing import Choices, check_reachable
from keras_distill.edge.search.files import TrialFiles
from keras_distill.edge.search.measured import Measured
from keras_distill.edge.search.ready import check_model, check_settings
from keras_distill.edge.search.rounded import Rounded
from keras_distill.edge.search.sensitivity import Sensitivity, measure

__all__ = ["BitSearch", "search_bits"]


@dataclass(frozen=True)
class BitSearch(Record):
    """The bits that were chosen, and what they cost.

    Attributes:
      weight_bits: by layer, for `quantize_aware(model, weight_bits=)`: those of 4 bits, and of 32
        where float was allowed.
      bytes, bytes_at_8: of the file as it is, and with all layers at 8 bits.
      drop, drop_at_8: what is lost on the data before any training, 0.01 being one point: accuracy
        where it has labels, else agreement with the reference's classes, else correlation.
      divergence: from the reference, as in `sensitivity`.
      sensitivity: what each layer costs alone.
      latency_p50_ms, latency_p50_ms_at_8: where it was asked for, the median run of the file and
        of that with all layers at 8 bits, on this machine, one row on one thread.
    """

    weight_bits: dict[str, int]
    bytes: int
    bytes_at_8: int
    drop: float
    drop_at_8: float
    divergence: float
    sensitivity: Sensitivity
    latency_p50_ms: float | None = None
    latency_p50_ms_at_8: float | None = None

    def parts(self) -> Iterator[str | Table]:
        """The choice, its price, and the layers."""
        rows = {"4 bits": self._layers(4) or "none", "in float": self._layers(FLOAT)}
        rows |= {
            "bytes": f"{self.bytes:,} ({self.bytes_at_8:,} with all layers at 8 bits)",
            "drop": f"{100 * self.drop:+.2f} points ({100 * self.drop_at_8:+.2f} at 8 bits)",
            "divergence": f"{self.divergence:.2e}",
        }
        if self.latency_p50_ms is not None:
            beside = f"{self.latency_p50_ms_at_8:.4f} at 8 bits"
            rows["latency"] = f"{self.latency_p50_ms:.4f} ms ({beside}), on this machine"
        yield pairs({name: words for name, words in rows.items() if words})
        yield from self.sensitivity.parts()

    def _layers(self, bits: int) -> str:
        return ", ".join(path for path, number in self.weight_bits.items() if number == bits)


def search_bits(
    model: keras.Model,
    data: Any,
    *,
    max_bytes: int | None = None,
    max_drop: float | None = None,
    max_milliseconds: float | None = None,
    bits: Sequence[int] = (4, 8),
    sensitivity: Sensitivity | None = None,
    teacher: Any = None,
    output: Any = "auto",
    show_progress: bool = True,
) -> BitSearch:
    """Chooses 4 or 8 bits for each layer's weights: a file that fits, or the smallest right one.

    Layers go to 4 bits in the order of what a saved byte costs: the divergence that 4 bits add
    beyond 8, over half the layer's weights. `max_bytes` takes the most bits whose file fits, with
    `max_drop` besides the most that keep both; `max_drop` alone the fewest that keep it, each
    choice measured with all its layers together. A layer that is no worse at 4 bits than at 8 has
    4. Activations have 8 bits, in the ranges that were calibrated with 8 for all kernels. What is
    lost is lost before training: go on with
    `quantize_aware(model, weight_bits=found.weight_bits)`, in a Distiller at best.

    `max_milliseconds` takes, in the same order, the first choice whose file is fast enough, alone
    the most bits. Times are taken: the median run of one row on one thread in LiteRT on this
    machine, five times in turns with the file of 8 bits, each time in a fresh process. They are
    noisy, most of all on a busy machine: a budget near to what the file of 8 bits takes is met or
    not by chance. A phone has other kernels: 4 bits or float may be faster there and slower here.

    Args:
      model: a built Functional or Sequential model of Keras 3 in float. It is not changed.
      data: some hundred rows, with labels or without; any data argument. They set the ranges, too.
      max_bytes: the largest int8 file. One is written to a temporary folder and counted.
      max_drop: what may be lost, 0.01 being one point: see `BitSearch.drop`.
      max_milliseconds: the longest median run, as above.
      bits: what a layer's kernels may have: 8, with 4 or 32 or both. 32 leaves that layer in float
        in the file, with what it puts out at 8 bits; it costs four bytes a weight, and its price
        goes into the same order. It is for Dense, convolutions and depthwise ones.
      sensitivity: what `sensitivity` found, or an earlier search's `BitSearch.sensitivity`, of the
        same model, teacher, outputs and rows; None to measure it now, which is most of the time.
      teacher, output: as in `sensitivity`.
      show_progress: a bar over the layers, and one over the files that are timed.

    Returns:
      A `BitSearch`.

    Raises:
      ValueError: no bound is given, or one of no sense; no choice keeps them: the nearest is named;
        a `sensitivity` of another model, other outputs, another teacher or other rows; other
        `bits`, among them 16: LiteRT computes wrong in a file where only some layers have int16
        activations.
      TypeError, ValueError: as `quantize_aware`, `calibrate` and `sensitivity`.

    Example:
      found = search_bits(student, (x_val, y_val), max_bytes=60_000)
      small = quantize_aware(student, calibration_data=x, weight_bits=found.weight_bits)
      less = search_bits(
          student, (x_val, y_val), max_bytes=50_000, sensitivity=found.sensitivity)
    """
    bounds, allowed = Bounds(max_bytes, max_drop, max_milliseconds), check_bits(bits)
    if sensitivity is not None:
        check_model(sensitivity, model)
    measured = Measured(model, data, teacher, output)
    if sensitivity is not None:
        check_settings(sensitivity, measured)
    with TrialFiles(measured.model, data) as files:
        check_reachable(files, _smallest(measured.rounded, allowed), bounds)
        found = sensitivity or measure(measured, show_progress)
        choices = Choices(
            chain(_options(found, measured.rounded, allowed)), measured, files, show_progress
        )
        chosen = choices.chosen(bounds)
        timed = max_milliseconds is not None
        return BitSearch(
            weight_bits={path: number for path, number in chosen.items() if number != 8},
            bytes=files.bytes(chosen),
            bytes_at_8=files.bytes({}),
            drop=choices.drop(chosen),
            drop_at_8=choices.drop({}),
            divergence=measured.divergence(choices.answers(chosen)),
            sensitivity=found,
            latency_p50_ms=choices.milliseconds(chosen) if timed else None,
            latency_p50_ms_at_8=choices.milliseconds({}) if timed else None,
        )


def _smallest(rounded: Rounded, allowed: Sequence[int]) -> dict[str, int]:
    """The choice of the fewest bits, with which each chain begins."""
    weights = {path: sum(some) for path, some in rounded.kernels.items()}
    return {path: 4 for path in rounded.narrow if 4 in allowed and weights[path] > 1}


def _options(
    found: Sensitivity, rounded: Rounded, allowed: Sequence[int]
) -> dict[str, list[Option]]:
    """What each layer that has a choice may have, in bytes."""
    options = {}
    for row in found.rows:
        able = [Option(8, row.weights, row.at_8)]
        if row.path in _smallest(rounded, allowed) and row.at_4 is not None:
            able.append(Option(4, row.weights / 2, row.at_4))
        if FLOAT in allowed and row.path in rounded.wide and row.at_float is not None:
            able.append(Option(FLOAT, 4 * row.weights, row.at_float))
        if len(able) > 1:
            options[row.path] = able
    return options
