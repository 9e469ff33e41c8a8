"""A quantised model and the float model in it, walked side by side over all rows."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

from keras_distill.edge.quantize.ranges import observed
from keras_distill.edge.quantize.weights import rounded_by
from keras_distill.edge.repair.blocks import Block, run
from keras_distill.graph.replay import Graph, Step, Value

__all__ = ["Arguments", "Walk", "as_float", "bytes_of_a_pass", "bytes_per_row", "unrounded"]

# A size that a model leaves open, for a guess at its bytes.
_OPEN = 64

Arguments = tuple[tuple, dict[str, Any]]


def unrounded() -> contextlib.AbstractContextManager[None]:
    """Inside, weights are as they are underneath; tensors are rounded still."""
    return rounded_by(lambda grid, value: value)


@contextlib.contextmanager
def as_float() -> Iterator[None]:
    """Inside, a quantised model rounds neither weights nor tensors: it is the float model."""
    with observed(lambda one, tensor: None), unrounded():
        yield


class Walk:
    """Every tensor that is still to be read, of both models, batch by batch.

    Each step is computed once on each side, and a tensor is let go of behind its last reader.

    Args:
      graph: the quantised model's, its wrappers in it.
      batches: for each batch the tensors of the model's inputs.
    """

    def __init__(self, graph: Graph, batches: Sequence[Sequence[Any]]):
        self._rounded = [dict(zip(map(id, graph.inputs), x, strict=True)) for x in batches]
        self._float = [dict(found) for found in self._rounded]
        self._last = _last_readers(graph)
        self._ahead = list(reversed(graph.steps))

    def up_to(self, last: Step) -> Iterator[Step]:
        """The steps that were not yet given, up to `last`, which comes the next time."""
        while self._ahead[-1] is not last:
            yield self._ahead.pop()

    def inputs(self, block: Block) -> list[list[Any]]:
        """What the block reads in the quantised model as it is by now, for each batch."""
        return [[found[id(value)] for value in block.inputs] for found in self._rounded]

    def targets(self, block: Block) -> list[Any]:
        """The block's answer in the float model, for each batch."""
        with as_float():
            return [block(*(found[id(v)] for v in block.inputs)) for found in self._float]

    def arguments(self, step: Step) -> tuple[list[Arguments], list[Arguments]]:
        """What a step is called with in the float model and in the quantised one, by batch."""
        return (
            [step.filled(found) for found in self._float],
            [step.filled(found) for found in self._rounded],
        )

    def advance_float(self, step: Step) -> None:
        """Computes a step of the float model, from its weights as they are now."""
        with as_float():
            self._advance(step, self._float)

    def advance_rounded(self, step: Step) -> None:
        """Computes a step of the quantised model, from its weights as they are now."""
        self._advance(step, self._rounded)

    def _advance(self, step: Step, batches: list[dict[int, Any]]) -> None:
        for found in batches:
            run(step, found)
            for value in (*step.inputs, *step.outputs):
                if self._last.get(id(value)) in (None, id(step)):
                    found.pop(id(value), None)


def bytes_per_row(graph: Graph) -> int:
    """What a walk holds at most for each row, in bytes: both models' tensors, and a target."""
    last, alive, most = _last_readers(graph), {id(v): _bytes(v) for v in graph.inputs}, 0
    for step in graph.steps:
        alive.update({id(value): _bytes(value) for value in step.outputs})
        most = max(most, 2 * sum(alive.values()) + sum(map(_bytes, step.outputs)))
        for value in (*step.inputs, *step.outputs):
            if last.get(id(value)) in (None, id(step)):
                alive.pop(id(value), None)
    return most


def bytes_of_a_pass(graph: Graph) -> int:
    """What a pass through a quantised model and its gradient holds for each row, in bytes."""
    # Of each output: as it comes, in steps, rounded, and its gradient.
    return 4 * sum(_bytes(value) for step in graph.steps for value in step.outputs)


def _last_readers(graph: Graph) -> dict[int, int]:
    """By `id` of value, the `id` of the last step that reads it."""
    return {id(value): id(step) for step in graph.steps for value in step.inputs}


def _bytes(value: Value) -> int:
    return 4 * math.prod(_OPEN if size is None else size for size in value.shape[1:])
