"""One .tflite held open by LiteRT.

It imports nothing of this package: a child reads this file without TensorFlow and Keras.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._interpreter import graph_of, operators_of

__all__ = ["Session", "TensorInfo", "dequantize", "has_rows", "quantize"]

ROWS_AT_ONCE = 32
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
        self.inputs = _tensor_infos(self._inputs, inputs)
        self.outputs = _tensor_infos(self._outputs, outputs)

    def predict(self, arrays: list[np.ndarray], batch_size: int | None = None) -> list[np.ndarray]:
        """Runs the file as often as it takes; see `TFLiteRunner.predict`."""
        if not has_rows(self.inputs):
            return self._run(arrays)
        fixed = self.inputs[0].shape[0]
        step = fixed or batch_size or ROWS_AT_ONCE
        rows = len(arrays[0])
        runs: list[list[np.ndarray]] = []
        for start in range(0, rows, step):
            taken = min(step, rows - start)
            # A short last batch is filled up with its last row.
            chosen = np.minimum(np.arange(start, start + (fixed or taken)), rows - 1)
            answers = self._run([array[chosen] for array in arrays])
            runs.append(
                [
                    self._of_rows(answer, info, len(chosen), taken, rows)
                    for answer, info in zip(answers, self.outputs, strict=True)
                ]
            )
        if len(runs) == 1:
            return runs[0]
        return [np.concatenate(column) for column in zip(*runs, strict=True)]

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
        self, answer: np.ndarray, info: TensorInfo, ran: int, taken: int, rows: int
    ) -> np.ndarray:
        """The part of an output that belongs to the first `taken` of the rows that ran.

        An output may have several entries a row, or none that belong to one.
        """
        if answer.ndim and answer.shape[0] == ran:
            return answer[:taken]
        open_rows = self.inputs[0].shape[0] is None
        declared = answer.ndim > 0 and info.shape[:1] == answer.shape[:1]
        if taken == ran == rows:
            return answer
        if answer.ndim and not answer.shape[0] % ran and not (open_rows and declared):
            return answer[: taken * (answer.shape[0] // ran)]
        raise ValueError(
            f"{self._path} answers {info.name!r} with an array of {answer.shape} for {ran} row(s), "
            f"of which no part belongs to one row. Give it one batch at a time"
            + (f": batch_size={rows}." if open_rows else f", of {ran} row(s).")
        )

    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        stored = [quantize(a, info) for a, info in zip(arrays, self.inputs, strict=True)]
        self.before_run()
        if self._signature is not None:
            named = {info.name: a for info, a in zip(self.inputs, stored, strict=True)}
            with self._quiet():
                found = self._signature(**named)
            answers = [found[info.name] for info in self.outputs]
        else:
            self._allocate([array.shape for array in arrays])
            for array, entry in zip(stored, self._inputs, strict=True):
                self._interpreter.set_tensor(entry["index"], array)
            # LiteRT's fused LSTM keeps its last state; the next rows have nothing to do with it.
            self._interpreter.reset_all_variables()
            self._interpreter.invoke()
            answers = [self._interpreter.get_tensor(entry["index"]) for entry in self._outputs]
        return [dequantize(a, info) for a, info in zip(answers, self.outputs, strict=True)]

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
