"""Graph tensors as sums with constant factors, and functions written out in their parts."""

from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

__all__ = ["bounded", "is_sigmoid", "is_softmax", "linear", "near", "static", "through"]

# A number, and factors of tensors.
Sum: TypeAlias = tuple[float, list[tuple[float, tf.Tensor]]]

_TOLERANCE = 1e-3  # what half precision leaves of a constant


def linear(tensor: tf.Tensor) -> Sum:
    """A tensor as a number plus a sum of factors times tensors."""
    if (number := _scalar(tensor)) is not None:
        return number, []
    op = through(tensor).op
    if op.type in ("Add", "AddV2", "AddN", "Sub"):
        signs = (1, -1) if op.type == "Sub" else (1,) * len(op.inputs)
        parts = [_scaled(linear(one), sign) for sign, one in zip(signs, op.inputs, strict=True)]
        return sum(bias for bias, _ in parts), [term for _, terms in parts for term in terms]
    if op.type == "Neg":
        return _scaled(linear(op.inputs[0]), -1)
    if op.type in ("Mul", "RealDiv"):
        one, other = op.inputs
        if (number := _scalar(other)) is not None:
            return _scaled(linear(one), number if op.type == "Mul" else 1 / number)
        if op.type == "Mul" and (number := _scalar(one)) is not None:
            return _scaled(linear(other), number)
    return 0.0, [(1.0, tensor)]


def _scaled(parts: Sum, factor: float) -> Sum:
    bias, terms = parts
    return bias * factor, [(factor * each, tensor) for each, tensor in terms]


def is_sigmoid(op: tf.Operation) -> bool:
    """Whether an operation ends `1 / (1 + exp(-x))`, or a hard sigmoid."""
    if op.type != "RealDiv":
        return False
    above, below = op.inputs
    if (number := _scalar(below)) is not None:
        return near(number, 6) and above.op.type == "Relu6"
    if (number := _scalar(above)) is None:
        return False
    bias, terms = linear(below)
    unit = near(number, 1) and near(bias, 1) and len(terms) == 1
    return unit and through(terms[0][1]).op.type == "Exp"


def is_softmax(op: tf.Operation) -> bool:
    """Whether an operation ends `exp(x) / sum(exp(x))` over the last axis."""
    if op.type != "RealDiv":
        return False
    above, total = (through(tensor).op for tensor in op.inputs)
    if above.type != "Exp" or total.type != "Sum" or not total.get_attr("keep_dims"):
        return False
    axes = static(total.inputs[1])
    last = (-1, total.inputs[0].shape.rank - 1)
    over_classes = axes is not None and all(axis in last for axis in np.ravel(axes))
    summed = through(total.inputs[0]).op
    return over_classes and summed.type == "Exp" and summed.inputs[0] is above.inputs[0]


def through(tensor: tf.Tensor) -> tf.Tensor:
    """The tensor behind casts."""
    while tensor.op.type in ("Cast", "Identity"):
        tensor = tensor.op.inputs[0]
    return tensor


def bounded(op: tf.Operation) -> tf.Tensor | None:
    """What a maximum or minimum with a constant bounds; None for other operations."""
    if op.type not in ("Maximum", "Minimum"):
        return None
    free = [tensor for tensor in op.inputs if _scalar(tensor) is None]
    return free[0] if len(free) == 1 else None


def static(tensor: tf.Tensor) -> Any:
    """A tensor's value where constants decide it, as an array; else None.

    Besides what TensorFlow folds, the order in which it swaps a softmax's axis to the end.
    """
    value = tf.get_static_value(tensor)
    if value is not None:
        return value
    if tensor.op.type == "Rank":
        return tensor.op.inputs[0].shape.rank
    folds: dict[str, Any] = {
        "AddV2": np.add,
        "ConcatV2": lambda *parts: np.concatenate(parts[:-1]),
        "Pack": lambda *parts: np.stack(parts),
        "Range": np.arange,
        "Sub": np.subtract,
    }
    fold = folds.get(tensor.op.type)
    if fold is None:
        return None
    values = [static(one) for one in tensor.op.inputs]
    return None if any(one is None for one in values) else fold(*values)


def near(value: float, expected: float) -> bool:
    """Whether two constants are one, but for rounding to half precision."""
    return abs(value - expected) < _TOLERANCE


def _scalar(tensor: tf.Tensor) -> float | None:
    if tensor.shape.num_elements() != 1 or not tensor.dtype.is_floating:
        return None
    value = tf.get_static_value(tensor)
    return None if value is None else float(np.ravel(value)[0])
