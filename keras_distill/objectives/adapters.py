"""What stands between a student's layer and a teacher's: trained with the student, then left out.

All compute in float32, whatever the student's policy.
"""

from collections.abc import Sequence
from typing import Any

import keras

from keras_distill.functional.tensors import Shape, Tensor

__all__ = ["Chain", "convolution", "leaky_relu", "normalization", "projection"]


class Chain(keras.layers.Layer):
    """Layers one behind the other."""

    def __init__(self, steps: Sequence[keras.layers.Layer], **options: Any) -> None:
        super().__init__(dtype="float32", **options)
        self.steps = list(steps)

    def build(self, input_shape: Shape) -> None:
        shape = input_shape
        for layer in self.steps:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)

    def call(self, inputs: Tensor, training: bool | None = None) -> Any:
        # Keras hands `training` on to the layers called within.
        x = inputs
        for layer in self.steps:
            x = layer(x)
        return x


def projection(shape: Shape, channels: int, **options: Any) -> keras.layers.Layer:
    """A linear map of the channels, position by position; without bias unless asked for."""
    options = {"use_bias": False, "dtype": "float32", **options}
    if len(shape) == 4:
        return keras.layers.Conv2D(channels, 1, **options)
    return keras.layers.Dense(channels, **options)


def convolution(channels: int, **options: Any) -> keras.layers.Layer:
    """A 3x3 convolution that keeps the size."""
    return keras.layers.Conv2D(channels, 3, padding="same", dtype="float32", **options)


def normalization() -> keras.layers.Layer:
    """Batch normalisation with the momentum and epsilon of the methods' reference code.

    It sees the whole batch: as in the models, a row of weight zero counts in its statistics.
    """
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, dtype="float32")


def leaky_relu() -> keras.layers.Layer:
    """x where positive, else 0.1 x."""
    return keras.layers.LeakyReLU(negative_slope=0.1, dtype="float32")
