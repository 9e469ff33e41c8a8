"""Concatenations, whose parts share one range in a file of integers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_distill import _keras
from keras_distill.graph.replay import Functional, Graph, Step, Value, functional, trace
from keras_distill.graph.traits import does
from keras_distill.graph.wrapping import inner

__all__ = ["Part", "parts_of", "parts_of_outputs", "warn_of_narrow"]

# A part that lies within fewer steps of the whole's 256 has fewer than four bits left.
_FEWEST_STEPS = 16
_ROWS = 64


@dataclass(frozen=True)
class Part:
    """What one layer gives to a concatenation: which places along its axis."""

    name: str
    axis: int
    start: int
    stop: int

    def of(self, values: np.ndarray) -> np.ndarray:
        """The part's own values of the whole's."""
        return np.take(values, np.arange(self.start, self.stop), self.axis)


def parts_of(graph: Graph) -> dict[str, tuple[Part, ...]]:
    """The parts of each concatenation of a graph, by its path."""
    found = {step.path: _parts(graph, step) for step in graph.steps}
    return {path: parts for path, parts in found.items() if len(parts) > 1}


def parts_of_outputs(model: Any, names: list[str]) -> list[tuple[Part, ...]]:
    """The parts of each output that is a concatenation; none for the others.

    Args:
      model: the model, or a callable.
      names: of the outputs, in the order wanted, as a model that returns a dict has them.
    """
    if not isinstance(model, (keras.Sequential, Functional)):
        return [()] * len(names)
    graph = trace(model)
    values, structure = list(graph.outputs), functional(model).output
    if isinstance(structure, dict) and set(structure) == set(names):
        # Keras flattens a dict by its sorted keys.
        by_name = dict(zip(sorted(structure), values, strict=True))
        values = [by_name[name] for name in names]
    makers = [None if value.step is None else graph.steps[value.step] for value in values]
    return [() if maker is None else _parts(graph, maker) for maker in makers]


def _parts(graph: Graph, step: Step) -> tuple[Part, ...]:
    operation, joined = inner(step.operation), keras.tree.flatten(step.args)
    if not does(operation, "concatenation") or not all(hasattr(one, "shape") for one in joined):
        return ()
    axis = operation.axis % len(step.outputs[0].shape)
    sizes = [one.shape[axis] for one in joined]
    if axis == 0 or None in sizes:
        return ()
    ends = np.cumsum(sizes).tolist()
    return tuple(
        Part(_name(graph, one), axis, end - size, end)
        for one, size, end in zip(joined, sizes, ends, strict=True)
    )


def _name(graph: Graph, joined: Any) -> str:
    if not isinstance(joined, Value):
        return "constant"
    return "input" if joined.step is None else graph.steps[joined.step].path


def warn_of_narrow(model: Any, graph: Graph, rows: Any) -> None:
    """Warns of concatenations in whose one range some part has next to no steps.

    Args:
      model, graph: a model, and its graph with all wrappers in it; nothing is said without steps.
      rows: inputs in the model's structure, of which the first some are looked at.
    """
    if not parts_of(graph):
        return
    few = keras.tree.map_structure(lambda x: np.asarray(x)[:_ROWS], rows)
    tensors = dict(zip(map(id, graph.inputs), _keras.standardized(model, few), strict=True))
    for step in graph.steps:
        args, kwargs = step.filled(tensors)
        for words in _narrow(_parts(graph, step), keras.tree.flatten(args)):
            warnings.warn(
                f"{step.path!r} joins numbers of different sizes, and in int8 they share one "
                f"range: {words}. Return the parts as outputs of their own, and join them after "
                f"the file.",
                UserWarning,
                stacklevel=3,
            )
        if _keras.takes_training(step.operation):
            kwargs = {"training": False, **kwargs}
        answers = keras.tree.flatten(step.operation(*args, **kwargs))
        tensors.update(zip(map(id, step.outputs), answers, strict=True))


def _narrow(parts: tuple[Part, ...], tensors: list[Any]) -> Iterator[str]:
    if len(parts) < 2:
        return
    bounds = [(float(np.min(x)), float(np.max(x))) for x in tensors]
    # Zero is in every range.
    spans = [max(high, 0.0) - min(low, 0.0) for low, high in bounds]
    step = (max(0.0, *(b[1] for b in bounds)) - min(0.0, *(b[0] for b in bounds))) / 255
    for part, span, (low, high) in zip(parts, spans, bounds, strict=True):
        if 0 < span < _FEWEST_STEPS * step:
            yield (
                f"a step of {step:.3g}, of which {part.name!r} ({low:.3g} to {high:.3g}) spans "
                f"{span / step:.1f}"
            )
