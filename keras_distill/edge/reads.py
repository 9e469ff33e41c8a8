"""What a layer does, read from its TensorFlow graph: where its own name does not tell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from keras_distill.graph.replay import Step
from keras_distill.litert.quiet import quiet_tensorflow

__all__ = ["constants", "float_operations", "is_read_exactly", "is_read_whole", "traced"]

# LiteRT computes these on real numbers alone, whatever their ranges.
_FLOAT = frozenset(
    (
        *("Floor", "Ceil", "Round", "Rint", "Sign", "Sin", "Cos", "Pow", "Cumsum", "Conv3D"),
        *("RFFT", "RFFT2D", "IRFFT", "Real", "Imag", "ComplexAbs", "While", "StatelessWhile"),
    )
)

# Operations that hand a tensor on as it is.
_MOVING = frozenset(
    (
        *("Identity", "IdentityN", "Reshape", "StridedSlice", "Slice", "Squeeze", "ExpandDims"),
        *("Transpose", "ConcatV2", "Pack", "Unpack", "Split", "SplitV", "StopGradient", "Tile"),
    )
)
_EXACT = frozenset(("Equal", "NotEqual", "OneHot", "Bucketize"))


def traced(step: Step) -> Any:
    """The concrete function of one step of a model on its inputs; None where it can't be traced."""
    shapes = [tf.TensorSpec(read.shape, read.dtype) for read in step.inputs]

    def call(*tensors: Any) -> Any:
        args, kwargs = step.filled(dict(zip(map(id, step.inputs), tensors, strict=True)))
        return step.operation(*args, **kwargs)

    try:
        with quiet_tensorflow():
            return tf.function(call).get_concrete_function(*shapes)
    except Exception:  # Whatever it may be, it is the layer's own affair.
        return None


def float_operations(step: Step) -> tuple[str, ...]:
    """What TensorFlow operations of a step a file of integers computes in float."""
    found = traced(step)
    operations = [] if found is None else found.graph.get_operations()
    return tuple(dict.fromkeys(one.type for one in operations if one.type in _FLOAT))


def constants(step: Step) -> list[Any]:
    """The numbers that are written into a step of a model, as arrays."""
    found = traced(step)
    operations = [] if found is None else found.graph.get_operations()
    protos = [one.get_attr("value") for one in operations if one.type == "Const"]
    return [tf.make_ndarray(proto) for proto in protos]


def is_read_exactly(tensor: Any) -> bool:
    """Whether some operation reads a tensor as ids, categories or marks."""
    return any(_is_exact(reader, read) for reader, read in _readers(tensor))


def is_read_whole(tensor: Any) -> bool:
    """Whether all that read real numbers make whole ones of them first, or look for a mark."""
    readers = [reader for reader, _ in _readers(tensor)]
    marks = ("Equal", "NotEqual")
    return (
        tensor.dtype.is_floating
        and any(map(_to_whole, readers))
        and all(_to_whole(reader) or reader.type in marks for reader in readers)
    )


def _is_exact(reader: Any, read: Any) -> bool:
    if reader.type in ("GatherV2", "ResourceGather"):
        return reader.inputs[1] is read
    return reader.type in _EXACT or _to_whole(reader)


def _to_whole(reader: Any) -> bool:
    return reader.type == "Cast" and reader.outputs[0].dtype.is_integer


def _readers(tensor: Any) -> Iterator[tuple[Any, Any]]:
    """The operations that read a tensor, seen through those that only move it about."""
    for reader in tensor.consumers():
        halved = reader.type == "Cast" and reader.outputs[0].dtype.is_floating
        if reader.type in _MOVING or halved:
            for output in reader.outputs:
                yield from _readers(output)
        elif reader.type != "Shape":
            yield reader, tensor
