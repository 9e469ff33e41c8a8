"""A tf_keras graph, rebuilt in Keras 3 with a Keras 3 operation in each layer's place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_distill import _keras
from keras_distill.data import qualified_name
from keras_distill.edge import legacy
from keras_distill.edge.bridge.calls import PLAIN, Call, packed
from keras_distill.edge.bridge.legacy_layer import LegacyLayer


def check_model(model: Any) -> None:
    """Refuses whatever is not a built tf_keras model.

    Raises:
      TypeError: it is something else.
      ValueError: it is not built.
    """
    if not isinstance(model, legacy.tf_keras().Model):
        raise TypeError(
            f"Expected a Keras 2 model (tf_keras.Model); got {qualified_name(model)}. "
            f"to_legacy(model) makes one of a Keras 3 model."
        )
    if not model.built:
        raise ValueError(
            f"Expected a built model; {model.name!r} has no weights yet. Call it once on a batch "
            f"or give it an Input layer."
        )


def is_graph(model: Any) -> bool:
    """Whether a tf_keras layer is a model whose graph is known."""
    return isinstance(model, legacy.tf_keras().Model) and _keras.legacy.is_graph(model)


class Rebuild:
    """One rebuilding: the operations placed so far, by the layer they stand for.

    Args:
      place: gives the Keras 3 operation for a tf_keras layer that is no graph itself, or None
        where the layer is to be left out, its input being its output.
    """

    def __init__(self, place: Callable[[Any], Any]) -> None:
        self._place = place
        self._placed: dict[int, Any] = {}
        self._alive: list[Any] = []

    def model(self, model: Any) -> keras.Model:
        """The Keras 3 model of a tf_keras one."""
        if isinstance(model, legacy.tf_keras().Sequential):
            made = self._sequential(model)
        else:
            made = self._functional(model)
        _keras.set_flag(made, _keras.flag(model))
        return made

    def operation(self, layer: Any) -> Any:
        """What stands for a tf_keras layer; one that is used twice has one."""
        if id(layer) not in self._placed:
            self._alive.append(layer)
            made = self.model(layer) if is_graph(layer) else self._place(layer)
            self._placed[id(layer)] = made
        return self._placed[id(layer)]

    def _sequential(self, model: Any) -> keras.Sequential:
        made = keras.Sequential([_input(model.inputs[0])], name=model.name)
        for layer in model.layers:
            operation = self.operation(layer)
            if operation is None:
                continue
            if isinstance(operation, LegacyLayer):
                operation.add_call(PLAIN, [layer.input])
            made.add(operation)
        return made

    def _functional(self, model: Any) -> keras.Model:
        found = {id(tensor): _input(tensor) for tensor in model.inputs}
        given, returned = _keras.legacy.structures(model)
        inputs = _structure(found, given)
        for node in _keras.nodes(model):
            call, tensors = Call.of(tuple(node.call_args), node.call_kwargs, legacy.is_symbolic)
            made = self._called(node.layer, call, tensors, [found[id(x)] for x in tensors])
            outputs = keras.tree.flatten(node.outputs)
            found.update(zip(map(id, outputs), keras.tree.flatten(made), strict=True))
        return keras.Model(inputs, _structure(found, returned), name=model.name)

    def _called(self, layer: Any, call: Call, specs: list, tensors: list) -> Any:
        operation = self.operation(layer)
        if operation is None:
            return tensors[0]
        if isinstance(operation, LegacyLayer):
            return operation(packed(tensors), index=operation.add_call(call, specs))
        args, kwargs = call.fill(tensors)
        carried = getattr(layer, "operation", None)
        if carried is not None and carried is operation:
            args, kwargs = layer.calls[kwargs.get("index", 0)].fill(args[0])
        elif getattr(layer, "from_operation", None) is operation:
            args = (args[0],) if type(operation).__name__ == "Concatenate" else tuple(args[0])
        elif isinstance(operation, keras.layers.RNN) and isinstance(args[0], list):
            args, kwargs = tuple(args[0][:1]), {**kwargs, "initial_state": args[0][1:]}
        return operation(*args, **kwargs)


def _structure(found: dict[int, Any], nested: Any) -> Any:
    # tf_keras wraps lists and dicts in trackables.
    if isinstance(nested, dict):
        return {key: _structure(found, value) for key, value in nested.items()}
    if isinstance(nested, (list, tuple)):
        return [_structure(found, value) for value in nested]
    return found[id(nested)]


def _input(tensor: Any) -> keras.KerasTensor:
    return keras.Input(
        batch_shape=tuple(tensor.shape),
        dtype=tensor.dtype.name,
        name=tensor.node.layer.name,
        sparse=bool(getattr(tensor.node.layer, "sparse", False)),
    )
