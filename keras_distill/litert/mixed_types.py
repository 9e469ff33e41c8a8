"""A .tflite whose operators read numbers of one type each.

The converter keeps what has no int16 kernel in float, and forgets to bring it the model's inputs,
and constants that an int16 operator reads, too.
"""

from __future__ import annotations

import copy
from typing import Any

__all__ = ["of_one_type"]

# What they answer is no float, so that it does not show that they read one.
_WITHOUT_INT16 = ("ARG_MAX", "ARG_MIN")


def of_one_type(schema: Any, model: Any) -> None:
    """Puts a DEQUANTIZE before each int16 input of an operator that computes in float."""
    for graph in model.subgraphs:
        _mend(schema, model, graph)


def _mend(schema: Any, model: Any, graph: Any) -> None:
    floats: dict[int, int] = {}
    operators = []
    for operator in graph.operators:
        read = [int(index) for index in operator.inputs]
        for place, index in enumerate(read):
            if not _is_forgotten(schema, model, graph, operator, index):
                continue
            if index not in floats:
                floats[index] = _float_twin(schema, graph, index)
                operators.append(_dequantize(schema, model, index, floats[index]))
            read[place] = floats[index]
        operator.inputs = read
        operators.append(operator)
    graph.operators = operators


def _is_forgotten(schema: Any, model: Any, graph: Any, operator: Any, index: int) -> bool:
    code = _builtin(model.operatorCodes[operator.opcodeIndex])
    names = schema.BuiltinOperator
    if index < 0 or code in (names.QUANTIZE, names.DEQUANTIZE, names.CUSTOM):
        return False
    tensor = graph.tensors[index]
    steps = tensor.quantization is not None and tensor.quantization.scale is not None
    if tensor.type != schema.TensorType.INT16 or not steps:
        return False
    beside = [graph.tensors[i].type for i in (*operator.inputs, *operator.outputs) if i >= 0]
    without = code in [getattr(names, name) for name in _WITHOUT_INT16]
    return without or schema.TensorType.FLOAT32 in beside


def _float_twin(schema: Any, graph: Any, index: int) -> int:
    twin = copy.copy(graph.tensors[index])
    twin.name = twin.name + b"_float"
    twin.type, twin.buffer, twin.quantization = schema.TensorType.FLOAT32, 0, None
    graph.tensors.append(twin)
    return len(graph.tensors) - 1


def _dequantize(schema: Any, model: Any, read: int, written: int) -> Any:
    wanted = schema.BuiltinOperator.DEQUANTIZE
    found = [place for place, code in enumerate(model.operatorCodes) if _builtin(code) == wanted]
    if not found:
        code = schema.OperatorCodeT()
        # Version 3 is the first that reads int16.
        code.builtinCode = code.deprecatedBuiltinCode = wanted
        code.version = 3
        model.operatorCodes.append(code)
        found = [len(model.operatorCodes) - 1]
    made = schema.OperatorT()
    made.opcodeIndex, made.inputs, made.outputs = found[0], [read], [written]
    return made


def _builtin(code: Any) -> int:
    # Codes above 126 do not fit the old field, and old files lack the new one.
    return max(code.builtinCode, code.deprecatedBuiltinCode)
