"""Rounding and ranges that are learned from the float model's own activations, without labels."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from keras_distill import _keras
from keras_distill.edge.analysis import Analysis
from keras_distill.edge.repair.arguments import (
    BATCH,
    batches_of,
    blocks_to_learn,
    check,
    check_counts,
    warn_of_steps,
)
from keras_distill.edge.repair.blocks import Block
from keras_distill.edge.repair.judging import Lesson, of_float, of_teacher
from keras_distill.edge.repair.kept import Kept, Part, Weights, assign, digest
from keras_distill.edge.repair.ranges import (
    Head,
    Ranges,
    heads_of_float,
    learned_ends,
    ranges_to_learn,
)
from keras_distill.edge.repair.rounding import learned
from keras_distill.edge.repair.walk import Walk, bytes_per_row, unrounded
from keras_distill.graph.replay import Graph
from keras_distill.litert.quiet import quiet_tensorflow
from keras_distill.progress import LOG

__all__ = ["reconstruct"]

# The share of the batches that judge and are not learned from.
_JUDGING = 0.2
# The share of the error that rounding is taken to add at least.
_LEAST_ADDED = 0.1
# What a walk may hold of both models' tensors.
_BYTES = 2**30


def reconstruct(
    quantized: keras.Model,
    teacher: Any = None,
    data: Any = None,
    *,
    examples: int = 512,
    iterations: int = 400,
    learned_ranges: bool = True,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    verbose: bool = True,
) -> keras.Model:
    """Learns which way each weight of a quantised model is rounded, layer by layer, without labels.

    The nearest step is the best for one weight alone, and not for a sum of hundreds. Each layer in
    turn is given what the quantised model in front of it computes, and the rounding is learned that
    brings its answer (behind its BatchNormalization and its activation, where the file has the next
    tensor) nearest to the float model's:

        w = s (floor(w / s) + h),  h = clip(1.2 sigmoid(v) - 0.1, 0, 1),
        minimise |f_q(x_q) - f(x)|^2 / unit + 10 mean(1 - |2h - 1|^b),  b from 20 to 2.

    Before that the ranges of all tensors are learned together, by which the whole model answers
    nearest to the float one: both ends of each as multiples of what they were, with a gradient that
    goes through the rounding (`quantize.steps.on_learned_range`). What a range clips, and what its
    steps cost, then counts for what later layers make of it. A range that several layers share is
    one; known ranges, exact values and masked scores keep theirs.

    The weights are then moved onto the steps that were chosen. The largest of each channel stays,
    and with it the scale, so that the grid rounds to just these: saving, training on, `strip` and
    `export_tflite` go on as before. A fifth of the rows judges and is not learned from: ranges
    that are no better on it stay, and so does a layer's nearest rounding. The float model is the
    quantised one with its weights as they are underneath, or as they were before an earlier call:
    each layer's wrapper keeps them in memory, until its kernel is trained on, and the first range
    the ranges. So a call that was stopped goes on, and one with other data or settings begins anew.

    Args:
      quantized: from `quantize_aware`, calibrated. It is changed in place: its kernels and ranges
        are, its biases and BatchNormalizations are not. Embeddings, clustered layers and layers
        that are called more than once keep their nearest rounding.
      teacher: a model, a callable or a `Teacher`. The layer in front of each output then learns
        its soft targets, as `SoftTargets`, and no longer the float model's answer; so do ranges.
      data: inputs like those to come, some hundred; any data argument, labels are not looked at.
      examples: rows that are read at most; fewer where their tensors would take more than a
        gigabyte, for then each row has many positions.
      iterations: updates a layer, and as many of the ranges, a batch of 32 each; of a fifth of the
        rows where there are fewer than 160.
      learned_ranges: False leaves ranges as calibration or training has set them. Those of what the
        model returns are learned of a teacher only: of numbers nothing is cut off.
      seed: of the order of the batches; the same seed gives the same integers on one machine.
      folder: keeps what is finished, layer by layer: a call that was stopped goes on from there
        with the same model, data and settings, in another process, too. It holds the kernels twice.
      verbose: print a line a layer.

    Returns:
      The model. A warning names layers that lie on steps already while others do not, as a file
      that was saved from a stopped call has them: they stay, and count as the float model's.

    Raises:
      TypeError: no model.
      ValueError: a model that is not quantised, subclassed or not calibrated; nothing to learn; no
        data or one row, data of another shape, NaN; a teacher of other outputs, or of one number; a
        folder of another model, of other data or settings. All this before anything is changed.

    Source: Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020
    (AdaRound), in its asymmetric form. There a layer has 10,000 updates, and the pull is 0.01 times
    a sum. Here the error is counted in units of what nearest rounding adds to it, and the pull is a
    mean, so that hundreds of updates do for layers of any size. Ranges by their gradients: Esser et
    al., "Learned Step Size Quantization", ICLR 2020; after training as Li et al., "BRECQ", ICLR
    2021. There a block's steps are learned with its rounding from its own output; here those of all
    tensors before it from the model's: a tensor's own error is what `method="mse"` has found
    already.

    Example:
      small = quantize_aware(student, calibration_data=x_train[:500])
      reconstruct(small, data=x_train[:500])
      export = export_tflite(small, "student.tflite", precision="int8")
    """
    check(quantized, data)
    check_counts(examples=examples, iterations=iterations)
    graph = Analysis(quantized).wrapped
    blocks = blocks_to_learn(quantized, graph)
    warn_of_steps(quantized, blocks)
    rows = min(examples, max(BATCH, _BYTES // bytes_per_row(graph)))
    batches = batches_of(quantized, data, rows)
    with quiet_tensorflow():
        lessons = {}
        if teacher is not None:
            lessons = of_teacher(quantized, graph, blocks, teacher, batches)
        settings = {
            "data": digest(keras.tree.flatten(batches)),
            "teacher": {path: digest(lesson.targets) for path, lesson in lessons.items()},
            "iterations": iterations,
            "learned_ranges": learned_ranges,
            "seed": seed,
        }
        ranges = ranges_to_learn(quantized, graph, of_answers=bool(lessons))
        some: list[Part] = [] if ranges is None else [ranges]
        # Rounding is learned on what they leave.
        parts = [*some, *blocks] if learned_ranges else [*blocks]
        kept = Kept(folder, quantized, parts, settings, left=() if learned_ranges else some)
        tensors = [_keras.standardized(quantized, x) for x in batches]
        repair = _Repair(graph, tensors, lessons, iterations, seed)
        repair.run(kept, len(parts), verbose)
    return quantized


class _Repair:
    """The ranges of one model and its blocks, learned in turn on a walk through it."""

    def __init__(
        self,
        graph: Graph,
        inputs: Sequence[Sequence[Any]],
        lessons: Mapping[str, Lesson],
        iterations: int,
        seed: int,
    ):
        self._inputs, self._lessons = inputs, lessons
        self._iterations, self._seed = iterations, seed
        self._walk = Walk(graph, inputs)
        judges = max(1, int(_JUDGING * len(inputs)))
        self._learners = len(inputs) - judges
        # By the `id` of their first step.
        self._finished: dict[int, tuple[Block, Weights]] = {}

    def run(self, kept: Kept, count: int, verbose: bool) -> None:
        """Learns what is not kept; whatever ends it, finished blocks have what they learned."""
        try:
            for number, (part, weights, words) in enumerate(kept.each(self._learned), start=1):
                if isinstance(part, Block):
                    self._finished[id(part.steps[0])] = part, weights
                else:
                    # Every block reads what they round.
                    assign(part, weights)
                if verbose:
                    LOG.info("%d/%d %s: %s", number, count, part.path, words)
        except KeyboardInterrupt:
            if verbose:
                LOG.info("Stopped. What was finished stays: %d of %d.", len(self._finished), count)
            raise
        finally:
            for block, weights in self._finished.values():
                assign(block, weights)

    def _learned(self, part: Part) -> tuple[Weights, str]:
        """The weights of a part and what came out, in words; the model is left as it was."""
        if isinstance(part, Ranges):
            return self._of_ranges(part)
        assert isinstance(part, Block)
        return self._of_block(part)

    def _of_ranges(self, part: Ranges) -> tuple[Weights, str]:
        taught = list(self._lessons.values())
        heads = [Head(lesson.block.output, lesson.targets, lesson.measure) for lesson in taught]
        heads = heads or heads_of_float(part, self._inputs)
        words = taught[0].words if taught else _share_in_words

        def error() -> float:
            return part.error(heads, self._inputs, range(self._learners, len(self._inputs)))

        before = error()

        def learn() -> Weights:
            return learned_ends(
                part,
                heads,
                self._inputs[: self._learners],
                unit=before or 1.0,
                iterations=self._iterations,
                seed=self._seed,
            )

        return _judged(part, learn, error, before, words)

    def _of_block(self, block: Block) -> tuple[Weights, str]:
        self._walk_to(block)
        inputs = self._walk.inputs(block)
        lesson = self._lessons.get(block.path) or of_float(block, self._walk.targets(block))
        learners = self._learners

        def error() -> float:
            return lesson.error(inputs[learners:], lesson.targets[learners:])

        nearest = error()
        with unrounded():
            added = nearest - error()
        # It may by chance be next to nothing, or less.
        unit = max(added, _LEAST_ADDED * nearest) or 1.0

        def learn() -> Weights:
            return learned(
                lesson.block,
                inputs[:learners],
                lesson.targets[:learners],
                lambda answer, target: lesson.measure(answer, target) / unit,
                iterations=self._iterations,
                seed=self._seed,
            )

        return _judged(block, learn, error, nearest, lesson.words)

    def _walk_to(self, block: Block) -> None:
        """Computes all that comes before a block, finished blocks as they learned."""
        for step in self._walk.up_to(block.steps[0]):
            self._walk.advance_float(step)
            if id(step) in self._finished:
                assign(*self._finished[id(step)])
            self._walk.advance_rounded(step)


def _judged(
    part: Part,
    learn: Callable[[], Weights],
    error: Callable[[], float],
    before: float,
    words: Callable[[float], str],
) -> tuple[Weights, str]:
    """What a part learns where that is better, else what it had, and which it was in words."""
    weights = learn()
    had = {key: variable.numpy() for key, variable in part.weights.items()}
    try:
        assign(part, weights)
        after = error()
    finally:
        assign(part, had)
    if after < before:
        return weights, f"{words(before)}, now {words(after)}"
    return had, f"{words(before)}, and nothing better was found"


def _share_in_words(error: float) -> str:
    return f"{math.sqrt(error):.2%} off"
