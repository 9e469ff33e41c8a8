"""One .tflite held open by LiteRT that keeps every tensor of a run, for who looks inside it.

As `session`, it imports nothing of this package but what a child has as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._interpreter import operators_of
from .session import TensorInfo, dequantize, quantize

__all__ = ["KeptRun", "WrittenTensor"]

_RECASTS = ("QUANTIZE", "DEQUANTIZE")


@dataclass(frozen=True)
class WrittenTensor:
    """A tensor that an operator writes; `output` is its number among the file's outputs, or None.

    What is only recast into an output counts as that output.
    """

    index: int
    op: str
    info: TensorInfo
    output: int | None = None


class KeptRun:
    """An open .tflite; `tensors` are what its operators write, in its order, without recasts.

    Read from ai-edge-litert 2.3, `Interpreter._get_ops_details`: without it nothing tells the
    operators.
    """

    def __init__(self, path: str, quiet: Callable[[], Any] = contextlib.nullcontext):
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        with quiet():
            self._interpreter = Interpreter(
                model_path=path,
                experimental_preserve_all_tensors=True,
                # A delegate keeps the tensors inside it to itself.
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            )
            self._interpreter.allocate_tensors()
        details = {entry["index"]: entry for entry in self._interpreter.get_tensor_details()}
        operators = operators_of(self._interpreter)
        outputs = self._output_numbers(operators)
        self.tensors = tuple(
            WrittenTensor(int(i), one["op_name"], _info(details[i]), outputs.get(int(i)))
            for one in operators
            if one["op_name"] not in (*_RECASTS, "DELEGATE")
            # -1 stands for an output that is left out.
            for i in one["outputs"]
            if i in details
        )
        self._infos = {one.index: one.info for one in self.tensors}

    def run(self, arrays: list[np.ndarray], wanted: Sequence[int]) -> list[np.ndarray]:
        """Runs the file on arrays of just its shapes: the tensors `wanted`, in real units."""
        entries = self._interpreter.get_input_details()
        if any(tuple(e["shape"]) != a.shape for e, a in zip(entries, arrays, strict=True)):
            for entry, array in zip(entries, arrays, strict=True):
                self._interpreter.resize_tensor_input(entry["index"], array.shape)
            self._interpreter.allocate_tensors()
        for entry, array in zip(entries, arrays, strict=True):
            self._interpreter.set_tensor(entry["index"], quantize(array, _info(entry)))
        self._interpreter.reset_all_variables()
        self._interpreter.invoke()
        return [dequantize(self._interpreter.get_tensor(i), self._infos[i]) for i in wanted]

    def _output_numbers(self, operators: list[dict[str, Any]]) -> dict[int, int]:
        entries = self._interpreter.get_output_details()
        found = {int(entry["index"]): number for number, entry in enumerate(entries)}
        for operator in reversed(operators):
            if operator["op_name"] in _RECASTS and int(operator["outputs"][0]) in found:
                found[int(operator["inputs"][0])] = found[int(operator["outputs"][0])]
        return found


def _info(entry: dict[str, Any]) -> TensorInfo:
    scale, zero_point = entry["quantization"]
    shape = tuple(int(size) for size in entry["shape"])
    dtype = np.dtype(entry["dtype"]).name
    return TensorInfo(entry["name"], shape, dtype, float(scale), int(zero_point))
