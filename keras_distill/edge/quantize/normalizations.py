"""Normalisations over a row's own values, as the integer operations they are made of.

The file holds a tensor after each of these operations, so training rounds each of them too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_distill import _keras

Rounding = Callable[[Any], Any]
layers = keras.layers


def ranges_inside(layer: Any) -> int:
    """How many tensors the file holds inside the layer; 0 for a layer that is not taken apart."""
    if isinstance(layer, layers.LayerNormalization):
        return 6 if _over_last_axis(layer) and not getattr(layer, "rms_scaling", False) else 0
    if isinstance(layer, layers.GroupNormalization):
        return 6 if layer.axis == -1 else 0
    if isinstance(layer, layers.RMSNormalization):
        return 4 if _over_last_axis(layer) else 0
    if isinstance(layer, layers.UnitNormalization):
        return 2 if _over_last_axis(layer) else 0
    return 0


def root_at(layer: Any) -> int | None:
    """Which of the ranges inside is an `InverseRoot`; None for other layers."""
    count = ranges_inside(layer)
    return {6: 3, 4: 2, 2: 1}[count] if count else None


def _over_last_axis(layer: Any) -> bool:
    axis = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    shapes = _keras.built_with(layer) or {}
    rank = len(next(iter(shapes.values()))) if shapes else 0
    return len(axis) == 1 and axis[0] in (-1, rank - 1)


def in_parts(layer: Any, x: Any, roundings: Sequence[Rounding], affine: Callable) -> Any:
    """The layer's answer, each inner tensor rounded.

    Args:
      layer: one of which `ranges_inside` is not 0.
      x: its input.
      roundings: as many as `ranges_inside` says, the one at `root_at` an `InverseRoot`.
      affine: `affine(x, scale, shift)` for the last step, a scale and a shift a channel.
    """
    if isinstance(layer, layers.GroupNormalization):
        normal = _by_groups(layer, x, roundings)
        return affine(normal, layer.gamma, layer.beta)
    if isinstance(layer, layers.RMSNormalization):
        square, mean, root, normal = roundings
        power = mean(tf.reduce_mean(square(tf.math.squared_difference(x, 0.0)), -1, True))
        return affine(normal(x * root(power + layer.epsilon)), layer.scale, None)
    if isinstance(layer, layers.UnitNormalization):
        square, root = roundings
        return x * root(tf.reduce_sum(square(tf.math.squared_difference(x, 0.0)), -1, True))
    normal = _standardized(x, -1, layer.epsilon, roundings)
    return affine(normal, layer.gamma, layer.beta)


def _standardized(x: Any, axes: Any, epsilon: float, roundings: Sequence[Rounding]) -> Any:
    """(x - mean) / sqrt(variance + epsilon)"""
    mean, square, variance, root, centred, normal = roundings
    middle = mean(tf.reduce_mean(x, axes, keepdims=True))
    spread = square(tf.math.squared_difference(x, middle))
    power = variance(tf.reduce_mean(spread, axes, keepdims=True))
    return normal(centred(x - middle) * root(power + epsilon))


def _by_groups(layer: Any, x: Any, roundings: Sequence[Rounding]) -> Any:
    groups = x.shape[-1] if layer.groups == -1 else layer.groups
    shape = [-1 if size is None else size for size in x.shape.as_list()]
    places = shape[1:-1]
    rest = -1 if -1 in places else math.prod(places)
    grouped = tf.reshape(x, [shape[0] if rest == -1 else -1, rest, groups, x.shape[-1] // groups])
    normal = _standardized(grouped, (1, 3), layer.epsilon, roundings)
    return tf.reshape(normal, shape if shape.count(-1) < 2 else tf.shape(x))
