"""Nodes of a SavedModel's functions: what makes and reads them, and new ones."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

__all__ = [
    "Nodes",
    "constant",
    "copied",
    "int32",
    "is_real",
    "maker_of",
    "new_node",
    "output_of",
    "readers_of",
    "remembered",
    "renamed",
    "value_of",
]

# What TensorFlow calls the output of an operation, where it is not "output".
_OUTPUTS = {
    **dict.fromkeys(("Neg", "Square", "Cast", "Exp", "LogicalNot"), "y"),
    **dict.fromkeys(("Sub", "Mul", "AddV2", "Equal", "NotEqual", "Less"), "z"),
    **dict.fromkeys(("FloorDiv", "Minimum", "SquaredDifference", "Maximum"), "z"),
    **dict.fromkeys(("Relu", "Selu"), "activations"),
    "FakeQuantWithMinMaxVars": "outputs",
}


class Nodes(dict[str, Any]):
    """The nodes of a function by name, which stay as they are."""

    def __init__(self, nodes: Iterable[Any]):
        super().__init__((node.name, node) for node in nodes)
        # What was asked of them, with the answer.
        self.answers: dict[tuple, Any] = {}

    @functools.cached_property
    def readers(self) -> dict[str, list[Any]]:
        """The nodes that read an output, by what they call it."""
        found: dict[str, list[Any]] = {}
        for node in self.values():
            for read in dict.fromkeys(node.input):
                found.setdefault(read, []).append(node)
        return found


def remembered(question: Callable[..., Any]) -> Callable[..., Any]:
    """Asks once of each node or output: a walk to a tensor that is read twice doubles there."""

    @functools.wraps(question)
    def asked(of: Any, makers: Nodes, *more: Any) -> Any:
        key = question, getattr(of, "name", of), more
        if key not in makers.answers:
            makers.answers[key] = question(of, makers, *more)
        return makers.answers[key]

    return asked


def maker_of(read: str, makers: Nodes) -> Any:
    """The node whose output `read` names; None for no node."""
    return makers.get(read.split(":")[0])


def value_of(node: Any) -> Any:
    """A constant's array; None for a node that is none."""
    import tensorflow as tf

    known = node is not None and node.op == "Const"
    return tf.make_ndarray(node.attr["value"].tensor) if known else None


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


def readers_of(node: Any, makers: Nodes) -> list[Any]:
    """The nodes of a function that read a node's first output."""
    return makers.readers.get(output_of(node), [])


def copied(node: Any) -> Any:
    """A node of its own, the same."""
    return type(node).FromString(node.SerializeToString())
