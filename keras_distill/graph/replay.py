"""A Keras 3 model's graph, walked node by node, nested models included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras

from keras_distill import _keras
from keras_distill._keras import Functional
from keras_distill._pages import see
from keras_distill.data import no_keras3_model, qualified_name


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: what made it (None for an input), its shape and dtype."""

    shape: tuple[int | None, ...]
    dtype: str
    step: int | None = None


@dataclass(frozen=True)
class Step:
    """One call of one operation, in the order of execution.

    `path` is the operation's name under the nested models that hold it; `inputs` and `outputs` are
    `Value`s, told apart by identity. `training` arguments and the like stay in `args`, `kwargs`.
    """

    path: str
    operation: keras.Operation
    args: tuple
    kwargs: dict[str, Any]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]

    def filled(self, found: Mapping[int, Any]) -> tuple[tuple, dict[str, Any]]:
        """Its arguments, with what `found` has by `id` in the values' places."""
        return keras.tree.map_structure(
            lambda leaf: found.get(id(leaf), leaf), (self.args, self.kwargs)
        )


@dataclass(frozen=True)
class Graph:
    """A model, nested models taken apart: `steps` in order, from `inputs` to `outputs`."""

    inputs: tuple[Value, ...]
    steps: tuple[Step, ...]
    outputs: tuple[Value, ...]

    def consumers(self, value: Value) -> list[Step]:
        """The steps that read `value`."""
        return self._readers.get(id(value), [])

    @cached_property
    def _readers(self) -> dict[int, list[Step]]:
        found: dict[int, list[Step]] = {}
        for step in self.steps:
            for read in {id(value) for value in step.inputs}:
                found.setdefault(read, []).append(step)
        return found


def functional(model: Any) -> Functional:
    """The Functional model inside: `model` itself, or a Sequential's own.

    Raises:
      TypeError: not a Keras 3 model.
      ValueError: not built, or subclassed, so that there is no graph to replay.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(no_keras3_model(model))
    if isinstance(model, keras.Sequential):
        graph = _keras.sequential_graph(model)
        if graph is None:
            raise ValueError(
                f"Expected a built model; {model.name!r} has no input shape. Give it a "
                f"keras.Input first, or call it once on a batch."
            )
        return graph
    if not isinstance(model, Functional):
        raise ValueError(
            f"{model.name!r} is a subclassed model ({qualified_name(model)}): its graph is hidden "
            f"in call() and can't be replayed layer by layer. Write it as a Functional model:\n"
            f"    inputs = keras.Input(shape)\n"
            f"    outputs = ...  # what call() does, on inputs\n"
            f"    model = keras.Model(inputs, outputs)\n"
            f"{see('subclassed').strip()}"
        )
    return model


def trace(model: Any, *, enters: Callable[[Any], Any] = lambda nested: True) -> Graph:
    """The model's graph with nested Functional and Sequential models taken apart.

    Args:
      model: a built Functional or Sequential model.
      enters: which nested models, by what is true; another is one step.
    """
    outer = functional(model)
    steps: list[Step] = []
    inputs = tuple(Value(tuple(x.shape), x.dtype) for x in outer.inputs)
    outputs = _walk(outer, inputs, "", steps, enters)
    return Graph(inputs, tuple(steps), tuple(outputs))


def _walk(
    model: Functional, inputs: Any, prefix: str, steps: list[Step], enters: Callable[[Any], Any]
) -> list[Value]:
    # Of what a nested model is given, masks come after its inputs.
    found = {id(x): value for x, value in zip(model.inputs, inputs, strict=True)}
    for node in _keras.nodes(model):
        path = f"{prefix}{node.operation.name}"
        args, kwargs = node.arguments.fill_in(found)
        read = [found[id(x)] for x in node.input_tensors]
        nested = isinstance(node.operation, (keras.Sequential, Functional))
        if nested and enters(node.operation):
            inside = functional(node.operation)
            made = _walk(inside, read[: len(inside.inputs)], f"{path}/", steps, enters)
        else:
            made = [Value(tuple(x.shape), x.dtype, len(steps)) for x in node.outputs]
            steps.append(Step(path, node.operation, args, kwargs, tuple(read), tuple(made)))
        found.update({id(x): value for x, value in zip(node.outputs, made, strict=True)})
    return [found[id(x)] for x in model.outputs]


def replay(model: Any, inputs: Any, operation_fn: Callable[[Any], Callable]) -> Any:
    """Runs the model's graph on `inputs` with `operation_fn(operation)` in each one's place."""
    return _keras.run_through(functional(model), inputs, operation_fn)
