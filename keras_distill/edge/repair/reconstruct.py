"""Rounding of weights that is learned from the float model's own activations, without labels."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_distill import _keras
from keras_distill.data import qualified_name
from keras_distill.edge.analysis import Analysis
from keras_distill.edge.quantize.calibrate import checked_rows, ranges_of
from keras_distill.edge.quantize.layer import Quantized
from keras_distill.edge.repair.blocks import Block, blocks_of
from keras_distill.edge.repair.judging import Lesson, of_float, of_teacher
from keras_distill.edge.repair.kept import Kept, Weights, assign, digest, kept_on
from keras_distill.edge.repair.rounding import is_settled, learned
from keras_distill.edge.repair.walk import Walk, bytes_per_row, unrounded
from keras_distill.graph.replay import Graph, functional
from keras_distill.litert.quiet import quiet_tensorflow
from keras_distill.progress import LOG

__all__ = ["reconstruct"]

BATCH = 32
# The share of the batches that judge and are not learned from.
_JUDGING = 0.2
# So many batches there are of few rows, too, that one of them can judge.
_LEAST_BATCHES = 5
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

    The weights are then moved onto the steps that were chosen. The largest of each channel stays,
    and with it the scale, so that the grid rounds to just these: saving, training on, `strip` and
    `export_tflite` go on as before. A fifth of the rows judges and is not learned from: a layer
    whose learned rounding is no better on it keeps the nearest. The float model is the quantised
    one with its weights as they are underneath, or as they were before an earlier call: each
    layer's wrapper keeps them in memory, until its kernel is trained on. So a call that was stopped
    goes on, and one with other data or settings begins anew.

    Args:
      quantized: from `quantize_aware`, calibrated. It is changed in place: its kernels are, its
        ranges, biases and BatchNormalizations are not. Embeddings, clustered layers and layers that
        are called more than once keep their nearest rounding.
      teacher: a model, a callable or a `Teacher`. The layer in front of each output then learns
        its soft targets, as `SoftTargets`, and no longer the float model's answer.
      data: inputs like those to come, some hundred; any data argument, labels are not looked at.
      examples: rows that are read at most; fewer where their tensors would take more than a
        gigabyte, for then each row has many positions.
      iterations: updates a layer, a batch of 32 each; of a fifth of the rows where there are fewer
        than 160.
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
        data or one row, data of another shape, NaN; a teacher of other outputs; a folder of another
        model, of other data or settings. All this before anything is changed.

    Source: Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020
    (AdaRound), in its asymmetric form. There a layer has 10,000 updates, and the pull is 0.01 times
    a sum. Here the error is counted in units of what nearest rounding adds to it, and the pull is a
    mean, so that hundreds of updates do for layers of any size.

    Example:
      small = quantize_aware(student, calibration_data=x_train[:500])
      reconstruct(small, data=x_train[:500])
      export = export_tflite(small, "student.tflite", precision="int8")
    """
    _check(quantized, data)
    _check_counts(examples=examples, iterations=iterations)
    graph = Analysis(quantized).wrapped
    blocks = _blocks(quantized, graph)
    _warn_of_steps(quantized, blocks)
    rows = min(examples, max(BATCH, _BYTES // bytes_per_row(graph)))
    batches = _batches(quantized, data, rows)
    with quiet_tensorflow():
        lessons = {}
        if teacher is not None:
            lessons = of_teacher(quantized, graph, blocks, teacher, batches)
        settings = {
            "data": digest(keras.tree.flatten(batches)),
            "teacher": {path: digest(lesson.targets) for path, lesson in lessons.items()},
            "iterations": iterations,
            "seed": seed,
        }
        kept = Kept(folder, quantized, blocks, settings)
        tensors = [_keras.standardized(quantized, x) for x in batches]
        repair = _Repair(Walk(graph, tensors), lessons, iterations, seed)
        repair.run(kept, len(blocks), verbose)
    return quantized


class _Repair:
    """The blocks of one model, learned in turn on a walk through it."""

    def __init__(self, walk: Walk, lessons: Mapping[str, Lesson], iterations: int, seed: int):
        self._walk, self._lessons = walk, lessons
        self._iterations, self._seed = iterations, seed
        # By the `id` of their first step.
        self._finished: dict[int, tuple[Block, Weights]] = {}

    def run(self, kept: Kept, count: int, verbose: bool) -> None:
        """Learns what is not kept; whatever ends it, finished blocks have what they learned."""
        try:
            for number, (block, weights, words) in enumerate(kept.each(self._learned), start=1):
                self._finished[id(block.steps[0])] = block, weights
                if verbose:
                    LOG.info("%d/%d %s: %s", number, count, block.path, words)
        except KeyboardInterrupt:
            if verbose:
                LOG.info("Stopped. What was finished stays: %d of %d.", len(self._finished), count)
            raise
        finally:
            for block, weights in self._finished.values():
                assign(block, weights)

    def _learned(self, block: Block) -> tuple[Weights, str]:
        """The weights of a block and what came out, in words; its layer is left as it was."""
        self._walk_to(block)
        inputs = self._walk.inputs(block)
        lesson = self._lessons.get(block.path) or of_float(block, self._walk.targets(block))
        judges = max(1, int(_JUDGING * len(inputs)))
        learners = len(inputs) - judges

        def error() -> float:
            return lesson.error(inputs[-judges:], lesson.targets[-judges:])

        nearest = error()
        with unrounded():
            added = nearest - error()
        # It may by chance be next to nothing, or less.
        unit = max(added, _LEAST_ADDED * nearest) or 1.0
        weights = learned(
            lesson.block,
            inputs[:learners],
            lesson.targets[:learners],
            lambda answer, target: lesson.measure(answer, target) / unit,
            iterations=self._iterations,
            seed=self._seed,
        )
        before = {key: variable.numpy() for key, variable in block.weights.items()}
        try:
            assign(block, weights)
            after = error()
        finally:
            assign(block, before)
        if after < nearest:
            return weights, f"{lesson.words(nearest)}, now {lesson.words(after)}"
        return before, f"{lesson.words(nearest)}, and nothing better was found"

    def _walk_to(self, block: Block) -> None:
        """Computes all that comes before a block, finished blocks as they learned."""
        for step in self._walk.up_to(block.steps[0]):
            self._walk.advance_float(step)
            if id(step) in self._finished:
                assign(*self._finished[id(step)])
            self._walk.advance_rounded(step)


def _check(model: Any, data: Any) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(f"Expected a model from quantize_aware(); got {qualified_name(model)}.")
    if not any(isinstance(layer, Quantized) for layer in _keras.layers_of(model)):
        raise ValueError(
            f"{model.name!r} is not quantised. Reconstruct what quantize_aware(model, "
            f"calibration_data=...) returns."
        )
    functional(model)  # Refuses one whose graph is hidden.
    ranges = ranges_of(model)
    unset = sum(not one.is_set for one in ranges)
    if unset:
        raise ValueError(
            f"{model.name!r} is not calibrated: {unset} of its {len(ranges)} ranges are not set. "
            f"Call kd.edge.calibrate(model, data) first."
        )
    if data is None:
        raise ValueError(
            "Expected data to reconstruct from, some hundred inputs like those to come; got none. "
            "Give it by name: reconstruct(quantized, data=x)."
        )


def _check_counts(**counts: Any) -> None:
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"Expected {name} as a number, 1 or more; got {value!r}.")


def _blocks(model: keras.Model, graph: Graph) -> list[Block]:
    found, left = blocks_of(graph)
    if not found:
        words = "; ".join(f"{path}: {why}" for path, why in left.items()) or "no weights on a grid"
        raise ValueError(f"{model.name!r} has no layer whose rounding can be learned ({words}).")
    return found


def _warn_of_steps(model: keras.Model, blocks: Sequence[Block]) -> None:
    """Tells of layers which nothing is to be learned of, beside others."""
    fixed = [one.path for one in blocks if kept_on(one) is None and is_settled(one)]
    if fixed and len(fixed) < len(blocks):
        warnings.warn(
            f"{len(fixed)} of the {len(blocks)} layers of {model.name!r} lie on steps already, and "
            f"count as the float model's: {', '.join(fixed)}. If an earlier call has put them "
            f"there, begin again with the model from before it, and give folder= to go on later.",
            UserWarning,
            stacklevel=3,
        )


def _batches(model: keras.Model, data: Any, rows: int) -> list[Any]:
    """The first rows of the data, in the model's structure, in at least two small batches."""
    parts, given = [], 0
    for x in checked_rows(model, data, "data to reconstruct from"):
        few = rows - given
        parts.append(keras.tree.map_structure(lambda a, s=few: np.asarray(a)[:s], x))
        given += len(keras.tree.flatten(parts[-1])[0])
        if given >= rows:
            break
    if given < 2:
        raise ValueError(
            f"Expected data to reconstruct from, some hundred rows and 2 at least, for some judge "
            f"and are not learned from; got {given}."
        )
    whole = keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)
    size = min(BATCH, math.ceil(given / _LEAST_BATCHES))
    return [
        keras.tree.map_structure(lambda a, s=slice(start, start + size): a[s], whole)
        for start in range(0, given, size)
    ]
