"""Little .tflite files built by hand: y = x W + b an output, at once, without a converter."""

from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

TYPES = {"float32": 0, "float16": 1, "int32": 2, "int64": 4, "int8": 9}


class _Builder:
    def __init__(self):
        self.graph, self.model = schema.SubGraphT(), schema.ModelT()
        self.model.buffers, self.model.operatorCodes = [schema.BufferT()], []
        self.graph.tensors, self.graph.operators = [], []
        self.graph.inputs, self.graph.outputs = [], []

    def tensor(self, name, shape, dtype, values=None, scale=None, zero_point=0):
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name, list(shape), TYPES[dtype], 0
        if values is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.asarray(values, dtype).tobytes(), "uint8")
            made.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        if scale is not None:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale = [scale]
            made.quantization.zeroPoint = [zero_point]
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def operator(self, name, inputs, outputs, options=None, version=1):
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
        code.version = version
        made = schema.OperatorT()
        made.opcodeIndex = len(self.model.operatorCodes)
        self.model.operatorCodes.append(code)
        made.inputs, made.outputs = inputs, outputs
        if options is not None:
            kind = type(options).__name__.removesuffix("T")
            made.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            made.builtinOptions = options
        self.graph.operators.append(made)

    def content(self):
        self.model.version, self.model.description = 3, "by hand"
        self.model.subgraphs = [self.graph]
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def dense_file(path, heads, precision="float32", end=None, input_range=4.0, output_range=None):
    """Writes a file of one input `x` and an output `(x W + b)` for each of `heads`.

    Args:
      path: of the file.
      heads: weights `(inputs, units)` and bias by the output's name.
      precision: float32, float16 (weights) or int8 (all of it).
      end: None, "LOGISTIC", or "ARG_MAX" of the units.
      input_range, output_range: at int8, the largest number that has a step.
    """
    made = _Builder()
    size = len(next(iter(heads.values()))[0])
    whole = precision == "int8"
    kind, steps = ("int8", input_range / 127) if whole else ("float32", None)
    made.graph.inputs = [made.tensor("x", (1, size), kind, scale=steps)]
    for name, (weights, bias) in heads.items():
        weights, bias = np.asarray(weights, "float64").T, np.asarray(bias, "float64")
        shape = (1, len(bias))
        if whole:
            fine = np.abs(weights).max() / 127 or 1.0
            w = made.tensor("w", weights.shape, "int8", np.rint(weights / fine), fine)
            stored = np.rint(bias / (steps * fine))
            b = made.tensor("b", bias.shape, "int32", stored, steps * fine)
            y = made.tensor(name, shape, "int8", scale=output_range / 127)
        else:
            w = made.tensor("w", weights.shape, precision, weights)
            b = made.tensor("b", bias.shape, "float32", bias)
            if precision == "float16":
                half, w = w, made.tensor("w32", weights.shape, "float32")
                made.operator("DEQUANTIZE", [half], [w], version=3)
            y = made.tensor(name if end is None else f"{name}_before", shape, "float32")
        made.operator(
            "FULLY_CONNECTED",
            [*made.graph.inputs, w, b],
            [y],
            schema.FullyConnectedOptionsT(),
            version=4 if whole else 1,
        )
        if end == "LOGISTIC":
            y, before = made.tensor(name, shape, "float32"), y
            made.operator("LOGISTIC", [before], [y])
        elif end == "ARG_MAX":
            axis = made.tensor("axis", (), "int32", 1)
            options = schema.ArgMaxOptionsT()
            options.outputType = TYPES["int64"]
            y, before = made.tensor(name, (1,), "int64"), y
            made.operator("ARG_MAX", [before, axis], [y], options)
        made.graph.outputs.append(y)
    path = Path(path)
    path.write_bytes(made.content())
    return path
