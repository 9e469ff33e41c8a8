"""What a .tflite makes one operation of: a kernel, its BatchNormalization and its ReLU."""

from __future__ import annotations

import keras

__all__ = ["KERNELS", "TRANSPOSED", "is_linear", "is_relu", "takes_norm", "takes_relu"]

layers = keras.layers

TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose)
KERNELS = (
    *(layers.Conv1D, layers.Conv2D, layers.DepthwiseConv1D, layers.DepthwiseConv2D),
    *(layers.SeparableConv1D, layers.SeparableConv2D, layers.Dense, *TRANSPOSED),
)
# They end in LiteRT's ADD, SUB or MUL, as layers and as operations between layers.
_MERGES = (layers.Add, layers.Subtract, layers.Multiply, layers.Average)
_OPERATIONS = ("Add", "Subtract", "Multiply")
_RELUS = (keras.activations.relu, keras.activations.relu6)


def takes_norm(operation: keras.Operation) -> bool:
    """Whether a BatchNormalization over the channels behind it becomes part of its weights."""
    return isinstance(operation, KERNELS)


def takes_relu(operation: keras.Operation) -> bool:
    """Whether a ReLU behind it becomes part of it, in float and in integers.

    Transposed convolutions take one in only where they have a bias other than zero.
    """
    if isinstance(operation, layers.Layer):
        kinds = (*KERNELS, *_MERGES, layers.BatchNormalization)
        return isinstance(operation, kinds) and not isinstance(operation, TRANSPOSED)
    return type(operation).__name__ in _OPERATIONS


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
