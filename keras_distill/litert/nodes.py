"""Nodes of a SavedModel's functions: what makes and reads them, and new ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "constant",
    "int32",
    "is_real",
    "maker_of",
    "new_node",
    "output_of",
    "readers_of",
    "renamed",
]

# What TensorFlow calls the output of an operation, where it is not "output".
_OUTPUTS = {
    **dict.fromkeys(("Neg", "Square", "Cast", "Exp", "LogicalNot"), "y"),
    **dict.fromkeys(("Sub", "Mul", "AddV2", "Equal", "NotEqual", "Less"), "z"),
    **dict.fromkeys(("FloorDiv", "Minimum", "SquaredDifference", "Maximum"), "z"),
    **dict.fromkeys(("Relu", "Selu"), "activations"),
    "FakeQuantWithMinMaxVars": "outputs",
}


def maker_of(read: str, makers: Mapping[str, Any]) -> Any:
    """The node whose output `read` names, of the nodes of a function by name; None for no node."""
    return makers.get(read.split(":")[0])


def output_of(node: Any) -> str:
    """How other nodes of its function read a node's first output."""
    return f"{node.name}:{_OUTPUTS.get(node.op, 'output')}:0"


def int32() -> int:
    """TensorFlow's number for the type."""
    import tensorflow as tf

    return tf.int32.as_datatype_enum


def is_real(kind: int) -> bool:
    """Whether a type, by TensorFlow's number, is one of real numbers."""
    import tensorflow as tf

    return tf.dtypes.as_dtype(kind).is_floating


def constant(near: Any, name: str, value: Any, kind: int) -> Any:
    """A node that gives a number, or an array of them, named below the node `near`."""
    import tensorflow as tf

    made = new_node(near, name, "Const", [], dtype=kind)
    made.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value, tf.dtypes.as_dtype(kind)))
    return made


def new_node(near: Any, name: str, operation: str, inputs: list[str], **kinds: int) -> Any:
    """A node named below the node `near`; `kinds` are its attributes that are types."""
    made = type(near)(name=f"{near.name}/{name}", op=operation, input=inputs)
    for attribute, kind in kinds.items():
        made.attr[attribute].type = kind
    return made


def renamed(node: Any, operation: str, inputs: list[str], **kinds: int) -> Any:
    """A node that answers under the name of `node`."""
    made = new_node(node, "", operation, inputs, **kinds)
    made.name = node.name
    return made


def readers_of(node: Any, makers: Mapping[str, Any]) -> list[Any]:
    """The nodes of a function that read a node's first output."""
    read = output_of(node)
    return [other for other in makers.values() if read in other.input]
