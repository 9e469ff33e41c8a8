"""Activations, from either Keras generation to the other."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras

from keras_distill.edge import legacy

# Same name, same function, in both; hard_sigmoid has the same name and is another function.
_SAME = (
    "elu",
    "exponential",
    "gelu",
    "linear",
    "mish",
    "relu",
    "selu",
    "sigmoid",
    "softmax",
    "softplus",
    "softsign",
    "tanh",
)
_FROM_TENSORFLOW = ("elu", "gelu", "relu", "relu6", "selu", "sigmoid", "softmax", "softplus",
                    "softsign", "tanh")  # fmt: skip


@keras.saving.register_keras_serializable("keras_distill")
def legacy_hard_sigmoid(x: Any) -> Any:
    """tf_keras's hard sigmoid, 0.2 x + 0.5 within 0 and 1 (Keras 3's is relu6(x + 3) / 6)."""
    x = keras.ops.convert_to_tensor(x)
    return keras.ops.clip(keras.ops.add(keras.ops.multiply(0.2, x), 0.5), 0.0, 1.0)


def to_legacy(function: Any) -> Any:
    """What tf_keras is to be given for a Keras 3 activation.

    A namesake that computes the same, else the Keras 3 function itself, under a name of its own so
    that tf_keras never reads it back as another function.
    """
    if function is None or function is legacy_hard_sigmoid:
        return function and legacy.tf_keras().activations.hard_sigmoid
    for name in _SAME:
        if function is getattr(keras.activations, name):
            return getattr(legacy.tf_keras().activations, name)
    if function is keras.activations.silu:
        return legacy.tf_keras().activations.swish
    name = getattr(function, "__name__", "")
    if name and function is getattr(keras.activations, name, None):
        return _registered(name)
    return function


@functools.cache
def _registered(name: str) -> Callable:
    function = getattr(keras.activations, name)

    def activation(x: Any) -> Any:
        return function(x)

    activation.__name__ = activation.__qualname__ = f"keras3_{name}"
    activation.keras_activation = function  # type: ignore[attr-defined]
    return legacy.tf_keras().saving.register_keras_serializable("keras_distill")(activation)


def register_all() -> None:
    """Makes every Keras 3 activation known to tf_keras, for configs that name one."""
    for name in dir(keras.activations):
        function = getattr(keras.activations, name)
        if callable(function) and name not in ("get", "serialize", "deserialize"):
            to_legacy(function)


def to_keras3(function: Any) -> Any:
    """What Keras 3 is to be given for a tf_keras activation."""
    if type(function).__name__ == "QuantizeAwareActivation":
        function = function.activation
    if type(function).__name__ == "NoOpActivation":
        # TFMOT's linear, of a layer whose range comes after its BatchNorm or ReLU.
        return keras.activations.linear
    if hasattr(function, "keras_activation"):
        return function.keras_activation
    theirs = legacy.tf_keras().activations
    for name in _SAME:
        if function is getattr(theirs, name):
            return getattr(keras.activations, name)
    if function is theirs.swish:
        return keras.activations.silu
    if function is theirs.hard_sigmoid:
        return legacy_hard_sigmoid
    name = getattr(function, "__name__", "")
    if name in _FROM_TENSORFLOW and "tensorflow" in getattr(function, "__module__", ""):
        return getattr(keras.activations, name)
    return function
