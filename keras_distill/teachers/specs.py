"""What a model takes as input, and a batch brought to it."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from keras_distill.teachers.callables import signature_inputs

__all__ = ["fit_to_spec", "input_spec_of", "is_legacy"]


def is_legacy(model: Any) -> bool:
    """True for a model of the older generation, tf_keras."""
    return any(kind.__module__.split(".")[0] == "tf_keras" for kind in type(model).__mro__)


def input_spec_of(model: Any) -> Any:
    """A model's inputs as `tf.TensorSpec`s in their structure, batch None; None where unknown."""
    if signature := signature_inputs(model):
        return next(iter(signature.values())) if len(signature) == 1 else signature
    inputs = getattr(model, "_inputs_struct", None)
    if inputs is None:
        inputs = _inputs(model)
    if inputs is not None:
        return keras.tree.map_structure(_tensor_spec, inputs)
    shape = _built_shape(model)
    if shape is None:
        return None
    if _is_shape(shape):
        return tf.TensorSpec((None, *shape[1:]), keras.backend.floatx())
    return keras.tree.map_shape_structure(
        lambda s: tf.TensorSpec((None, *s[1:]), keras.backend.floatx()), shape
    )


def fit_to_spec(x: Any, spec: Any, names: list[str] | None, owner: str) -> list:
    """A batch as flat tensors of the model's own dtypes, in the spec's order.

    Args:
      x: what the dataset gives: a tensor, a list, or a dict.
      spec: `tf.TensorSpec`s in the model's structure.
      names: the inputs' names, by which a dict serves a model that takes a list.
      owner: for the error, whose inputs these are.

    Raises:
      ValueError: the batch does not fit.
    """
    flat_spec = keras.tree.flatten(spec)
    if isinstance(x, Mapping) and not isinstance(spec, Mapping) and names and set(names) <= set(x):
        x = [x[name] for name in names]
    elif isinstance(x, Mapping) and isinstance(spec, Mapping) and set(spec) <= set(x):
        x = {name: x[name] for name in spec}
    flat = keras.tree.flatten(x)
    if len(flat) != len(flat_spec):
        raise _misfit(owner, x, spec)
    tensors = [_fit(t, s) for t, s in zip(flat, flat_spec, strict=True)]
    if not all(
        s.shape.is_compatible_with(t.shape) for t, s in zip(tensors, flat_spec, strict=True)
    ):
        raise _misfit(owner, x, spec)
    return tensors


def _fit(x: Any, spec: tf.TensorSpec):
    x = tf.cast(x, spec.dtype)
    # As Keras does: a missing or a superfluous last axis of one.
    if x.shape.rank == spec.shape.rank - 1 and spec.shape[-1] == 1:
        return x[..., None]
    if x.shape.rank == spec.shape.rank + 1 and x.shape[-1] == 1:
        return x[..., 0]
    return x


def _misfit(owner: str, x: Any, spec: Any) -> ValueError:
    came = keras.tree.map_structure(lambda t: tuple(t.shape), x)
    expected = keras.tree.map_structure(lambda s: tuple(s.shape), spec)
    return ValueError(
        f"{owner} expects inputs of shape {expected}; got {came}. Bring the data to it with "
        f"teacher_preprocess= (a callable on x) if it sees another view than the student."
    )


def _inputs(model: Any) -> Any:
    try:
        inputs = model.input
    except (AttributeError, ValueError, RuntimeError):
        return None
    return inputs


def _built_shape(model: Any) -> Any:
    if is_legacy(model):
        return getattr(model, "_build_input_shape", None)
    config = model.get_build_config() if hasattr(model, "get_build_config") else None
    if not config:
        return None
    return config.get("input_shape") or config.get("shapes_dict")


def _is_shape(value: Any) -> bool:
    return isinstance(value, (tuple, list, tf.TensorShape)) and all(
        v is None or isinstance(v, int) for v in value
    )


def _tensor_spec(tensor: Any) -> tf.TensorSpec:
    shape = tuple(tensor.shape)
    dtype = getattr(tensor.dtype, "name", tensor.dtype)
    return tf.TensorSpec((None, *shape[1:]), dtype)
