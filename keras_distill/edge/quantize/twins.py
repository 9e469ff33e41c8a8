"""Layers that the file computes through another one, whose inner tensors need ranges too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

layers = keras.layers
ops = keras.ops


def ranges_inside(layer: Any) -> int:
    """How many tensors the file holds inside the twin."""
    return 1 if isinstance(layer, (layers.SeparableConv1D, layers.SeparableConv2D)) else 0


def has_twin(layer: Any) -> bool:
    """Whether `computed` takes the layer."""
    last = getattr(layer, "data_format", "channels_last") == "channels_last"
    return bool(ranges_inside(layer)) or (isinstance(layer, layers.Conv1DTranspose) and last)


def computed(layer: Any, x: Any, roundings: Sequence[Callable[[Any], Any]]) -> Any:
    """The layer's answer as its twin gives it, equal but for the order of sums.

    A separable convolution is a depthwise and a pointwise one with a tensor between. Over time it
    is one over images of height 1, as is a transposed one: the file joins their bias to them.

    Args:
      layer: one that `has_twin`; its weights are read as they are now.
      x: its input.
      roundings: as many as `ranges_inside` says.
    """
    if isinstance(layer, layers.Conv1DTranspose):
        return _transposed(layer, x)
    return _separable(layer, x, roundings[0])


def _separable(layer: Any, x: Any, rounding: Callable[[Any], Any]) -> Any:
    over_time = len(x.shape) == 3 and layer.data_format == "channels_last"
    lift = _lifted if over_time else lambda value: value
    sizes = _in_2d if over_time else lambda value: value
    shared = {"data_format": layer.data_format}
    spread = ops.depthwise_conv(
        ops.expand_dims(x, 1) if over_time else x,
        lift(layer.depthwise_kernel),
        strides=sizes(layer.strides),
        padding=layer.padding,
        dilation_rate=sizes(layer.dilation_rate),
        **shared,
    )
    kernel = lift(layer.pointwise_kernel)
    y = ops.conv(rounding(spread), kernel, strides=1, padding="valid", **shared)
    y = _finished(layer, y, layer.data_format)
    return ops.squeeze(y, 1) if over_time else y


def _transposed(layer: Any, x: Any) -> Any:
    y = ops.conv_transpose(
        ops.expand_dims(x, 1),
        _lifted(layer.kernel),
        strides=_in_2d(layer.strides),
        padding=layer.padding,
        output_padding=_in_2d(layer.output_padding, 0),
        data_format="channels_last",
        dilation_rate=_in_2d(layer.dilation_rate),
    )
    return ops.squeeze(_finished(layer, y, "channels_last"), 1)


def _lifted(kernel: Any) -> Any:
    """A kernel over time as one of height 1."""
    return ops.expand_dims(ops.convert_to_tensor(kernel), 0)


def _in_2d(value: Any, first: int = 1) -> Any:
    return value if value is None else (first, *(value if isinstance(value, tuple) else [value]))


def _finished(layer: Any, y: Any, data_format: str) -> Any:
    if layer.use_bias:
        shape = [1] * len(y.shape)
        shape[-1 if data_format == "channels_last" else 1] = -1
        y = y + ops.reshape(layer.bias, shape)
    return y if layer.activation is None else layer.activation(y)
