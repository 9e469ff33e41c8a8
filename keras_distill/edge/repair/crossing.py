"""What hands a scaling of channels on: f(x / s) = f(x) / s for each channel's own s > 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras

from keras_distill.edge.quantize.activations import name_of
from keras_distill.edge.repair.caps import ChannelCap
from keras_distill.graph.fusion import is_linear
from keras_distill.graph.remaking import by_keras
from keras_distill.graph.replay import Step
from keras_distill.graph.traits import does

__all__ = ["Crossing", "by_activation", "crossing"]

layers = keras.layers
# These add noise that does not grow with what they read.
_UNSCALED = ("AlphaDropout", "GaussianNoise", "ActivityRegularization")
_PASSED = ("pooling", "global pooling", "padding", "cropping", "dropout", "identity", "repetition")


@dataclass(frozen=True)
class Crossing:
    """How a layer hands channels on.

    Attributes:
      one_sided: negative values become zero.
      capped: there is an upper bound, so that the layer hands a scaling on only with one for each
        channel.
      cap: the bound; None where the layer has one for each channel already.
    """

    one_sided: bool = False
    capped: bool = False
    cap: float | None = None


def crossing(step: Step, channels: int | None) -> Crossing | None:
    """How a step hands on channels that lie along the last axis, once or several times in turn.

    Args:
      step: with one input.
      channels: how many.

    Returns:
      None where it does not.
    """
    operation = step.operation
    if isinstance(operation, ChannelCap):
        return Crossing(capped=True) if step.outputs[0].shape[-1] == channels else None
    if not by_keras(operation):
        return None
    if not isinstance(operation, layers.Layer):
        return {"Relu": Crossing(one_sided=True), "LeakyRelu": Crossing()}.get(
            type(operation).__name__
        )
    if isinstance(operation, layers.ReLU):
        return _of_relu(operation)
    if isinstance(operation, (layers.LeakyReLU, layers.PReLU)):
        return Crossing()
    if isinstance(operation, layers.Activation):
        return by_activation(operation)
    return Crossing() if _moves_whole_channels(step, channels) else None


def by_activation(layer: Any) -> Crossing | None:
    """How the activation of a layer hands channels on."""
    if is_linear(layer):
        return Crossing()
    return {
        "leaky_relu": Crossing(),
        "relu": Crossing(one_sided=True),
        "relu6": Crossing(one_sided=True, capped=True, cap=6.0),
    }.get(name_of(layer.activation))


def _of_relu(layer: Any) -> Crossing | None:
    if layer.threshold:
        return None
    capped = layer.max_value is not None
    return Crossing(not layer.negative_slope, capped, layer.max_value if capped else None)


def _moves_whole_channels(step: Step, channels: int | None) -> bool:
    layer = step.operation
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return False
    if does(layer, "reshaping"):
        # Rows are laid out one behind the other: place k of the last axis is channel k % channels.
        size = step.outputs[0].shape[-1]
        return bool(channels and size and size % channels == 0)
    if type(layer).__name__.startswith("UpSampling"):
        return True
    return does(layer, *_PASSED) and type(layer).__name__ not in _UNSCALED
