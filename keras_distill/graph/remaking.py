"""Layers made again from their configs, a user's own included."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_distill import _keras

__all__ = [
    "build_by_call",
    "builds_by_call",
    "by_keras",
    "call_config",
    "call_of_config",
    "from_own_config",
    "remaking",
    "without_build",
]

# The positional and the named arguments of a layer.
Call = tuple[tuple[Any, ...], dict[str, Any]]


def from_own_config(
    layer: Any, path: str, change: Callable[[dict[str, Any]], dict[str, Any]] = dict
) -> Any:
    """A layer of the same class and config, its values fresh.

    Functions without a name and objects that nobody has registered are the layer's very own.

    Args:
      layer: to be made again.
      path: names it in errors.
      change: from its serialised form to the one that is to be built.

    Raises:
      ValueError: its config does not rebuild it.
    """
    parts = _keras.layers_of(layer)
    try:
        with _named(_lambdas(parts)) as lambdas:
            config = change(keras.saving.serialize_keras_object(layer))
            with remaking(config["config"].get("dtype")):
                copy = keras.saving.deserialize_keras_object(
                    config, custom_objects={**_own_objects(parts), **lambdas}, safe_mode=False
                )
    except Exception as error:
        raise ValueError(
            f"The layer {path!r} ({type(layer).__module__}.{type(layer).__qualname__}) "
            f"can't be copied from its config: {error}. Give it a get_config() that returns what "
            f"its __init__ takes."
        ) from error
    copy.trainable = layer.trainable
    return copy


@contextlib.contextmanager
def remaking(policy: Any) -> Iterator[None]:
    """Inside, layers that a layer makes for itself compute in its dtype, as they did at first.

    And Keras' warning is not heard, of what `build_by_call` is going to do.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(before if policy is None else keras.dtype_policies.get(policy))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`build\(\)` was called on layer", UserWarning)
            yield
    finally:
        keras.config.set_dtype_policy(before)


def without_build(config: Any) -> Any:
    """The config of a layer, and of the layers in it, without the shapes they were built for."""
    if isinstance(config, dict):
        return {key: without_build(value) for key, value in config.items() if key != "build_config"}
    return [without_build(one) for one in config] if isinstance(config, list) else config


def by_keras(operation: keras.Operation) -> bool:
    """Whether an operation is of Keras' own making, so that its name says what it does."""
    return type(operation).__module__.startswith("keras.")


def builds_by_call(layer: Any) -> bool:
    """Whether it is, or holds, a layer of a user's own with layers that a call may have built."""
    parts = _keras.layers_of(layer) if isinstance(layer, keras.layers.Layer) else []
    return any(not by_keras(part) and _keras.children(part) for part in parts)


def build_by_call(layer: Any, call: Call | None) -> None:
    """Builds what a layer of a user's own builds only when it is called.

    Args:
      layer: with layers inside that its own `build()` leaves alone.
      call: the arguments, `keras.KerasTensor`s in the tensors' places; with None nothing is done.
    """
    if call is not None:
        args, kwargs = call
        _Calling(layer).compute_output_spec(*args, **kwargs)


def call_config(call: Call | None) -> Any:
    """A call in JSON's types, tensors as shapes and dtypes; None where it holds anything else."""
    try:
        return None if call is None else [_written(list(call[0])), _written(call[1])]
    except TypeError:
        return None


def call_of_config(config: Any) -> Call | None:
    """The call that `call_config` wrote."""
    return None if config is None else (tuple(_read(config[0])), _read(config[1]))


def _written(value: Any) -> Any:
    if isinstance(value, keras.KerasTensor):
        return {"shape": list(value.shape), "dtype": value.dtype, "sparse": value.sparse}
    if isinstance(value, dict):
        return {"items": {key: _written(one) for key, one in value.items()}}
    if isinstance(value, (list, tuple)):
        return [_written(one) for one in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(value)


def _read(value: Any) -> Any:
    if isinstance(value, list):
        return [_read(one) for one in value]
    if not isinstance(value, dict):
        return value
    if "items" in value:
        return {key: _read(one) for key, one in value["items"].items()}
    return keras.KerasTensor(**value, record_history=False)


class _Calling(keras.Operation):
    """A layer's whole call, of which a layer with `compute_output_shape` would be asked nothing."""

    def __init__(self, layer: Any):
        super().__init__()
        self._layer = layer

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self._layer(*args, **kwargs)


def _own_objects(parts: list[Any]) -> dict[str, Any]:
    """What layers are and hold that is not Keras' own, by name: nobody may have registered it."""
    found: dict[str, Any] = {type(part).__name__: type(part) for part in parts}
    for value in _held(parts):
        if inspect.isfunction(value):
            found[value.__name__] = value
        elif hasattr(value, "get_config"):
            found[type(value).__name__] = type(value)
    return {name: one for name, one in found.items() if not one.__module__.startswith("keras.")}


def _lambdas(parts: list[Any]) -> list[Any]:
    found = {id(one): one for one in _held(parts) if inspect.isfunction(one)}
    return [one for one in found.values() if one.__name__ == "<lambda>"]


def _held(parts: list[Any]) -> Iterator[Any]:
    for part in parts:
        for value in vars(part).values():
            yield from value if isinstance(value, (list, tuple)) else (value,)


@contextlib.contextmanager
def _named(functions: list[Any]) -> Iterator[dict[str, Any]]:
    """Inside, a config refers to these by name; else to their code, which forgets its module."""
    names = {f"keras_distill_lambda_{number}": one for number, one in enumerate(functions)}
    try:
        for name, function in names.items():
            function.__name__ = name
        yield names
    finally:
        for function in functions:
            function.__name__ = "<lambda>"
