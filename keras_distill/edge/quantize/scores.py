"""Masked scores: of numbers that are only compared, those far below the others need no steps.

`x + mask * -1e9` before a softmax spans a billion, and 256 steps over it leave nothing of x. To a
softmax or a maximum, what lies well below all scores is as good.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.edge.quantize import activations, affine
from keras_distill.edge.quantize.ranges import Range
from keras_distill.edge.reads import constants
from keras_distill.graph.remaking import by_keras
from keras_distill.graph.replay import Graph, Step, Value
from keras_distill.graph.traits import MOVED, PICKED, SAME, gives, traits_of
from keras_distill.litert.masked_scores import BEYOND, GAP

__all__ = ["MASK", "SCORES", "MaskedRange", "kinds_of", "nearer"]

# Kinds of range: of what is compared as it is, and of what is added to other scores before that.
SCORES, MASK = "scores", "mask"
# A mask's own distance, beside which the spread of the scores that it is added to is small.
_WIDE_GAP = 64.0
_FILLING = ("Full", "FullLike")
_COMPARING = frozenset(("Softmax", "Max", "Amax", "Argmax", "TopK"))


def kinds_of(graph: Graph) -> dict[int, str]:
    """The real-valued tensors, by `id`, that are only compared and may hold a mask's far numbers.

    Returns:
      `SCORES` or `MASK` for each.
    """
    compared = _compared(graph)
    masked = _masked(graph, compared)
    found = dict.fromkeys(compared & masked, SCORES)
    wide = [
        value
        for value in _values(graph)
        if any(_adds(step, value, masked) or _shrinks(step) for step in graph.consumers(value))
    ]
    while wide:
        value = wide.pop()
        if found.get(id(value)) != SCORES:
            continue
        found[id(value)] = MASK
        # What it is made of, and what hands it on, for which the file has one range.
        maker = [] if value.step is None else [graph.steps[value.step]]
        wide += [read for step in maker if not _compares(step) for read in step.inputs]
        wide += [out for step in graph.consumers(value) if _hands_on(step) for out in step.outputs]
    return found


def nearer(arguments: Any) -> Any:
    """The arguments of a call, numbers among them brought near enough for a range."""

    def near(one: Any) -> Any:
        if tf.is_tensor(one):
            known = hasattr(one, "numpy") and one.dtype.is_floating
            return tf.clip_by_value(one, -BEYOND, BEYOND) if known else one
        if isinstance(one, float):
            return min(max(one, -BEYOND), BEYOND)
        is_real = isinstance(one, (np.floating, np.ndarray)) and one.dtype.kind == "f"
        return np.clip(one, -BEYOND, BEYOND) if is_real else one

    return keras.tree.map_structure(near, arguments)


class MaskedRange(Range):
    """The range of the numbers that no mask is on, and of a place below them for the others.

    Args:
      kind: `SCORES` or `MASK`.
    """

    def __init__(self, kind: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.gap = GAP if kind == SCORES else _WIDE_GAP

    def counted(self, x: Any) -> Any:
        """`x`, what is far from the others brought to the range's ends."""
        near = tf.abs(x) < BEYOND / 2
        known = tf.where(near, x, tf.zeros_like(x))
        low, high = tf.reduce_min(known), tf.reduce_max(known)
        # Beside zeros alone, a mask's number is exact wherever it lies.
        gap = tf.where(low == high, BEYOND, self.gap)
        return tf.where(near, x, tf.where(x < 0, low - gap, high + gap))


def _values(graph: Graph) -> list[Value]:
    return [*graph.inputs, *(value for step in graph.steps for value in step.outputs)]


def _compared(graph: Graph) -> set[int]:
    """The real-valued tensors of which nothing but which is the larger matters."""
    found: set[int] = set()
    returned = {id(value) for value in graph.outputs}
    for value in reversed(_values(graph)):
        readers = graph.consumers(value)
        only = all(
            _compares(step) or (_passes(step) and all(id(out) in found for out in step.outputs))
            for step in readers
        )
        if readers and only and id(value) not in returned and "float" in value.dtype:
            found.add(id(value))
    return found


def _masked(graph: Graph, compared: set[int]) -> set[int]:
    """The tensors in which a mask's far numbers may be."""
    found = {id(value) for value in graph.inputs}
    for step in graph.steps:
        outputs = {id(value) for value in step.outputs}
        if not outputs & compared:
            continue
        if _passes(step):
            far = any(id(value) in found for value in step.inputs) or _has_far(_numbers(step))
        else:
            own = isinstance(step.operation, keras.layers.Lambda) or not by_keras(step.operation)
            far = own and _has_far(constants(step))
        found |= outputs if far else set()
    return found


def _adds(step: Step, value: Value, masked: set[int]) -> bool:
    """Whether a step adds numbers that no mask is on to `value`."""
    kind = type(step.operation).__name__
    others = [one for one in step.inputs if one is not value and "float" in one.dtype]
    return kind in ("Add", "Subtract") and any(id(one) not in masked for one in others)


def _shrinks(step: Step) -> bool:
    """Whether a step brings all numbers nearer to each other: attention divides by a root."""
    kind = type(step.operation).__name__
    if kind not in ("Multiply", "Rescaling", "Divide", "TrueDivide"):
        return False
    # A Rescaling's second is its offset.
    numbers = _numbers(step)[:1]
    sizes = [np.abs(np.asarray(one, "float64")) for one in numbers]
    return any(size.max() > 1 if "Divide" in kind else 0 < size.min() < 1 for size in sizes)


def _compares(step: Step) -> bool:
    operation, kind = step.operation, type(step.operation).__name__
    if not by_keras(operation):
        return False
    alone = activations.stands_alone(operation) and activations.of_layer(operation) == "softmax"
    return alone or kind in _COMPARING or kind.startswith("GlobalMaxPooling")


def _passes(step: Step) -> bool:
    """Whether what is far in a step's inputs, or among its numbers, is as far in its output."""
    kept = traits_of(step.operation).whole == "kept" or type(step.operation).__name__ in _FILLING
    return _hands_on(step) or (kept and by_keras(step.operation))


def _hands_on(step: Step) -> bool:
    return by_keras(step.operation) and gives(step.operation) in (SAME, MOVED, PICKED)


def _numbers(step: Step) -> list[Any]:
    operation = step.operation
    if isinstance(operation, keras.layers.Rescaling) and affine.is_affine(operation):
        return [operation.scale, operation.offset]
    leaves = keras.tree.flatten((step.args, step.kwargs))
    return [one for one in leaves if not isinstance(one, (Value, str, bool))]


def _has_far(numbers: list[Any]) -> bool:
    def is_far(one: Any) -> bool:
        array = np.asarray(one)
        return array.dtype.kind in "fiu" and bool(np.any(np.abs(array.astype("float64")) >= BEYOND))

    return any(map(is_far, numbers))
