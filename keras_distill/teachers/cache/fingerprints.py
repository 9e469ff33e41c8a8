"""Digests of what an answer depends on: the teacher, the functions around it, the inputs."""

import ast
import functools
import inspect
import textwrap
import types
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.teachers.cache.manifest import digest_of

__all__ = ["of_code", "of_rows", "versions"]

_PRIME = -7046029254386353131  # 2**64 divided by the golden ratio, odd, as a signed number


def of_rows(inputs: Any) -> Any:
    """A fingerprint of each example's bytes, inside a graph.

    Args:
      inputs: a tensor or a structure of them, batch first.

    Returns:
      uint32 `(batch,)`.
    """
    mixed: Any = tf.zeros((), "int64")
    for tensor in keras.tree.flatten(inputs):
        rows = tf.shape(tensor)[0]
        found = tf.raw_ops.Fingerprint(data=tensor, method="farmhash64")
        mixed = mixed * _PRIME + tf.bitcast(tf.reshape(found, [rows, 8]), "int64")
    return tf.cast(tf.bitwise.bitwise_and(mixed, np.int64(0xFFFFFFFF)), "uint32")


def of_code(function: Callable | None) -> str:
    """A digest of a function: its code, its defaults, and what it takes from around it.

    Comments and layout don't count where the source can be read.
    """
    if function is None:
        return "none"
    return digest_of("\n".join(_described(function, set())).encode())


def versions() -> dict[str, str]:
    """Of the libraries that answers may depend on."""
    names = ("keras", "numpy", "tensorflow")
    return {name: _version(name) for name in names}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return {"tensorflow": tf.__version__, "keras": keras.__version__}.get(name, "unknown")


def _described(value: Any, seen: set[int]) -> Iterator[str]:
    """A value in words that are the same in every process."""
    if id(value) in seen:
        yield "again"
        return
    if isinstance(value, types.FunctionType) and _is_library(value.__module__):
        yield f"{value.__module__}.{value.__qualname__}"
    elif isinstance(value, types.FunctionType):
        yield from _function(value, {*seen, id(value)})
    elif isinstance(value, functools.partial):
        parts = (value.func, value.args, sorted(value.keywords.items()))
        yield from _each("partial", parts, {*seen, id(value)})
    elif isinstance(value, types.MethodType):
        yield from _each("method", (value.__func__, value.__self__), seen)
    elif isinstance(value, (tf.Tensor, tf.Variable, keras.Variable, np.ndarray)):
        array = np.asarray(value)
        yield f"{array.dtype} {array.shape} {digest_of(np.ascontiguousarray(array).data)}"
    elif isinstance(value, (list, tuple, set, frozenset)):
        members = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
        yield from _each(type(value).__name__, members, seen)
    elif isinstance(value, dict):
        yield from _each("dict", sorted(value.items(), key=repr), seen)
    elif isinstance(value, (int, float, complex, str, bytes, bool, type(None))):
        yield repr(value)
    elif isinstance(value, keras.layers.Layer):
        yield f"{type(value).__qualname__} {value.get_config()}"
        yield from _each("weights", value.weights, {*seen, id(value)})
    elif isinstance(value, (type, types.ModuleType, types.BuiltinFunctionType)):
        yield f"{getattr(value, '__module__', '')}.{value.__name__}"
    else:
        yield from _object(value, {*seen, id(value)})


def _each(kind: str, members: Any, seen: set[int]) -> Iterator[str]:
    yield f"{kind} {len(members)}"
    for member in members:
        yield from _described(member, seen)


def _function(function: types.FunctionType, seen: set[int]) -> Iterator[str]:
    yield _body(function)
    yield from _described(function.__defaults__, seen)
    yield from _described(function.__kwdefaults__, seen)
    found = inspect.getclosurevars(function)
    for name, value in sorted({**found.globals, **found.nonlocals}.items()):
        yield name
        yield from _described(value, seen)


def _body(function: types.FunctionType) -> str:
    """The source as its syntax tree; the bytecode of what has no `def` of its own."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        tree = ast.Module(body=[], type_ignores=[])
    if tree.body and isinstance(tree.body[0], ast.FunctionDef):
        return ast.dump(tree.body[0])
    return _bytecode(function.__code__)


def _bytecode(code: types.CodeType) -> str:
    constants = [_bytecode(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {constants}"


def _object(value: Any, seen: set[int]) -> Iterator[str]:
    kind = type(value)
    yield f"{kind.__module__}.{kind.__qualname__}"
    if hasattr(value, "python_function"):  # a tf.function
        yield from _described(value.python_function, seen)
        return
    call = vars(kind).get("__call__")
    if isinstance(call, types.FunctionType) and not _is_library(kind.__module__):
        yield from _described(call, seen)
        yield from _described(getattr(value, "__dict__", {}), seen)


def _is_library(module: str | None) -> bool:
    return (module or "").split(".")[0] in ("tensorflow", "keras", "numpy", "keras_distill")
