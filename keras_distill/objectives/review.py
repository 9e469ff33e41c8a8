"""Knowledge review: each of the teacher's layers teaches the student's, and all the deeper ones."""

from typing import Any

import keras
from keras import ops

from keras_distill import functional
from keras_distill.functional.tensors import Shape, Tensor
from keras_distill.objectives.adapters import Chain, convolution, normalization, projection
from keras_distill.objectives.layer_base import LayerObjective, check_whole
from keras_distill.signals import Signals

__all__ = ["ReviewKD"]


@keras.saving.register_keras_serializable("keras_distill")
class ReviewKD(LayerObjective):
    """What the student's deeper layers know, merged into the shallower, matches the teacher's.

    From the deepest pair of layers to the first: the student's map, projected to `width` channels,
    is fused with what comes from the deeper layers, by two attention maps that a 1x1 convolution
    and a sigmoid make of both. The result goes on to the next shallower layer; a 3x3 convolution
    makes of it the features that are compared with the teacher's, by
    `functional.hierarchical_context`. Each convolution but the attention's is followed by batch
    normalisation; maps grow by repeating the nearest position.

    Args:
      student, teacher: equally long lists, from the first layer to the last, of layers that give
        maps, `(batch, height, width, channels)`. A vector counts as a map of one position, so
        that the last may be the pooled features.
      width: the fused maps' channels; by default the student's last layer's, but 512 at most.
      weight, output, name: see `Objective`. The authors let their weight grow from 0 over the first
        20 epochs.

    Raises:
      ValueError: lists of different length; neither maps nor vectors; axes of unknown size.

    Source: Chen et al., CVPR 2021.

    >>> ReviewKD(["block2", "block3", "pool"], ["conv3", "conv4", "pool"]).name
    'review_kd'
    """

    at_teacher = "elsewhere"
    open_axes = False
    examples = (
        {"student": ["map", "map_2", "map_3"], "teacher": ["map", "map_2", "map_3"]},
        {"student": ["map", "vector"], "teacher": ["map", "vector"], "width": 4},
    )

    def __init__(
        self, student: Any, teacher: Any, *, width: int | None = None, **options: Any
    ) -> None:
        super().__init__(student, teacher, **options)
        if width is not None:
            check_whole(self.name, width=width)
        self.width = width
        self._fusions: list[Fusion] = []

    def build(self, student: Signals, teacher: Signals) -> dict[str, keras.layers.Layer]:
        shapes = self.shapes(student, teacher, maps=False)
        for index, (ours, theirs) in enumerate(shapes):
            if len(ours) not in (2, 4):
                raise ValueError(
                    f"{self.said(index, ours, theirs)}. Name layers that give maps (batch, height, "
                    f"width, channels), or vectors."
                )
        shapes = [(_map_shape(ours), _map_shape(theirs)) for ours, theirs in shapes]
        width = self.width or min(512, shapes[-1][0][-1])
        self._fusions = []
        for index, (ours, theirs) in enumerate(shapes):
            deeper = index < len(shapes) - 1
            fusion = Fusion(width, theirs, deeper, name=f"{self.name}_fusion_{index}")
            fusion.build(ours)
            self._fusions.append(fusion)
        return {f"fusion_{index}": fusion for index, fusion in enumerate(self._fusions)}

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        pairs = self.pairs(student, teacher)
        reviewed: list[Any] = []
        deeper: Any = None
        for fusion, (ours, _) in zip(reversed(self._fusions), reversed(pairs), strict=True):
            given = [_as_map(ours)] if deeper is None else [_as_map(ours), deeper]
            features, deeper = fusion(given, training=self.training)
            reviewed.insert(0, features)
        return functional.hierarchical_context(reviewed, [_as_map(theirs) for _, theirs in pairs])


class Fusion(keras.layers.Layer):
    """The authors' attention-based fusion (ABF) of a student's map with what is deeper.

    Args:
      width: channels of what it hands on.
      target: the shape of the teacher's map.
      deeper: whether there is anything deeper.
    """

    def __init__(self, width: int, target: tuple[int, ...], deeper: bool, **options: Any) -> None:
        super().__init__(dtype="float32", **options)
        self.width = width
        self.target = target
        options = {"use_bias": False, "kernel_initializer": "lecun_uniform"}
        self.inward = Chain([projection(target, width, **options), normalization()])
        self.outward = Chain([convolution(target[-1], **options), normalization()])
        self.attention = (
            projection(target, 2, use_bias=True, activation="sigmoid") if deeper else None
        )

    def build(self, input_shape: Shape) -> None:
        """Of the student's map alone; the deeper one has `width` channels."""
        self.inward.build(input_shape)
        self.outward.build((*self.target[:-1], self.width))
        if self.attention is not None:
            self.attention.build((*input_shape[:-1], 2 * self.width))
        self.built = True

    def call(self, inputs: list[Tensor], training: bool | None = None) -> tuple[Tensor, Tensor]:
        """The features to compare, of the teacher's shape, and the map to hand on."""
        x = self.inward(inputs[0])
        if self.attention is not None:
            deeper = nearest(inputs[1], x.shape)
            shares = self.attention(ops.concatenate([x, deeper], axis=-1))
            x = x * shares[..., :1] + deeper * shares[..., 1:]
        x = nearest(x, self.target)
        return self.outward(x), x


def nearest(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A map at another's size: each position takes what stands at its share of the way."""
    for axis in (1, 2):
        length, size = x.shape[axis], shape[axis]
        if size % length == 0:
            x = _repeated(x, axis, size // length)
        else:
            x = ops.take(x, [index * length // size for index in range(size)], axis=axis)
    return x


def _repeated(x: Tensor, axis: int, times: int) -> Tensor:
    # Stacked, its gradient is a sum; a gathered one is scattered, which takes longer.
    if times == 1:
        return x
    shape = [*x.shape[1:axis], x.shape[axis] * times, *x.shape[axis + 1 :]]
    return ops.reshape(ops.stack([x] * times, axis=axis + 1), [-1, *shape])


def _map_shape(shape: Shape) -> Shape:
    return shape if len(shape) == 4 else (None, 1, 1, shape[-1])


def _as_map(x: Tensor) -> Tensor:
    return x if len(x.shape) == 4 else x[:, None, None, :]
