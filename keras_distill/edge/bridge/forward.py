"""From Keras 3 to tf_keras: the model's graph, replayed on twins of its layers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_distill import _keras
from keras_distill._keras import Functional
from keras_distill.data import qualified_name
from keras_distill.edge import legacy
from keras_distill.edge.bridge import carried, weights
from keras_distill.edge.bridge.calls import Call, packed
from keras_distill.edge.bridge.configs import NoTwinError
from keras_distill.edge.bridge.legacy_layer import LegacyLayer
from keras_distill.edge.bridge.probe import Probe
from keras_distill.edge.bridge.twins import legacy_twin
from keras_distill.graph import replay
from keras_distill.graph.float_only import check_float
from keras_distill.graph.remaking import by_keras

_NATIVE = ("Add", "Subtract", "Multiply", "Maximum", "Minimum")
_WAYS_OUT = (
    "Name the layer at fault in skip=[...], so that the Keras 3 layer itself is carried, or give "
    "layers={TheClass: a function from the Keras 3 layer to a tf_keras layer}."
)


def to_legacy(
    model: keras.Model,
    *,
    skip: Sequence[str | type] = (),
    layers: dict[type, Callable[[Any], Any]] | None = None,
) -> Any:
    """The tf_keras twin of a Keras 3 model: same layer names, same weights, equal outputs.

    A layer that tf_keras does not have, and an operation (`keras.ops`, `x * 2`), is carried: a
    tf_keras layer calls it and **shares its variables**. All other weights are copies.

    Args:
      model: Functional or Sequential, nested models included; built.
      skip: layers to carry although they have a twin, each a name, the end of a path
        (`"encoder/dense"`) or a class.
      layers: by Keras 3 layer class, a function that makes a tf_keras layer from the Keras 3
        layer; its weights are set from the Keras 3 layer's.

    Returns:
      A tf_keras model. On a random batch it has answered like `model`, to 1e-4 of the scale.

    Raises:
      TypeError: not a Keras 3 model.
      ValueError: subclassed or not built; `skip` names nothing; a layer can't be taken; a
        factory's weights have other shapes; the outputs differ.

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="logits")])
    >>> [layer.name for layer in to_legacy(model).layers]
    ['logits']
    """
    _refuse_keras_2(model)
    replay.functional(model)
    check_float(model)
    probe = Probe(model)
    carried.register_all()
    replayed = _Replay(tuple(skip), dict(layers or {}))
    twin = replayed.model(model, "")
    replayed.check_skip(model)
    replayed.copy_weights()
    probe.check(twin, ways_out=_WAYS_OUT)
    return twin


def _refuse_keras_2(model: Any) -> None:
    modules = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    if "tf_keras" in modules:
        raise TypeError(
            f"Expected a Keras 3 model; got {qualified_name(model)}, which is a Keras 2 model "
            f"already. to_keras3(model) makes a Keras 3 model of it, wrap_legacy(model) one that "
            f"shares its variables."
        )


class _Replay:
    """One call of `to_legacy`: the twins made, by the Keras 3 operation they stand for."""

    def __init__(self, skip: tuple, factories: dict[type, Callable]) -> None:
        self._skip = skip
        self._factories = factories
        self._twins: dict[int, Any] = {}
        self._pairs: list[tuple[str, Any, Any]] = []
        self._skipped: set = set()

    def model(self, model: Any, prefix: str) -> Any:
        """The twin of a model, nested at `prefix`."""
        if isinstance(model, keras.Sequential):
            twin = self._sequential(model, prefix)
        else:
            twin = self._functional(replay.functional(model), prefix)
        _keras.set_flag(twin, model.trainable)
        return twin

    def check_skip(self, model: Any) -> None:
        """Raises for what `skip` names and the model has not."""
        for wanted in self._skip:
            if wanted not in self._skipped:
                raise ValueError(
                    f"skip names {wanted!r}, and no layer of {model.name!r} answers to it. It has "
                    f"{', '.join(layer.name for layer in model.layers)}."
                )

    def copy_weights(self) -> None:
        """Sets every twin's weights."""
        for path, layer, twin in self._pairs:
            weights.copy(layer, twin, path)

    def _sequential(self, model: keras.Sequential, prefix: str) -> Any:
        functional = replay.functional(model)
        tf_keras = legacy.tf_keras()
        layers = [_legacy_input(functional.inputs[0]).node.layer]
        for layer in model.layers:
            twin = self._twin(layer, f"{prefix}{layer.name}", [{}])
            layers.append(twin)
            if isinstance(twin, carried.carried_class()) and not twin.calls:
                twin.calls.append(Call.of((None,), {}, lambda value: value is None)[0])
        return tf_keras.Sequential(layers, name=model.name)

    def _functional(self, model: Functional, prefix: str) -> Any:
        uses = _uses(model)
        found = {id(tensor): _legacy_input(tensor) for tensor in model.inputs}
        inputs = keras.tree.map_structure(
            lambda tensor: found[id(tensor)], _keras.input_structure(model)
        )

        def operation_fn(operation: Any) -> Callable:
            path = f"{prefix}{operation.name}"

            def call(*args: Any, **kwargs: Any) -> Any:
                # Keras 3 notes here what it ran with, and lets the model's own argument win.
                kwargs.pop("training", None)
                if isinstance(operation, LegacyLayer):
                    args, kwargs = operation.arguments(*args, **kwargs)
                twin = self._twin(operation, path, uses[id(operation)], args, kwargs)
                try:
                    return self._call(twin, args, kwargs)
                except (TypeError, ValueError) as error:
                    if isinstance(operation, (keras.Sequential, Functional)):
                        raise
                    raise ValueError(
                        f"{path!r} ({qualified_name(operation)}) can't be taken over: {error} "
                        f"{_WAYS_OUT}"
                    ) from error

            return call

        outputs = replay.replay(model, [found[id(x)] for x in model.inputs], operation_fn)
        return legacy.tf_keras().Model(inputs, outputs, name=model.name)

    def _call(self, twin: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        native = getattr(twin, "from_operation", None)
        if native is not None:
            return twin(*_native_arguments(native, args))
        if not isinstance(twin, carried.carried_class()):
            return twin(*args, **kwargs)
        call, tensors = Call.of(args, kwargs, legacy.is_symbolic)
        twin.calls.append(call)
        return twin(packed(tensors), index=len(twin.calls) - 1)

    def _twin(
        self, operation: Any, path: str, uses: list[dict], args: tuple = (), kwargs: Any = None
    ) -> Any:
        if id(operation) not in self._twins:
            self._twins[id(operation)] = self._made(operation, path, uses, args, kwargs or {})
        return self._twins[id(operation)]

    def _made(self, operation: Any, path: str, uses: list[dict], args: tuple, kwargs: dict) -> Any:
        if self._is_skipped(operation, path):
            return self._carried(operation, path)
        factory = self._factories.get(type(operation))
        if factory is not None:
            return self._from_factory(factory, operation, path)
        if isinstance(operation, (keras.Sequential, Functional)):
            return self.model(operation, f"{path}/")
        if not isinstance(operation, keras.Layer):
            twin = _native(operation, args, kwargs) if len(uses) == 1 else None
            return twin or self._carried(operation, path)
        if isinstance(operation, LegacyLayer):
            return operation.copied_inner()
        try:
            return self._stock(operation, path, uses)
        except (NoTwinError, TypeError, ValueError):
            # The last two come from constructors of tf_keras, of a setting that it refuses.
            return self._carried(operation, path)

    def _stock(self, layer: keras.Layer, path: str, uses: list[dict]) -> Any:
        inside: list[tuple[str, Any, Any]] = []

        def inner(part: Any, word: str) -> Any:
            if isinstance(part, (keras.Sequential, Functional)):
                return self.model(part, f"{path}/{word}/")
            twin = legacy_twin(part, inner)
            inside.append((f"{path}/{word}", part, twin))
            return twin

        twin = legacy_twin(layer, inner)
        taken = {*inspect.signature(twin.call).parameters, "initial_state"}
        if any(not set(words) <= taken for words in uses):
            raise NoTwinError("it is called with arguments that tf_keras's does not know")
        self._pairs += [*inside] if type(layer).__name__ == "TimeDistributed" else []
        if type(layer).__name__ != "TimeDistributed":
            self._pairs.append((path, layer, twin))
        return twin

    def _from_factory(self, factory: Callable, layer: Any, path: str) -> Any:
        tf_keras = legacy.tf_keras()
        twin = factory(layer)
        if not isinstance(twin, tf_keras.layers.Layer):
            raise ValueError(
                f"layers[{type(layer).__qualname__}] made {qualified_name(twin)} for {path!r}. "
                f"Expected a tf_keras layer (tf_keras.layers.Layer)."
            )
        _keras.legacy.rename(twin, layer.name)
        self._pairs.append((path, layer, twin))
        return twin

    def _carried(self, operation: Any, path: str) -> Any:
        if isinstance(operation, keras.Layer) and not operation.built:
            raise ValueError(
                f"{path!r} ({qualified_name(operation)}) has no weights yet, so that tf_keras can "
                f"share none. Call the model once, or {_WAYS_OUT[0].lower()}{_WAYS_OUT[1:]}"
            )
        return carried.carried_class()(operation)

    def _is_skipped(self, operation: Any, path: str) -> bool:
        found = [
            wanted
            for wanted in self._skip
            if (isinstance(wanted, type) and isinstance(operation, wanted))
            or (isinstance(wanted, str) and f"/{path}".endswith(f"/{wanted}"))
        ]
        self._skipped.update(found)
        return bool(found)


def _legacy_input(tensor: keras.KerasTensor) -> Any:
    layer = _keras.history(tensor).operation
    return legacy.tf_keras().Input(
        shape=tuple(tensor.shape)[1:],
        batch_size=tensor.shape[0],
        name=layer.name,
        dtype=keras.backend.standardize_dtype(tensor.dtype),
        sparse=bool(getattr(tensor, "sparse", False)),
    )


def _uses(model: Functional) -> dict[int, list[dict]]:
    """The keyword arguments that each operation is given, call by call."""
    uses: dict[int, list[dict]] = {}
    for node in _keras.nodes(model):
        given = {key: value for key, value in node.arguments.kwargs.items() if value is not None}
        given.pop("training", None)
        uses.setdefault(id(node.operation), []).append(given)
    return uses


def _native(operation: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """A tf_keras merge layer that does exactly what the operation does, or None."""
    name = type(operation).__name__
    if isinstance(operation, keras.Layer) or not by_keras(operation):
        return None
    layers = legacy.tf_keras().layers
    tensors = _native_arguments(operation, (*args, *kwargs.values()))[0]
    if not isinstance(tensors, (list, tuple)) or len(tensors) < 2:
        return None
    if not all(legacy.is_symbolic(tensor) for tensor in tensors):
        return None
    dtypes = {tensor.dtype for tensor in tensors}
    if len(dtypes) != 1 or not next(iter(dtypes)).is_floating:
        return None
    options = {"name": operation.name, "dtype": next(iter(dtypes)).name}
    if name in _NATIVE and len({tuple(tensor.shape) for tensor in tensors}) == 1:
        twin = getattr(layers, name)(**options)
    elif name == "Concatenate" and isinstance(operation.axis, int):
        twin = layers.Concatenate(axis=operation.axis, **options)
    else:
        return None
    twin.from_operation = operation
    return twin


def _native_arguments(operation: Any, args: tuple) -> tuple:
    return args[:1] if type(operation).__name__ == "Concatenate" else (list(args),)
