"""Ranges of a model's tensors that are learned together from what the float model answers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from keras_distill.edge.quantize.adam import Adam
from keras_distill.edge.quantize.calibrate import ranges_of, ranges_of_outputs
from keras_distill.edge.quantize.ranges import InverseRoot, Range, fake_quant, observed
from keras_distill.edge.quantize.scores import MaskedRange
from keras_distill.edge.quantize.steps import on_learned_range
from keras_distill.edge.repair.blocks import run
from keras_distill.edge.repair.rounding import batch_order
from keras_distill.edge.repair.walk import as_float, bytes_of_a_pass
from keras_distill.functional.tensors import Tensor
from keras_distill.graph.replay import Graph, Value

__all__ = ["Head", "Ranges", "heads_of_float", "learned_ends", "ranges_to_learn"]

# Of the multiples that are learned: Adam's first rate, and the smallest.
_RATE, _LEAST = 0.01, 1e-2
# What a pass through the model and back may hold.
_BYTES = 2**30


@dataclass(frozen=True)
class Head:
    """What one output of a model is to answer.

    Attributes:
      value: the output.
      targets: for each batch.
      measure: the mean error of an answer beside its target.
    """

    value: Value
    targets: Sequence[Tensor]
    measure: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Ranges:
    """The ranges of a quantised model that data has set, as one part of its repair.

    Attributes:
      graph: the model's, its wrappers in it.
      ranges: each once, however many steps come to it.
      still: those of them that are not learned, by `id`.
    """

    graph: Graph
    ranges: tuple[Range, ...]
    still: frozenset[int] = frozenset()
    path = "ranges"

    @property
    def layer(self) -> Range:
        """Where the repair is remembered."""
        return self.ranges[0]

    @property
    def weights(self) -> dict[str, keras.Variable]:
        """Both ends of each, by its number."""
        found: dict[str, keras.Variable] = {}
        for number, one in enumerate(self.ranges):
            found |= {f"{number} low": one.low, f"{number} high": one.high}
        return found

    def answers(self, heads: Sequence[Head], inputs: Sequence[Tensor]) -> list[Tensor]:
        """What the model answers in inference at these outputs."""
        found = dict(zip(map(id, self.graph.inputs), inputs, strict=True))
        for step in self.graph.steps:
            run(step, found)
        return [found[id(head.value)] for head in heads]

    def error(
        self, heads: Sequence[Head], inputs: Sequence[Sequence[Tensor]], batches: Sequence[int]
    ) -> float:
        """The mean over the rows of the batches of these numbers, as the model is by now."""
        found = [
            _error(self, heads, inputs[n], [head.targets[n] for head in heads]) for n in batches
        ]
        rows = [len(inputs[number][0]) for number in batches]
        return float(np.average([float(one) for one in found], weights=rows))


def ranges_to_learn(model: keras.Model, graph: Graph, *, of_answers: bool) -> Ranges | None:
    """The ranges that may move; None where there are none, or no output tells of them.

    Not those of masked scores, nor one that says another's.

    Args:
      model, graph: a quantised model, and its graph.
      of_answers: those of what the model returns are learned, too. Of numbers nothing is to be cut
        off, as calibration has it: what is larger than all that is learned from would become equal.
    """
    found = [one for one in ranges_of(model) if not isinstance(one, (MaskedRange, InverseRoot))]
    still = () if of_answers else map(id, ranges_of_outputs(model))
    part = Ranges(graph, tuple(found), frozenset(still))
    real = any("float" in value.dtype for value in graph.outputs)
    return part if real and any(id(one) not in part.still for one in found) else None


def heads_of_float(part: Ranges, inputs: Sequence[Sequence[Tensor]]) -> list[Head]:
    """The float model's own answers: the square of the difference as part of their variance."""
    bare = [Head(value, (), _square) for value in part.graph.outputs if "float" in value.dtype]
    with as_float():
        answers = [part.answers(bare, x) for x in inputs]
    heads = []
    for head, *targets in zip(bare, *answers, strict=True):
        variance = float(np.var(np.concatenate(targets))) or 1.0
        heads.append(Head(head.value, targets, functools.partial(_square, unit=variance)))
    return heads


def learned_ends(
    part: Ranges,
    heads: Sequence[Head],
    inputs: Sequence[Sequence[Tensor]],
    *,
    unit: float,
    iterations: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """The ends of all ranges that bring the model's answers nearest to the targets.

    Each end is a multiple of what it was, moved by Adam at a rate that falls from 0.01 by a cosine,
    with the gradients of `on_learned_range`.

    Args:
      part: its variables are read, and not changed.
      heads: what is answered; their targets go with `inputs`.
      inputs: the model's, for each batch that is learned from.
      unit: what error counts as 1.
      iterations: updates, a batch each, or as many rows of one as a gigabyte holds.
      seed: of the batches' order.

    Returns:
      By the keys of `part.weights`.
    """
    multiples = [tf.Variable([1.0, 1.0]) for _ in part.ranges]
    update = _updater(part, heads, multiples, unit)
    pieces = _pieces(part, heads, inputs)
    for step, number in zip(range(iterations), batch_order(len(pieces), seed), strict=False):
        rate = 0.5 * _RATE * (1.0 + math.cos(math.pi * step / iterations))
        update(*pieces[number], tf.constant(step + 1.0), tf.constant(rate))
    found = zip(part.ranges, multiples, strict=True)
    flat = [end.numpy() for one, by in found for end in _times(by, one.low.value, one.high.value)]
    return dict(zip(part.weights, flat, strict=True))


def _updater(
    part: Ranges, heads: Sequence[Head], multiples: Sequence[tf.Variable], unit: float
) -> Callable[..., None]:
    """One update by Adam of the ends that are learned."""
    numbered = zip(part.ranges, multiples, strict=True)
    by_range = {id(one): by for one, by in numbered if id(one) not in part.still}
    learned = list(by_range.values())
    optimizer = Adam(learned)

    def rounding(one: Range, tensor: Tensor) -> Tensor:
        if id(one) in by_range:
            return on_learned_range(tensor, *_times(by_range[id(one)], *one.limits()))
        return fake_quant(tensor, *one.bounds())

    @tf.function(reduce_retracing=True)
    def update(
        inputs: Sequence[Tensor], targets: Sequence[Tensor], count: Tensor, rate: Tensor
    ) -> None:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(learned)
            with observed(rounding):
                loss = _error(part, heads, inputs, targets) / unit
        # What leads to no output that is compared has none.
        gradients = tape.gradient(loss, learned, unconnected_gradients="zero")
        optimizer.apply(gradients, rate, count)

    return update


def _times(by: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Both ends by their multiples, which leave some of a range."""
    by = tf.maximum(by, _LEAST)
    return low * by[0], high * by[1]


def _error(
    part: Ranges, heads: Sequence[Head], inputs: Sequence[Tensor], targets: Sequence[Tensor]
) -> Tensor:
    answers = zip(heads, part.answers(heads, inputs), targets, strict=True)
    return tf.add_n([head.measure(answer, target) for head, answer, target in answers])


def _square(answer: Tensor, target: Tensor, unit: float = 1.0) -> Tensor:
    difference = tf.cast(answer, tf.float32) - tf.cast(target, tf.float32)
    return tf.reduce_mean(tf.square(difference)) / unit


def _pieces(
    part: Ranges, heads: Sequence[Head], inputs: Sequence[Sequence[Tensor]]
) -> list[tuple[list[Tensor], list[Tensor]]]:
    """The batches with their targets, in parts of which a pass and its gradient can be held."""
    rows, pieces = max(1, _BYTES // bytes_of_a_pass(part.graph)), []
    for number, batch in enumerate(inputs):
        targets = [head.targets[number] for head in heads]
        for start in range(0, len(batch[0]), rows):
            of = slice(start, start + rows)
            pieces.append(([x[of] for x in batch], [target[of] for target in targets]))
    return pieces
