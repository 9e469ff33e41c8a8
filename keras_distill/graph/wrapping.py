"""Layers that stand in a model for a layer of the user's, as those of a compressed model do."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import keras

from keras_distill.graph.replay import Graph, Step, Value

__all__ = ["Wrapping", "inner", "unwrapped", "wrapped_layers"]


class Wrapping(keras.layers.Layer):
    """Stands for the layer inside it, `layer`, under that layer's name.

    Attributes:
      is_added: no layer of the user's is inside; what it is given goes on in its place.
    """

    layer: Any
    is_added: ClassVar[bool] = False


def inner(operation: keras.Operation) -> Any:
    """The user's own layer: `operation` itself, or what is inside a `Wrapping`."""
    return operation.layer if isinstance(operation, Wrapping) else operation


def wrapped_layers(graph: Graph) -> dict[str, Wrapping]:
    """The wrappers of layers of the user's, by path."""
    return {
        step.path: step.operation
        for step in graph.steps
        if isinstance(step.operation, Wrapping) and not step.operation.is_added
    }


def unwrapped(graph: Graph) -> Graph:
    """The graph of the user's own layers: wrappers opened, and what they added left out."""
    found: dict[int, Value] = {}
    steps: list[Step] = []

    def own(values: tuple[Value, ...]) -> tuple[Value, ...]:
        return tuple(found.get(id(value), value) for value in values)

    for step in graph.steps:
        if isinstance(step.operation, Wrapping) and step.operation.is_added:
            found.update(zip(map(id, step.outputs), own(step.inputs), strict=True))
            continue
        args, kwargs = step.filled(found)
        made = tuple(dataclasses.replace(value, step=len(steps)) for value in step.outputs)
        found.update(zip(map(id, step.outputs), made, strict=True))
        steps.append(
            dataclasses.replace(
                step,
                operation=inner(step.operation),
                args=args,
                kwargs=kwargs,
                inputs=own(step.inputs),
                outputs=made,
            )
        )
    return Graph(graph.inputs, tuple(steps), own(graph.outputs))
