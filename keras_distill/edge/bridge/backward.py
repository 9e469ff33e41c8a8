"""From tf_keras to Keras 3, with weights of its own."""

from __future__ import annotations

from typing import Any

import keras

from keras_distill import _keras
from keras_distill.edge import legacy
from keras_distill.edge.bridge import carried, rebuild, tfmot, weights
from keras_distill.edge.bridge.configs import NoTwinError
from keras_distill.edge.bridge.legacy_layer import LegacyLayer, from_json, to_json
from keras_distill.edge.bridge.probe import Probe
from keras_distill.edge.bridge.twins import keras3_twin

_WAYS_OUT = "Please report it, with the model's config; wrap_legacy(model) keeps tf_keras's layers."


def to_keras3(model: Any) -> keras.Model:
    """The Keras 3 model of a tf_keras one: same layer names, weights exact.

    TFMOT's wrappers (pruning, clustering, quantisation) are taken off first. What `to_legacy`
    carried comes back as the Keras 3 layer it was. A layer that Keras 3 does not have (the user's
    own, an operator's) stays a tf_keras layer inside a `LegacyLayer`.

    Args:
      model: a tf_keras Functional or Sequential model, nested models included; built.

    Returns:
      A Keras 3 model. On a random batch it has answered like `model` without its wrappers.

    Raises:
      TypeError: not a tf_keras model.
      ValueError: subclassed or not built, or the outputs differ.

    >>> tf_keras = legacy.tf_keras()
    >>> model = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(2, name="logits")])
    >>> [layer.name for layer in to_keras3(model).layers]
    ['logits']
    """
    rebuild.check_model(model)
    if not rebuild.is_graph(model):
        raise ValueError(
            f"{model.name!r} is a subclassed tf_keras model: its graph is hidden in call() and "
            f"can't be rebuilt layer by layer. wrap_legacy(model) takes it whole."
        )
    quantised = _has(model, "QuantizeWrapper") or _has(model, "QuantizeLayer")
    model = _without_wrappers(model)
    pairs: list[tuple[Any, Any, list]] = []
    made = rebuild.Rebuild(lambda layer: _placed(layer, pairs)).model(model)
    for layer, operation, variables in pairs:
        weights.copy(layer, operation, layer.name, variables=variables)
    if not quantised:
        # With the wrappers the old model answers in its quantised numbers.
        Probe(model).check(made, ways_out=_WAYS_OUT)
    return made


def _has(model: Any, wrapper: str) -> bool:
    return any(wrapper in tfmot.class_names(layer) for layer in _keras.layers_of(model))


def _without_wrappers(model: Any) -> Any:
    if _has(model, "PruneLowMagnitude"):
        model = legacy.tfmot().sparsity.keras.strip_pruning(model)
    if _has(model, "ClusterWeights"):
        model = legacy.tfmot().clustering.keras.strip_clustering(model)
    return model


def _placed(layer: Any, pairs: list[tuple[Any, Any, list]]) -> Any:
    kinds = tfmot.class_names(layer)
    if "QuantizeLayer" in kinds:
        return None
    variables = tfmot.wrapper_of(layer).own_variables()
    if "QuantizeWrapper" in kinds:
        layer = layer.layer
    if isinstance(layer, carried.carried_class()):
        return layer.operation
    if hasattr(layer, "from_operation"):
        return layer.from_operation
    made = _twin(layer, pairs, variables)
    made.trainable = layer.trainable
    return made


def _twin(layer: Any, pairs: list[tuple[Any, Any, list]], variables: list) -> keras.Layer:
    def inner(part: Any, _: str) -> Any:
        if rebuild.is_graph(part):
            return rebuild.Rebuild(lambda each: _placed(each, pairs)).model(part)
        twin = keras3_twin(part, inner)
        pairs.append((part, twin, list(part.weights)))
        return twin

    try:
        made = keras3_twin(layer, inner)
    except NoTwinError:
        return LegacyLayer(_copied(layer))
    if type(layer).__name__ != "TimeDistributed":
        pairs.append((layer, made, variables))
    return made


def _copied(layer: Any) -> Any:
    if not layer.weights:
        return layer
    copy = from_json(to_json(layer))
    args, kwargs = _keras.legacy.first_call(layer)
    copy(*args, **kwargs)
    copy.set_weights(layer.get_weights())
    return copy
