"""Values that stand for something exact, so that no range may round them: ids, categories, marks.

A range keeps 256 steps. A token's number, a category, a class number or a padding mark that lies
between two of them becomes another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_distill import _keras
from keras_distill.edge.reads import is_read_exactly, traced
from keras_distill.graph.remaking import by_keras
from keras_distill.graph.replay import Graph, Step, Value, functional

layers = keras.layers

# They look their input up, or sort it into bins.
_LOOKUPS = (
    *(layers.Embedding, layers.CategoryEncoding, layers.IntegerLookup, layers.StringLookup),
    *(layers.Hashing, layers.HashedCrossing, layers.Discretization),
)
# What they answer steps from one whole number to the next.
_STEPPING = frozenset(("Floor", "Ceil", "Round", "Trunc", "Sign", "FloorDivide", "Mod"))
# Which argument says where.
_INDICES = {
    "Take": ("indices", 1),
    "TakeAlongAxis": ("indices", 1),
    "Scatter": ("indices", 0),
    "ScatterUpdate": ("indices", 1),
    "SegmentSum": ("segment_ids", 1),
    "SegmentMax": ("segment_ids", 1),
    "OneHot": ("x", 0),
    "MultiHot": ("x", 0),
}
# They answer in whole numbers, and their input is a number like any other.
_ORDERING = frozenset(("Argmax", "Argmin", "Argsort", "Argpartition", "TopK", "Shape", "Size"))
# The same numbers in another place or shape.
MOVING = frozenset(
    (
        *("Reshape", "Flatten", "Permute", "Cropping1D", "Cropping2D", "Transpose", "Squeeze"),
        *("ExpandDims", "GetItem", "Slice", "Ravel", "Swapaxes", "Moveaxis", "Split", "Unstack"),
        *("RepeatVector", "Identity", "Concatenate", "Concat", "Stack", "StopGradient"),
        *("Repeat", "Tile", "Flip", "Roll", "BroadcastTo"),
    )
)
# Whoever needs their answer exactly needs their input exactly, too.
_PASSING = (
    MOVING
    | _STEPPING
    | frozenset(
        (
            *("Dropout", "SpatialDropout1D", "ActivityRegularization", "Masking", "Rescaling"),
            *("ZeroPadding1D", "ZeroPadding2D", "Pad", "Max", "Min", "Where", "Maximum"),
            *("Minimum", "Clip", "Add", "Subtract", "Multiply", "Divide", "TrueDivide"),
            *("Absolute", "Abs", "Negative", "Cast"),
        )
    )
)
ZERO_TO_ONE = (0.0, 1.0)
_HOT = ("one_hot", "multi_hot")


def exact_values(graph: Graph) -> frozenset[int]:
    """The real-valued tensors of a graph that get no range, by `id`.

    Those are a model's inputs, and what is moved about or computed from them on the way, that a
    later operation reads as ids, categories or marks; and whole numbers that the model returns.
    """
    whole = _whole_values(graph)
    found = {id(value) for value in graph.outputs if id(value) in whole}
    for step in reversed(graph.steps):
        passes = passes_on(step) and any(id(value) in found for value in step.outputs)
        for value in step.inputs:
            if "float" in value.dtype and (passes or reads_exactly(step, value)):
                found.add(id(value))
    return frozenset(
        id(value)
        for value in _values(graph)
        if id(value) in found and (value.step is None or _is_kept(graph.steps[value.step], whole))
    )


def inputs_of(model: Any, graph: Graph) -> tuple[str, ...]:
    """The names of the inputs, of a replayable model, that `exact_values` has."""
    found = exact_values(graph)
    return tuple(name for name, x in named_inputs(model, graph).items() if id(x) in found)


def named_inputs(model: Any, graph: Graph) -> dict[str, Value]:
    """A graph's inputs by the names that its model has for them."""
    names = [_keras.history(x).operation.name for x in functional(model).inputs]
    return dict(zip(names, graph.inputs, strict=True))


def computes(step: Step, found: frozenset[int]) -> bool:
    """Whether a step computes some of the exact values `found` from real numbers."""
    return (
        passes_on(step)
        and type(step.operation).__name__ not in MOVING
        and any("float" in value.dtype and id(value) in found for value in step.outputs)
        and any("float" in value.dtype for value in step.inputs)
    )


def _values(graph: Graph) -> Iterator[Value]:
    yield from graph.inputs
    for step in graph.steps:
        yield from step.outputs


def _is_kept(maker: Step, whole: set[int]) -> bool:
    # What a layer computes has a range whoever reads it: it is no more exact than its inputs.
    return passes_on(maker) or any(id(value) in whole for value in maker.outputs)


def reads_exactly(step: Step, value: Value) -> bool:
    """Whether a step takes `value`, one of its inputs, for an id, a category or a mark."""
    operation, kind = step.operation, type(step.operation).__name__
    if isinstance(operation, _LOOKUPS):
        return True
    if isinstance(operation, layers.Masking):
        # Zero is a step of every range.
        return bool(np.any(np.asarray(operation.mask_value) != 0))
    if not by_keras(operation) or isinstance(operation, (layers.Wrapper, layers.Lambda)):
        return _probed(step, value)
    if kind in _INDICES:
        name, place = _INDICES[kind]
        given = step.kwargs.get(name, step.args[place] if len(step.args) > place else None)
        return given is value
    if kind in _STEPPING:
        return True
    return kind not in _ORDERING and not any("float" in out.dtype for out in step.outputs)


def passes_on(step: Step) -> bool:
    """Whether a step hands its input on, or computes from it what is as exact."""
    return by_keras(step.operation) and type(step.operation).__name__ in _PASSING


def known_range(operation: Any) -> tuple[float, float] | None:
    """Zero to one for what answers yes or no: both are steps of that range."""
    kind = type(operation).__name__
    mode = getattr(operation, "output_mode", None)
    hot = isinstance(operation, _LOOKUPS) and mode in _HOT
    return ZERO_TO_ONE if hot or (by_keras(operation) and kind in ("OneHot", "MultiHot")) else None


def _whole_values(graph: Graph) -> set[int]:
    """The real-valued tensors that hold whole numbers: of a cast, of a rounding, of a lookup."""
    found: set[int] = set()
    for step in graph.steps:
        kind = type(step.operation).__name__
        cast = kind == "Cast" and not any("float" in value.dtype for value in step.inputs)
        looked_up = isinstance(step.operation, _LOOKUPS[1:])
        mode = getattr(step.operation, "output_mode", "int")
        made = cast or kind in _STEPPING or (looked_up and mode in ("int", *_HOT))
        kept = passes_on(step) and all(id(value) in found for value in step.inputs)
        if by_keras(step.operation) and (made or kept):
            found |= {id(value) for value in step.outputs if "float" in value.dtype}
    return found


def _probed(step: Step, value: Value) -> bool:
    """What a layer whose inside is hidden does first with its input, read from its graph."""
    found = traced(step)
    places = [place for place, read in enumerate(step.inputs) if read is value]
    return found is not None and any(is_read_exactly(found.inputs[place]) for place in places)
