"""What a quantised layer learns of its model: which sums of the file's kernels it is to round.

A kernel's sums count in the steps of what it reads times those of its weights. The range behind it
may belong to a later layer, a BatchNormalization or a ReLU that the file makes part of the kernel.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_distill import _keras
from keras_distill.edge.compress.layer import Compressed, is_exporting
from keras_distill.edge.quantize import activations, affine, forward, kinds
from keras_distill.edge.quantize.forward import Folding
from keras_distill.edge.quantize.ranges import Range, is_observed
from keras_distill.edge.quantize.sums import ReadSums, Sums, added
from keras_distill.edge.quantize.weights import grids_of
from keras_distill.functional.tensors import Tensor
from keras_distill.graph import fusion
from keras_distill.graph.replay import Graph, Step, Value
from keras_distill.graph.traits import does
from keras_distill.graph.wrapping import inner

__all__ = ["Connected"]

layers = keras.layers
_GATED = ("silu", "swish")
# The step of a sigmoid's output in any file.
_GATE = activations.UNIT[1] / 255.0


class Connected(Compressed):
    """A compressed layer with ranges that is told where in a model it stands.

    Attributes:
      between, output_ranges, inputs_config, own_activation, affine, requantized, behind: as
        `Quantized` has them.
      adds: how the file adds its two inputs up, or None where it does nothing of the kind.
    """

    between: list[Range]
    output_ranges: list[Range]
    inputs_config: list[Any]
    own_activation: str | None
    affine: bool
    requantized: bool
    behind: Any
    adds: Callable[[Sequence[Tensor]], Tensor] | None = None

    def connect(self, graph: Graph, steps: Sequence[Step]) -> None:
        """Tells each range whose sums it rounds, and an addition what it adds."""
        self.adds = None
        for one in (*self.between, *self.output_ranges):
            one.sums = None
        # One bias lies on the steps of one sum alone, and what is read here has its own range.
        if len(steps) > 1 or self.inputs_config:
            return
        (step,) = steps
        owner = _owner(self)
        if owner is not None:
            owner.sums = _sums_of(graph, step)
        name = self.own_activation or activations.of_layer(self.layer)
        if name in _GATED and len(self.output_ranges) == 1:
            source = owner if self.own_activation else _source(graph, step.inputs[0])
            if source is not None:
                self.output_ranges[0].sums = functools.partial(_of_gated, source)
        self.adds = _addition(graph, step)

    def added(self, total: Tensor, terms: Sequence[Tensor]) -> Tensor:
        """`total`, of two terms, as the file adds them, with its own gradient."""
        if self.adds is None or total.dtype != tf.float32:
            return total
        if is_exporting() or is_observed() or _keras.is_training():
            return total
        return total + tf.stop_gradient(self.adds(terms) - total)


def _owner(layer: Connected) -> Range | None:
    """The range that the sums of a layer come to, or of those joined to it."""
    ranges = layer.between if layer.own_activation else layer.output_ranges
    alone = len(ranges) == 1 and (layer.own_activation is not None or not layer.between)
    return ranges[0] if alone and type(ranges[0]) is Range else None


def _sums_of(graph: Graph, step: Step) -> ReadSums | None:
    """The sums that the range of a step rounds, or None where it rounds others."""
    norm = None
    while (joined := _joined_before(graph, step)) is not None:
        if isinstance(inner(step.operation), layers.BatchNormalization):
            norm = inner(step.operation)
        step = joined
    layer, user = step.operation, inner(step.operation)
    front = forward.taken_up(graph, step)
    sources = _sources(graph, step if front is None else front.steps[0])
    if not sources or getattr(user, "data_format", "") == "channels_first":
        return None
    if layer.affine:
        return functools.partial(_of_affine, sources[0], user, front)
    if does(user, "dense", "convolution", "depthwise") and len(grids_of(layer)) == 1:
        norm = norm or inner(layer.behind)
        return functools.partial(_of_kernel, sources[0], layer, norm, front)
    if norm is not None:
        return None
    if type(user).__name__ == "Multiply" and len(sources) == 2:
        return functools.partial(_of_product, sources)
    if (count := _averaged(user, step.inputs)) is not None:
        return functools.partial(_of_mean, sources[0], count)
    return None


def _joined_before(graph: Graph, step: Step) -> Step | None:
    """The step of which the file makes a BatchNormalization or a ReLU a part."""
    layer, user = step.operation, inner(step.operation)
    is_norm = isinstance(user, layers.BatchNormalization) and not layer.affine
    if not (is_norm or fusion.is_relu(user)) or step.inputs[0].step is None:
        return None
    maker = graph.steps[step.inputs[0].step]
    joins = isinstance(maker.operation, Connected) and not maker.operation.output_ranges
    return maker if joins and not kinds.keeps_range(_opened(maker)) else None


def _source(graph: Graph, value: Value) -> Range | None:
    """The range that a tensor lies in, past what keeps its input's."""
    if value.step is None:
        return None
    step = graph.steps[value.step]
    ranges = step.operation.output_ranges if isinstance(step.operation, Connected) else []
    if ranges:
        alone = len(ranges) == len(step.outputs) == 1 and type(ranges[0]) is Range
        return ranges[0] if alone and not step.operation.requantized else None
    kept = kinds.keeps_range(_opened(step))
    return _source(graph, step.inputs[0]) if kept else None


def _sources(graph: Graph, step: Step) -> list[Range]:
    """The ranges of all that a step reads; none where one is not known."""
    found = [_source(graph, value) for value in step.inputs]
    known = [one for one in found if one is not None]
    return known if len(known) == len(found) else []


def _opened(step: Step) -> Step:
    return dataclasses.replace(step, operation=inner(step.operation))


def _addition(graph: Graph, step: Step) -> Callable[[Sequence[Tensor]], Tensor] | None:
    """How the file adds up the two inputs of a step, where it is an addition."""
    terms = _sources(graph, step)
    if type(inner(step.operation)).__name__ != "Add" or len(terms) != 2:
        return None
    behind = step
    while not behind.operation.output_ranges:
        readers = graph.consumers(behind.outputs[0])
        if len(readers) != 1 or not isinstance(readers[0].operation, Connected):
            return None
        if not fusion.is_relu(inner(readers[0].operation)):
            return None
        (behind,) = readers
    return functools.partial(_added, [*terms, behind.operation.output_ranges[0]])


def _averaged(layer: Any, inputs: Sequence[Value]) -> int | None:
    """How many numbers each of a layer's is the mean of; None where it is no mean."""
    sizes = [size for size in inputs[0].shape[1:-1] if size is not None]
    means = type(layer).__name__.startswith("GlobalAveragePooling") or kinds.is_mean(layer, inputs)
    return math.prod(sizes) if means and len(sizes) == len(inputs[0].shape) - 2 else None


# --- what the sums count in, from ranges and weights as they are ---------------------------------


def _are_set(ranges: Sequence[Range]) -> Tensor:
    return tf.reduce_all([one.is_seen() for one in ranges])


def _of_product(factors: Sequence[Range]) -> Sums:
    first, second = factors
    return Sums(first.scale() * second.scale(), None, _are_set(factors))


def _of_gated(source: Range) -> Sums:
    return Sums(source.scale() * _GATE, None, _are_set([source]))


def _of_mean(source: Range, count: int) -> Sums:
    return Sums(source.scale() / count, None, _are_set([source]))


def _of_affine(source: Range, layer: keras.Layer, front: Folding | None) -> Sums:
    scale, shift = affine.numbers(layer)
    if front is not None:
        before, moved = front.in_graph()
        scale, shift = before * scale, moved * scale + shift
    return Sums(source.scale() * _steps(tf.abs(scale), 127.0), shift, _are_set([source]))


def _of_kernel(source: Range, layer: Connected, norm: Any, front: Folding | None) -> Sums:
    ((key, grid),) = grids_of(layer).items()
    weight = layer.treated(key)
    bias = layer.layer.bias if layer.layer.use_bias else None
    if front is not None:
        weight, bias = _with_front(weight, bias, layer.layer, front)
    gain, bias = _with_norm(bias, norm)
    weight = tf.abs(weight)
    if grid.channel_axes:
        axes = {axis % len(weight.shape) for axis in grid.channel_axes}
        others = [axis for axis in range(len(weight.shape)) if axis not in axes]
        most = tf.reshape(tf.reduce_max(weight, others), [-1]) * tf.abs(gain)
    else:
        most = tf.reduce_max(weight * tf.abs(gain))
    return Sums(source.scale() * _steps(most, grid.most), bias, _are_set([source]))


def _with_front(
    weight: Tensor, bias: Any, layer: keras.Layer, front: Folding
) -> tuple[Tensor, Tensor]:
    """The kernel and the bias as the file has them, with what folds into them, in its precision."""
    scale, shift = (tf.cast(one, tf.float64) for one in front.in_graph())
    shape = [1, 1]
    shape[forward.input_axis(layer)] = -1
    values = tf.cast(weight, tf.float64)
    moved = tf.reduce_sum(values * tf.reshape(shift, shape), range(len(weight.shape) - 2))
    # A kernel with filters of its own for each channel has the channels' outputs side by side.
    alone = does(layer, "depthwise")
    added = tf.reshape(moved, [-1]) if alone else tf.reduce_sum(moved, 0)
    if bias is not None:
        added = tf.cast(tf.convert_to_tensor(bias), tf.float64) + added
    values = values * tf.reshape(scale, shape)
    return tf.cast(values, tf.float32), tf.cast(added, tf.float32)


def _with_norm(bias: Any, norm: Any) -> tuple[Tensor, Tensor | None]:
    """What a kernel's channels are multiplied by, and what is added to them."""
    bias = None if bias is None else tf.convert_to_tensor(bias)
    if norm is None:
        return tf.constant(1.0), bias
    gain, shift = affine.numbers(norm)
    return gain, shift if bias is None else bias * gain + shift


def _steps(most: Tensor, count: float) -> Tensor:
    # As the converter has it, in double precision.
    return tf.cast(tf.cast(most, tf.float64) / count, tf.float32)


def _added(ranges: Sequence[Range], tensors: Sequence[Tensor]) -> Tensor:
    *terms, out = ranges
    return added(tensors, [one.scale() for one in terms], out.scale(), _are_set(ranges))
