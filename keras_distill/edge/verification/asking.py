"""A model asked batch after batch, by a trace of it where there are many."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_distill.litert.quiet import quiet_tensorflow
from keras_distill.signals.specs import is_legacy

__all__ = ["Asked"]

# A trace takes as long as some batches, of which it then saves the better part.
_BEFORE_TRACE = 2


class Asked:
    """A model of either Keras generation, in inference, or a callable.

    A model that can't be traced, or gets rows of another shape than those it was traced with,
    answers as Keras calls it; so does a callable, of which nobody knows what it does.
    """

    def __init__(self, model: Any):
        self._model = model
        self._is_model = isinstance(model, keras.Layer) or is_legacy(model)
        self._batches = 0
        self._specs: Any = None
        self._trace: Any = None

    def __call__(self, x: Any) -> Any:
        """What the model returns for a batch of arrays."""
        if not self._is_model:
            outputs = self._model(x)
            return getattr(outputs, "logits", outputs)
        self._batches += 1
        if self._batches == _BEFORE_TRACE + 1 and not getattr(self._model, "run_eagerly", False):
            self._make_trace(x)
        if self._trace is not None:
            tensors = keras.tree.map_structure(tf.convert_to_tensor, x)
            if self._fits(tensors):
                return self._trace(tensors)
        return self._model(x, training=False)

    def _make_trace(self, x: Any) -> None:
        call = tf.function(lambda x: self._model(x, training=False))
        try:
            specs = keras.tree.map_structure(_spec, x)
            with quiet_tensorflow():
                self._specs, self._trace = specs, call.get_concrete_function(specs)
        except Exception:  # Whatever it may be, Keras' own call may still do.
            return

    def _fits(self, x: Any) -> bool:
        specs, tensors = keras.tree.flatten(self._specs), keras.tree.flatten(x)
        return len(specs) == len(tensors) and all(
            spec.is_compatible_with(tensor) for spec, tensor in zip(specs, tensors, strict=True)
        )


def _spec(array: Any) -> tf.TensorSpec:
    tensor = tf.convert_to_tensor(array)
    return tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype)
