"""What a model takes as input, and a batch brought to it."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from keras_distill import _keras
from keras_distill.functional.tensors import Tensor
from keras_distill.signals.callables import signature_inputs

__all__ = [
    "GuessedSpec",
    "at_open_sizes",
    "fit_to_spec",
    "given_spec",
    "input_spec_of",
    "is_legacy",
    "settled",
    "with_dtypes",
]

# What a model that does not say its inputs' dtypes may take, the likeliest first.
_GUESSES = ("int64", "string")


# Sizes at which a model is tried that runs on known ones alone: (rows, every open axis).
_SIZES = (((2, 64), (3, 96)), ((2, 16), (3, 24)), ((2, 8), (3, 12)))


class GuessedSpec(tf.TensorSpec):
    """A spec whose dtype the model does not tell: integers, strings and booleans keep their own."""


def is_legacy(model: Any) -> bool:
    """True for a model of the older generation, tf_keras."""
    return any(kind.__module__.split(".")[0] == "tf_keras" for kind in type(model).__mro__)


def input_spec_of(model: Any) -> Any:
    """A model's inputs as `tf.TensorSpec`s in their structure, batch None; None where unknown.

    Sparse and ragged ones are `tf.SparseTensorSpec`s and `tf.RaggedTensorSpec`s.
    A model that was built by a call or from shapes alone gives `GuessedSpec`s.
    """
    if signature := signature_inputs(model):
        return next(iter(signature.values())) if len(signature) == 1 else signature
    for told in (_inputs(model), _signature(model)):
        if told is not None:
            return keras.tree.map_structure(_tensor_spec, told)
    shape = _built_shape(model)
    if shape is None:
        return None
    if _is_shape(shape):
        return GuessedSpec((None, *shape[1:]), keras.backend.floatx())
    return keras.tree.map_shape_structure(
        lambda s: GuessedSpec((None, *s[1:]), keras.backend.floatx()), shape
    )


def given_spec(input_spec: Any) -> Any:
    """A structure of tensors' specs, `keras.KerasTensor`s or others, as `tf.TensorSpec`s."""
    return keras.tree.map_structure(_tensor_spec, input_spec)


def with_dtypes(spec: Any, dtypes: Any) -> Any:
    """A structure of specs with these dtypes, flat."""
    flat = [
        one if one.dtype == dtype else type(one)(one.shape, dtype)
        for one, dtype in zip(keras.tree.flatten(spec), dtypes, strict=True)
    ]
    return keras.tree.pack_sequence_as(spec, flat)


def settled(
    spec: Any, run: Callable[[Any], Any], guesses: tuple[str, ...] = _GUESSES
) -> tuple[Any, Any]:
    """What a model gives, and for which dtypes, where those that it takes are guesses.

    Args:
      spec: `tf.TensorSpec`s in the model's structure.
      run: the model on such a structure; it raises where the model does not take it.
      guesses: what it may take instead, the likeliest first.

    Returns:
      The structure that the model takes, and what `run` gave for it.
    """
    flat = keras.tree.flatten(spec)
    guessed = [isinstance(one, GuessedSpec) and len(flat) <= 3 for one in flat]
    choices = [
        (one.dtype, *guesses) if open_ else (one.dtype,)
        for one, open_ in zip(flat, guessed, strict=True)
    ]
    errors = []
    for dtypes in itertools.product(*choices):
        tried = with_dtypes(spec, dtypes)
        try:
            return tried, run(tried)
        except Exception as error:  # whatever a model raises for what it does not take
            errors.append(error)
    raise errors[0]


def at_open_sizes(spec: Any, run: Callable[[Any], Any], owner: str) -> list[Tensor]:
    """What a model gives for axes of unknown size; of one that needs known ones, at two sizes each.

    What differs between the two is open, what is the same is fixed.

    Args:
      spec: `tf.TensorSpec`s in the model's structure.
      run: the model on such a structure; it raises where the model can't be traced.
      owner: for a note on the error, whose inputs these are.

    Returns:
      One result, or two.
    """
    try:
        return [run(spec)]
    except Exception as error:  # whatever a model raises for a size that is None
        for pair in _SIZES:
            try:
                return [run(_sized(spec, rows, size)) for rows, size in pair]
            except Exception:  # the first error tells more
                continue
        shapes = keras.tree.map_structure(lambda one: tuple(one.shape), spec)
        error.add_note(
            f"{owner} was traced on {shapes}, and on known sizes in place of None. Where a layer "
            f"needs others, name them: keras.Input(shape), or "
            f"teachers.Model(..., input_spec=keras.KerasTensor(shape)) for a teacher."
        )
        raise


def fit_to_spec(x: Tensor, spec: Any, names: list[str] | None, owner: str) -> list[Tensor]:
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
    tensors = [_fit(_as_taken(t, s, owner), s) for t, s in zip(flat, flat_spec, strict=True)]
    if not all(
        s.shape.is_compatible_with(t.shape) for t, s in zip(tensors, flat_spec, strict=True)
    ):
        raise _misfit(owner, x, spec)
    return tensors


def _fit(x: Tensor, spec: tf.TensorSpec) -> Tensor:
    if not isinstance(spec, GuessedSpec) or (x.dtype.is_floating and spec.dtype.is_floating):
        x = tf.cast(x, spec.dtype)
    # As Keras does: a missing or a superfluous last axis of one.
    if x.shape.rank == spec.shape.rank - 1 and spec.shape[-1] == 1:
        return x[..., None]
    if x.shape.rank == spec.shape.rank + 1 and x.shape[-1] == 1:
        return x[..., 0]
    return x


def _sized(spec: Any, rows: int, size: int) -> Any:
    def known(one: tf.TypeSpec) -> tf.TypeSpec:
        if not isinstance(one, tf.TensorSpec) or one.shape.rank is None:
            return one
        return type(one)([rows, *(axis or size for axis in one.shape[1:])], one.dtype)

    return keras.tree.map_structure(known, spec)


def _as_taken(x: Tensor, spec: tf.TensorSpec, owner: str) -> Tensor:
    """A tensor that is sparse, ragged or dense as the model takes it."""
    x = x if tf.is_tensor(x) else tf.convert_to_tensor(x)
    if isinstance(spec, tf.SparseTensorSpec):
        return x if isinstance(x, tf.SparseTensor) else tf.sparse.from_dense(x)
    if isinstance(x, tf.SparseTensor):
        return tf.sparse.to_dense(x)
    if isinstance(x, tf.RaggedTensor) != isinstance(spec, tf.RaggedTensorSpec):
        came, taken = ("ragged", "dense") if isinstance(x, tf.RaggedTensor) else ("dense", "ragged")
        mend = "x.to_tensor()" if came == "ragged" else "tf.RaggedTensor.from_tensor(x)"
        raise ValueError(
            f"{owner} takes a {taken} tensor; got a {came} one, {tuple(x.shape)}. Bring it to that "
            f"with teacher_preprocess= (a function that returns {mend}), or where the model takes "
            f"{came} ones and can't tell, say so: teachers.Model(..., input_spec="
            f"keras.KerasTensor(shape, dtype{', ragged=True' if came == 'ragged' else ''}))."
        )
    return x


def _misfit(owner: str, x: Tensor, spec: Any) -> ValueError:
    came = keras.tree.map_structure(lambda t: tuple(t.shape), x)
    expected = keras.tree.map_structure(lambda s: tuple(s.shape), spec)
    return ValueError(
        f"{owner} expects inputs of shape {expected}; got {came}. Bring the data to it with "
        f"teacher_preprocess= (a callable on x) if it sees another view than the student."
    )


def _inputs(model: Any) -> Any:
    structure = _keras.input_structure(model)
    if structure is not None:
        return structure
    if isinstance(model, keras.Sequential):
        return model.inputs[0] if model.inputs else None
    try:
        return model.input
    except (AttributeError, ValueError, RuntimeError):
        return None


def _signature(model: Any) -> Any:
    """What a tf_keras model was called on, or the one argument of a function with a signature."""
    if is_legacy(model):
        saved = model.save_spec()
        return None if saved is None or len(saved[0]) != 1 else saved[0][0]
    arguments = getattr(model, "input_signature", None)
    if arguments is None:
        arguments, _ = getattr(model, "structured_input_signature", None) or (None, {})
    return arguments[0] if arguments is not None and len(arguments) == 1 else None


def _built_shape(model: Any) -> Any:
    if is_legacy(model):
        return _keras.legacy.built_shape(model)
    config = model.get_build_config() if hasattr(model, "get_build_config") else None
    if not config:
        return None
    return config.get("input_shape") or config.get("shapes_dict")


def _is_shape(value: Any) -> bool:
    return isinstance(value, (tuple, list, tf.TensorShape)) and all(
        v is None or isinstance(v, int) for v in value
    )


def _tensor_spec(tensor: Tensor) -> tf.TypeSpec:
    shape = (None, *tuple(tensor.shape)[1:])
    dtype = getattr(tensor.dtype, "name", tensor.dtype)
    if isinstance(tensor, tf.SparseTensorSpec) or getattr(tensor, "sparse", False):
        return tf.SparseTensorSpec(shape, dtype)
    if isinstance(tensor, tf.RaggedTensorSpec) or getattr(tensor, "ragged", False):
        rank = getattr(tensor, "ragged_rank", None) or 1
        return tf.RaggedTensorSpec(shape, dtype, rank)
    return (GuessedSpec if isinstance(tensor, GuessedSpec) else tf.TensorSpec)(shape, dtype)
