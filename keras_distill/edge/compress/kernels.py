"""Which weights of which layers compression takes, and how each is a matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras

from keras_distill import _keras
from keras_distill.edge.compress.layer import inner
from keras_distill.graph.naming import chosen
from keras_distill.graph.replay import trace
from keras_distill.graph.traits import does, traits_of


@dataclass(frozen=True)
class Kernel:
    """A weight that can be compressed.

    Attributes:
      variable: the Keras variable.
      input_axes: the axes that the layer sums over, the input channels last.
    """

    variable: Any
    input_axes: tuple[int, ...]


def kernels(operation: Any) -> dict[str, Kernel]:
    """The kernels of a layer and of the layers inside it, by their paths in it.

    As TFMOT: kernels of Dense, convolutions and transposed ones, the pointwise kernel of separable
    ones, both kernels of recurrent cells, embeddings; and of EinsumDense, which is what attention
    is made of. Not: depthwise kernels, biases, normalisation. A layer of the user's own offers its
    weights by a method `get_prunable_weights()`, as in TFMOT.

    >>> dense = keras.layers.Dense(2)
    >>> dense.build((None, 4))
    >>> list(kernels(dense))
    ['kernel']
    """
    layer = inner(operation)
    if not isinstance(layer, keras.layers.Layer):
        return {}
    found = {}
    for path, owner in _owners(layer, ""):
        for variable, axes in _own_kernels(owner):
            if keras.backend.is_float_dtype(variable.dtype):
                found[f"{path}{variable.name}"] = Kernel(variable, axes)
    return found


def _owners(layer: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, layer
    for child in _keras.children(layer):
        yield from _owners(child, f"{path}{child.name}/")


def _own_kernels(layer: Any) -> list[tuple[Any, tuple[int, ...]]]:
    if not layer.built:
        # A layer of the user's own may hold one that it never calls.
        return []
    if held := traits_of(layer).kernels:
        own = {variable.name: variable for variable in _keras.own_variables(layer)}
        return [(own[name], _input_axes(layer, own[name], axis)) for name, axis in held.items()]
    offered: list[Any] = getattr(layer, "get_prunable_weights", list)()
    return [(variable, _input_axes(layer, variable, -1)) for variable in offered]


def _input_axes(layer: Any, variable: Any, output_axis: int) -> tuple[int, ...]:
    if does(layer, "einsum dense"):
        return _contracted(layer.equation)
    rank = len(variable.shape)
    return tuple(axis for axis in range(rank) if axis != output_axis % rank)


def _contracted(equation: str) -> tuple[int, ...]:
    """The kernel's axes that an einsum sums over.

    >>> _contracted("abc,cde->abde")
    (0,)
    """
    operands, result = equation.replace("...", "").split("->")
    kernel = operands.split(",")[1]
    return tuple(axis for axis, label in enumerate(kernel) if label not in result)


@dataclass(frozen=True)
class Target:
    """A layer to compress: where it is, what it is now, and its kernels by path."""

    path: str
    operation: Any
    kernels: dict[str, Kernel]


def targets(
    model: Any, skip: Any, check: Callable[[str, Any], None], verb: str
) -> dict[str, Target]:
    """The layers of a model that have kernels, in the order of execution, but for `skip`.

    Args:
      model: a built Functional or Sequential model of Keras 3.
      skip: names, paths, regular expressions, classes, layers; "first" and "last" name the first
        and the last layer with a kernel, unless a layer is called so.
      check: given the path and the layer of each that is left, raises where it cannot be taken.
      verb: what is to be done, for errors.

    Raises:
      TypeError, ValueError: no model with a graph; `skip` names no layer; nothing is left.
    """
    steps = {step.path: step.operation for step in trace(model).steps}
    found = {
        path: Target(path, operation, held)
        for path, operation in steps.items()
        if (held := kernels(operation))
    }
    skipped = chosen(steps, skip, list(found), inner)
    left = {path: target for path, target in found.items() if path not in skipped}
    if not left:
        came = f"skip leaves out all of {list(found)}" if found else "it has none"
        raise ValueError(
            f"{model.name!r} has nothing to {verb}: expected at least one Dense, convolution, "
            f"recurrent, EinsumDense or Embedding layer; {came}. A layer of your own offers its "
            f"weights by a method get_prunable_weights()."
        )
    for path, target in left.items():
        check(path, target.operation)
    return left
