"""Open sizes of a model's inputs, closed for one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_distill.edge.interface import Interface

__all__ = ["closed_specs", "open_sizes"]

Shape = tuple[int | None, ...]


def open_sizes(specs: Mapping[str, tf.TensorSpec]) -> dict[str, Shape]:
    """The inputs that have open sizes besides their rows, with the shape of a row."""
    shapes = {name: tuple(spec.shape[1:]) for name, spec in specs.items()}
    return {name: shape for name, shape in shapes.items() if None in shape}


def closed_specs(interface: Interface, input_shape: Any) -> dict[str, tf.TensorSpec]:
    """The inputs' specs, their open sizes as asked.

    Args:
      interface: of the model.
      input_shape: None; the shape of a row of the one input; or of several, a dict by name or a
        list in their order. None in a shape leaves that size as it is.

    Raises:
      TypeError, ValueError: it is no such thing, names no input, or differs from a size that the
        model has.
    """
    if input_shape is None:
        return interface.specs
    asked = _by_name(interface, input_shape)
    return {
        name: _closed(name, spec, asked[name]) if name in asked else spec
        for name, spec in interface.specs.items()
    }


def _by_name(interface: Interface, given: Any) -> dict[str, Shape]:
    names = list(interface.specs)
    if isinstance(given, Mapping):
        known = {**dict(zip(interface.own_names, names, strict=True)), **{n: n for n in names}}
        if not set(given) <= set(known):
            raise ValueError(f"input_shape: the inputs are {names}; got {list(given)}.")
        return {known[name]: _shape(one) for name, one in given.items()}
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise TypeError(f"Expected input_shape as a shape, a dict or a list; got {given!r}.")
    alone = all(size is None or isinstance(size, int) for size in given)
    shapes = [given] if alone else list(given)
    if len(shapes) != len(names):
        raise ValueError(
            f"input_shape: the inputs are {names}; got {len(shapes)} shape(s). Give a dict by "
            f"name, or a list of one shape for each."
        )
    return dict(zip(names, map(_shape, shapes), strict=True))


def _shape(given: Any) -> Shape:
    whole = isinstance(given, Sequence) and not isinstance(given, str)
    if not whole or not all(
        size is None or (isinstance(size, int) and not isinstance(size, bool) and size > 0)
        for size in given
    ):
        raise ValueError(
            f"Expected the shape of a row, as in keras.Input: sizes of 1 or more, or None; got "
            f"{given!r}."
        )
    return tuple(given)


def _closed(name: str, spec: tf.TensorSpec, asked: Shape) -> tf.TensorSpec:
    own = tuple(spec.shape[1:])
    fits = len(own) == len(asked) and all(
        None in (size, want) or size == want for size, want in zip(own, asked, strict=True)
    )
    if not fits:
        raise ValueError(
            f"input_shape: rows of the input {name!r} are {own}; got {asked}. It can only say what "
            f"is open."
        )
    sizes = [want if size is None else size for size, want in zip(own, asked, strict=True)]
    return tf.TensorSpec((spec.shape[0], *sizes), spec.dtype)
