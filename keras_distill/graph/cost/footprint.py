"""The memory of activations: which tensors there are, and when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import keras
import tensorflow as tf

from keras_distill.graph import fusion
from keras_distill.graph.cost.costs import Shape
from keras_distill.graph.replay import Graph, Value
from keras_distill.graph.traits import traits_of

layers = keras.layers
ShapeOf = Callable[[Value], Shape]


def is_view(operation: keras.Operation) -> bool:
    """Whether the file hands the input's own memory on."""
    if isinstance(operation, layers.Activation):
        return operation.activation is keras.activations.linear
    return traits_of(operation).is_view


def joined_steps(graph: Graph, operations: Sequence[Any]) -> dict[int, Any]:
    """The steps that become part of the operator before them, by number, with that operation."""
    readers = Counter(id(value) for step in graph.steps for value in step.inputs)
    readers.update(id(value) for value in graph.outputs)
    calls = Counter(map(id, operations))
    joined: dict[int, Any] = {}
    for number, (step, operation) in enumerate(zip(graph.steps, operations, strict=True)):
        value = step.inputs[0] if len(step.inputs) == 1 else None
        if value is None or value.step is None or readers[id(value)] > 1:
            continue
        maker = operations[value.step]
        if calls[id(maker)] == 1 and (
            _folds(operation, maker, len(value.shape))
            or (fusion.is_relu(operation) and fusion.takes_relu(maker) and fusion.is_linear(maker))
        ):
            joined[number] = maker
    return joined


def _folds(operation: keras.Operation, maker: Any, rank: int) -> bool:
    """Whether a BatchNormalization goes into the kernel before it."""
    is_norm = isinstance(operation, layers.BatchNormalization)
    if not (is_norm and fusion.takes_norm(maker) and fusion.is_linear(maker)):
        return False
    channels = 1 if getattr(maker, "data_format", None) == "channels_first" else rank - 1
    return operation.axis % rank == channels


def _item_bytes(value: Value) -> tuple[int, int]:
    """Bytes an element in a float32 file and in an int8 one."""
    dtype = tf.as_dtype(value.dtype)
    return (4, 1) if dtype.is_floating else (dtype.size, dtype.size)


def tensor_bytes(values: Sequence[Value], shape_of: ShapeOf) -> tuple[int, int]:
    """What tensors take together in a float32 file and in an int8 one."""
    sizes = [(prod(shape_of(value)), *_item_bytes(value)) for value in values]
    return sum(n * size for n, size, _ in sizes), sum(n * size for n, _, size in sizes)


class Memory:
    """When each tensor of a graph comes and goes, views left out."""

    def __init__(self, graph: Graph, views: set[int]):
        owners = {id(value): number for number, value in enumerate(graph.inputs)}
        self._tensors = list(graph.inputs)
        # The first moment is before the first step.
        self._born: list[list[int]] = [list(owners.values())]
        last_read = dict.fromkeys(owners.values(), 0)
        for number, step in enumerate(graph.steps, start=1):
            last_read.update({owners[id(value)]: number for value in step.inputs})
            if number - 1 in views and len(step.inputs) == len(step.outputs) == 1:
                owners[id(step.outputs[0])] = owners[id(step.inputs[0])]
                self._born.append([])
                continue
            made = range(len(self._tensors), len(self._tensors) + len(step.outputs))
            owners.update({id(v): n for v, n in zip(step.outputs, made, strict=True)})
            self._tensors += step.outputs
            self._born.append(list(made))
            last_read.update(dict.fromkeys(made, number))
        last_read.update({owners[id(value)]: len(graph.steps) for value in graph.outputs})
        self._gone: list[list[int]] = [[] for _ in self._born]
        for tensor, number in last_read.items():
            self._gone[number].append(tensor)
        self._item_bytes = [_item_bytes(tensor) for tensor in self._tensors]

    def peaks(self, shape_of: ShapeOf) -> tuple[int, int]:
        """The most bytes at once, at float32 and at int8."""
        sizes = [prod(shape_of(tensor)) for tensor in self._tensors]
        float32 = [n * size for n, (size, _) in zip(sizes, self._item_bytes, strict=True)]
        int8 = [n * size for n, (_, size) in zip(sizes, self._item_bytes, strict=True)]
        return self._peak(float32), self._peak(int8)

    def _peak(self, sizes: Sequence[int]) -> int:
        alive = peak = 0
        for born, gone in zip(self._born, self._gone, strict=True):
            alive += sum(sizes[tensor] for tensor in born)
            peak = max(peak, alive)
            alive -= sum(sizes[tensor] for tensor in gone)
        return peak
