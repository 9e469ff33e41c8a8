"""Objectives on the models' inner layers, number by number."""

import math
from typing import Any

import keras
from keras import ops

from keras_distill import functional
from keras_distill.functional.tensors import Shape, Tensor, at_least_float32, match_sizes
from keras_distill.objectives.adapters import Chain, projection
from keras_distill.objectives.base import Objective, layer_name
from keras_distill.objectives.layer_base import (
    LayerObjective,
    check_whole,
    smaller,
    unknown_sizes,
)
from keras_distill.objectives.logits_base import check_constant, check_positive
from keras_distill.signals import Signals

__all__ = ["FeatureHint", "VariationalInformation"]


@keras.saving.register_keras_serializable("keras_distill")
class FeatureHint(Objective):
    """A student's layer learns to give what a teacher's layer gives.

    Where the widths differ a linear adapter (1x1 convolution on maps, dense elsewhere) projects
    the student's features; where the sizes differ the larger is average-pooled to the smaller.

    Args:
      student, teacher: a layer's name, its path into nested models (`"backbone/conv5_out"`), the
        layer itself, or `"name:1"` for a shared layer's second call.
      adapter: `"auto"`, None (widths must be equal), or a Keras layer of your own that maps the
        student's features (pooled, where the student's map is the larger) to the teacher's width.
      weight, output, name: see `Objective`.

    Raises:
      ValueError: the shapes do not fit; at the Distiller's construction.

    Source: Romero et al., "FitNets", ICLR 2015.

    >>> FeatureHint("block4", "backbone/conv5_out").student_taps
    ('block4',)
    """

    def __init__(
        self, student: Any, teacher: Any, *, adapter: Any = "auto", **options: Any
    ) -> None:
        super().__init__(**options)
        if not (adapter is None or adapter == "auto" or isinstance(adapter, keras.layers.Layer)):
            raise ValueError(
                f"{self.name}: adapter must be 'auto', None or a keras.layers.Layer; got "
                f"{adapter!r}."
            )
        self.student_taps = (student,)
        self.teacher_taps = (teacher,)
        self.adapter = adapter
        self._projection: keras.layers.Layer | None = None

    def build(self, student: Signals, teacher: Signals) -> dict[str, keras.layers.Layer]:
        ours = student.taps[self.student_taps[0]].shape
        theirs = teacher.taps[self.teacher_taps[0]].shape
        self._projection = None
        self._check(ours, theirs)
        if self.adapter is None or (self.adapter == "auto" and ours[-1] == theirs[-1]):
            return {}
        layer = self.adapter
        if layer == "auto":
            layer = projection(ours, theirs[-1], name=f"{self.name}_adapter")
        pooled = smaller(ours, theirs)
        if not layer.built:
            layer.build(pooled)
        given = layer.compute_output_shape(pooled)
        if given[-1] != theirs[-1]:
            raise ValueError(
                f"{self._label()}: the adapter gives {tuple(given)} and the teacher's layer has "
                f"{theirs[-1]} channels ({tuple(theirs)}). Make the adapter's last axis "
                f"{theirs[-1]}."
            )
        self._projection = layer
        return {"adapter": layer}

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        ours, theirs = student.taps[self.student_taps[0]], teacher.taps[self.teacher_taps[0]]
        # Cast before they are pooled: a mean in half precision is a coarse one.
        ours, theirs = match_sizes(at_least_float32(ours), at_least_float32(theirs))
        if self._projection is not None:
            ours = self._projection(ours, training=self.training)
        return functional.hint_mse(ours, theirs)

    def _check(self, ours: Shape, theirs: Shape) -> None:
        shapes = f"the student's output is {tuple(ours)} and the teacher's {tuple(theirs)}"
        if len(ours) != len(theirs):
            raise ValueError(
                f"{self._label()}: {shapes}. Name two layers of equal rank, or flatten one."
            )
        if unknown_sizes(ours, theirs):
            raise ValueError(
                f"{self._label()}: {shapes}. Give both models a fixed input size: an axis of "
                f"unknown size can be neither pooled nor projected."
            )
        if self.adapter is None and ours[-1] != theirs[-1]:
            raise ValueError(
                f"{self._label()}: {shapes}. Leave adapter='auto' to project {ours[-1]} to "
                f"{theirs[-1]}, or name layers of equal width."
            )

    def _label(self) -> str:
        student, teacher = layer_name(self.student_taps[0]), layer_name(self.teacher_taps[0])
        return f"FeatureHint({student!r}, {teacher!r})"


@keras.saving.register_keras_serializable("keras_distill")
class VariationalInformation(LayerObjective):
    """The student's features tell as much as they can of the teacher's.

    A network of three linear maps of the channels, with ReLUs between, predicts the teacher's
    features from the student's; how sure it is, channel by channel, is learned too: channels that
    can't be predicted count less. See `functional.variational_information` for the formula, which
    is added over pairs of layers. The variance is `softplus(scale) + 1e-5`.

    Args:
      student, teacher: a layer of each model, or equally long lists. Where the sizes differ the
        larger is pooled.
      width: of the network's inner layers; by default the teacher's.
      initial_variance: positive; the teacher's features' own variance is a good start.
      weight, output, name: see `Objective`. Reference code's weight is 1.

    Raises:
      ValueError: layers of different rank or of unknown size, a number that is not positive.

    Source: Ahn et al., CVPR 2019. The network is RepDistiller's.

    >>> VariationalInformation("block4", "conv5_out", initial_variance=1.0).initial_variance
    1.0
    """

    at_teacher = "elsewhere"

    def __init__(
        self,
        student: Any,
        teacher: Any,
        *,
        width: int | None = None,
        initial_variance: float = 5.0,
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, **options)
        check_constant(self.name, initial_variance=initial_variance)
        check_positive(self.name, initial_variance=initial_variance)
        if width is not None:
            check_whole(self.name, width=width)
        self.width = width
        self.initial_variance = initial_variance
        self._variances: list[ChannelVariance] = []

    def build(self, student: Signals, teacher: Signals) -> dict[str, keras.layers.Layer]:
        shapes = self.shapes(student, teacher, maps=False)
        self._variances = [
            ChannelVariance(theirs[-1], self.initial_variance, name=f"{self.name}_variance_{index}")
            for index, (_, theirs) in enumerate(shapes)
        ]
        variances = {f"variance_{i}": layer for i, layer in enumerate(self._variances)}
        return {**self.make_adapters(shapes, self._network), **variances}

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        return sum(
            functional.variational_information(*pair, variance=variance.value())
            for variance, pair in zip(self._variances, self.adapted(student, teacher), strict=True)
        )

    def _network(self, shape: Shape, channels: int, name: str) -> keras.layers.Layer:
        width = self.width or channels
        inner = [projection(shape, width, activation="relu") for _ in range(2)]
        return Chain([*inner, projection(shape, channels)], name=name)


class ChannelVariance(keras.layers.Layer):
    """A positive number a channel, learned."""

    SMALLEST = 1e-5

    def __init__(self, channels: int, initial: float, **options: Any) -> None:
        super().__init__(dtype="float32", **options)
        # What softplus makes the initial variance of; log(exp(x) - 1), safe for large x.
        above = max(initial - self.SMALLEST, self.SMALLEST)
        self.scale = self.add_weight(
            shape=(channels,),
            initializer=keras.initializers.Constant(above + math.log(-math.expm1(-above))),
            name="scale",
        )
        self.built = True

    def value(self) -> Tensor:
        """`(channels,)`."""
        return ops.softplus(self.scale) + self.SMALLEST
