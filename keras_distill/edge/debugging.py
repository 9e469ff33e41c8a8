"""Where a .tflite parts from its Keras model: the error of every layer, in the file's order."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_distill.litert.runner import (
    TensorInfo,
    TFLiteRunner,
    dequantize,
    load_tflite,
    quantize,
    quiet_stderr,
)

from .._records import Record, Table
from ..data import batches
from .correspondence import FileTensor, LayerTrace, Match
from .interface import Interface, in_float32, interface_of
from .records import TFLiteExport

_OPEN_BATCH = 8
# Noise of rounding moves an SNR by less than taking one layer for another.
_WRONG_LAYER_DB = 10.0
_FIGURES = ("SNR dB", "max error", "correlation")
_RECASTS = ("QUANTIZE", "DEQUANTIZE")


@dataclass(frozen=True)
class LayerError:
    """One layer's output in the file, beside the Keras model's.

    Attributes:
      layer: the layer's path in the model.
      op: the file's operation that makes it; layers folded into one have one row, the last's.
      dtype, shape: as the file stores it.
      snr_db: 10 x log10(sum(model^2) / sum((model - file)^2)), in decibels; infinite where the
        two are equal.
      max_abs_error: the largest difference.
      correlation: Pearson's, over all values of all rows.
    """

    layer: str
    op: str
    dtype: str
    shape: tuple[int, ...]
    snr_db: float
    max_abs_error: float
    correlation: float


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
        yield (
            f"{self.examples} examples; first layer under 10 dB: {words}; {self.unmatched} "
            f"operations inside layers are not listed."
        )


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
    file = _File(runner)
    found = trace.matches(file.tensors)
    if not found or not trace.knows(file.tensors):
        names = [tensor.name.partition(";")[0] for tensor in file.tensors[:3]]
        raise ValueError(
            f"No tensor of {runner.path} bears the name of a layer of {model.name!r}; the file "
            f"has, for instance, {names}. Give the model that this file was exported from."
        )
    sums = {(m.tensor, layer): _Sums() for m in found for layer in m.layers}
    for chunk, rows in _chunks(arrays, fixed):
        ours, theirs = file.run(chunk), trace(chunk)
        for (tensor, layer), total in sums.items():
            total.add(ours(tensor)[:rows], theirs[layer][:rows])
    chosen = _chosen(found, sums)
    layers = tuple(_layer_error(trace, file, *pair, sums[pair]) for pair in chosen)
    return DebugReport(runner.path, len(arrays[0]), layers, len(file.tensors) - len(layers))


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


class _File:
    """A .tflite that keeps every tensor; `tensors` are the operations' outputs in its order."""

    def __init__(self, runner: TFLiteRunner):
        self._inputs = runner.inputs
        self._interpreter = _open(runner.path)
        details = {entry["index"]: entry for entry in self._interpreter.get_tensor_details()}
        operators = self._interpreter._get_ops_details()
        outputs = _output_numbers(self._interpreter, operators)
        self.infos: dict[int, TensorInfo] = {}
        self.tensors: list[FileTensor] = []
        for operator in operators:
            if operator["op_name"] in (*_RECASTS, "DELEGATE"):
                continue
            # -1 stands for an output that is left out.
            for index in (int(i) for i in operator["outputs"] if i in details):
                info = self.infos[index] = _info(details[index])
                name = details[index]["name"]
                self.tensors.append(
                    FileTensor(index, name, operator["op_name"], info.shape, outputs.get(index))
                )

    def run(self, arrays: list[np.ndarray]) -> Callable[[int], np.ndarray]:
        """Runs the file; what comes back reads a tensor of that run in real units."""
        entries = self._interpreter.get_input_details()
        if any(tuple(e["shape"]) != a.shape for e, a in zip(entries, arrays, strict=True)):
            for entry, array in zip(entries, arrays, strict=True):
                self._interpreter.resize_tensor_input(entry["index"], array.shape)
            self._interpreter.allocate_tensors()
        for entry, array, info in zip(entries, arrays, self._inputs, strict=True):
            self._interpreter.set_tensor(entry["index"], quantize(array, info))
        self._interpreter.invoke()
        return lambda index: dequantize(self._interpreter.get_tensor(index), self.infos[index])


def _open(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    with quiet_stderr():
        interpreter = Interpreter(
            model_path=os.fspath(path),
            experimental_preserve_all_tensors=True,
            # A delegate keeps the tensors inside it to itself.
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        interpreter.allocate_tensors()
    return interpreter


def _output_numbers(interpreter: Any, operators: list[dict[str, Any]]) -> dict[int, int]:
    """The file's outputs, and what is only recast into one, by tensor."""
    found = {entry["index"]: i for i, entry in enumerate(interpreter.get_output_details())}
    for operator in reversed(operators):
        if operator["op_name"] in _RECASTS and operator["outputs"][0] in found:
            found[int(operator["inputs"][0])] = found[operator["outputs"][0]]
    return found


def _info(entry: dict[str, Any]) -> TensorInfo:
    scale, zero_point = entry["quantization"]
    shape = tuple(int(size) for size in entry["shape"])
    dtype = np.dtype(entry["dtype"]).name
    return TensorInfo(entry["name"], shape, dtype, float(scale), int(zero_point))


class _Sums:
    """Errors summed up batch by batch: all activations at once would not fit into memory."""

    def __init__(self) -> None:
        self.count, self.largest = 0, 0.0
        self.moments = np.zeros(6)

    def add(self, file: np.ndarray, model: np.ndarray) -> None:
        a, b = (values.ravel().astype("float64") for values in (file, model))
        error = b - a
        self.count += a.size
        self.largest = float(np.maximum(self.largest, np.abs(error).max()))
        self.moments += [a.sum(), b.sum(), a @ a, b @ b, a @ b, error @ error]

    def snr_db(self) -> float:
        signal, noise = self.moments[3], self.moments[5]
        if not noise:
            return math.inf
        return 10 * math.log10(signal / noise) if signal else -math.inf

    def correlation(self) -> float:
        a, b, aa, bb, ab, noise = self.moments
        n = self.count
        spread = (aa - a * a / n) * (bb - b * b / n)
        # Without spread there is nothing to correlate: alike counts as 1, unlike as 0.
        if not spread > 0:
            return float(not noise)
        return float(np.clip((ab - a * b / n) / math.sqrt(spread), -1, 1))


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
    trace: LayerTrace, file: _File, tensor: int, layer: int, sums: _Sums
) -> LayerError:
    op = next(found.op for found in file.tensors if found.index == tensor)
    info = file.infos[tensor]
    return LayerError(
        layer=trace.paths[layer],
        op=op,
        dtype=info.dtype,
        shape=tuple(int(size or 1) for size in info.shape),
        snr_db=sums.snr_db(),
        max_abs_error=sums.largest,
        correlation=sums.correlation(),
    )
