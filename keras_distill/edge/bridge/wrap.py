"""Keras 3 outside, tf_keras inside, one set of variables."""

from __future__ import annotations

from typing import Any

import keras

from keras_distill import _keras
from keras_distill.edge.bridge import carried, rebuild, tfmot
from keras_distill.edge.bridge.configs import NoTwinError
from keras_distill.edge.bridge.legacy_layer import LegacyLayer
from keras_distill.edge.bridge.probe import Probe
from keras_distill.edge.bridge.twins import keras3_twin
from keras_distill.edge.compress.model import CompressedModel
from keras_distill.graph import replay

_WAYS_OUT = "Please report it, with the model's config."


def wrap_legacy(model: Any) -> keras.Model:
    """A Keras 3 model over a tf_keras one, **sharing its very variables**.

    A true Functional (or Sequential) model, layer by layer, nested models nested: `summary`, taps,
    `fit`, optimisers, callbacks, strategies and files are Keras 3's. A layer with weights is inside
    a `LegacyLayer` of its name, `layer.inner`; one without, of which Keras 3 has a twin, is the
    Keras 3 layer; what `to_legacy` carried is the Keras 3 layer that it carried. A subclassed model
    is in one `LegacyLayer` as a whole: it trains and keeps weight files, but can't be saved.

    Under a strategy call it in the scope in which the tf_keras model was made.

    Args:
      model: a tf_keras model, TFMOT's wrappers included; built. Pruning follows the optimiser's
        updates, without a callback; masks and clusters hold after each.

    Returns:
      A Keras 3 model. Training it trains `model`.

    Raises:
      TypeError: not a tf_keras model.
      ValueError: it is not built, or the outputs differ; a pruning wrapper inside another layer or
        a subclassed model; a wrapper of TFMOT's that drops a mask.

    >>> from keras_distill.edge import legacy
    >>> tf_keras = legacy.tf_keras()
    >>> inner = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(2)])
    >>> wrap_legacy(inner).trainable_variables[0].value is inner.trainable_variables[0]
    True
    """
    rebuild.check_model(model)
    variables: dict[Any, keras.Variable] = {}
    if not rebuild.is_graph(model):
        return _whole(model, variables)
    made = rebuild.Rebuild(lambda layer: _placed(layer, variables)).model(model)
    Probe(model).check(made, ways_out=_WAYS_OUT)
    return _told_of_updates(made)


def _told_of_updates(model: keras.Model) -> keras.Model:
    layers = [layer for layer in _keras.layers_of(model) if isinstance(layer, LegacyLayer)]
    if not any(layer.wrapper.follows_updates for layer in layers):
        return model
    graph = replay.functional(model)
    told = CompressedModel(
        _keras.input_structure(graph), _keras.output_structure(graph), name=model.name
    )
    _keras.set_flag(told, _keras.flag(model))
    return told


def _placed(layer: Any, variables: dict[Any, keras.Variable]) -> Any:
    if isinstance(layer, carried.carried_class()):
        return layer.operation
    if hasattr(layer, "from_operation"):
        return layer.from_operation
    if not layer.weights:
        try:
            return keras3_twin(layer, _none)
        except NoTwinError:
            pass
    tfmot.check_trainable(layer)
    return LegacyLayer(layer, variables=variables)


def _none(*_: Any) -> Any:
    raise NoTwinError("a layer inside a layer stays where it is")


def _whole(model: Any, variables: dict[Any, keras.Variable]) -> keras.Model:
    tfmot.check_trainable(model)
    layer = LegacyLayer(model, variables=variables)
    specs = keras.tree.map_structure(lambda spec: spec, model.save_spec()[0][0])
    inputs = keras.tree.map_structure(
        lambda spec: keras.Input(batch_shape=(None, *spec.shape[1:]), dtype=spec.dtype.name), specs
    )
    return keras.Model(inputs, layer(inputs), name=model.name)
