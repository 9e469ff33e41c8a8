"""A traced function that holds the numbers of what it reads from outside of itself."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

__all__ = ["by_value"]

# A graph is one protocol buffer, which ends at 2 GiB.
_MOST_BYTES = 2**31 - 2**28
_HANDLES = (tf.resource, tf.variant)


def by_value(traced: Any, specs: Mapping[str, tf.TensorSpec]) -> Any:
    """The same function: its variables need not be saved, loaded and frozen to be converted.

    Args:
      traced: a ConcreteFunction of tensors by keyword.
      specs: of its arguments.

    Returns:
      A ConcreteFunction. It still reads as variables what it writes or hands on, say into a loop,
      and all where their numbers would be too many for one graph.
    """
    given = len(traced.inputs) - len(traced.captured_inputs)
    arguments, inside = traced.inputs[:given], traced.inputs[given:]
    # As they are in the function: TensorFlow calls "a" a_1 where there is an "A".
    named = sorted(specs)
    outside = dict(zip([one.op.name for one in inside], traced.captured_inputs, strict=True))
    values = {
        name: tensor.numpy for name, tensor in outside.items() if tensor.dtype not in _HANDLES
    }
    inputs = {one.op.name for one in traced.inputs}
    graph = _written(traced.graph.as_graph_def(), values | _reads(inside, outside), inputs)
    read = {name for node in graph.node for name in node.input}

    def call(**tensors: Any) -> Any:
        capture = tf.compat.v1.get_default_graph().capture
        known = {one.op.name: tensors[name] for one, name in zip(arguments, named, strict=True)}
        left = [name for name in outside if name in read and name not in values]
        known |= {name: capture(outside[name]) for name in left}
        known = {f"{name}:0": tensor for name, tensor in known.items() if name in read}
        names = [tensor.name for tensor in traced.outputs]
        found = tf.graph_util.import_graph_def(graph, known, return_elements=names, name="")
        for ours, tensor in zip(found, traced.outputs, strict=True):
            ours.set_shape(tensor.shape)
        return tf.nest.pack_sequence_as(traced.structured_outputs, found)

    return tf.function(call, autograph=False).get_concrete_function(**specs)


def _reads(handles: list[Any], outside: Mapping[str, Any]) -> dict[str, Callable[[], Any]]:
    """What reads variables that nothing else is done with, by name, and how to do as it does."""
    reads = {
        reader.name: reader
        for handle in handles
        if all(one.type == "ReadVariableOp" for one in handle.consumers())
        for reader in handle.consumers()
    }
    tensors = [reader.outputs[0] for reader in reads.values()]
    if sum(one.dtype.size * (one.shape.num_elements() or 0) for one in tensors) > _MOST_BYTES:
        return {}

    def value(reader: Any) -> Any:
        handle = outside[reader.inputs[0].op.name]
        return tf.raw_ops.ReadVariableOp(resource=handle, dtype=reader.outputs[0].dtype).numpy()

    return {name: functools.partial(value, reader) for name, reader in reads.items()}


def _written(graph: Any, values: Mapping[str, Callable[[], Any]], inputs: set[str]) -> Any:
    """A GraphDef without its inputs, whose nodes of some names give values."""
    made = tf.compat.v1.GraphDef(library=graph.library, versions=graph.versions)
    waited_for = {f"^{name}" for name in inputs}
    for node in graph.node:
        if node.name in values:
            value = tf.make_tensor_proto(values[node.name]())
            constant = made.node.add(name=node.name, op="Const")
            constant.attr["dtype"].type = value.dtype
            constant.attr["value"].tensor.CopyFrom(value)
        elif node.name not in inputs:
            # What it was placed beside, or has to wait for, may be gone.
            node.attr.pop("_class", None)
            node.input[:] = [read for read in node.input if read not in waited_for]
            made.node.append(node)
    return made
