"""What a tf_keras config from a file may name: a closed list, checked before anything is made.

tf_keras' own deserialiser imports any module and takes any name of it, in its safe mode as well.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_distill import _keras
from keras_distill.edge import legacy

__all__ = ["RefusedError", "check", "check_code"]

_NAMESPACES = (
    "activations",
    "constraints",
    "initializers",
    "layers",
    "layers.experimental",
    "layers.experimental.preprocessing",
    "losses",
    "metrics",
    "mixed_precision",
    "optimizers",
    "optimizers.legacy",
    "optimizers.schedules",
    "regularizers",
)
_FUNCTIONS = ("activations", "losses", "metrics")
_LOOKUPS = ("deserialize", "get", "serialize")
# TFMOT's pruning wrapper knows these itself; all its other classes come with its scopes.
_SCHEDULES = ("ConstantSparsity", "PolynomialDecay")
# Values that are written like objects.
_VALUES = ("TensorShape", "__bytes__", "__ellipsis__", "__numpy__", "__tensor__", "__tuple__")

_TRUSTED = (
    "A file whose author you trust loads with keras.saving.load_model(path, safe_mode=False), one "
    "of the older generation with tf_keras.models.load_model(path), which checks nothing."
)

# TensorFlow's functions of tensors. Others write files, load libraries or run Python.
_PURE_NAMESPACES = (
    "__operators__",
    "bitwise",
    "image",
    "linalg",
    "math",
    "nn",
    "signal",
    "sparse",
    "strings",
)
_PURE = (
    "abs", "acos", "acosh", "add", "add_n", "argmax", "argmin", "argsort", "asin", "asinh",
    "atan", "atan2", "atanh", "batch_to_space", "batch_to_space_nd", "bitcast", "boolean_mask",
    "broadcast_dynamic_shape", "broadcast_static_shape", "broadcast_to", "cast", "ceil",
    "clip_by_global_norm", "clip_by_norm", "clip_by_value", "complex", "concat",
    "convert_to_tensor", "cos", "cosh", "cumsum", "depth_to_space", "div", "div_no_nan",
    "divide", "dynamic_partition", "dynamic_stitch", "edit_distance", "einsum", "ensure_shape",
    "equal", "erf", "exp", "expand_dims", "expm1", "eye", "fill", "floor", "floordiv",
    "floormod", "foldl", "gather", "gather_nd", "greater", "greater_equal", "identity",
    "identity_n", "invert_permutation", "less", "less_equal", "linspace", "log", "log1p",
    "log_sigmoid", "logical_and", "logical_not", "logical_or", "logical_xor", "matmul",
    "maximum", "meshgrid", "minimum", "multiply", "negative", "norm", "not_equal", "one_hot",
    "ones", "ones_like", "pad", "pow", "random.categorical", "random.gamma", "random.normal",
    "random.poisson", "random.shuffle", "random.stateless_normal", "random.stateless_uniform",
    "random.truncated_normal", "random.uniform", "range", "rank", "realdiv", "reciprocal",
    "reduce_all", "reduce_any", "reduce_logsumexp", "reduce_max", "reduce_mean", "reduce_min",
    "reduce_prod", "reduce_std", "reduce_sum", "reduce_variance", "repeat", "reshape", "reverse",
    "reverse_sequence", "rint", "roll", "round", "rsqrt", "saturate_cast", "scalar_mul",
    "scatter_nd", "searchsorted", "sequence_mask", "shape", "shape_n", "sigmoid", "sign", "sin",
    "sinh", "size", "slice", "sort", "space_to_batch", "space_to_batch_nd", "space_to_depth",
    "split", "sqrt", "square", "squared_difference", "squeeze", "stack", "stop_gradient",
    "strided_slice", "subtract", "tan", "tanh", "tensor_scatter_nd_add", "tensor_scatter_nd_max",
    "tensor_scatter_nd_min", "tensor_scatter_nd_sub", "tensor_scatter_nd_update", "tensordot",
    "tile", "transpose", "truediv", "truncatediv", "truncatemod", "unique", "unique_with_counts",
    "unravel_index", "unstack", "where", "zeros", "zeros_like",
)  # fmt: skip


class RefusedError(ValueError):
    """A config names what is not on the list."""


def check(config: Any) -> dict[str, Any]:
    """Refuses a config that names what is not on the list; touches nothing that it names.

    On the list are tf_keras' classes and functions of tensors, TFMOT's, ours, and what the user
    registered, with either Keras or as `custom_objects`.

    Args:
      config: of `tf_keras.saving.serialize_keras_object`, from a file that anybody may have
        written.

    Returns:
      The registered objects that it names, by name.

    Raises:
      RefusedError: it names another module, class or function, holds code, or reads a file.
    """
    found: dict[str, Any] = {}
    for path, value in _walk(config):
        names = [value] if isinstance(value, str) else []
        if isinstance(value, dict) and "class_name" in value:
            _check_object(path, value)
            names = [str(value["class_name"]), str(value.get("registered_name"))]
        if isinstance(value, dict) and isinstance(value.get("vocabulary"), str):
            raise _refusal(path, f"a vocabulary in the file {value['vocabulary']!r}")
        found |= {name: _registered(name) for name in names if _registered(name) is not None}
    return found


def check_code(config: Any) -> None:
    """Refuses a config that holds Python code, of either Keras generation.

    Raises:
      RefusedError: it does.
    """
    for path, value in _walk(config):
        if isinstance(value, dict) and (value.get("class_name") == "__lambda__" or _is_code(value)):
            raise RefusedError(f"A layer in this file has code at {path or '/'}. {_TRUSTED}")


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every value in a config with its place, containers before what is in them."""
    waiting = [("", value)]
    while waiting:
        path, value = waiting.pop()
        yield path, value
        if isinstance(value, dict):
            waiting += [(f"{path}/{key}", item) for key, item in value.items()]
        elif isinstance(value, (list, tuple)):
            waiting += [(f"{path}/{number}", item) for number, item in enumerate(value)]


def _check_object(path: str, value: dict[str, Any]) -> None:
    name, module, config = (value.get(key) for key in ("class_name", "module", "config"))
    registered = value.get("registered_name", name)
    if name == "function":
        if not _is_listed_function(module, config):
            raise _refusal(path, f"the function {module}.{config}")
    elif name in _VALUES or _registered(registered) is not None:
        return
    elif not _is_listed_class(module, name):
        raise _refusal(path, "code" if name == "__lambda__" else f"the class {module}.{name}")
    elif name in _OF_ITS_OWN and isinstance(config, dict):
        _OF_ITS_OWN[name](path, config)


def _is_listed_function(module: Any, name: Any) -> bool:
    if not isinstance(name, str):
        return False
    if _registered(name) is not None:
        return True
    _, functions = _listed()
    # tf_keras writes "builtins" where the name alone says which function it is.
    if module == "builtins":
        return any(name == known for _, known in functions)
    return (module, name) in functions


def _is_listed_class(module: Any, name: Any) -> bool:
    if not isinstance(name, str) or not isinstance(module, (str, type(None))):
        return False
    classes, _ = _listed()
    if module is None:
        # Looked up by name alone, in tf_keras' tables.
        return name in _SCHEDULES or any(name == known for _, known in classes)
    return (module, name) in classes or _is_registered_under_another_name(module, name)


def _is_registered_under_another_name(module: str, name: str) -> bool:
    if module not in sys.modules:
        return False
    found = vars(sys.modules[module]).get(name)
    known = [keras.saving.get_custom_objects(), legacy.tf_keras().saving.get_custom_objects()]
    return found is not None and any(found is one for each in known for one in each.values())


def _registered(name: Any) -> Any:
    """What the user, TFMOT's scopes or we registered with tf_keras or Keras under a name."""
    if not isinstance(name, str):
        return None
    found = legacy.tf_keras().saving.get_registered_object(name)
    if found is None and not name.startswith("keras_distill>"):
        found = keras.saving.get_registered_object(name)
    return found


@functools.cache
def _listed() -> tuple[frozenset, frozenset]:
    """tf_keras' classes and functions, each as (module, name) in every way a config writes it."""
    classes, functions = set(_keras.legacy.UNEXPORTED), set()
    tf_keras = legacy.tf_keras()
    public: list[tuple[str, str, Any]] = [
        ("", "Model", tf_keras.Model),
        ("", "Sequential", tf_keras.Sequential),
    ]
    for space in _NAMESPACES:
        members = vars(functools.reduce(getattr, space.split("."), tf_keras))
        public += [(f".{space}", *member) for member in members.items()]
    for space, name, found in public:
        if inspect.isclass(found):
            classes |= {(f"tf_keras{space}", name), (found.__module__, found.__name__)}
        elif space[1:] in _FUNCTIONS and inspect.isfunction(found) and name not in _LOOKUPS:
            functions |= {(f"tf_keras{space}", name), (found.__module__, found.__name__)}
    return _in_both_spellings(classes), _in_both_spellings(functions)


def _in_both_spellings(names: set) -> frozenset:
    # Files say "keras" where tf_keras is meant.
    return frozenset(names | {(module.removeprefix("tf_"), name) for module, name in names})


def _is_code(config: dict[str, Any]) -> bool:
    return any(
        config.get(f"{key}_type") == "lambda" for key in ("function", "mask", "output_shape")
    )


def _check_lambda(path: str, config: dict[str, Any]) -> None:
    if _is_code(config):
        raise _refusal(path, "code")


def _check_tensorflow_function(path: str, config: dict[str, Any]) -> None:
    name = str(config.get("function"))
    plain = name.removeprefix("compat.v1.")
    if plain not in _PURE and plain.partition(".")[0] not in _PURE_NAMESPACES:
        raise _refusal(path, f"the function tf.{name}")


_OF_ITS_OWN: dict[Any, Callable[[str, dict[str, Any]], None]] = {
    "Lambda": _check_lambda,
    "SlicingOpLambda": _check_tensorflow_function,
    "TFOpLambda": _check_tensorflow_function,
}


def _refusal(path: str, what: str) -> RefusedError:
    return RefusedError(
        f"A tf_keras layer in this file has {what} at {path or '/'}: expected classes and "
        f"functions of tf_keras or TFMOT, or registered ones. If it is yours, register it with "
        f"@tf_keras.saving.register_keras_serializable() before you load the file, or give it as "
        f"custom_objects. {_TRUSTED}"
    )
