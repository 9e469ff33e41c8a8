"""What a .tflite makes one operation of: a kernel, its BatchNormalization and its ReLU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from keras_distill.graph.traits import traits_of

__all__ = ["is_linear", "is_relu", "takes_norm", "takes_relu", "without_activation"]

layers = keras.layers

_RELUS = (keras.activations.relu, keras.activations.relu6)


def takes_norm(operation: keras.Operation) -> bool:
    """Whether a BatchNormalization over the channels behind it becomes part of its weights."""
    return "norm" in traits_of(operation).takes


def takes_relu(operation: keras.Operation) -> bool:
    """Whether a ReLU behind it becomes part of it, in float and in integers."""
    return "relu" in traits_of(operation).takes


def is_linear(operation: keras.Operation) -> bool:
    """Whether an operation has no activation of its own."""
    return getattr(operation, "activation", None) in (None, keras.activations.linear)


def is_relu(operation: keras.Operation) -> bool:
    """Whether an operation is nothing but a ReLU that the one before it may take in."""
    if isinstance(operation, layers.ReLU):
        shape = (operation.negative_slope, operation.threshold)
        return shape == (0, 0) and operation.max_value in (None, 6)
    if isinstance(operation, layers.Activation):
        return operation.activation in _RELUS
    return type(operation).__name__ in ("Relu", "Relu6") and not isinstance(operation, layers.Layer)


@contextlib.contextmanager
def without_activation(layer: Any) -> Iterator[None]:
    """Inside, a layer that has an activation is linear."""
    if not hasattr(layer, "activation"):
        yield
        return
    own, layer.activation = layer.activation, keras.activations.linear
    try:
        yield
    finally:
        layer.activation = own
