"""Scales and shifts that fold forward: into the weights of the layer behind them.

The file then has no operation for a Rescaling, a Normalization or a BatchNormalization in front of
a kernel, and none for all but the last of several such layers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill import _keras
from keras_distill.edge.quantize import affine
from keras_distill.functional.tensors import Tensor
from keras_distill.graph.copying import weight_at
from keras_distill.graph.remaking import by_keras
from keras_distill.graph.replay import Graph, Step, Value
from keras_distill.graph.traits import SAME, does, gives, traits_of
from keras_distill.graph.wrapping import inner

__all__ = [
    "Folding",
    "foldings",
    "gain",
    "input_axis",
    "is_even",
    "steps_in_front",
    "taken_up",
    "width_of",
]

_KERNELS = ("dense", "convolution", "depthwise", "separable", "transposed")
# Of a mean so many deviations from zero, the folded sum is one of large numbers that cancel.
_FAR = 64.0


@dataclass(frozen=True)
class Folding:
    """Layers that scale and shift, one behind the other, and the layer that takes them up.

    Attributes:
      steps: theirs, in order; between them and the reader nothing computes.
      reader: a layer with a kernel, or another that scales and shifts.
    """

    steps: tuple[Step, ...]
    reader: Step

    @property
    def width(self) -> int:
        """How many numbers the reader has in its last axis."""
        return _channels(self.reader.inputs[0])

    def coefficients(self) -> tuple[np.ndarray, np.ndarray]:
        """`(scale, shift)`, `(width,)` each, of them all: `x * scale + shift` is what is read."""
        with tf.init_scope():
            scale, shift = self.in_graph()
            return scale.numpy(), shift.numpy()

    def in_graph(self) -> tuple[Tensor, Tensor]:
        """As `coefficients`, from the variables as the graph reads them."""
        total, shift = tf.ones([self.width]), tf.zeros([self.width])
        for step in self.steps:
            channels = _channels(step.outputs[0])
            found = affine.in_graph(inner(step.operation), channels)
            scale, offset = (tf.tile(one, [self.width // channels]) for one in found)
            total, shift = total * scale, shift * scale + offset
        return total, shift

    def _own(self, step: Step) -> tuple[np.ndarray, np.ndarray]:
        channels = _channels(step.outputs[0])
        found = affine.coefficients(inner(step.operation), channels)
        scale, shift = (np.tile(one, self.width // channels) for one in found)
        return scale, shift

    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        """`(mean, deviation)` of what the reader reads, as the layers' own statistics tell.

        Where they have none, inputs count as alike: of mean 0 and deviation 1.
        """
        mean, deviation = np.zeros(self.width), np.ones(self.width)
        for step in self.steps:
            layer, (scale, shift) = inner(step.operation), self._own(step)
            if isinstance(layer, keras.layers.Rescaling):
                mean, deviation = mean * scale + shift, deviation * np.abs(scale)
                continue
            channels = _channels(step.outputs[0])
            held = [np.broadcast_to(np.ravel(one), channels) for one in _statistics(layer)]
            middle, spread = (np.tile(one, self.width // channels) for one in held)
            if not getattr(layer, "invert", False):
                mean, deviation = middle * scale + shift, spread * np.abs(scale)
            else:
                mean, deviation = shift, np.abs(scale)
        return mean, deviation


def taken_up(graph: Graph, step: Step) -> Folding | None:
    """What a quantised layer says that it takes up; None of nothing, or once it has done so."""
    count = getattr(step.operation, "front", 0)
    steps = steps_in_front(graph, step, _is_alone) if count else []
    return Folding(tuple(steps[-count:]), step) if 0 < count <= len(steps) else None


def _is_alone(step: Step) -> bool:
    return len(step.inputs) == 1 and affine.is_affine(inner(step.operation))


def foldings(
    graph: Graph, able: Callable[[Step], bool], takes: Callable[[Folding], bool]
) -> list[Folding]:
    """What folds forward in a graph, as much as possible for each layer with a kernel.

    Layers fold that are called once, have one reader and stand in the same model as it. The border
    that a kernel fills with zeros, and a transposed kernel's, has no shift: there a Rescaling
    without an offset folds alone.

    Args:
      graph: a model's, wrapped or not.
      able: whether a step, which scales and shifts, may fold.
      takes: whether a reader may take up what would else be exact.
    """
    calls = Counter(id(step.operation) for step in graph.steps)
    found: list[Folding] = []
    gone: set[str] = set()

    def may(step: Step) -> bool:
        once = calls[id(step.operation)] == 1 and step.path not in gone
        return once and _scales(step) and able(step)

    readers = [step for step in graph.steps if does(inner(step.operation), *_KERNELS)]
    for step in (*readers, *(step for step in reversed(graph.steps) if _scales(step))):
        if calls[id(step.operation)] > 1 or step.path in gone or len(step.inputs) != 1:
            continue
        steps = steps_in_front(graph, step, may)
        # All of them where that is exact, or those next to the reader.
        rest = (Folding(tuple(steps[first:]), step) for first in range(len(steps)))
        one = next((one for one in rest if _is_exact(one) and takes(one)), None)
        if one is not None:
            found.append(one)
            gone |= {folded.path for folded in one.steps}
    return found


def gain(layer: keras.layers.Layer, count: int, width: int) -> Tensor:
    """What the file's kernel is a multiple by of a layer's, for each number that it reads.

    Args:
      layer: with `count` layers in front, found in the graph of its first call, that fold into it.
      width: how many numbers it reads.

    Returns:
      `(width,)`, from the variables as they are where it is called.
    """
    found, x = tf.ones([width]), _keras.read_by(layer)
    while count and x is not None:
        maker = _keras.history(x).operation
        own, channels = inner(maker), x.shape[-1]
        if affine.is_affine(own):
            found *= tf.tile(affine.in_graph(own, channels)[0], [width // channels])
            count -= 1
        x = _keras.read_by(maker)
    return found


def width_of(layer: keras.layers.Layer) -> int:
    """How many input channels a layer's first kernel has."""
    traits = traits_of(layer)
    name = traits.depthwise or next(iter(traits.kernels))
    return int(weight_at(layer, name).shape[input_axis(layer)])


def input_axis(layer: keras.layers.Layer) -> int:
    """The axis of a layer's first kernel that its input's channels are on."""
    return -1 if does(layer, "transposed") else -2


def steps_in_front(graph: Graph, step: Step, may: Callable[[Step], bool]) -> list[Step]:
    """The steps in front of one that scale and shift and `may` fold, past what computes nothing."""
    found: list[Step] = []
    (value,) = step.inputs
    while value.step is not None and len(graph.consumers(value)) == 1:
        maker = graph.steps[value.step]
        returned = any(value is out for out in graph.outputs)
        beside = maker.path.rpartition("/")[0] == step.path.rpartition("/")[0]
        if returned or not beside or not (_passes(maker, step) or may(maker)):
            break
        if not _passes(maker, step):
            found.insert(0, maker)
        (value,) = maker.inputs
    return found


def _passes(step: Step, reader: Step) -> bool:
    """Whether a step leaves the channels of what it hands on where they were."""
    operation = inner(step.operation)
    if not by_keras(operation) or len(step.inputs) != 1 or len(step.outputs) != 1:
        return False
    if gives(operation) == SAME:
        return True
    turned = getattr(operation, "data_format", "") == "channels_first"
    if not does(operation, "reshaping") or turned:
        return False
    # Row by row as before: channels repeat, or none is told from another.
    whole = _channels(step.outputs[0]) % _channels(step.inputs[0]) == 0
    return whole and does(inner(reader.operation), *_KERNELS)


def _channels(value: Value) -> int:
    """The size of a tensor's last axis, which layers with weights know."""
    return value.shape[-1] or 1


def _scales(step: Step) -> bool:
    """Whether a step scales and shifts its input's channels, as it does in inference."""
    layer = inner(step.operation)
    if not by_keras(layer) or not isinstance(layer, keras.layers.Layer):
        return False
    given = len(step.args) == 1 and len(step.inputs) == 1 and not step.kwargs.get("training")
    return given and affine.is_affine(layer) and "float" in step.inputs[0].dtype and not _far(layer)


def _statistics(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the deviation that a layer takes its input for."""
    with tf.init_scope():
        mean, variance = (np.asarray(part, "float64") for part in affine.statistics(layer))
    return mean, np.sqrt(variance + getattr(layer, "epsilon", 0.0))


def _far(layer: Any) -> bool:
    if isinstance(layer, keras.layers.Rescaling) or getattr(layer, "invert", False):
        return False
    mean, deviation = _statistics(layer)
    return bool(np.any(np.abs(mean) > _FAR * deviation))


def is_even(one: Folding) -> bool:
    """Whether no output's weights are brought further apart: one scale for all that it reads."""
    scale, _ = one.coefficients()
    alone = bool(traits_of(inner(one.reader.operation)).depthwise)
    return alone or bool(np.all(scale == scale[0]) and scale[0] != 0.0)


def _is_exact(one: Folding) -> bool:
    """Whether the reader can take the layers up, in float and whatever training makes of them."""
    layer = inner(one.reader.operation)
    if not by_keras(layer):
        return False
    if _scales(one.reader):
        return True
    plain = getattr(layer, "data_format", "channels_last") == "channels_last"
    plain = plain and getattr(layer, "groups", 1) == 1 and not getattr(layer, "lora_enabled", False)
    if not plain or layer.dtype_policy.quantization_mode is not None:
        return False
    if _without_shift(one.steps):
        return True
    return not does(layer, "separable", "transposed") and not _pads(one.reader)


def _without_shift(steps: Iterable[Step]) -> bool:
    """Whether layers leave zero what it is, and always will."""
    owners = [inner(step.operation) for step in steps]
    return all(
        isinstance(one, keras.layers.Rescaling) and not np.any(np.asarray(one.offset))
        for one in owners
    )


def _pads(step: Step) -> bool:
    """Whether a kernel reads zeros beyond its input's border."""
    layer = inner(step.operation)
    if does(layer, "dense") or layer.padding == "valid":
        return False
    sizes: Sequence[int | None] = step.inputs[0].shape[1:-1]
    given = zip(sizes, layer.kernel_size, layer.strides, layer.dilation_rate, strict=True)
    return any(_padding(*one) != 0 for one in given)


def _padding(size: int | None, kernel: int, stride: int, dilation: int) -> int:
    """How many zeros "same" adds along an axis; more than none where its size is open."""
    if kernel == 1:
        return 0
    if size is None:
        return kernel
    read = (math.ceil(size / stride) - 1) * stride + dilation * (kernel - 1) + 1
    return max(read - size, 0)
