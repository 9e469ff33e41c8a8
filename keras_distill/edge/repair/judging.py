"""What a block's answers are held against: the float model's own, or a teacher's soft targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.edge.repair.blocks import Block, reaching
from keras_distill.functional.tensors import Tensor
from keras_distill.graph.replay import Graph, functional
from keras_distill.objectives.logits import SoftTargets
from keras_distill.signals import Signals, outputs
from keras_distill.signals.reader import student_reader
from keras_distill.teachers.base import Teacher
from keras_distill.teachers.model import Model
from keras_distill.training.step import pairs_of_heads

__all__ = ["Lesson", "of_float", "of_teacher"]


@dataclass(frozen=True)
class Lesson:
    """What one block is to answer.

    Attributes:
      block: it, up to where its answer is compared.
      targets: for each batch.
      measure: the mean error of an answer beside its target.
      words: an error in words.
    """

    block: Block
    targets: list[Tensor]
    measure: Callable[[Tensor, Tensor], Tensor]
    words: Callable[[float], str]

    def error(self, inputs: Sequence[Sequence[Tensor]], targets: Sequence[Tensor]) -> float:
        """The mean over the rows of some batches, with the layer's weights as they are now."""
        found = [
            float(self.measure(self.block(*x), y)) for x, y in zip(inputs, targets, strict=True)
        ]
        return float(np.average(found, weights=[len(x[0]) for x in inputs]))


def of_float(block: Block, targets: list[Tensor]) -> Lesson:
    """The lesson of the float model's own answers: the mean square of the difference."""

    def measure(answer: Tensor, target: Tensor) -> Tensor:
        difference = tf.cast(answer, tf.float32) - tf.cast(target, tf.float32)
        return tf.reduce_mean(tf.square(difference))

    square = float(np.mean([measure(target, 0.0) for target in targets]))

    def words(error: float) -> str:
        share = math.sqrt(error / square) if square else math.inf
        return f"{share:.2%} off" if error else "exact"

    return Lesson(block, targets, measure, words)


def of_teacher(
    model: keras.Model,
    graph: Graph,
    blocks: Sequence[Block],
    teacher: Any,
    batches: Sequence[Any],
) -> dict[str, Lesson]:
    """The lessons of the blocks in front of the model's outputs, by path.

    Args:
      model, graph, blocks: a quantised model, its graph and its blocks.
      teacher: a model, a callable or a Teacher.
      batches: the inputs in the model's structure.

    Raises:
      TypeError, ValueError: no teacher; one of other outputs; an output of one number; an output of
        the model that no block leads to.
    """
    reader, objective = student_reader(model), SoftTargets()
    teacher = teacher if isinstance(teacher, Teacher) else Model(teacher, engine="keras")
    teacher.meet(model)
    spec = teacher.prepare(reader.input_spec, ())
    for ours, theirs, _ in pairs_of_heads(objective, reader.spec, spec):
        if ours.logits.shape[-1] == 1:
            raise ValueError(
                f"teacher: {model.name!r} answers with one number, and of a teacher the "
                f"probabilities of classes are learned here. Leave the teacher out: the rounding "
                f"then follows the float model's own numbers."
            )
        objective.build(ours, theirs)
    values = keras.tree.pack_sequence_as(functional(model).output, list(graph.outputs))
    by_head = outputs.by_head(values, outputs.output_names(model))
    last = {name: reaching(graph, blocks, value) for name, value in by_head.items()}
    for name, block in last.items():
        if block is None:
            which = "its output" if name is None else f"its output {name!r}"
            raise ValueError(
                f"teacher: no single layer with weights to round gives {model.name!r} {which}, so "
                f"that nothing is left to learn of a teacher there. Leave the teacher out."
            )
    answers = [pairs_of_heads(objective, reader.spec, teacher(x)) for x in batches]
    return {
        block.path: Lesson(
            block,
            [heads[number][1].logits for heads in answers],
            _divergence(objective, reader.kinds[name]),
            "{:.4g} nats off the teacher".format,
        )
        for number, (name, block) in enumerate(last.items())
        if block is not None
    }


def _divergence(objective: SoftTargets, kind: str) -> Callable[[Tensor, Tensor], Tensor]:
    def measure(answer: Tensor, target: Tensor) -> Tensor:
        said = Signals(heads={None: outputs.head_of(answer, kind)})
        return tf.reduce_mean(objective(said, Signals(target), None))

    return measure
