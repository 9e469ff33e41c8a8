"""Callables that are no Keras models: a function, a SavedModel's signature, a LiteRT runner."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.functional.tensors import Tensor
from keras_distill.litert.runner import TFLiteRunner

__all__ = ["call_function", "signature_inputs", "told_kinds"]

# What TensorFlow raises when NumPy code meets a tensor that has no value yet.
_NOT_TRACEABLE = (NotImplementedError, TypeError, AttributeError)


def signature_inputs(function: Any) -> dict[str, tf.TensorSpec]:
    """A SavedModel signature's inputs by name; empty for anything else."""
    _, by_name = getattr(function, "structured_input_signature", None) or ((), {})
    return {
        name: tf.TensorSpec((None, *spec.shape[1:]), spec.dtype) for name, spec in by_name.items()
    }


def told_kinds(model: Any) -> Any:
    """What a LiteRT file's last operators tell of its outputs, by head; "auto" for other models."""
    runner = getattr(model, "__self__", model)
    if not isinstance(runner, TFLiteRunner):
        return "auto"
    kinds = {"SOFTMAX": "probabilities", "LOGISTIC": "sigmoid"}
    found = [(name, kinds.get(last or "", "logits")) for name, last in runner.endings().items()]
    return dict(found) if len(found) > 1 else {None: found[0][1]}


def call_function(function: Callable[..., Any], x: Tensor) -> Tensor:
    """`function(x)` inside a graph, be it TensorFlow's or plain NumPy.

    A function that needs values (a LiteRT runner) runs behind `tf.numpy_function`; the shape of
    its answer is learned from one row of zeros, or of empty strings.
    """
    if names := signature_inputs(function):
        return function(**x) if isinstance(x, Mapping) else function(**{next(iter(names)): x})
    try:
        return function(x)
    except _NOT_TRACEABLE:
        if tf.executing_eagerly():
            raise
        return _behind_numpy(function, x)


def _behind_numpy(function: Callable[..., Any], x: Tensor) -> Tensor:
    flat = keras.tree.flatten(x)
    zeros = [
        np.full((1, *t.shape[1:]), b"" if t.dtype == tf.string else 0, t.dtype.as_numpy_dtype)
        for t in flat
    ]

    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        answer = function(keras.tree.pack_sequence_as(x, list(arrays)))
        return [np.asarray(part) for part in keras.tree.flatten(answer)]

    with tf.init_scope():
        structure = function(keras.tree.pack_sequence_as(x, zeros))
    probe = [np.asarray(part) for part in keras.tree.flatten(structure)]
    results = tf.numpy_function(run, flat, [tf.as_dtype(part.dtype) for part in probe])
    for result, part in zip(results, probe, strict=True):
        result.set_shape((None, *part.shape[1:]))
    return keras.tree.pack_sequence_as(structure, list(results))
