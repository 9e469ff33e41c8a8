"""Objectives on features before their ReLU: on which side of zero, and how far on the positive."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_distill import functional
from keras_distill.functional.tensors import Shape, Tensor
from keras_distill.objectives.adapters import Chain, normalization, projection
from keras_distill.objectives.layer_base import LayerObjective
from keras_distill.objectives.logits_base import check_positive
from keras_distill.signals import Signals

__all__ = ["ActivationBoundaries", "Overhaul", "batch_norm_margin"]


@keras.saving.register_keras_serializable("keras_distill")
class ActivationBoundaries(LayerObjective):
    """Each of the student's neurons is on where the teacher's is on, and off where it is off.

    See `functional.activation_boundaries` for the formula. Of several pairs of layers the last
    counts 1, the one before it 1/2, and so on. Where the widths differ a linear adapter with batch
    normalisation projects the student's features; where the sizes differ the larger is pooled.

    Args:
      student, teacher: layers in front of a ReLU: one, or equally long lists from the first layer
        to the last.
      margin: how far from zero a neuron must be before it is left alone; positive.
      weight, output, name: see `Objective`. For one pair of layers the authors' weight is 0.003
        times the numbers an example has in the teacher's, for they add where this averages.

    Raises:
      ValueError: layers of different rank or of unknown size; a margin that is not positive.

    Source: Heo et al., AAAI 2019. The authors train the student on this alone first
    (`compile(loss=None)`), and on the labels afterwards.

    >>> ActivationBoundaries("block2_bn", "conv3_bn").margin
    1.0
    """

    at_teacher = "elsewhere"
    examples = (
        {"student": "map", "teacher": "map_2"},
        {"student": ["map", "map_2"], "teacher": ["map", "map_2"], "margin": 0.5},
    )

    def __init__(self, student: Any, teacher: Any, *, margin: float = 1.0, **options: Any) -> None:
        super().__init__(student, teacher, **options)
        check_positive(self.name, margin=margin)
        self.margin = margin

    def build(self, student: Signals, teacher: Signals) -> dict[str, keras.layers.Layer]:
        def make(shape: Shape, channels: int, name: str) -> keras.layers.Layer | None:
            return None if shape[-1] == channels else _connector(shape, channels, name)

        return self.make_adapters(self.shapes(student, teacher, maps=False), make)

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        return _halving_to_the_front(
            functional.activation_boundaries(*pair, margin=self.margin)
            for pair in self.adapted(student, teacher)
        )


@keras.saving.register_keras_serializable("keras_distill")
class Overhaul(LayerObjective):
    """The student's features before the ReLU become the teacher's, as far as the ReLU lets through.

    See `functional.partial_l2` for the formula. Of several pairs of layers the last counts 1, the
    one before it 1/2, and so on. A linear adapter with batch normalisation projects the student's
    features, whatever the widths; where the sizes differ the larger is pooled.

    Args:
      student, teacher: layers in front of a ReLU: one, or equally long lists from the first layer
        to the last.
      margin: the expected value of the teacher's negative responses, at most 0: a number or one a
        channel; for several pairs of layers a list of these. None finds it in training, channel
        by channel, as their mean over all batches so far. `batch_norm_margin` computes it of the
        teacher's batch normalisation.
      weight, output, name: see `Objective`. For one pair of layers the authors' weight is 0.001
        (0.0001 on ImageNet) times the numbers an example has in the teacher's, for they add where
        this averages.

    Raises:
      ValueError: layers of different rank or of unknown size; margins that are positive or of
        another number than the layers or their channels.

    Source: Heo et al., ICCV 2019.

    >>> Overhaul(["bn2", "bn3"], ["bn2", "bn4"], margin=[-0.5, -1.0]).margin
    [-0.5, -1.0]
    """

    at_teacher = "elsewhere"

    def __init__(self, student: Any, teacher: Any, *, margin: Any = None, **options: Any) -> None:
        super().__init__(student, teacher, **options)
        self.margin = _as_numbers(margin)
        self._margins: list[Any] = []

    def build(self, student: Signals, teacher: Signals) -> dict[str, keras.layers.Layer]:
        shapes = self.shapes(student, teacher, maps=False)
        adapters = self.make_adapters(shapes, _connector)
        self._margins = self._given_margins(shapes)
        for index, (_, theirs) in enumerate(shapes):
            if self._margins[index] is None:
                layer = NegativeMean(name=f"{self.name}_margin_{index}")
                layer.build(theirs)
                self._margins[index] = adapters[f"margin_{index}"] = layer
        return adapters

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        margins = [
            margin(theirs, training=self.training) if isinstance(margin, NegativeMean) else margin
            for margin, (_, theirs) in zip(self._margins, self.pairs(student, teacher), strict=True)
        ]
        return _halving_to_the_front(
            functional.partial_l2(*pair, margin=margin)
            for margin, pair in zip(margins, self.adapted(student, teacher), strict=True)
        )

    def _given_margins(self, shapes: list[tuple[Shape, Shape]]) -> list[Any]:
        """A number, numbers or None a pair of layers."""
        several = len(shapes) > 1 and isinstance(self.margin, list)
        margins = self.margin if several else [self.margin] * len(shapes)
        if len(margins) != len(shapes):
            raise ValueError(
                f"{self.name}: {len(margins)} margins for {len(shapes)} pairs of layers. Give one "
                f"a pair: a number, or one a channel of the teacher's layer."
            )
        for index, (margin, pair) in enumerate(zip(margins, shapes, strict=True)):
            self._check_margin(index, margin, *pair)
        return list(margins)

    def _check_margin(self, index: int, margin: Any, ours: Shape, theirs: Shape) -> None:
        values = margin if isinstance(margin, list) else [margin]
        if isinstance(margin, list) and len(margin) != theirs[-1]:
            raise ValueError(
                f"{self.said(index, ours, theirs)}: {len(margin)} margins for {theirs[-1]} "
                f"channels. Give one a channel, or a single number."
            )
        if any(value is not None and not value <= 0 for value in values):
            raise ValueError(
                f"{self.label(index)}: a margin is the mean of negative responses and can't be "
                f"positive; got {max(values)}."
            )


class NegativeMean(keras.layers.Layer):
    """The mean of the negative numbers, channel by channel, in all that it was shown."""

    def __init__(self, **options: Any) -> None:
        super().__init__(trainable=False, dtype="float32", **options)

    def build(self, input_shape: Shape) -> None:
        options = {"initializer": "zeros", "trainable": False, "aggregation": "mean"}
        self.mean = self.add_weight(shape=(input_shape[-1],), name="mean", **options)
        self.count = self.add_weight(shape=(input_shape[-1],), name="count", **options)

    def call(self, inputs: Tensor, training: bool | None = None) -> Any:
        if not training:
            return ops.convert_to_tensor(self.mean)
        axes = tuple(range(len(inputs.shape) - 1))
        added = ops.sum(ops.cast(inputs < 0, "float32"), axis=axes)
        count = self.count + added
        surplus = ops.sum(ops.minimum(inputs, 0), axis=axes) - added * self.mean
        mean = self.mean + surplus / ops.maximum(count, 1)
        self.mean.assign(mean)
        self.count.assign(count)
        return mean


def batch_norm_margin(layer: Any) -> list[float]:
    """The expected value of a batch normalisation's negative outputs, a number a channel.

    Outputs are taken as normal, with mean beta and standard deviation |gamma|; where hardly one in
    a thousand is negative the margin is -3 |gamma|.

    Args:
      layer: a BatchNormalization of either Keras generation, built.

    Raises:
      ValueError: another layer.

    Source: Heo et al., ICCV 2019, and the authors' code.

    >>> norm = keras.layers.BatchNormalization()
    >>> norm.build((None, 1))
    >>> [round(value, 4) for value in batch_norm_margin(norm)]
    [-0.7979]
    """
    if not type(layer).__name__.endswith("BatchNormalization") or not layer.built:
        raise ValueError(
            f"batch_norm_margin reads a built BatchNormalization's gamma and beta; got "
            f"{type(layer).__module__}.{type(layer).__name__}. Leave margin=None to find it in "
            f"training."
        )
    channels = range(layer.moving_mean.shape[0])
    gamma = [1.0 for _ in channels] if layer.gamma is None else layer.gamma.numpy().tolist()
    beta = [0.0 for _ in channels] if layer.beta is None else layer.beta.numpy().tolist()
    return [_negative_mean(b, abs(g)) for b, g in zip(beta, gamma, strict=True)]


def _negative_mean(mean: float, deviation: float) -> float:
    """E[x | x < 0] of a normal distribution."""
    if deviation == 0:
        return min(mean, 0.0)
    z = mean / deviation
    negative = math.erfc(z / math.sqrt(2)) / 2
    if negative <= 0.001:
        return -3 * deviation
    density = math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return mean - deviation * density / negative


def _halving_to_the_front(values: Tensor) -> Tensor:
    """The sum of a list's values, the last whole and each before it half of the next."""
    total: Any = 0.0
    for value in values:
        total = total / 2 + value
    return total


def _connector(shape: Shape, channels: int, name: str) -> keras.layers.Layer:
    he_by_outputs = keras.initializers.RandomNormal(stddev=math.sqrt(2 / channels))
    linear = projection(shape, channels, kernel_initializer=he_by_outputs)
    return Chain([linear, normalization()], name=name)


def _as_numbers(margin: Any) -> Any:
    """A margin in JSON's types."""
    if margin is None or isinstance(margin, (int, float)):
        return margin
    if isinstance(margin, Sequence):
        return [_as_numbers(part) for part in margin]
    return ops.convert_to_numpy(margin).tolist()
