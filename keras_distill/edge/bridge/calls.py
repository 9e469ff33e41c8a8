"""How a layer is called in a graph: its arguments, with numbered slots for the tensors."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_distill import _json


class OwnText(str):
    """A config that was written in this process, from an object that is there: `written_from`.

    What comes from a file is a plain string: nothing that it names is trusted.
    """

    written_from: Any = None

    def __deepcopy__(self, _: Any) -> OwnText:
        return self


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where the call's n-th tensor goes."""

    index: int


@dataclasses.dataclass(frozen=True)
class Call:
    """The arguments of one call; `fill` gives them back with tensors in the slots.

    >>> call, tensors = Call.of((3.0,), {"by": 2}, lambda value: isinstance(value, float))
    >>> call.fill(tensors)
    ((3.0,), {'by': 2})
    """

    args: tuple
    kwargs: dict[str, Any]

    @classmethod
    def of(
        cls, args: tuple, kwargs: dict[str, Any], is_tensor: Callable[[Any], bool]
    ) -> tuple[Call, list]:
        """The call and its tensors, in order."""
        tensors: list = []

        def slot(value: Any) -> Any:
            if not is_tensor(value):
                return value
            tensors.append(value)
            return Slot(len(tensors) - 1)

        return cls(_mapped(slot, tuple(args)), _mapped(slot, dict(kwargs))), tensors

    def fill(self, tensors: Any) -> tuple[tuple, dict[str, Any]]:
        """The arguments, with `tensors` (one alone, or a list) in the slots."""
        found = tensors if isinstance(tensors, (list, tuple)) else [tensors]

        def value(leaf: Any) -> Any:
            return found[leaf.index] if isinstance(leaf, Slot) else leaf

        return _mapped(value, self.args), _mapped(value, self.kwargs)

    def to_json(self) -> str:
        """As a string; `from_json` reads it."""
        return json.dumps([_encoded(self.args), _encoded(self.kwargs)])

    @classmethod
    def from_json(cls, text: str) -> Call:
        """The call that `to_json` wrote."""
        args, kwargs = _json.loads(text)
        return cls(_decoded(args), _decoded(kwargs))


PLAIN = Call((Slot(0),), {})


def packed(tensors: list) -> Any:
    """What the holding layer is called with: one tensor alone, or a list."""
    return tensors[0] if len(tensors) == 1 else tensors


def plain(value: Any) -> Any:
    """A config with nothing in it that JSON does not know (both Kerases wrap lists)."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tf.TensorShape):
        return value.as_list()
    if isinstance(value, tf.DType):
        return value.name
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) or tf.is_tensor(value):
        return np.asarray(value).tolist()
    return value


def _mapped(function: Callable, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _mapped(function, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and not isinstance(value, tf.TensorShape):
        items = [_mapped(function, item) for item in value]
        if hasattr(value, "_fields"):
            return type(value)(*items)
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, slice):
        return slice(*(_mapped(function, v) for v in (value.start, value.stop, value.step)))
    return function(value)


def _encoded(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [_encoded(item) for item in value]
    kind, content = _taken_apart(value)
    return {"kind": kind, "content": content}


def _taken_apart(value: Any) -> tuple[str, Any]:
    if isinstance(value, Slot):
        return "slot", value.index
    if isinstance(value, dict):
        return "dict", [[_encoded(key), _encoded(item)] for key, item in value.items()]
    if isinstance(value, tf.TensorShape):
        return "shape", value.as_list()
    if isinstance(value, tuple):
        return "tuple", [_encoded(item) for item in value]
    if isinstance(value, slice):
        return "slice", [_encoded(item) for item in (value.start, value.stop, value.step)]
    if value is Ellipsis:
        return "ellipsis", None
    if isinstance(value, tf.DType):
        return "dtype", value.name
    if isinstance(value, np.generic):
        return "array", [value.tolist(), value.dtype.name]
    if isinstance(value, np.ndarray):
        return "array", [value.tolist(), value.dtype.name]
    if tf.is_tensor(value):
        return "tensor", [np.asarray(value).tolist(), value.dtype.name]
    raise TypeError(
        f"A call's argument can't be saved: expected tensors, numbers, strings, slices, dtypes or "
        f"arrays; got {value!r} ({type(value).__module__}.{type(value).__qualname__})."
    )


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    content = value["content"]
    return _READERS[value["kind"]](content)


_READERS: dict[str, Callable[[Any], Any]] = {
    "slot": Slot,
    "dict": lambda items: {_decoded(key): _decoded(item) for key, item in items},
    "shape": tf.TensorShape,
    "tuple": lambda items: tuple(_decoded(item) for item in items),
    "slice": lambda items: slice(*(_decoded(item) for item in items)),
    "ellipsis": lambda _: Ellipsis,
    "dtype": tf.as_dtype,
    "array": lambda found: np.asarray(found[0], found[1]),
    "tensor": lambda found: tf.constant(found[0], found[1]),
}
