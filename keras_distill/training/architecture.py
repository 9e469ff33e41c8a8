"""What models and objectives are, in words that are the same in every process."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from keras_distill import _keras

__all__ = ["architecture_digest", "plain_config"]

# What training or a process decides, and what the weights' shapes say.
_INCIDENTAL = ("name", "trainable", "build_config", "shared_object_id")


def architecture_digest(model: keras.Model) -> str:
    """A digest of what a model is, whatever its weights are and Keras called its layers.

    Models whose layers have no config are told apart by the layers' classes and the weights'
    shapes.

    >>> def model(activation):
    ...     return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation)])
    >>> architecture_digest(model("relu")) == architecture_digest(model("relu"))
    True
    >>> architecture_digest(model("relu")) == architecture_digest(model("tanh"))
    False
    """
    layers = [(type(one).__qualname__, _config_of(one)) for one in _keras.layers_of(model)]
    shapes = [(tuple(weight.shape), str(weight.dtype)) for weight in model.weights]
    text = json.dumps([_essence(layers), shapes], default=_kind)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def plain_config(value: Any) -> Any:
    """What rebuilds an objective or a schedule, as JSON has it, without names that Keras gave.

    >>> plain_config(0.1)
    0.1
    """
    config = _essence(keras.saving.serialize_keras_object(value))
    return json.loads(json.dumps(config, default=_kind))


def _config_of(layer: keras.layers.Layer) -> Any:
    try:
        return layer.get_config()
    except Exception:  # A user's own class need not have one.
        return None


def _essence(config: Any) -> Any:
    names = {name: f"name {i}" for i, name in enumerate(dict.fromkeys(_names(config)))}
    return _renamed(config, names)


def _names(config: Any) -> Iterator[str]:
    if isinstance(config, Mapping):
        if isinstance(config.get("name"), str):
            yield config["name"]
        config = list(config.values())
    if isinstance(config, (list, tuple)):
        for one in config:
            yield from _names(one)


def _renamed(config: Any, names: Mapping[str, str]) -> Any:
    if isinstance(config, Mapping):
        # A lambda's code holds the name of the file that it is from.
        if config.get("class_name") == "__lambda__":
            return "lambda"
        return {k: _renamed(v, names) for k, v in config.items() if k not in _INCIDENTAL}
    if isinstance(config, (list, tuple)):
        return [_renamed(one, names) for one in config]
    return names.get(config, config) if isinstance(config, str) else config


def _kind(value: Any) -> str:
    return type(value).__qualname__
