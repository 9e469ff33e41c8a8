"""What kinds of operations there are, to a file of integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.edge.quantize import affine, exact, normalizations
from keras_distill.edge.quantize.loops import RECURRENT
from keras_distill.graph.remaking import by_keras
from keras_distill.graph.replay import Step
from keras_distill.graph.traits import COMPUTED, PICKED, SAME, does, gives, traits_of

layers = keras.layers

_WHOLE = {"uint8": (0.0, 255.0), "int8": (-128.0, 127.0)}
# They read a tensor beside constants, or LiteRT's REVERSE, which hands no range on.
_OF_THEIR_OWN = ("merge", "concatenation", "stacking", "reversal")
ATTENTION = ("attention", "multi-head attention", "grouped attention")


def weights_of(operation: Any) -> dict[str, tuple[int, ...]]:
    """The weights of a layer that go onto a grid, with their channel axes."""
    traits = traits_of(operation)
    if not traits.grid:
        return {}
    found: dict[str, tuple[int, ...]] = {traits.depthwise: (-2, -1)} if traits.depthwise else {}
    for name, axis in traits.kernels.items():
        found[name] = (axis,) if traits.grid == "channel" else ()
    return found


def takes_four_bits(operation: Any) -> bool:
    """Whether LiteRT computes with the layer's kernels at 4 bits beside integers of 8."""
    return bool(weights_of(operation)) and does(
        operation, "dense", "convolution", "depthwise", "separable"
    )


def stays_float(operation: Any) -> bool:
    """Whether a file can hold the layer's kernels in float between integers."""
    return bool(weights_of(operation)) and does(operation, "dense", "convolution", "depthwise")


def is_open_inside(operation: Any) -> bool:
    """Whether a layer computes with inner tensors that have no ranges of ours."""
    if not isinstance(operation, layers.Layer):
        return False
    if does(operation, *RECURRENT, *ATTENTION):
        return True
    if weights_of(operation) or affine.is_affine(operation):
        return False
    if normalizations.ranges_inside(operation):
        return False
    return not type(operation).__module__.startswith(("keras.", "keras_distill."))


def keeps_range(step: Step) -> bool:
    """Whether an output spans what its input does."""
    operation = step.operation
    if not by_keras(operation) or len(step.inputs) != 1 or does(operation, *_OF_THEIR_OWN):
        return False
    if gives(operation) == COMPUTED or exact.reads_marks(step, step.inputs[0]):
        return False
    if "float" in step.inputs[0].dtype and is_mean(operation, step.inputs):
        return False
    return not fills(operation, step.kwargs)


def is_mean(operation: Any, inputs: Sequence[Any]) -> bool:
    """Whether an operation is an average pooling with the whole of its input in one window.

    It is then a mean, of a range of its own as GlobalAveragePooling's. LiteRT's pooling would round
    it to the steps of the input's range, of which means of many fill a small part.
    """
    if not type(operation).__name__.startswith("AveragePooling"):
        return False
    sizes = tuple(inputs[0].shape[1:-1])
    return operation.data_format == "channels_last" and operation.pool_size == sizes


def fills(operation: Any, given: dict[str, Any]) -> bool:
    """Whether an operation puts other numbers than zero beside those that it moves or picks.

    A border's, a masked place's, or what a maximum begins with.
    """
    if gives(operation) in (SAME, COMPUTED):
        return False
    names = ("constant_values", "fill_value", "initial", "mask_value")
    added = [given.get(name, getattr(operation, name, None)) for name in names]
    return any(np.any(np.asarray(value) != 0) for value in added if value is not None)


def computes_in_one_range(operation: Any, given: Any) -> bool:
    """Whether LiteRT reads all tensors in one range, to which no converter brings them."""
    tensors = keras.tree.flatten(given)
    real = all(
        hasattr(x, "shape") and len(x.shape) > 1 and tf.as_dtype(x.dtype).is_floating
        for x in tensors
    )
    # Other stacking becomes a concatenation, to whose range the converter brings its parts.
    packs = type(operation).__name__ == "Stack"
    return real and len(tensors) > 1 and (packs or _is_extreme(operation))


def whole_range(step: Step, dtype: str) -> Any:
    """The range of whole numbers that a step computes with; True to be found, False for none."""
    operation, traits = step.operation, traits_of(step.operation)
    if "int" not in dtype or not by_keras(operation) or gives(operation) != COMPUTED:
        return False
    known = traits.does not in ("", "open", "cast") and traits.whole not in ("read", "ordered")
    real = any("float" in value.dtype for value in step.outputs)
    return _WHOLE.get(dtype, True) if known and real else False


def shares_a_range(operation: Any) -> bool:
    """Whether LiteRT wants one range for an operation's inputs and its output."""
    return _is_extreme(operation) or does(operation, "concatenation", "stacking", "choice")


def _is_extreme(operation: Any) -> bool:
    return does(operation, "merge") and gives(operation) == PICKED
