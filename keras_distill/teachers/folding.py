"""A traced forward whose weights are folded outside of it and held once.

However many graphs call it, there is one copy of its weights, and new ones trace nothing anew.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from keras_distill.teachers import identity
from keras_distill.teachers.apart import Apart

__all__ = ["CannotFreezeError", "Folded"]

# A constant of more values than this counts as a weight: each graph would have a copy of it.
_SMALL = 1024
_WRITING = ("Assign", "ResourceApply", "ResourceScatter", "ResourceSparseApply")


class CannotFreezeError(Exception):
    """The forward can't be taken apart from its weights; the plain call still runs."""


class Folded:
    """A callable from flat tensors to a list of them, as the function that was traced.

    Args:
      concrete: a ConcreteFunction with flat outputs.
      rewrite: brings a function's graph to another precision, as a GraphDef; None for none.

    Raises:
      CannotFreezeError: the function writes variables.
    """

    def __init__(self, concrete: Any, rewrite: Callable[[Any], Any] | None = None):
        _check_reads_only(concrete.graph)
        count = len(concrete.inputs) - len(concrete.captured_inputs)
        ends = [t.name for t in concrete.inputs[:count]], [t.name for t in concrete.outputs]
        captured = _captured(concrete)
        variables = _variables(concrete, captured)
        self._sources = _sources(concrete.graph, captured, variables)
        part = Apart(concrete.graph, *ends, self._sources)
        self._folds = [part.fold()]
        # Whose handles the graph passes on, say into a loop: copies, since the model's may change.
        self._passed_on = {
            name: (tf.Variable(read(), trainable=False), read)
            for name, read in variables.items()
            if name in part.reads
        }
        handles = {name: variable.handle for name, (variable, _) in self._passed_on.items()}
        run = part.function({**captured, **handles})
        if rewrite is not None:
            part = Apart(_graph_of(rewrite(run)), *ends, part.weights)
            self._folds.append(part.fold())
            run = part.function(_captured(run))
        self._run = run
        # What the graph reads in place of the model's weights.
        self.weights = [tf.Variable(value, trainable=False) for value in self._folded()]

    def __call__(self, *tensors: Any) -> list[Any]:
        return self._run(*tensors, *map(tf.convert_to_tensor, self.weights))

    @property
    def graph(self) -> Any:
        """What runs."""
        return self._run.graph

    def refresh(self) -> None:
        """Fold the weights that the model has now. Nothing is traced for it."""
        for variable, value in zip(self.weights, self._folded(), strict=True):
            variable.assign(value)
        for variable, read in self._passed_on.values():
            variable.assign(read())

    def _folded(self) -> list[Any]:
        values = [read() for read in self._sources.values()]
        for fold in self._folds:
            values = fold(values)
        return values


def _check_reads_only(graph: Any) -> None:
    writes = sorted(kind for kind in identity.operations(graph) if kind.startswith(_WRITING))
    if writes:
        raise CannotFreezeError(f"it writes variables as it answers ({', '.join(writes)})")


def _captured(concrete: Any) -> dict[str, Any]:
    """What a function takes from outside of itself, by the name that it has inside."""
    taken = concrete.captured_inputs
    inside = concrete.inputs[len(concrete.inputs) - len(taken) :]
    return {tensor.name: outside for tensor, outside in zip(inside, taken, strict=True)}


def _variables(concrete: Any, captured: Mapping[str, Any]) -> dict[str, Callable[[], Any]]:
    """What reads each variable among what a function takes from outside."""
    known = identity.parts_by_handle(concrete.variables)
    return {
        name: functools.partial(tf.raw_ops.ReadVariableOp, resource=one, dtype=known[id(one)].dtype)
        for name, one in captured.items()
        if id(one) in known
    }


def _sources(
    graph: Any, captured: Mapping[str, Any], variables: Mapping[str, Callable[[], Any]]
) -> dict[str, Callable[[], Any]]:
    """What reads each tensor of a graph that is a weight: variables, and large constants."""
    found: dict[str, Callable[[], Any]] = {}
    for made in graph.get_operations():
        name = f"{made.name}:0"
        if made.type == "ReadVariableOp" and made.inputs[0].name in variables:
            found[name] = variables[made.inputs[0].name]
        elif made.type == "Const" and (made.outputs[0].shape.num_elements() or 0) > _SMALL:
            found[name] = _always(tf.constant(tf.make_ndarray(made.get_attr("value"))))
        elif name in captured and captured[name].dtype.is_floating:
            found[name] = _always(captured[name])
    return found


def _always(tensor: Any) -> Callable[[], Any]:
    return lambda: tensor


def _graph_of(definition: Any) -> Any:
    graph = tf.Graph()
    with graph.as_default():
        tf.graph_util.import_graph_def(definition, name="")
    return graph
