"""Reading a .tflite as what it is, a flatbuffer, and storing labels behind it."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from keras_distill.litert.runner import LABELS_FILE

_FLOATS = ("float32", "float16", "bfloat16", "float64")
_WEIGHTS = ("float32", "float16", "int8", "int16", "int4")
# Scores that lie so far apart have shares of e to the fourth, 55 to 1.
_COARSE_STEP = 4.0


@dataclass(frozen=True)
class FileContent:
    """What is inside a .tflite; the fields are those of `TFLiteExport`.

    `float_names` are the names of the tensors that float operations write; `coarse_softmax` has the
    steps of the scores that a softmax reads, by the name of what it writes, where those are too
    long to tell scores apart.
    """

    bytes: int
    bytes_zipped: int
    sparsity: float
    ops: dict[str, int]
    dtypes: dict[str, int]
    float_ops: dict[str, int]
    float_names: tuple[str, ...] = ()
    coarse_softmax: dict[str, float] = field(default_factory=dict)


def read_content(path: str | os.PathLike[str]) -> FileContent:
    """Counts operations, tensors and zeros in a .tflite.

    Args:
      path: a file that `load_tflite` opens.

    Returns:
      A `FileContent`.
    """
    from ai_edge_litert import schema_py_generated as schema

    content = Path(path).read_bytes()
    model = schema.Model.GetRootAs(content, 0)
    type_names = _names(schema.TensorType)
    ops: Counter[str] = Counter()
    float_ops: Counter[str] = Counter()
    dtypes: Counter[str] = Counter()
    float_names: list[str] = []
    coarse: dict[str, float] = {}
    for graph in _each(model.Subgraphs, model.SubgraphsLength()):
        tensors = list(_each(graph.Tensors, graph.TensorsLength()))
        kinds = [type_names[tensor.Type()].lower() for tensor in tensors]
        ends = {*graph.InputsAsNumpy().tolist(), *graph.OutputsAsNumpy().tolist()}
        operators = [
            _Operator(_op_name(schema, model.OperatorCodes(one.OpcodeIndex())), *_tensors_of(one))
            for one in _each(graph.Operators, graph.OperatorsLength())
        ]
        # A fused LSTM names tensors besides, of its calibration, that nothing holds.
        held = ends.union(*(one.inputs + one.outputs for one in operators))
        dtypes.update(kinds[index] for index in held)
        inside = {index for index in held - ends if kinds[index] in _FLOATS}
        for one in operators:
            ops[one.name] += 1
            if _is_float(one, operators, kinds, inside):
                float_ops[one.name] += 1
                float_names.append(tensors[one.outputs[0]].Name().decode())
            if one.name == "SOFTMAX" and (step := _step(tensors[one.inputs[0]])) > _COARSE_STEP:
                coarse[tensors[one.outputs[0]].Name().decode()] = step
    return FileContent(
        bytes=len(content),
        bytes_zipped=len(zlib.compress(content, 9)),
        sparsity=_sparsity(model, type_names),
        ops=dict(sorted(ops.items())),
        dtypes=dict(sorted(dtypes.items())),
        float_ops=dict(sorted(float_ops.items())),
        float_names=tuple(float_names),
        coarse_softmax=coarse,
    )


def precision_of(path: str | os.PathLike[str]) -> str:
    """What a .tflite computes in or holds: "integers", "float16" or "float32".

    Args:
      path: a file that `load_tflite` opens.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(Path(path).read_bytes(), 0)
    type_names = _names(schema.TensorType)
    kinds = set()
    for graph in _each(model.Subgraphs, model.SubgraphsLength()):
        for tensor in _each(graph.Tensors, graph.TensorsLength()):
            scaled = tensor.Quantization() is not None and tensor.Quantization().ScaleLength()
            kinds.add("integers" if scaled else type_names[tensor.Type()].lower())
    return next((kind for kind in ("integers", "float16") if kind in kinds), "float32")


def weight_sparsity(path: str | os.PathLike[str]) -> dict[int, float]:
    """The share of zeros among the weights of each operation that has any.

    Args:
      path: a file that `load_tflite` opens.

    Returns:
      By the index of the tensor that the operation writes, in the first graph.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(Path(path).read_bytes(), 0)
    type_names = _names(schema.TensorType)
    graph = model.Subgraphs(0)
    tensors = list(_each(graph.Tensors, graph.TensorsLength()))
    found: dict[int, float] = {}
    for operator in _each(graph.Operators, graph.OperatorsLength()):
        inputs, outputs = _tensors_of(operator)
        counts = [_zeros_of(model, tensors[index], type_names) for index in inputs]
        known = [count for count in counts if count is not None]
        if known:
            share = sum(zeros for zeros, _ in known) / sum(size for _, size in known)
            found |= dict.fromkeys(outputs, share)
    return found


def _each(get: Any, count: int) -> Iterator[Any]:
    return (get(index) for index in range(count))


def _names(enumeration: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _op_name(schema: Any, code: Any) -> str:
    # Codes above 126 do not fit the old field, and old files lack the new one.
    builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    if builtin == schema.BuiltinOperator.CUSTOM:
        return code.CustomCode().decode()
    return _names(schema.BuiltinOperator)[builtin]


@dataclass(frozen=True)
class _Operator:
    """An operator's name, and the tensors that it reads and writes, by number."""

    name: str
    inputs: list[int]
    outputs: list[int]


def _tensors_of(operator: Any) -> tuple[list[int], list[int]]:
    inputs = [operator.Inputs(i) for i in range(operator.InputsLength())]
    outputs = [operator.Outputs(i) for i in range(operator.OutputsLength())]
    # -1 stands for an optional input that is absent.
    return [i for i in inputs if i >= 0], [i for i in outputs if i >= 0]


def _is_float(
    operator: _Operator, operators: list[_Operator], kinds: list[str], inside: set[int]
) -> bool:
    """Whether an operator computes in floating point, or leaves the integers to no purpose."""
    if operator.name == "QUANTIZE":
        return False
    if operator.name != "DEQUANTIZE":
        return any(kinds[index] in _FLOATS for index in operator.inputs + operator.outputs)
    written = set(operator.outputs) & inside
    if not written or kinds[operator.inputs[0]] in _FLOATS:
        return False
    return all(one.name == "QUANTIZE" for one in operators if written & set(one.inputs))


def _step(tensor: Any) -> float:
    """From one integer to the next; 0 of a tensor of real numbers."""
    quantization = tensor.Quantization()
    scaled = quantization is not None and quantization.ScaleLength()
    return float(quantization.Scale(0)) if scaled else 0.0


def _sparsity(model: Any, type_names: dict[int, str]) -> float:
    zeros = total = 0
    seen = set()
    for graph in _each(model.Subgraphs, model.SubgraphsLength()):
        for tensor in _each(graph.Tensors, graph.TensorsLength()):
            found = _zeros_of(model, tensor, type_names)
            if found is None or tensor.Buffer() in seen:
                continue
            seen.add(tensor.Buffer())
            zeros, total = zeros + found[0], total + found[1]
    return zeros / total if total else 0.0


def _zeros_of(model: Any, tensor: Any, type_names: dict[int, str]) -> tuple[int, int] | None:
    """How many numbers of a weight are zero, of how many; None where the tensor is no weight."""
    kind = type_names[tensor.Type()].lower()
    data = model.Buffers(tensor.Buffer()).DataAsNumpy()
    if kind not in _WEIGHTS or tensor.ShapeLength() < 2 or isinstance(data, int):
        return None
    # A tensor stored sparsely holds fewer values than its shape; the rest are zeros.
    size = int(np.prod(tensor.ShapeAsNumpy()))
    return size - int(np.count_nonzero(_numbers(data, kind))), size


def _numbers(data: np.ndarray, kind: str) -> np.ndarray:
    if kind == "int4":
        # Two in a byte; the half that an odd one leaves is zero.
        return np.stack([data & 0x0F, data >> 4])
    return np.frombuffer(data.tobytes(), kind)


def check_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels as a tuple, one line each.

    Raises:
      TypeError: one is no string, or all of them are one string.
      ValueError: one is empty or has a line break.
    """
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise TypeError(f"Expected labels as a list of strings; got {labels!r}.")
    for label in labels:
        if label.splitlines() != [label]:
            raise ValueError(f"Expected each label to be one line of text; got {label!r}.")
    return tuple(labels)


def append_labels(path: str | os.PathLike[str], labels: Sequence[str]) -> None:
    """Appends a zip archive with `labels.txt`, as TFLite lays out its associated files.

    `unzip -p file.tflite labels.txt` and Android's tools find it, and interpreters read past it.
    """
    text = "".join(f"{label}\n" for label in labels)
    with zipfile.ZipFile(path, "a") as archive:
        # Stored under a fixed date: the same export is the same file.
        archive.writestr(zipfile.ZipInfo(LABELS_FILE), text)
