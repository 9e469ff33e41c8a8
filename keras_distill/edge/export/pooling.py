"""Pooling over volumes as LiteRT computes it: over images, then over their depth."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_distill.edge.compress.layer import inner
from keras_distill.edge.compress.model import rebuild
from keras_distill.graph.replay import Functional, trace

__all__ = ["has_volumes", "over_images"]

_KINDS = {
    keras.layers.MaxPooling3D: tf.nn.max_pool2d,
    # At a border it counts what lies inside, and so does a mean of such means.
    keras.layers.AveragePooling3D: tf.nn.avg_pool2d,
}


def has_volumes(model: Any) -> bool:
    """Whether a replayable model pools over volumes."""
    if not isinstance(model, (keras.Sequential, Functional)):
        return False
    return any(_pools(inner(step.operation)) for step in trace(model).steps)


def over_images(model: Any) -> Any:
    """A copy of `model` that pools over two axes and then over one."""

    def substitute(_: str, layer: Any) -> Any:
        bare = inner(layer)
        if not _pools(bare):
            return layer
        made = _OverImages(bare)
        return made if bare is layer else layer.around(made)

    return rebuild(model, substitute)


def _pools(layer: Any) -> bool:
    return type(layer) in _KINDS and layer.data_format == "channels_last"


class _OverImages(keras.layers.Layer):
    """A pooling layer's answer in two turns, for one export."""

    def __init__(self, layer: Any):
        super().__init__(name=layer.name)
        self.layer = layer
        self.built = True

    def call(self, x: Any) -> Any:
        _, depth, height, width, channels = x.shape
        if None in (depth, height, width):
            return self.layer(x)
        pool, padding = _KINDS[type(self.layer)], self.layer.padding.upper()
        (deep, *size), (step, *steps) = self.layer.pool_size, self.layer.strides
        images = tf.reshape(x, [-1, height, width, channels])
        images = pool(images, size, steps, padding)
        height, width = images.shape[1:3]
        columns = tf.reshape(images, [-1, depth, height * width, channels])
        columns = pool(columns, [deep, 1], [step, 1], padding)
        return tf.reshape(columns, [-1, columns.shape[1], height, width, channels])

    def compute_output_spec(self, x: Any) -> Any:
        return self.layer.compute_output_spec(x)
