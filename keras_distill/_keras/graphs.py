"""What is used of the private parts of a model's graph."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras.src.models.functional import Functional as Functional


def history(tensor: Any) -> Any:
    """Where a symbolic tensor comes from: `(operation, node_index, tensor_index)`, or None.

    `_keras_history`, of either generation. Without it nothing knows the layer behind an input.
    """
    return getattr(tensor, "_keras_history", None)


def first_call(operation: keras.Operation) -> tuple[tuple, dict[str, Any]] | None:
    """The arguments of an operation's first call in a graph, tensors without a history; or None.

    `_inbound_nodes`, `Node.arguments`. Without it layers whose weights come with their first call
    could not be copied.
    """
    if not operation._inbound_nodes:
        return None

    def bare(value: Any) -> Any:
        if not isinstance(value, keras.KerasTensor):
            return value
        return keras.KerasTensor(
            value.shape, value.dtype, sparse=value.sparse, record_history=False
        )

    arguments = operation._inbound_nodes[0].arguments
    return keras.tree.map_structure(bare, (arguments.args, arguments.kwargs))


def operation_like(operation: Any) -> Any:
    """The same operation with no calls noted (`_inbound_nodes`, `_outbound_nodes`).

    Not `copy.copy`: that of Keras goes through a file.
    """
    twin = object.__new__(type(operation))
    vars(twin).update(vars(operation), _inbound_nodes=[], _outbound_nodes=[])
    return twin


def input_structure(model: Any) -> Any:
    """A Functional model's inputs as they were given: a tensor, or lists and dicts of them.

    `_inputs_struct`: `inputs` is flat. None for another model.
    """
    return getattr(model, "_inputs_struct", None)


def output_structure(model: Functional) -> Any:
    """A Functional model's outputs as they were given (`_outputs_struct`)."""
    return model._outputs_struct


def nodes(model: Any) -> Iterator[Any]:
    """The graph's nodes in the order in which Keras runs them, inputs left out.

    `_nodes_by_depth`, of either generation.
    """
    for depth in sorted(model._nodes_by_depth, reverse=True):
        yield from (node for node in model._nodes_by_depth[depth] if not node.is_input)


def sequential_graph(model: keras.Sequential) -> Functional | None:
    """The Functional model inside a Sequential (`_functional`); None before it is built."""
    return model._functional


def standardized(model: Any, inputs: Any) -> list[Any]:
    """Inputs as the first layers of a model with a graph get them: flat, cast and shaped.

    `_standardize_inputs`, which `call` does first; `_flatten_to_reference_inputs` of tf_keras 2.21.
    """
    if isinstance(model, keras.Sequential):
        model = model._functional
    if isinstance(model, Functional):
        return model._standardize_inputs(inputs)
    return model._flatten_to_reference_inputs(inputs)


def run_through(model: Functional, inputs: Any, operation_fn: Callable[[Any], Callable]) -> Any:
    """Runs a graph with `operation_fn(operation)` in each operation's place.

    `Function._run_through_graph`.
    """
    return model._run_through_graph(inputs, operation_fn=operation_fn)


def read_by(operation: keras.Operation) -> Any:
    """The symbolic tensor that an operation reads in its first call in a graph (`_inbound_nodes`).

    None where there was no call, or it reads none.
    """
    read = operation._inbound_nodes[0].input_tensors if operation._inbound_nodes else ()
    return read[0] if read else None
