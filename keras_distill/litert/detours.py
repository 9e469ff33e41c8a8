"""A .tflite without what only kept the converter from making integers of a layer."""

from __future__ import annotations

from typing import Any

__all__ = ["straightened"]


def straightened(schema: Any, model: Any) -> None:
    """Leaves out each cast of real numbers to complex ones whose real part alone is read.

    Args:
      schema, model: a .tflite, as `rewriting.Edit` has it.
    """
    for graph in model.subgraphs:
        _straighten(schema, model, graph)


def _straighten(schema: Any, model: Any, graph: Any) -> None:
    names, kinds = schema.BuiltinOperator, schema.TensorType

    def does(operator: Any, builtin: int) -> bool:
        code = model.operatorCodes[operator.opcodeIndex]
        # Codes above 126 do not fit the old field, and old files lack the new one.
        return max(code.builtinCode, code.deprecatedBuiltinCode) == builtin

    came_from = {
        int(one.outputs[0]): int(one.inputs[0])
        for one in graph.operators
        if does(one, names.CAST)
        and graph.tensors[int(one.inputs[0])].type == kinds.FLOAT32
        and graph.tensors[int(one.outputs[0])].type == kinds.COMPLEX64
    }
    ends = {int(index) for index in graph.outputs}
    straight = {
        int(one.outputs[0]): came_from[int(one.inputs[0])]
        for one in graph.operators
        if does(one, names.REAL)
        and int(one.inputs[0]) in came_from
        # An output of the graph keeps its own tensor.
        and int(one.outputs[0]) not in ends
    }
    if not straight:
        return
    kept = [one for one in graph.operators if int(one.outputs[0]) not in straight]
    for one in kept:
        one.inputs = [straight.get(int(index), int(index)) for index in one.inputs]
    read = {int(index) for one in kept for index in one.inputs} | ends
    graph.operators = [
        one for one in kept if int(one.outputs[0]) not in came_from or int(one.outputs[0]) in read
    ]
