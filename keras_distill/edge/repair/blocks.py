"""The parts of a quantised model that are learned in turn: a layer with weights, up to a range."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras

from keras_distill import _keras
from keras_distill.edge.compress.layer import Compressed
from keras_distill.edge.compress.pruning import Mask
from keras_distill.edge.quantize.layer import Quantized
from keras_distill.edge.quantize.weights import Grid, grids_of, rounded_by
from keras_distill.graph.copying import weight_at
from keras_distill.graph.replay import Graph, Step, Value
from keras_distill.graph.traits import does
from keras_distill.graph.wrapping import inner

__all__ = ["Block", "blocks_of", "dense_strides", "reaching", "run"]


@dataclass(frozen=True)
class Block:
    """A layer with weights on grids, and the steps behind it up to the next range.

    Attributes:
      steps: the layer's, then each that reads nothing but the one before.
      grids: of its weights, by their paths inside the layer.
    """

    steps: tuple[Step, ...]
    grids: Mapping[str, Grid]

    @property
    def path(self) -> str:
        """The layer's path in the model."""
        return self.steps[0].path

    @property
    def layer(self) -> Compressed:
        """The wrapper that shows the layer its weights."""
        return self.steps[0].operation

    @property
    def inputs(self) -> tuple[Value, ...]:
        """What it reads."""
        return self.steps[0].inputs

    @property
    def output(self) -> Value:
        """What it is judged by."""
        return self.steps[-1].outputs[0]

    @property
    def weights(self) -> dict[str, keras.Variable]:
        """The variables under its grids, by their paths inside the layer."""
        return {key: weight_at(self.layer.layer, key) for key in self.grids}

    def before_grids(self) -> dict[str, Any]:
        """What its grids round, by the same paths: the variables, pruned where there is a mask."""
        with rounded_by(lambda grid, value: value):
            found = self.layer.treated_weights()
        return {key: found[key] for key in self.grids}

    def __call__(self, *inputs: Any) -> Any:
        """Its answer in inference."""
        found = dict(zip(map(id, self.inputs), inputs, strict=True))
        for step in self.steps:
            run(step, found)
        return found[id(self.output)]


def run(step: Step, found: dict[int, Any]) -> None:
    """Computes a step in inference on tensors by `id` of their values, and puts its own to them."""
    args, kwargs = step.filled(found)
    if _keras.takes_training(step.operation):
        kwargs = {"training": False, **kwargs}
    answers = keras.tree.flatten(step.operation(*args, **kwargs))
    found.update(zip(map(id, step.outputs), answers, strict=True))


@contextlib.contextmanager
def dense_strides(block: Block) -> Iterator[Callable[[Any], Any]]:
    """Inside, a strided 1x1 convolution takes what it would read, each place of it.

    It saves the places that nobody reads, and oneDNN's gradient of such a kernel, in TensorFlow
    2.21 on AVX-512, writes past its memory where there are 8 channels.

    Yields:
      What of an input to hand to the block: `x[:, ::stride, ::stride]`, or `x` of any other block.
    """
    layer = block.layer.layer
    flat = does(layer, "convolution") and len(layer.kernel_size) == 2
    if not flat or set(layer.kernel_size) != {1} or layer.data_format != "channels_last":
        yield lambda x: x
        return
    strides, layer.strides = layer.strides, (1, 1)
    try:
        yield lambda x: x[:, :: strides[0], :: strides[1]]
    finally:
        layer.strides = strides


def blocks_of(graph: Graph) -> tuple[list[Block], dict[str, str]]:
    """The blocks in the order of the graph, and why other layers keep their rounding, by path.

    Args:
      graph: a quantised model's, the wrappers in it.
    """
    calls = Counter(id(step.operation) for step in graph.steps)
    found, left = [], {}
    for step in graph.steps:
        grids = _grids(step)
        if not grids:
            continue
        if why := _why_left(step, calls[id(step.operation)]):
            left[step.path] = why
        else:
            found.append(Block(_up_to_a_range(graph, step), grids))
    return found, left


def reaching(graph: Graph, blocks: Sequence[Block], value: Value) -> Block | None:
    """The block behind which nothing with weights comes before `value`, extended up to it."""
    behind: list[Step] = []
    starts = {id(block.steps[0]): block for block in blocks}
    while value.step is not None:
        step = graph.steps[value.step]
        behind.insert(0, step)
        if block := starts.get(id(step)):
            return replace(block, steps=tuple(behind))
        if _grids(step) or len(step.inputs) != 1:
            return None
        (value,) = step.inputs
    return None


def _grids(step: Step) -> dict[str, Grid]:
    return grids_of(step.operation) if isinstance(step.operation, Compressed) else {}


def _why_left(step: Step, calls: int) -> str:
    if calls > 1:
        return "shared by several calls"
    if does(inner(step.operation), "embedding", "reversible embedding"):
        return "its rows are looked up one at a time, for which the nearest step is the best"
    before = [one for chain in step.operation.treatments.values() for one in chain[:-1]]
    if not all(isinstance(one, Mask) for one in before):
        return "clustered: its numbers move together"
    return ""


def _up_to_a_range(graph: Graph, step: Step) -> tuple[Step, ...]:
    steps = [step]
    while not _has_range(steps[-1]):
        (value, *others) = steps[-1].outputs
        readers = graph.consumers(value)
        returned = any(value is out for out in graph.outputs)
        if others or returned or len(readers) != 1 or len(readers[0].inputs) != 1:
            break
        if _grids(readers[0]):
            break
        steps.append(readers[0])
    return tuple(steps)


def _has_range(step: Step) -> bool:
    return isinstance(step.operation, Quantized) and bool(step.operation.output_ranges)
