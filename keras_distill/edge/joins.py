"""Concatenations, whose parts share one range in a file of integers."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_distill import _keras
from keras_distill.graph.replay import Functional, Graph, Step, functional, replay, trace
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


def parts_of(model: Any) -> dict[str, tuple[Part, ...]]:
    """The parts of each concatenation of a model, by its path; nothing for subclassed models."""
    if not isinstance(model, (keras.Sequential, Functional)):
        return {}
    graph = trace(model)
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
    operation = inner(step.operation)
    if not does(operation, "concatenation"):
        return ()
    rank = len(step.outputs[0].shape)
    axis = operation.axis % rank
    sizes = [value.shape[axis] for value in step.inputs]
    if axis == 0 or None in sizes:
        return ()
    ends = np.cumsum(sizes).tolist()
    names = [
        "input" if value.step is None else graph.steps[value.step].path for value in step.inputs
    ]
    return tuple(
        Part(name, axis, end - size, end)
        for name, size, end in zip(names, sizes, ends, strict=True)
    )


def warn_of_narrow(model: Any, rows: Any) -> None:
    """Warns of concatenations in whose one range some part has next to no steps.

    Args:
      model: a replayable model; nothing is said of others.
      rows: inputs in the model's structure, of which the first some are looked at.
    """
    if not parts_of(model):
        return
    few = keras.tree.map_structure(lambda x: np.asarray(x)[:_ROWS], rows)
    for path, parts in _seen(model, few).items():
        for words in _narrow(parts):
            warnings.warn(
                f"{path!r} joins numbers of different sizes, and in int8 they share one range: "
                f"{words}. Return the parts as outputs of their own, and join them after the file.",
                UserWarning,
                stacklevel=3,
            )


def _narrow(parts: list[tuple[str, np.ndarray]]) -> Iterator[str]:
    bounds = [(min(float(x.min()), 0.0), max(float(x.max()), 0.0)) for _, x in parts]
    step = (max(high for _, high in bounds) - min(low for low, _ in bounds)) / 255
    for (name, x), (low, high) in zip(parts, bounds, strict=True):
        if 0 < high - low < _FEWEST_STEPS * step:
            yield (
                f"a step of {step:.3g}, of which {name!r} ({x.min():.3g} to {x.max():.3g}) spans "
                f"{(high - low) / step:.1f}"
            )


def _seen(model: Any, rows: Any) -> dict[str, list[tuple[str, np.ndarray]]]:
    """What each concatenation was given, part by part, by its path."""
    named = parts_of(model)
    found: dict[str, list[tuple[str, np.ndarray]]] = {}

    def watched(prefix: str) -> Callable[[Any], Any]:
        def watch(operation: Any) -> Any:
            path = f"{prefix}{operation.name}"
            if isinstance(operation, (keras.Sequential, Functional)):
                return lambda x, **_: replay(operation, x, watched(f"{path}/"))
            call = operation
            if _keras.takes_training(operation):
                call = functools.partial(operation, training=False)
            return functools.partial(_noted, call, path) if path in named else call

        return watch

    def _noted(call: Any, path: str, *args: Any, **kwargs: Any) -> Any:
        values = [np.asarray(x) for x in keras.tree.flatten(args) if hasattr(x, "numpy")]
        if len(values) == len(named[path]):
            found[path] = [
                (part.name, value) for part, value in zip(named[path], values, strict=True)
            ]
        return call(*args, **kwargs)

    replay(model, rows, watched(""))
    return found
