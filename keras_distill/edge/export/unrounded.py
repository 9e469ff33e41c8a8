"""Exact values kept from the converter, which gives a range to all that moves numbers about."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_distill.edge.compress.layer import Compressed
from keras_distill.edge.compress.model import rebuild
from keras_distill.edge.quantize import exact
from keras_distill.graph.remaking import by_keras
from keras_distill.graph.replay import Functional, trace
from keras_distill.graph.traits import MOVED, gives
from keras_distill.graph.wrapping import inner, unwrapped


def moved_as_bits(model: Any) -> Any:
    """A copy of `model` that moves exact values as the whole numbers their bits spell.

    Integers have no range: the converter rounds nothing of them. The model itself where there is
    nothing of the kind.
    """
    if not isinstance(model, (keras.Sequential, Functional)):
        return model
    graph = unwrapped(trace(model))
    found = exact.exact_values(graph)
    paths = {
        step.path
        for step in graph.steps
        if gives(step.operation) == MOVED
        and by_keras(step.operation)
        and any(id(value) in found for value in step.inputs)
        and all(value.dtype == "float32" for value in (*step.inputs, *step.outputs))
    }
    if not paths:
        return model

    def substitute(path: str, layer: Any) -> Any:
        if path not in paths:
            return layer
        made = _AsBits(inner(layer))
        return made if inner(layer) is layer else layer.around(made)

    return rebuild(model, substitute)


def computed_exactly(model: Any) -> tuple[str, ...]:
    """The operations that compute ids, categories or marks from real numbers, by their paths."""
    if not isinstance(model, (keras.Sequential, Functional)):
        return ()
    graph = unwrapped(trace(model))
    found = exact.exact_values(graph)
    return tuple(step.path for step in graph.steps if exact.computes(step, found))


def exact_inputs(model: Any) -> tuple[str, ...]:
    """The real-valued inputs that are read as ids, categories or marks, by name."""
    if not isinstance(model, (keras.Sequential, Functional)):
        return ()
    return exact.inputs_of(model, unwrapped(trace(model)))


class _AsBits(Compressed):
    """An operation that moves numbers about, on their bits, for one export."""

    def call(self, *args: Any, **kwargs: Any) -> Any:
        bits = keras.tree.map_structure(_bits, args)
        moved = super().call(*bits, **kwargs)
        return keras.tree.map_structure(lambda x: tf.bitcast(x, tf.float32), moved)


def _bits(value: Any) -> Any:
    is_real = tf.is_tensor(value) and value.dtype == tf.float32
    return tf.bitcast(value, tf.int32) if is_real else value
