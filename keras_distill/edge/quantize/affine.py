"""Layers that scale and shift each channel, as the one integer operation they are."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill import _keras
from keras_distill.edge.compress.layer import is_exporting
from keras_distill.functional.tensors import Tensor


def coefficients(layer: keras.layers.Layer, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """`(scale, shift)` of a layer that computes `x * scale + shift` on its last axis.

    Args:
      layer: a Keras 3 layer that is `is_affine`.
      channels: the size of the last axis.

    Returns:
      Two float32 arrays of shape `(channels,)`.
    """
    # The values as they are now, inside a graph as well.
    with tf.init_scope():
        scale, shift = in_graph(layer, channels)
        return scale.numpy(), shift.numpy()


def in_graph(layer: keras.layers.Layer, channels: int) -> tuple[Tensor, Tensor]:
    """As `coefficients`, from the variables as the graph reads them."""
    scale, shift = (tf.broadcast_to(one, [channels]) for one in numbers(layer))
    return scale, shift


def numbers(layer: keras.layers.Layer) -> tuple[Tensor, Tensor]:
    """As `in_graph`, each of `(channels,)` or, where the layer has one for all, `(1,)`."""
    if isinstance(layer, keras.layers.BatchNormalization):
        found = _batch_normalization(layer)
    elif isinstance(layer, keras.layers.Normalization):
        found = _normalization(layer)
    else:
        found = layer.scale, layer.offset
    scale, shift = (tf.reshape(_real(one), [-1]) for one in found)
    return scale, shift


def statistics(layer: keras.layers.Layer) -> tuple[Tensor, Tensor]:
    """The mean and the variance that a Normalization or BatchNormalization takes its input for."""
    if isinstance(layer, keras.layers.BatchNormalization):
        return _real(layer.moving_mean), _real(layer.moving_variance)
    return _real(layer.mean), _real(layer.variance)


def is_affine(layer: keras.layers.Layer) -> bool:
    """Whether a layer computes `x * scale + shift` with a number a channel, the last axis."""
    if isinstance(layer, keras.layers.BatchNormalization):
        return layer.axis == -1 or layer.axis == _rank(layer) - 1
    if isinstance(layer, keras.layers.Normalization):
        return layer.axis in ((), (-1,), (_rank(layer) - 1,))
    if isinstance(layer, keras.layers.Rescaling):
        return np.ndim(layer.scale) <= 1 and np.ndim(layer.offset) <= 1
    return False


def _rank(layer: keras.layers.Layer) -> int:
    shapes = _keras.built_with(layer) or {}
    return len(next(iter(shapes.values()))) if shapes else 0


def _real(part: Any) -> Tensor:
    return tf.cast(tf.convert_to_tensor(part), tf.float32)


def _batch_normalization(layer: keras.layers.Layer) -> tuple[Tensor, Tensor]:
    mean, variance = statistics(layer)
    scale = 1.0 / tf.sqrt(variance + layer.epsilon)
    if layer.scale:
        scale = scale * _real(layer.gamma)
    shift = -mean * scale
    return scale, shift + _real(layer.beta) if layer.center else shift


def _normalization(layer: keras.layers.Layer) -> tuple[Tensor, Tensor]:
    mean, variance = statistics(layer)
    deviation = tf.maximum(tf.sqrt(variance), keras.config.epsilon())
    return (deviation, mean) if layer.invert else (1.0 / deviation, -mean / deviation)


def as_depthwise(x: Tensor, scale: np.ndarray, shift: np.ndarray) -> Tensor:
    """`x * scale + shift` as a 1x1 depthwise convolution, whose int8 kernel is exact.

    One weight a channel at a scale of its own is always 127 steps: nothing is rounded but the
    output.

    Args:
      x: `(batch, ..., channels)`.
      scale, shift: `(channels,)`.
    """
    channels = len(scale)
    flat = x if len(x.shape) == 4 else tf.reshape(x, _as_image(x, channels))
    kernel = tf.constant(scale.reshape(1, 1, channels, 1), x.dtype)
    y = tf.nn.depthwise_conv2d(flat, kernel, [1, 1, 1, 1], "VALID") + tf.constant(shift, x.dtype)
    return y if len(x.shape) == 4 else tf.reshape(y, _like(x))


def as_constants(x: Tensor, layer: keras.layers.Layer) -> Tensor:
    """`x * scale + shift`, which a converter makes part of the kernel before it.

    As constants, so that the kernel's steps in the file are those that `in_graph` gives.
    """
    scale, shift = coefficients(layer, x.shape[-1])
    return x * tf.constant(scale, x.dtype) + tf.constant(shift, x.dtype)


def by_one(x: Tensor) -> Tensor:
    """`x` through a 1x1 depthwise convolution by one: an operation with a range of its own."""
    channels = x.shape[-1]
    return as_depthwise(x, np.ones(channels, "float32"), np.zeros(channels, "float32"))


def _as_image(x: Tensor, channels: int) -> list[int]:
    if len(x.shape) == 2:
        return [-1, 1, 1, channels]
    sizes = x.shape[1:-1].as_list()
    rest = -1 if None in sizes else int(np.prod(sizes))
    return [x.shape[0] or -1, 1, rest, channels] if x.shape[0] or rest > 0 else [-1, 1, 1, channels]


def _like(x: Tensor) -> Tensor:
    sizes = x.shape.as_list()
    if sizes.count(None) <= 1:
        return [-1 if size is None else size for size in sizes]
    return tf.shape(x)


def scaled(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`x * scale + shift` with weights of `(channels,)`, either of which may be None.

    As one integer operation where a file is traced, and in the weights' own graph in training.
    """
    if scale is None and shift is None:
        return x
    if not is_exporting():
        x = x if scale is None else x * tf.convert_to_tensor(scale)
        return x if shift is None else x + tf.convert_to_tensor(shift)
    channels = x.shape[-1]
    with tf.init_scope():
        kernel = np.ones(channels, "float32") if scale is None else np.asarray(scale)
        bias = np.zeros(channels, "float32") if shift is None else np.asarray(shift)
    return as_depthwise(x, kernel, bias)
