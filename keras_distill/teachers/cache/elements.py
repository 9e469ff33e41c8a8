"""The structure of an element, `(x[, y[, sample_weight]])`: its parts by name, its batches."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

__all__ = ["as_is", "batched", "called", "described", "named", "unnamed", "untuned"]

# AutoGraph would take seconds to convert what has nothing to convert.
as_is = tf.autograph.experimental.do_not_convert


def named(element: tuple) -> list[tuple[str, Any]]:
    """The parts of an element, each by its place: `x`, `x/left`, `y`, `weight`.

    Raises:
      TypeError: a part is nested deeper than a list or dict of tensors.
    """
    found = []
    for name, part in zip(("x", "y", "weight"), element, strict=False):
        if isinstance(part, Mapping):
            members = [(f"{name}/{key}", part[key]) for key in sorted(part)]
        elif isinstance(part, (list, tuple)):
            members = [(f"{name}/{i}", member) for i, member in enumerate(part)]
        else:
            members = [(name, part)]
        found += members
    for name, member in found:
        if keras.tree.is_nested(member):
            raise TypeError(f"Expected a tensor, a list or a dict of tensors; {name} holds more.")
    return found


def described(spec: Any) -> tuple:
    """Specs as they stand in a manifest: path, shape and dtype each."""
    return tuple((name, tuple(s.shape), s.dtype.name) for name, s in named((spec,)))


def unnamed(members: Mapping[str, Any]) -> tuple:
    """The element whose parts `named` gave."""
    parts: dict[str, Any] = {}
    for path, member in members.items():
        name, _, key = path.partition("/")
        if key:
            parts.setdefault(name, {})[key] = member
        else:
            parts[name] = member
    return tuple(_listed(part) for part in parts.values())


def batched(element: Any) -> Any:
    """Specs of a batch from specs of one example."""
    return keras.tree.map_structure(lambda s: tf.TensorSpec((None, *s.shape), s.dtype), element)


def called(function: Any, arguments: list, spec: Any) -> Any:
    """Arrays that a NumPy function returns, as tensors in the structure of `spec`."""
    flat = keras.tree.flatten(spec)
    found = tf.numpy_function(function, arguments, [s.dtype for s in flat], stateful=False)
    for tensor, one in zip(found, flat, strict=True):
        tensor.set_shape(one.shape)
    return keras.tree.pack_sequence_as(spec, list(found))


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The data set, its threads and buffers as they are given.

    An iterator that is let go of can wait for its tuner to wake, and that sleeps twice as long
    each time: up to as long as the pass has taken.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def _listed(part: Any) -> Any:
    if isinstance(part, dict) and set(part) == set(map(str, range(len(part)))):
        return [part[str(i)] for i in range(len(part))]
    return part
