"""Which tensor of a model gets a range, as TensorFlow Lite will join its operations.

A convolution, its BatchNorm and its ReLU become one operation, so that only the last of them has an
output in the file. Reshapes, paddings and maxima keep their input's range. The rest get their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import keras

from keras_distill.edge import lookups
from keras_distill.edge.analysis import Analysis
from keras_distill.edge.quantize import (
    activations,
    affine,
    exact,
    folded_plans,
    folding,
    kinds,
    loops,
    means,
    normalizations,
    twins,
)
from keras_distill.edge.quantize.plans import Plan
from keras_distill.graph import fusion
from keras_distill.graph.remaking import by_keras
from keras_distill.graph.replay import Graph, Step, Value
from keras_distill.graph.traits import MOVED, SAME, does, gives, traits_of

layers = keras.layers


def plan(
    model: Analysis,
    skip: Any = None,
    *,
    dense_scales: str = "channel",
    weight_bits: Mapping[str, int] = MappingProxyType({}),
    learned_steps: bool = False,
) -> dict[str, Plan]:
    """A `Plan` for every operation of the model's graph, by the operation's path.

    Args:
      model: a replayable one.
      skip: a predicate `(path, layer) -> bool` for what stays in float, or None.
      dense_scales, learned_steps: as `quantize_aware` has them.
      weight_bits: by the paths of the layers that have others than 8.
    """
    found: dict[str, Plan] = {}
    for step in model.graph.steps:
        made = _plan_of(model, step, skip)
        kept = [model.scores.get(id(value)) for value in step.outputs]
        if any(kept) and _has_range(made):
            made = _of_scores(made, kept)
        # Called twice, a layer needs a range where either call does.
        known = found.get(step.path)
        if known is None or (not _has_range(known) and _has_range(made)):
            found[step.path] = made
    if dense_scales == "tensor":
        found = folding.of_one_scale(model.graph, found)
    return folded_plans.planned(model, found, weight_bits, learned_steps)


def _of_scores(made: Plan, kinds_found: list[str | None]) -> Plan:
    """A plan whose ranges are those of masked scores."""
    pairs = zip(made.outputs, kinds_found, strict=True)
    outputs = tuple(kind if wanted is True and kind else wanted for wanted, kind in pairs)
    return replace(made, outputs=outputs, why=f"{made.why}, from the scores without a mask")


def _has_range(made: Plan) -> bool:
    return any(wanted is not False for wanted in made.outputs)


def _plan_of(model: Analysis, step: Step, skip: Any) -> Plan:
    operation, graph, unrounded = step.operation, model.graph, model.exact
    bare = Plan(step.path, type(operation).__name__, "native", "integers already")
    if skip and skip(step.path, operation):
        return replace(bare, how="skipped", why="left in float on request")
    if (looked_up := lookups.words(operation)) is not None:
        bare = replace(bare, how=looked_up[0], why=looked_up[1])
    if not any("float" in value.dtype for value in step.outputs):
        return bare
    if exact.computes(step, unrounded):
        return replace(bare, how="float", why="exact values, computed in float: they have no range")
    if all(id(value) in unrounded for value in step.outputs):
        exactly = "exact values: ids, categories or marks, with no range"
        return bare if looked_up else replace(bare, why=exactly)
    if kinds.keeps_range(step):
        return _handed_on(model, step, bare)
    weights = kinds.weights_of(operation)
    split = _split_activation(operation, weights)
    outputs = _outputs(model, step)
    alone = affine.is_affine(operation) and not _folds_back(model, step)
    how, why = looked_up or _words(operation, split, outputs, alone)
    if exact.normalizes(step, unrounded):
        how, why = "float", "columns of unlike units, which one range would not tell: not rounded"
    if does(step.operation, "concatenation"):
        why += _of_narrow_parts(graph, step)
    return replace(
        bare,
        how=how,
        why=why,
        weights=weights,
        activation=split,
        outputs=outputs,
        between=_between(operation, step, split),
        affine=alone,
        requantized=does(operation, "reversal") and _is_part(graph, step),
        inputs=_rounded_here(model, step),
    )


def _rounded_here(model: Analysis, step: Step) -> tuple[Any, ...]:
    """The ranges of what a step reads as numbers, where that has none of its own."""

    def wanted(value: Any) -> Any:
        if not isinstance(value, Value):
            return False
        known = kinds.whole_range(step, _dtype_of(model.graph, value))
        if (known is False and id(value) not in model.exact) or exact.reads_exactly(step, value):
            return False
        return known or True

    found = tuple(wanted(value) for value in keras.tree.flatten(step.args))
    return found if any(one is not False for one in found) else ()


def _dtype_of(graph: Graph, value: Value) -> str:
    """What a tensor holds: Keras says that padding and pooling of whole numbers gives real ones."""
    while value.step is not None and kinds.keeps_range(graph.steps[value.step]):
        (value, *_) = graph.steps[value.step].inputs
    return value.dtype


def _handed_on(model: Analysis, step: Step, bare: Plan) -> Plan:
    """An operation that moves numbers about: its output has its input's range.

    Except before a concatenation, which wants the whole's range from every part; the converter
    gives it to a reshape or a slice and then finds that its input has another.
    """
    how = "native" if traits_of(step.operation).native else "own range"
    if any(id(value) in model.exact for value in step.inputs):
        outputs = tuple(id(value) not in model.exact for value in step.outputs)
        return replace(bare, how="own range", why="a range on its output", outputs=outputs)
    if gives(step.operation) == MOVED and _is_part(model.graph, step):
        why = "a part of a whole: brought to the whole's range by a 1x1 convolution"
        return replace(bare, how="rewritten", why=why, requantized=True)
    if means.rounds(step) and not _is_part(model.graph, step):
        why = "keeps its input's range, to whose steps it rounds"
        return replace(bare, how=how, why=why, outputs=(False,))
    return replace(bare, how=how, why="keeps its input's range")


def _is_part(graph: Graph, step: Step) -> bool:
    """Whether what shares a range with its inputs reads a step, past layers that leave nothing."""
    readers = [reader for value in step.outputs for reader in graph.consumers(value)]
    return any(
        kinds.shares_a_range(reader.operation)
        or (gives(reader.operation) == SAME and _is_part(graph, reader))
        for reader in readers
    )


def _of_narrow_parts(graph: Graph, step: Step) -> str:
    """What to look out for where parts of a known range are joined with others."""
    makers = [graph.steps[value.step] for value in step.inputs if value.step is not None]
    known = [maker.path for maker in makers if _known_range(maker) is not True]
    if not known or len(known) == len(step.inputs):
        return ""
    return (
        f"; one range for all parts, beside which that of {', '.join(known)} may be too small to "
        f"have steps: outputs of their own have their own ranges"
    )


def _split_activation(operation: Any, weights: dict) -> str | None:
    if not weights or isinstance(operation, layers.Embedding):
        return None
    name = activations.of_layer(operation)
    joined = ("linear",) if does(operation, "transposed") else activations.FUSED
    return name if name and name not in joined else None


def _outputs(model: Analysis, step: Step) -> tuple[Any, ...]:
    if loops.becomes_fused_lstm(step.operation):
        # The converter calibrates LiteRT's fused LSTM itself and rejects a range right behind it.
        return ()
    known = _known_range(step)
    return tuple(
        False
        if "float" not in value.dtype
        or id(value) in model.exact
        or _joined_by_next(model, step, value)
        else known
        for value in step.outputs
    )


def _known_range(step: Step) -> Any:
    """The range that an operation's definition says, or True: it is to be found."""
    operation = step.operation
    if (known := exact.known_range(operation)) is not None:
        return known
    # A layer of the user's own may do more after the activation that it has.
    if not by_keras(operation):
        return True
    # Where a GRU begins, its states stay, and an LSTM's second state is any sum: they need not be
    # what tanh gives.
    alone = len(step.inputs) == len(step.outputs) == 1
    if does(operation, *loops.RECURRENT) and not (alone and loops.has_bounded_gates(operation)):
        return True
    return activations.OUTPUT_RANGES.get(activations.of_layer(operation) or "", True)


def _joined_by_next(model: Analysis, step: Step, value: Any) -> bool:
    """Whether the only reader of `value` becomes one operation with its maker."""
    readers = model.graph.consumers(value)
    if len(readers) != 1 or any(value is out for out in model.graph.outputs):
        return False
    reader = readers[0].operation
    if does(reader, "concatenation"):
        # One range for all parts, the whole's; a part read elsewhere has to keep its own.
        return not does(step.operation, "reversal") and not any(
            id(out) in model.exact for out in readers[0].outputs
        )
    name = activations.of_layer(step.operation)
    if name not in (None, "linear"):
        return False
    if isinstance(reader, layers.BatchNormalization) and fusion.takes_norm(step.operation):
        return affine.is_affine(reader)
    return fusion.takes_relu(step.operation) and fusion.is_relu(reader)


def _between(operation: Any, step: Step, split: str | None) -> int:
    """How many tensors the file holds inside the operation."""
    inside = twins.ranges_inside(operation)
    if split:
        return inside + 1 + activations.ranges_inside(split)
    if inside:
        return inside
    if activations.stands_alone(operation):
        return activations.ranges_inside(activations.of_layer(operation) or "")
    if not does(operation, "merge"):
        return normalizations.ranges_inside(operation)
    sums = len(step.inputs) - 1
    return sums if isinstance(operation, layers.Average) else max(0, sums - 1)


def _folds_back(model: Analysis, step: Step) -> bool:
    """Whether a BatchNorm goes into the weights of the step before it."""
    value = step.inputs[0]
    if value.step is None or not isinstance(step.operation, layers.BatchNormalization):
        return False
    maker = model.graph.steps[value.step]
    return fusion.takes_norm(maker.operation) and _joined_by_next(model, maker, value)


def _words(operation: Any, split: str | None, outputs: tuple, alone: bool) -> tuple[str, str]:
    if not isinstance(operation, layers.Layer):
        return "own range", "an operation, with a range on its output"
    if alone:
        return "rewritten", "as a 1x1 depthwise convolution in the file, exactly"
    if isinstance(operation, layers.BatchNormalization):
        if affine.is_affine(operation):
            return "native", "folded into the weights before it"
        return "own range", "not over the last axis; a range on its output"
    if kinds.is_open_inside(operation):
        what = "gates'" if does(operation, *loops.RECURRENT) else "inner"
        return "inside float", f"trained in float; its {what} ranges come from calibration data"
    if normalizations.ranges_inside(operation):
        return "rewritten", "as the operations it is made of, a range on each"
    if split:
        return "rewritten", f"its activation {split} behind a range of its own"
    if any(wanted is False for wanted in outputs):
        return "native", "joined with what follows"
    if traits_of(operation).native:
        return "native", "its output has a range"
    if kinds.weights_of(operation) and not isinstance(operation, layers.Embedding):
        return "rewritten", "as its 2D twin in the file"
    return "own range", "a range of ours on its output"
