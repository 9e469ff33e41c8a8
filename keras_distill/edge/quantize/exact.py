"""Values that stand for something exact, so that no range may round them: ids, categories, marks.

A range keeps 256 steps. A token's number, a category, a class number or a padding mark that lies
between two of them becomes another one, and so does a table's small number beside its large ones.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.edge.quantize import affine
from keras_distill.edge.reads import is_read_exactly, traced
from keras_distill.graph.remaking import by_keras
from keras_distill.graph.replay import Graph, Step, Value
from keras_distill.graph.traits import MOVED, PICKED, SAME, does, gives, traits_of

# Layers whose inside says what they read.
_HIDING = ("bidirectional", "time distributed", "wrapped", "open")
ZERO_TO_ONE = (0.0, 1.0)
_HOT = ("one_hot", "multi_hot")
# The largest part of a column's deviation that a step of the range of all columns may be.
_COARSEST = 1 / 8


def exact_values(graph: Graph) -> frozenset[int]:
    """The real-valued tensors of a graph that get no range, by `id`.

    Those are a model's inputs, and what is moved about or computed from them on the way, that a
    later operation reads as ids, categories or marks, or whose columns it brings to one unit; and
    whole numbers that the model returns.
    """
    whole = _whole_values(graph)
    found = {id(value) for value in graph.outputs if id(value) in whole}
    for step in reversed(graph.steps):
        passes = passes_on(step) and any(id(value) in found for value in step.outputs)
        for value in step.inputs:
            if "float" in value.dtype and (passes or reads_exactly(step, value)):
                found.add(id(value))
    kept = {id(value) for value in graph.inputs if id(value) in found}
    for step in graph.steps:
        # What a layer computes has a range whoever reads it: it is no more exact than its inputs.
        exact = passes_on(step) and any(
            id(value) in kept or "float" not in value.dtype for value in step.inputs
        )
        kept |= {id(value) for value in step.outputs if exact or id(value) in whole} & found
    return frozenset(kept)


def computes(step: Step, found: frozenset[int]) -> bool:
    """Whether a step computes some of the exact values `found` from real numbers."""
    return (
        passes_on(step)
        and gives(step.operation) not in (SAME, MOVED)
        and any("float" in value.dtype and id(value) in found for value in step.outputs)
        and any("float" in value.dtype for value in step.inputs)
    )


def reads_exactly(step: Step, value: Value) -> bool:
    """Whether a step takes `value`, one of its inputs, for an id, a category or a mark."""
    operation, traits = step.operation, traits_of(step.operation)
    if traits.whole == "read":
        return True
    if traits.does == "masking":
        # Zero is a step of every range.
        return bool(np.any(np.asarray(operation.mask_value) != 0))
    if not by_keras(operation) or traits.does in _HIDING:
        return _probed(step, value)
    if traits.marks:
        return reads_marks(step, value)
    if traits.whole == "made" or has_unlike_columns(operation):
        return True
    return traits.whole != "ordered" and not any("float" in out.dtype for out in step.outputs)


def normalizes(step: Step, found: frozenset[int]) -> bool:
    """Whether a step brings columns of unlike units, which have no range, to one."""
    return has_unlike_columns(step.operation) and any(id(value) in found for value in step.inputs)


def has_unlike_columns(operation: Any) -> bool:
    """Whether one range for what a layer normalises would leave some column too few steps.

    Its own statistics tell: a table's areas of a thousand lie beside its ratios of a hundredth.
    """
    if not affine.is_affine(operation) or isinstance(operation, keras.layers.Rescaling):
        return False
    with tf.init_scope():
        mean, variance = (part.numpy() for part in affine.statistics(operation))
    deviation = np.sqrt(variance)
    varied = deviation > keras.config.epsilon()
    if not varied.any() or getattr(operation, "invert", False):
        return False
    low, high = (mean - 4 * deviation).min(), (mean + 4 * deviation).max()
    # LiteRT's ranges hold zero.
    step = (max(high, 0.0) - min(low, 0.0)) / 255
    return bool(step > _COARSEST * deviation[varied].min())


def reads_marks(step: Step, value: Value) -> bool:
    """Whether `value` is the argument of a step that says where."""
    if (marks := traits_of(step.operation).marks) is None:
        return False
    name, place = marks
    return step.kwargs.get(name, step.args[place] if len(step.args) > place else None) is value


def passes_on(step: Step) -> bool:
    """Whether a step hands its input on, or computes from it what is as exact."""
    handed_on = gives(step.operation) in (SAME, MOVED, PICKED)
    kept = traits_of(step.operation).whole in ("kept", "made")
    return by_keras(step.operation) and (handed_on or kept)


def known_range(operation: Any) -> tuple[float, float] | None:
    """Zero to one for what answers yes or no: both are steps of that range."""
    hot = getattr(operation, "output_mode", None) in _HOT and traits_of(operation).whole == "read"
    return ZERO_TO_ONE if hot or does(operation, "hot encoding") else None


def _whole_values(graph: Graph) -> set[int]:
    """The real-valued tensors that hold whole numbers: of a cast, of a rounding, of a lookup."""
    found: set[int] = set()
    for step in graph.steps:
        of_integers = not any("float" in value.dtype for value in step.inputs)
        cast = does(step.operation, "cast") and of_integers
        looked_up = does(step.operation, "lookup", "encoding")
        mode = getattr(step.operation, "output_mode", "int")
        rounded = traits_of(step.operation).whole == "made"
        made = cast or rounded or (looked_up and mode in ("int", *_HOT))
        kept = passes_on(step) and all(id(value) in found for value in step.inputs)
        if by_keras(step.operation) and (made or kept):
            found |= {id(value) for value in step.outputs if "float" in value.dtype}
    return found


def _probed(step: Step, value: Value) -> bool:
    """What a layer whose inside is hidden does first with its input, read from its graph."""
    found = traced(step)
    places = [place for place, read in enumerate(step.inputs) if read is value]
    return found is not None and any(is_read_exactly(found.inputs[place]) for place in places)
