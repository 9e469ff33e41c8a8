"""One .tflite held open by LiteRT.

It imports nothing of this package: a child reads this file without TensorFlow and Keras.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._interpreter import graph_of, operators_of

__all__ = ["Session", "TensorInfo", "dequantize", "has_rows", "quantize"]

ROWS_AT_ONCE = 32
# Of fewer rows a run, as many are brought into the stored numbers together.
_ROWS_STORED = 64
# Operators that leave a number's meaning as it is.
_PASSING = frozenset(
    ("CAST", "DEQUANTIZE", "EXPAND_DIMS", "QUANTIZE", "RESHAPE", "RESIZE_BILINEAR", "SQUEEZE")
)


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a .tflite. `shape` has None where a size is open.

    real value = scale x (stored value - zero_point); scale is 0.0 where nothing is quantised.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float
    zero_point: int


class Session:
    """An open .tflite, one of its signatures chosen.

    Attributes:
      signatures: the names of all that it has.
      inputs, outputs: a `TensorInfo` each, in the file's order.
      before_run: is called before each run.
    """

    def __init__(
        self,
        path: str,
        num_threads: int = 1,
        signature: str | None = None,
        quiet: Callable[[], Any] = contextlib.nullcontext,
    ):
        from ai_edge_litert.interpreter import Interpreter

        self._path, self._quiet = path, quiet
        self.before_run: Callable[[], None] = lambda: None
        self._shapes: list[tuple[int, ...]] | None = None
        with quiet():
            try:
                self._interpreter = Interpreter(model_path=path, num_threads=num_threads)
            except (ValueError, RuntimeError) as error:
                raise ValueError(
                    f"LiteRT cannot open {path}: {_mend(error)} The file may be cut short; export "
                    f"it again."
                ) from error
            try:
                self._read_interface(signature)
            # LiteRT checks no index of a signature before it is followed.
            except (TypeError, IndexError, KeyError, RuntimeError, UnicodeDecodeError) as error:
                raise ValueError(
                    f"LiteRT opens {path}, but its inputs and outputs can't be read: the file is "
                    f"damaged. Export it again."
                ) from error

    def _read_interface(self, asked: str | None) -> None:
        found = self._interpreter.get_signature_list()
        runners = {name: self._interpreter.get_signature_runner(name) for name in found}
        self.signatures = tuple(runners)
        if asked is not None and asked not in runners:
            raise ValueError(f"{self._path} has the signatures {list(runners)}; got {asked!r}.")
        # Without one asked for it is the first graph, whatever the names are sorted by.
        main = next((name for name in runners if not graph_of(runners[name])), None)
        chosen = asked or main
        self._signature = runners[chosen] if chosen not in (None, main) else None
        inputs = runners[chosen].get_input_details() if chosen else {}
        outputs = runners[chosen].get_output_details() if chosen else {}
        if self._signature is None:
            self._inputs = self._interpreter.get_input_details()
            self._outputs = self._interpreter.get_output_details()
        else:
            self._inputs, self._outputs = list(inputs.values()), list(outputs.values())
        self._read = [entry["index"] for entry in self._inputs]
        self._written = [entry["index"] for entry in self._outputs]
        self.inputs = _tensor_infos(self._inputs, inputs)
        self.outputs = _tensor_infos(self._outputs, outputs)

    def predict(self, arrays: list[np.ndarray], batch_size: int | None = None) -> list[np.ndarray]:
        """Runs the file as often as it takes; see `TFLiteRunner.predict`."""
        if has_rows(self.inputs):
            answers = self._by_rows(arrays, batch_size)
        else:
            (answers,) = self._runs([self._stored(arrays)])
        return [dequantize(a, info) for a, info in zip(answers, self.outputs, strict=True)]

    def _by_rows(self, arrays: list[np.ndarray], batch_size: int | None) -> list[np.ndarray]:
        fixed = self.inputs[0].shape[0]
        step = fixed or batch_size or ROWS_AT_ONCE
        rows = len(arrays[0])
        full = rows - rows % step
        # A run may take microseconds: what can be done for several of them at once, is.
        block = step * max(1, _ROWS_STORED // step)
        starts = [*range(0, full, block), *([full] if full < rows else [])]
        parts = []
        for start, end in zip(starts, [*starts[1:], rows], strict=True):
            ran = min(step, end - start)
            stored = self._stored([array[start:end] for array in arrays])
            if fixed and ran < fixed:
                # A short last batch is filled up with its last row.
                stored = [array[np.minimum(np.arange(fixed), ran - 1)] for array in stored]
                ran = fixed
            pieces = [[a[i : i + ran] for i in range(0, len(a), ran)] for a in stored]
            columns = zip(*self._runs(zip(*pieces, strict=True)), strict=True)
            parts.append(
                [
                    self._of_rows(column, info, ran, end - start, rows)
                    for column, info in zip(columns, self.outputs, strict=True)
                ]
            )
        return list(map(_joined, zip(*parts, strict=True)))

    def _stored(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        return [quantize(a, info) for a, info in zip(arrays, self.inputs, strict=True)]

    def endings(self) -> dict[str, str | None]:
        """See `TFLiteRunner.endings`."""
        makers = {} if self._signature is not None else _makers(self._interpreter)
        found = {}
        for info, entry in zip(self.outputs, self._outputs, strict=True):
            maker = makers.get(entry["index"])
            while maker is not None and maker[0] in _PASSING:
                maker = makers.get(maker[1])
            found[info.name] = maker and maker[0]
        return found

    def _of_rows(
        self, answers: Sequence[np.ndarray], info: TensorInfo, ran: int, taken: int, rows: int
    ) -> np.ndarray:
        """An output of some runs of `ran` rows each: the part that belongs to the first `taken`.

        An output may have several entries a row, or none that belong to one.
        """
        if taken == ran == rows:
            return answers[0]
        open_rows = self.inputs[0].shape[0] is None
        for shape in {answer.shape for answer in answers}:
            declared = open_rows and info.shape[:1] == shape[:1]
            if not shape or (shape[0] != ran and (shape[0] % ran or declared)):
                raise ValueError(
                    f"{self._path} answers {info.name!r} with an array of {shape} for {ran} "
                    f"row(s), of which no part belongs to one row. Give it one batch at a time"
                    + (f": batch_size={rows}." if open_rows else f", of {ran} row(s).")
                )
        found = _joined(answers)
        return found[: taken * (len(found) // ran)] if taken < ran else found

    def _runs(self, inputs: Iterable[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
        """The outputs of each run, as the file stores them; `inputs` are of the same shapes."""
        if self._signature is not None:
            return [self._signed_run(self._signature, stored) for stored in inputs]
        interpreter = self._interpreter
        found: list[list[np.ndarray]] = []
        for stored in inputs:
            self.before_run()
            if not found:
                self._allocate([array.shape for array in stored])
            for index, array in zip(self._read, stored, strict=True):
                interpreter.set_tensor(index, array)
            # LiteRT's fused LSTM keeps its last state; the next rows have nothing to do with it.
            interpreter.reset_all_variables()
            interpreter.invoke()
            found.append([interpreter.get_tensor(index) for index in self._written])
        return found

    def _signed_run(self, signature: Any, stored: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.before_run()
        named = {info.name: array for info, array in zip(self.inputs, stored, strict=True)}
        with self._quiet():
            answers = signature(**named)
        return [answers[info.name] for info in self.outputs]

    def _allocate(self, shapes: list[tuple[int, ...]]) -> None:
        if self._shapes == shapes:
            return
        with self._quiet():
            try:
                for shape, entry, info in zip(shapes, self._inputs, self.inputs, strict=True):
                    if None in info.shape:
                        self._interpreter.resize_tensor_input(entry["index"], shape)
                self._interpreter.allocate_tensors()
            except RuntimeError as error:
                raise ValueError(f"LiteRT cannot run {self._path}: {_mend(error)}") from error
        self._shapes = shapes


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def has_rows(inputs: tuple[TensorInfo, ...]) -> bool:
    """Whether all inputs have the same first size, fixed or open."""
    sizes = {info.shape[:1] for info in inputs}
    return len(sizes) == 1 and () not in sizes


def quantize(values: np.ndarray, info: TensorInfo) -> np.ndarray:
    """Real values as the file stores them: rounded to the nearest step and clipped.

    >>> quantize(np.array([0.0, 0.26, 99.0]), TensorInfo("x", (3,), "int8", 0.5, -1))
    array([ -1,   0, 127], dtype=int8)
    """
    dtype = np.dtype(info.dtype)
    if not info.scale:
        return values.astype(dtype, copy=False)
    if np.isnan(values).any():
        raise ValueError(f"Expected real values for the quantised input {info.name!r}; got NaN.")
    limits = np.iinfo(dtype)
    steps = np.rint(values / np.float32(info.scale)) + info.zero_point
    return np.clip(steps, limits.min, limits.max).astype(dtype)


def dequantize(values: np.ndarray, info: TensorInfo) -> np.ndarray:
    """What the file stores as real float32 values; unquantised whole numbers stay as they are."""
    if info.scale:
        return (values.astype("float32") - info.zero_point) * np.float32(info.scale)
    return values.astype("float32") if values.dtype == np.float16 else values


def _makers(interpreter: Any) -> dict[int | None, tuple[str, int | None]]:
    """The operator that writes each tensor, by its index, and that one's first input."""
    found: dict[int | None, tuple[str, int | None]] = {}
    for details in operators_of(interpreter):
        # A delegate writes the same tensors again as the operators that it runs.
        if "delegate" not in details["op_name"].lower():
            source = int(details["inputs"][0]) if len(details["inputs"]) else None
            found |= {int(index): (details["op_name"], source) for index in details["outputs"]}
    return found


def _mend(error: Exception) -> str:
    if "Flex delegate" in str(error):
        return (
            "it uses Select TF ops, and neither LiteRT nor TensorFlow ships the Flex delegate "
            "for Python. It runs on a device that links it; here, export without allow_flex."
        )
    return f"{error}."


def _tensor_infos(entries: list[dict[str, Any]], named: dict[str, Any]) -> tuple[TensorInfo, ...]:
    """By the signature's names; a tensor that is two outputs has two."""
    names: dict[int, list[str]] = {}
    for name, entry in named.items():
        names.setdefault(entry["index"], []).append(name)
    return tuple(_tensor_info(entry, names.get(entry["index"])) for entry in entries)


def _tensor_info(entry: dict[str, Any], names: list[str] | None) -> TensorInfo:
    shape = tuple(None if size < 0 else int(size) for size in entry["shape_signature"])
    scale, zero_point = entry["quantization"]
    name = names.pop(0) if names else entry["name"]
    return TensorInfo(name, shape, np.dtype(entry["dtype"]).name, float(scale), int(zero_point))
