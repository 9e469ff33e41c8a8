"""Activations as an integer file computes them: fused, split into parts, or of a known range."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_distill.edge.quantize.ranges import fake_quant

# TensorFlow Lite prescribes these outputs' scales: 1/256 from 0, and 1/128 around 0.
UNIT = (0.0, 255.0 / 256.0)
SIGNED_UNIT = (-1.0, 127.0 / 128.0)

# Layers and operations that are activations taken apart below.
_OPERATIONS = {"ELU": "elu", "Elu": "elu", "Selu": "selu"}
FUSED = ("linear", "relu", "relu6")
OUTPUT_RANGES = {"sigmoid": UNIT, "softmax": UNIT, "tanh": SIGNED_UNIT}


def name_of(activation: Any) -> str:
    """Keras' name of an activation function; "" for one of the user's own, or what is none."""
    if activation is None:
        return "linear"
    if not callable(activation) or isinstance(activation, keras.layers.Layer):
        return ""
    found = keras.activations.serialize(activation)
    return found if isinstance(found, str) else ""


def of_layer(layer: Any) -> str | None:
    """The name of the activation that a layer is or has; None where it has no say in one."""
    if isinstance(layer, keras.layers.ReLU):
        plain = not layer.negative_slope and not layer.threshold
        return {None: "relu", 6.0: "relu6"}.get(layer.max_value, "") if plain else ""
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    if isinstance(layer, keras.layers.ELU) or not isinstance(layer, keras.layers.Layer):
        found = _OPERATIONS.get(type(layer).__name__)
        # Turned round, it is no sum of two parts that are positive.
        return found if getattr(layer, "alpha", 1.0) > 0 else None
    if hasattr(layer, "activation"):
        return name_of(layer.activation)
    return None


def stands_alone(operation: Any) -> bool:
    """Whether an operation is an activation and nothing else."""
    if isinstance(operation, keras.layers.Layer):
        return isinstance(operation, (keras.layers.Activation, keras.layers.ELU))
    return of_layer(operation) is not None


def ranges_inside(name: str) -> int:
    """How many tensors of unknown range the file holds inside an activation."""
    return 3 if name in ("elu", "selu") else 0


def in_parts(
    name: str, x: Any, roundings: Sequence[Callable[[Any], Any]] = (), alpha: float = 1.0
) -> Any:
    """The activation with the inner roundings of its integer form.

    silu(x) = x * sigmoid(x), hard_sigmoid(x) = relu6(x + 3) / 6,
    elu(x) = relu(x) + alpha * (exp(min(x, 0)) - 1) and
    selu(x) = scale * elu(x), of an alpha of its own, are several operations in the file, with
    tensors between them.

    Args:
      name: Keras' name of it.
      x: its input.
      roundings: as many as `ranges_inside` says.
      alpha: elu's.
    """
    if name in ("silu", "swish"):
        return x * fake_quant(tf.sigmoid(x), *UNIT)
    if name == "hard_sigmoid":
        return fake_quant(tf.nn.relu6(x + 3.0), 0.0, 6.0) * (1.0 / 6.0)
    if name == "selu":
        return _elu(x, 1.0507009873554805, 1.6732632423543772, *roundings)
    if name == "elu":
        return _elu(x, 1.0, alpha, *roundings)
    return keras.activations.get(name)(x)


def _elu(
    x: Any, scale: float, alpha: float, below: Callable, above: Callable, both: Callable
) -> Any:
    product = scale * alpha
    negative = fake_quant(tf.exp(below(tf.minimum(x, 0.0))), 0.0, 1.0)
    negative = fake_quant(negative * product, 0.0, product)
    # Scaled first: the file joins a ReLU with what is before it.
    return both(above(tf.nn.relu(x * scale)) + negative) - product
