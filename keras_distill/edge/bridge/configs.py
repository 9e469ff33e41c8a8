"""A layer's config, from one Keras generation's words to the other's."""

from __future__ import annotations

import functools
import inspect
from types import ModuleType
from typing import Any

import keras
import numpy as np

from keras_distill.edge import legacy
from keras_distill.edge.bridge import activations
from keras_distill.edge.bridge.calls import plain
from keras_distill.graph.traits import LAYERS

WRAPPERS = ("TimeDistributed", "Bidirectional")

# Words of one side that say nothing about what a layer computes.
_SILENT = (
    "seed",
    "use_cudnn",
    "implementation",
    "batch_input_shape",
    "batch_shape",
    "input_length",
    "input_dtype",
    "quantization_config",
    "build_config",
    "query_shape",
    "key_shape",
    "value_shape",
)
_RENAMED = {("LeakyReLU", "negative_slope"): "alpha"}
_POPPED = ("zero_output_for_mask",)
_PARTS = ("initializer", "regularizer", "constraint", "activation")


class NoTwinError(Exception):
    """The other generation has no layer that does the same; the message says why."""


def twin_class(layer: Any, source: ModuleType, target: ModuleType) -> Any:
    """`target`'s class for a layer of exactly a `source` class.

    Raises:
      NoTwinError: there is none.
    """
    name = type(layer).__name__
    known = name in LAYERS and LAYERS[name].twin
    if not known or getattr(source.layers, name, None) is not _stock(type(layer)):
        raise NoTwinError(f"{name} has no twin in {target.__name__}")
    return getattr(target.layers, name)


def _stock(kind: type) -> type:
    # Our own Normalization stands for the stock one.
    return getattr(kind, "stands_for", kind)


def legacy_config(layer: keras.Layer) -> dict[str, Any]:
    """A Keras 3 layer's config as tf_keras's class takes it.

    Raises:
      NoTwinError: it has a setting that tf_keras does not know.
    """
    target = legacy.tf_keras()
    if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
        raise NoTwinError("it is quantised or has LoRA weights")
    if getattr(layer, "stateful", False):
        raise NoTwinError("it keeps its state from batch to batch")
    if getattr(layer, "renorm", False):
        raise NoTwinError("batch renormalisation")
    axes = layer.axis if isinstance(layer, keras.layers.LayerNormalization) else ()
    if len({axis < 0 for axis in axes}) > 1:
        raise NoTwinError(
            "it mixes axes from the front and from the back: their order is Keras 3's own"
        )
    config = _translated(layer, keras, target)
    config["dtype"] = layer.dtype_policy.name
    return config


def keras3_config(layer: Any) -> dict[str, Any]:
    """A tf_keras layer's config as Keras 3's class takes it.

    Raises:
      NoTwinError: it has a setting that Keras 3 does not know.
    """
    if getattr(layer, "stateful", False):
        raise NoTwinError("it keeps its state from batch to batch")
    if getattr(layer, "virtual_batch_size", None) or getattr(layer, "adjustment", None):
        raise NoTwinError("virtual batches")
    config = _translated(layer, legacy.tf_keras(), keras)
    config["dtype"] = layer.dtype_policy.name
    if type(layer).__name__ == "BatchNormalization" and isinstance(config["axis"], list):
        if len(config["axis"]) != 1:
            raise NoTwinError("it normalises over several axes")
        config["axis"] = config["axis"][0]
    return config


def _translated(layer: Any, source: ModuleType, target: ModuleType) -> dict[str, Any]:
    kind = twin_class(layer, source, target)
    name, taken = kind.__name__, accepted(kind)
    config = {}
    for key, value in layer.get_config().items():
        word = _word(name, key, target)
        if key in ("dtype", "layer", "backward_layer"):
            continue
        if key.rpartition("_")[2] in _PARTS:
            part = _part(layer, key, value, target)
            if word in taken and part is not _DEFAULT:
                config[word] = part
            elif word not in taken and part is not None and key not in _SILENT_PARTS:
                raise NoTwinError(f"{target.__name__}'s {name} takes no {key}")
        elif word in taken:
            config[word] = plain(value)
        elif key not in _SILENT and not _is_default(layer, key, value):
            raise NoTwinError(f"{target.__name__}'s {name} takes no {key}={value!r}")
    return config


# Depthwise layers of either side list the parts of the convolution that they are made from.
_SILENT_PARTS = ("kernel_initializer", "kernel_regularizer", "kernel_constraint")


def _word(name: str, key: str, target: ModuleType) -> str:
    for (kind, ours), theirs in _RENAMED.items():
        if kind == name and key in (ours, theirs):
            return ours if target is keras else theirs
    return key


@functools.cache
def accepted(kind: Any) -> dict[str, Any]:
    """The keyword arguments of a layer class, its bases' included, and their defaults."""
    found: dict[str, Any] = {}
    for base in kind.__mro__:
        if "__init__" not in base.__dict__:
            continue
        parameters = inspect.signature(base.__init__).parameters  # type: ignore[misc]
        for name, parameter in parameters.items():
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                found.setdefault(name, parameter.default)
        if base.__name__ == "Layer":
            # What layers pop from their keyword arguments by hand.
            for name in ("name", "trainable", "dtype", "activity_regularizer", *_POPPED):
                found.setdefault(name, None)
        if base.__name__ == "Layer" or not any(
            parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values()
        ):
            break
    return found


def _is_default(layer: Any, key: str, value: Any) -> bool:
    if key in ("data_format", "groups", "conv_op"):
        return value in (None, "channels_last", 1)
    kind: Any = type(layer)
    default = accepted(kind).get(key)
    return value is None or (value is False and default is not True) or value == default


# --- initialisers, regularisers, constraints, activations ------------------------------------

_DEFAULT = object()
_REGULARIZERS = ("L1", "L2", "L1L2", "OrthogonalRegularizer")
_CONSTRAINTS = ("MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm")


def _part(layer: Any, key: str, value: Any, target: ModuleType) -> Any:
    part = getattr(layer, key, None)
    if part is None:
        part = getattr(layer, f"_{key}", None)
    if part is None:
        return None if value is None else _DEFAULT
    kind = key.rpartition("_")[2]
    if kind == "activation":
        if isinstance(part, keras.Layer) or type(part).__module__.startswith("tf_keras."):
            raise NoTwinError(f"its {key} is a layer")
        return activations.to_keras3(part) if target is keras else activations.to_legacy(part)
    if kind == "initializer":
        return _initializer(part, target)
    if kind == "regularizer":
        return _rebuilt(part, target.regularizers, _REGULARIZERS)
    return _rebuilt(part, target.constraints, _CONSTRAINTS)


def _rebuilt(part: Any, target: ModuleType, known: tuple[str, ...]) -> Any:
    name = type(part).__name__
    if name not in known or type(part).__module__.split(".")[0] not in ("keras", "tf_keras"):
        # A user's own: both generations call it with a variable and take what TensorFlow gives.
        return part
    return getattr(target, name)(**{k: _number(v) for k, v in part.get_config().items()})


def _number(value: Any) -> Any:
    # tf_keras keeps 0.3 as the float32 next to it, 0.30000001192...
    value = plain(value)
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _initializer(part: Any, target: ModuleType) -> Any:
    # The weights are set afterwards: one that the other side does not know is only left out.
    name = {"IdentityInitializer": "Identity", "OrthogonalInitializer": "Orthogonal"}.get(
        type(part).__name__, type(part).__name__
    )
    kind = getattr(target.initializers, name, None)
    if kind is None or type(part).__module__.split(".")[0] not in ("keras", "tf_keras"):
        return _DEFAULT
    words = accepted(kind)
    config = {key: plain(value) for key, value in part.get_config().items() if key in words}
    if not isinstance(config.get("seed", 0), (int, type(None))):
        config["seed"] = None
    return kind(**config)
