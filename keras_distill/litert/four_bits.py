"""A .tflite whose kernels of 4 bits take half a byte a weight.

The converter knows int8 alone: of a kernel with the values k * step, k from -7 to 7, it makes the
integers round(127 k / 7). They are turned back into k, and two of them are put into a byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["pack"]

MOST, MOST_OF_INT8 = 7, 127
_SPELLED = np.rint(np.arange(-MOST, MOST + 1) * MOST_OF_INT8 / MOST)
_READERS = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D")


def pack(schema: Any, model: Any, sizes: Sequence[int]) -> None:
    """Makes kernels of 4 bits INT4.

    Args:
      schema, model: a .tflite, as `rewriting.Edit` has it.
      sizes: how many numbers each kernel of 4 bits has; other kernels stay as they are.
    """
    for graph in model.subgraphs:
        for operator in graph.operators:
            if _reads_kernels(schema, model.operatorCodes[operator.opcodeIndex]):
                x, kernel = (graph.tensors[int(index)] for index in operator.inputs[:2])
                if _has_no_kernel(schema, model, operator, x):
                    continue
                _pack(schema, model, kernel, sizes)
                if kernel.type == schema.TensorType.INT4:
                    _fit_bias(schema, model, graph, operator)
    _forget_unread(model)


def _reads_kernels(schema: Any, code: Any) -> bool:
    known = [getattr(schema.BuiltinOperator, name) for name in _READERS]
    return max(code.builtinCode, code.deprecatedBuiltinCode) in known


def _has_no_kernel(schema: Any, model: Any, operator: Any, x: Any) -> bool:
    """Beside real numbers LiteRT has no depthwise convolution with INT4."""
    code = model.operatorCodes[operator.opcodeIndex]
    is_depthwise = schema.BuiltinOperator.DEPTHWISE_CONV_2D in (
        code.builtinCode, code.deprecatedBuiltinCode
    )  # fmt: skip
    return is_depthwise and x.type == schema.TensorType.FLOAT32


def _pack(schema: Any, model: Any, tensor: Any, sizes: Sequence[int]) -> None:
    """Makes the tensor INT4 if it is a kernel of 4 bits."""
    data = model.buffers[tensor.buffer].data
    if tensor.type != schema.TensorType.INT8 or data is None:
        return
    spelled = np.frombuffer(bytes(data), "int8")
    if spelled.size not in sizes or not np.isin(spelled, _SPELLED).all():
        return
    steps = np.rint(spelled * (MOST / MOST_OF_INT8)).astype("int8")
    tensor.type = schema.TensorType.INT4
    tensor.quantization.scale = np.asarray(tensor.quantization.scale, "float32") * np.float32(
        MOST_OF_INT8 / MOST
    )
    tensor.buffer = _new_buffer(schema, model, _in_pairs(steps))


def _in_pairs(steps: np.ndarray) -> np.ndarray:
    """Two in a byte, the first in its lower half."""
    halves = np.append(steps, np.zeros(steps.size % 2, "int8")).view("uint8") & 0x0F
    return halves[0::2] | (halves[1::2] << 4)


def _fit_bias(schema: Any, model: Any, graph: Any, operator: Any) -> None:
    """An int32 bias counts in the product of its neighbours' steps, which is another now."""
    places = [int(index) for index in operator.inputs]
    if len(places) < 3 or places[2] < 0:
        return
    x, kernel, bias = (graph.tensors[index] for index in places[:3])
    if bias.type != schema.TensorType.INT32:
        return
    old = np.asarray(bias.quantization.scale, "float64")
    new = np.float32(x.quantization.scale[0]) * np.asarray(kernel.quantization.scale, "float32")
    # Another operator may read it, too.
    if np.allclose(old, new):
        return
    counted = np.frombuffer(bytes(model.buffers[bias.buffer].data), "<i4")
    found = np.rint(counted * old / new.astype("float64")).astype("<i4")
    bias.quantization.scale = new
    bias.buffer = _new_buffer(schema, model, found.view("uint8"))


def _new_buffer(schema: Any, model: Any, data: np.ndarray) -> int:
    made = schema.BufferT()
    made.data = data
    model.buffers.append(made)
    return len(model.buffers) - 1


def _forget_unread(model: Any) -> None:
    """Empties the buffers that nothing reads any more."""
    read = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    read |= {one.buffer for one in model.metadata or ()}
    for number, buffer in enumerate(model.buffers):
        if number not in read:
            buffer.data = None
