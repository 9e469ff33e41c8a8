"""One Keras 3 layer's tf_keras twin, unbuilt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_distill import _keras
from keras_distill.edge import legacy
from keras_distill.edge.bridge import carried, configs
from keras_distill.edge.bridge.configs import NoTwinError


def legacy_twin(layer: keras.Layer, inner: Callable[[Any, str], Any]) -> Any:
    """The tf_keras layer that does what `layer` does.

    Args:
      layer: a Keras 3 layer.
      inner: `inner(layer, word)` makes the twin of a layer inside `layer`.

    Raises:
      NoTwinError: there is none.
    """
    tf_keras = legacy.tf_keras()
    kind = configs.twin_class(layer, keras, tf_keras)
    config = configs.legacy_config(layer)
    if kind is tf_keras.layers.TimeDistributed:
        return kind(inner(layer.layer, "layer"), **config)
    if kind is tf_keras.layers.Bidirectional:
        return _bidirectional(layer, kind, config)
    if kind is tf_keras.layers.Normalization:
        kind = carried.normalization_class()
    return kind(**config)


def _bidirectional(layer: keras.Layer, kind: Any, config: dict[str, Any]) -> Any:
    halves = []
    for half in (layer.forward_layer, layer.backward_layer):
        if type(half).__name__ in configs.WRAPPERS:
            raise NoTwinError(f"it wraps a {type(half).__name__}")
        halves.append(legacy_twin(half, lambda *_: None))
    twin = kind(halves[0], backward_layer=halves[1], **config)
    _keras.legacy.rename(twin.forward_layer, layer.forward_layer.name)
    _keras.legacy.rename(twin.backward_layer, layer.backward_layer.name)
    return twin


def keras3_twin(layer: Any, inner: Callable[[Any, str], Any]) -> keras.Layer:
    """The Keras 3 layer that does what a tf_keras layer does, unbuilt.

    Raises:
      NoTwinError: there is none.
    """
    kind = configs.twin_class(layer, legacy.tf_keras(), keras)
    config = configs.keras3_config(layer)
    if kind is keras.layers.TimeDistributed:
        return kind(inner(layer.layer, "layer"), **config)
    if kind is keras.layers.Bidirectional:
        halves = [keras3_twin(h, inner) for h in (layer.forward_layer, layer.backward_layer)]
        twin = kind(halves[0], backward_layer=halves[1], **config)
        twin.forward_layer.name = layer.forward_layer.name
        twin.backward_layer.name = layer.backward_layer.name
        return twin
    return kind(**config)
