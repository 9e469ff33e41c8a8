"""The logits behind an output, where the graph still has them."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_distill import _keras

__all__ = ["logits_behind"]


def logits_behind(output: tf.Tensor, ending: str) -> tf.Tensor | None:
    """The logits of which an output is the softmax or sigmoid, or None where they can't be reached.

    What only moves numbers between the two is done to the logits as well.

    Args:
      output: as `kind_of`.
      ending: "Softmax" or "Sigmoid".
    """
    if not hasattr(output, "graph"):
        # Keras keeps them on its eager output for its own losses.
        return _keras.kept_logits(output)
    op = output.op
    if op.type == ending:
        return op.inputs[0]
    if op.type == "Exp" and ending == "Softmax" and op.inputs[0].op.type == "LogSoftmax":
        return op.inputs[0].op.inputs[0]
    if op.type not in _AGAIN:
        return None
    many = {"ConcatV2": len(op.inputs) - 1, "Pack": len(op.inputs)}.get(op.type)
    found = [logits_behind(part, ending) for part in op.inputs[: many or 1]]
    if any(part is None for part in found):
        return None
    again = _AGAIN[op.type](op, found if many else found[0])
    again.set_shape(output.shape)
    return again


def _sliced(op: tf.Operation, logits: tf.Tensor) -> tf.Tensor:
    masks = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")
    return tf.raw_ops.StridedSlice(
        input=logits,
        begin=op.inputs[1],
        end=op.inputs[2],
        strides=op.inputs[3],
        **{mask: op.get_attr(mask) for mask in masks},
    )


def _resized(op: tf.Operation, logits: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.ResizeNearestNeighbor(
        images=logits,
        size=op.inputs[1],
        align_corners=op.get_attr("align_corners"),
        half_pixel_centers=op.get_attr("half_pixel_centers"),
    )


def _reshaped(op: tf.Operation, logits: tf.Tensor) -> tf.Tensor:
    return tf.reshape(logits, tf.shape(op.outputs[0]))


# How an operation that only moves numbers is done to others. Written out, for a tape to see it.
_AGAIN: dict[str, Callable[[tf.Operation, Any], tf.Tensor]] = {
    "BroadcastTo": lambda op, x: tf.broadcast_to(x, op.inputs[1]),
    "Cast": lambda op, x: tf.cast(x, op.outputs[0].dtype),
    "ConcatV2": lambda op, x: tf.concat(x, op.inputs[-1]),
    "ExpandDims": _reshaped,
    "GatherV2": lambda op, x: tf.gather(x, op.inputs[1], axis=op.inputs[2]),
    "Identity": lambda op, x: x,
    "Pack": lambda op, x: tf.stack(x, op.get_attr("axis")),
    "PreventGradient": lambda op, x: tf.stop_gradient(x),
    "Reshape": _reshaped,
    "ResizeNearestNeighbor": _resized,
    "ReverseV2": lambda op, x: tf.reverse(x, op.inputs[1]),
    "Slice": lambda op, x: tf.slice(x, op.inputs[1], op.inputs[2]),
    "Squeeze": _reshaped,
    "StopGradient": lambda op, x: tf.stop_gradient(x),
    "StridedSlice": _sliced,
    "Tile": lambda op, x: tf.tile(x, op.inputs[1]),
    "Transpose": lambda op, x: tf.transpose(x, op.inputs[1]),
}
