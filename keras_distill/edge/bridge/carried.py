"""tf_keras layers of ours: one that carries a Keras 3 operation, and a Normalization."""

from __future__ import annotations

import functools
import json
from typing import Any

import keras
import tensorflow as tf

from keras_distill import _json, _keras
from keras_distill.data import qualified_name
from keras_distill.edge import legacy
from keras_distill.edge.bridge import activations
from keras_distill.edge.bridge.calls import Call, OwnText, plain
from keras_distill.graph.copying import copy_of
from keras_distill.graph.remaking import build_by_call, builds_by_call, call_config, call_of_config


@functools.cache
def carried_class() -> Any:
    """The class `Carried`: a tf_keras layer that calls a Keras 3 layer or operation.

    It shares the Keras 3 layer's variables. A clone of it (from its config) has a copy of them.
    """
    tf_keras = legacy.tf_keras()

    class Carried(tf_keras.layers.Layer):  # type: ignore[name-defined,misc]
        """Calls `operation`, with the arguments of `calls[index]`, on the tensors it is given."""

        def __init__(
            self, operation: Any, calls: Any = (), *, called_on: str | None = None, **kwargs: Any
        ) -> None:
            kwargs.setdefault("name", operation.name)
            kwargs["dtype"] = getattr(operation, "dtype_policy", keras.DTypePolicy("float32")).name
            super().__init__(**kwargs, autocast=False)
            # Past tf_keras's tracking, which would find the Keras 3 layer's variables by itself.
            self.__dict__["operation"] = operation
            self.__dict__["calls"] = list(calls)
            self.__dict__["called_on"] = called_on or _called_on(operation)
            self.supports_masking = True
            if isinstance(operation, keras.Layer):
                _share(self, operation)

        def call(self, inputs: Any, index: int = 0, training: Any = None) -> Any:
            return _called(self, inputs, index, training)

        def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
            return None  # The operation has put its own on what it returned.

        def get_config(self) -> dict[str, Any]:
            config = OwnText(
                json.dumps(keras.saving.serialize_keras_object(self.operation), default=plain)
            )
            config.written_from = self.operation
            return {
                "name": self.name,
                "trainable": self.trainable,
                "operation": config,
                "calls": [call.to_json() for call in self.calls],
                "called_on": self.called_on,
            }

        @classmethod
        def from_config(cls, config: dict[str, Any]) -> Any:
            config = dict(config)
            operation = _operation(config.pop("operation"), config.get("called_on"))
            calls = [Call.from_json(text) for text in config.pop("calls")]
            return cls(operation, calls, **config)

    return tf_keras.saving.register_keras_serializable("keras_distill")(Carried)


def _share(carrier: Any, layer: keras.Layer) -> None:
    learnt = {id(v) for part in _keras.layers_of(layer) for v in _keras.trained_variables(part)}
    if layer.trainable:
        learnt = {id(v) for v in layer.trainable_variables}
    _keras.set_flag(carrier, layer.trainable)
    weights = {id(v) for v in layer.weights}
    for number, variable in enumerate(layer.variables):
        trained = id(variable) in learnt if id(variable) in learnt | weights else None
        _keras.legacy.share(carrier, variable.value, f"carried_{number}", trained)
        if variable.regularizer is not None:
            carrier.add_loss(functools.partial(_penalty, variable))
    if not layer.variables:
        # Lookup tables are no variables.
        _keras.legacy.share(carrier, layer, "carried")


@tf.autograph.experimental.do_not_convert
def _called(carrier: Any, inputs: Any, index: int, training: Any) -> Any:
    args, kwargs = carrier.calls[index].fill(inputs)
    operation = carrier.operation
    if not isinstance(operation, keras.Layer):
        return operation(*args, **kwargs)
    # tf_keras builds its graph with a placeholder, which Python's `if` can't read.
    training = False if training is None or tf.is_tensor(training) else bool(training)
    outputs, losses = _keras.called(operation, training, args, kwargs)
    for loss in losses:
        carrier.add_loss(loss)
    return outputs


def _penalty(variable: keras.Variable) -> Any:
    return variable.regularizer(variable)


def _called_on(operation: Any) -> str | None:
    """The call that builds what its config alone does not."""
    return (
        json.dumps(call_config(_keras.first_call(operation))) if builds_by_call(operation) else None
    )


def _operation(text: str, called_on: str | None) -> Any:
    written_from = getattr(text, "written_from", None)
    if written_from is not None:
        return copy_of(written_from, written_from.name)
    # As in Keras' own Lambda, unset means safe in a text that may come from a file.
    safe = _keras.legacy.safe_mode()
    if safe is None:
        safe = not isinstance(text, OwnText)
    operation = keras.saving.deserialize_keras_object(_json.loads(text), safe_mode=bool(safe))
    # Keras' safe mode lets any of its functions and classes by name through, and this is called.
    if not isinstance(operation, keras.Operation):
        raise ValueError(f"Expected a Keras 3 layer or operation; got {qualified_name(operation)}.")
    if called_on:
        build_by_call(operation, call_of_config(_json.loads(called_on)))
    return operation


@functools.cache
def normalization_class() -> Any:
    """tf_keras's Normalization, reading its statistics at every call.

    The stock layer keeps a copy that only `adapt` renews: after `set_weights`, and in every clone,
    it would normalise with a mean of 0 and a variance of 1.
    """
    tf_keras = legacy.tf_keras()

    class Normalization(tf_keras.layers.Normalization):  # type: ignore[name-defined,misc]
        """A Normalization whose weights are what it computes with."""

        stands_for = tf_keras.layers.Normalization

        def call(self, inputs: Any) -> Any:
            if self.input_mean is not None:
                return super().call(inputs)
            inputs, mean, variance = _keras.legacy.standardized_and_statistics(self, inputs)
            deviation = tf.maximum(tf.sqrt(variance), tf_keras.backend.epsilon())
            return mean + inputs * deviation if self.invert else (inputs - mean) / deviation

    return tf_keras.saving.register_keras_serializable("keras_distill")(Normalization)


def register_all() -> None:
    """Makes our tf_keras classes and functions known to tf_keras's loading."""
    carried_class()
    normalization_class()
    activations.register_all()
