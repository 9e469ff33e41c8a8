"""Where a .tflite parts from its Keras model: the error of every layer, in the file's order."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_distill._records import Record, Table
from keras_distill.data import batches
from keras_distill.edge.analysis import Analysis
from keras_distill.edge.debugging.correspondence import LayerTrace, Match
from keras_distill.edge.interface import Interface, in_float32, interface_of
from keras_distill.edge.joins import Part, parts_of
from keras_distill.edge.records import TFLiteExport
from keras_distill.edge.tflite_file import weight_sparsity
from keras_distill.litert.kept_run import WrittenTensor
from keras_distill.litert.runner import TFLiteRunner, load_tflite
from keras_distill.measures.agreement import Moments

_OPEN_BATCH = 8
# Noise of rounding moves an SNR by less than taking one layer for another.
_WRONG_LAYER_DB = 10.0
# A part of a concatenation that has lost so much beyond the whole has too few steps of its range.
_LOST_PART_DB = 10.0
_FIGURES = ("SNR dB", "max error", "correlation")


@dataclass(frozen=True)
class LayerError:
    """One layer's output in the file, beside the Keras model's.

    Attributes:
      layer: the layer's path in the model; `path: part` for what a layer gave to a concatenation
        and lost there, which the whole does not show.
      op: the file's operation that makes it; layers folded into one have one row, the last's.
      dtype, shape: as the file stores it.
      snr_db: 10 x log10(sum(model^2) / sum((model - file)^2)), in decibels; infinite where the
        two are equal.
      max_abs_error: the largest difference.
      correlation: Pearson's, over all values of all rows.
      sparsity: share of zeros among the operation's weights, 0 to 1; None without weights.
    """

    layer: str
    op: str
    dtype: str
    shape: tuple[int, ...]
    snr_db: float
    max_abs_error: float
    correlation: float
    sparsity: float | None = None


@dataclass(frozen=True)
class DebugReport(Record):
    """The layers of a .tflite in its own order.

    Attributes:
      path: the file.
      examples: rows of data that both ran on.
      layers: a `LayerError` each.
      unmatched: operations of the file that are no layer's output, but steps on the way to one.
    """

    path: Path
    examples: int
    layers: tuple[LayerError, ...]
    unmatched: int

    def first_guilty(self, snr_db: float = 10.0) -> LayerError | None:
        """The first layer in the file's order whose SNR is below `snr_db`, or None."""
        # Turned round, so that NaN is guilty, too.
        return next((row for row in self.layers if not row.snr_db >= snr_db), None)

    def parts(self) -> Iterator[str | Table]:
        """A row a layer, and where to look first."""
        columns = ("layer", "op", "dtype", "shape", *_FIGURES)
        rows = tuple(map(_cells, self.layers))
        # A name of the file is looked for, and not found where it is folded.
        yield Table(columns, rows, numbers=_FIGURES, width=10_000, ruled=False)
        guilty = self.first_guilty()
        words = "none" if guilty is None else f"{guilty.layer} ({guilty.snr_db:.1f} dB)"
        left = (
            f"; {self.unmatched} operations inside layers are not listed" if self.unmatched else ""
        )
        yield (f"{self.examples} examples; first layer under 10 dB: {words}{left}.")


def _cells(row: LayerError) -> tuple[str, ...]:
    figures = (f"{row.snr_db:.1f}", f"{row.max_abs_error:.3g}", f"{row.correlation:.5f}")
    return (row.layer, row.op, row.dtype, str(row.shape), *figures)


def debug(
    export: TFLiteExport | TFLiteRunner | str | os.PathLike[str],
    model: keras.Model,
    data: Any,
    *,
    examples: int = 32,
) -> DebugReport:
    """Runs a .tflite with all its tensors kept and compares each layer with the Keras model's.

    An error carries on to the layers behind it: the first guilty one is where to look, with a
    wider range for its activations, or that layer left in float.

    Args:
      export: what `export_tflite` returned, or a path; of any precision.
      model: the Keras 3 model it came from, or one with the same layer names.
      data: any data argument; labels are not used.
      examples: rows to run, the first ones of `data`.

    Returns:
      A `DebugReport`.

    Raises:
      ValueError: no tensor of the file bears the name of a layer of the model; data of another
        shape.
      TypeError: not a Keras 3 model.
      CrashError: LiteRT crashed, in the child that runs what this process has not converted itself.

    Example:
      print(debug(export, model, x_test).first_guilty())
    """
    if examples < 1:
        raise ValueError(f"Expected examples of 1 or more; got {examples}.")
    runner = load_tflite(_path(export))
    model = in_float32(model)
    interface = interface_of(model)
    arrays = _rows(interface, data, examples)
    runner.predict(arrays if len(arrays) > 1 else arrays[0])
    fixed = runner.inputs[0].shape[0]
    trace = LayerTrace(model, interface, fixed)
    file = runner.kept_run()
    written = {one.index: one for one in file.tensors}
    found = trace.matches(file.tensors)
    if not found or not trace.knows(file.tensors):
        names = [tensor.info.name.partition(";")[0] for tensor in file.tensors[:3]]
        raise ValueError(
            f"No tensor of {runner.path} bears the name of a layer of {model.name!r}; the file "
            f"has, for instance, {names}. Give the model that this file was exported from."
        )
    sums = {(m.tensor, layer): _Sums() for m in found for layer in m.layers}
    joined = parts_of(Analysis(model).wrapped)
    parts = {
        pair: [(part, _Sums()) for part in joined.get(trace.paths[pair[1]].partition(":")[0], ())]
        for pair in sums
    }
    for chunk, rows in _chunks(arrays, fixed):
        wanted = list(dict.fromkeys(tensor for tensor, _ in sums))
        ours, theirs = dict(zip(wanted, file.run(chunk, wanted), strict=True)), trace(chunk)
        for (tensor, layer), total in sums.items():
            here, there = ours[tensor][:rows], theirs[layer][:rows]
            total.add(here, there)
            for part, share in parts[tensor, layer]:
                share.add(part.of(here.reshape(there.shape)), part.of(there))
    chosen = _chosen(found, sums)
    zeros = weight_sparsity(runner.path)
    layers: list[LayerError] = []
    for pair in chosen:
        whole = _layer_error(trace.paths[pair[1]], written[pair[0]], sums[pair], zeros)
        layers += [whole, *_lost_parts(whole, parts[pair])]
    unmatched = len(file.tensors) - len(chosen)
    return DebugReport(runner.path, len(arrays[0]), tuple(layers), unmatched)


def _lost_parts(whole: LayerError, parts: list[tuple[Part, _Sums]]) -> Iterator[LayerError]:
    """A row for each part of a concatenation that is far worse than the whole."""
    for part, sums in parts:
        if sums.snr_db() < whole.snr_db - _LOST_PART_DB:
            name = f"{whole.layer}: {part.name}"
            yield LayerError(name, whole.op, whole.dtype, whole.shape, *sums.figures())


def _path(export: Any) -> str | os.PathLike[str]:
    return export.path if isinstance(export, (TFLiteExport, TFLiteRunner)) else export


def _rows(interface: Interface, data: Any, limit: int) -> list[np.ndarray]:
    parts: list[list[Any]] = []
    for x, _, _ in batches(data, batch_size=limit):
        parts.append(interface.flat_inputs(x))
        if sum(len(part[0]) for part in parts) >= limit:
            break
    return [np.concatenate(column)[:limit] for column in zip(*parts, strict=True)]


def _chunks(arrays: list[np.ndarray], fixed: int | None) -> Iterator[tuple[list[Any], int]]:
    """As many rows at once as the file takes, the last ones repeated to fill up; how many count."""
    size = fixed or _OPEN_BATCH
    for start in range(0, len(arrays[0]), size):
        chunk = [array[start : start + size] for array in arrays]
        rows = len(chunk[0])
        if fixed:
            chunk = [array[np.minimum(np.arange(fixed), rows - 1)] for array in chunk]
        yield chunk, rows


class _Sums:
    """Errors summed up batch by batch: all activations at once would not fit into memory."""

    def __init__(self) -> None:
        self.count, self.largest = 0, 0.0
        self.signal = self.noise = 0.0
        self.pair = Moments(1)

    def add(self, file: np.ndarray, model: np.ndarray) -> None:
        a, b = (values.ravel().astype("float64") for values in (file, model))
        error = b - a
        self.count += a.size
        self.largest = float(np.maximum(self.largest, np.abs(error).max()))
        self.signal += float(b @ b)
        self.noise += float(error @ error)
        self.pair.add(a[:, None], b[:, None])

    def figures(self) -> tuple[float, float, float]:
        """SNR in decibels, largest error and correlation."""
        return self.snr_db(), self.largest, self.correlation()

    def snr_db(self) -> float:
        if not self.noise:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf

    def correlation(self) -> float:
        found = float(self.pair.correlation[0])
        # Without spread there is nothing to correlate: alike counts as 1, unlike as 0; so does NaN.
        known = math.isfinite(self.noise) and not math.isnan(found)
        return found if known else float(not self.noise)


def _chosen(found: list[Match], sums: dict[tuple[int, int], _Sums]) -> list[tuple[int, int]]:
    """One tensor a layer: the first that bears its own operation's name, else the last."""
    by_layer: dict[int, Match] = {}
    for match in found:
        layer = _likeliest({layer: sums[match.tensor, layer].snr_db() for layer in match.layers})
        known = by_layer.get(layer)
        if known is None or not known.sure:
            by_layer[layer] = match
    order = {match.tensor: place for place, match in enumerate(found)}
    pairs = [(match.tensor, layer) for layer, match in by_layer.items()]
    return sorted(pairs, key=lambda pair: order[pair[0]])


def _likeliest(snr_db: dict[int, float]) -> int:
    """The last layer, unless another is so much closer that folding must have stopped there."""
    *_, last = snr_db
    best = max(snr_db, key=lambda layer: snr_db[layer])
    return best if snr_db[best] > snr_db[last] + _WRONG_LAYER_DB else last


def _layer_error(
    path: str, tensor: WrittenTensor, sums: _Sums, zeros: Mapping[int, float]
) -> LayerError:
    shape = tuple(int(size or 1) for size in tensor.info.shape)
    figures = sums.figures()
    return LayerError(
        path, tensor.op, tensor.info.dtype, shape, *figures, sparsity=zeros.get(tensor.index)
    )
