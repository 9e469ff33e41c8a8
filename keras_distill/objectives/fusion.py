"""Layer fusion: several of a teacher's layers merged into one target for a student's layer."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_distill import functional
from keras_distill.functional.tensors import Tensor, adaptive_pool, at_least_float32
from keras_distill.objectives.adapters import projection
from keras_distill.objectives.base import layer_name
from keras_distill.objectives.layer_base import LayerObjective, check_whole
from keras_distill.objectives.logits_base import check_not_negative
from keras_distill.signals import Signals

__all__ = ["LayerFusion"]


@keras.saving.register_keras_serializable("keras_distill")
class LayerFusion(LayerObjective):
    """A student's layer learns what several of the teacher's layers say together.

    Each of the teacher's layers, brought to the student's size and standardised an example, is
    projected to `width` channels and standardised again: these are added, `target = sum_k share_k
    P_k(t_k)`, with shares that are the softmax of learned numbers. A linear adapter projects the
    student's features to the target:

    `mean (adapter(s) - target)^2 + reconstruction_weight * mean_k e_k^2`, with the errors
    `e_k = mean (R_k(target) - t_k)^2` of affine maps that read each layer back from the target.

    The first term gives the target no gradient. Shares learned from it would go to the layer that
    is easiest to match, in the end to whatever says nothing; the shares and projections learn from
    the second term alone. There a layer without a share can't be read, and the errors' squares
    make the layer that is read worst count most, lest a narrow layer that is easy to restore take
    all of the target's room.

    Args:
      student: a layer.
      teacher: two layers or more, of the student's layer's rank.
      width: the target's channels; by default the student's layer's. The wider, the more of the
        layers it holds.
      reconstruction_weight: factor of the second term, not negative; 0 keeps equal shares of random
        projections.
      weight, output, name: see `Objective`; it multiplies both terms.

    Raises:
      ValueError: more than one layer of the student, less than two of the teacher, layers of
        different rank or of unknown size.

    Source: fused layers as targets: Wu et al., "Why Skip If You Can Combine", EMNLP 2020; Passban
    et al., "ALP-KD", AAAI 2021. Both learn the fusion from the student's distance to it; the
    reconstruction that holds it up here is factor transfer's (Kim et al., NeurIPS 2018).

    >>> LayerFusion("block4", ["conv3", "conv4", "conv5"]).teacher_taps
    ('conv3', 'conv4', 'conv5')
    """

    at_teacher = "elsewhere"
    examples = (
        {"student": "map", "teacher": ["map", "map_2"]},
        {"student": "vector", "teacher": ["vector", "vector_2", "vector_3"], "width": 12},
    )

    def __init__(
        self,
        student: Any,
        teacher: Sequence[Any],
        *,
        width: int | None = None,
        reconstruction_weight: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, **options)
        if width is not None:
            check_whole(self.name, width=width)
        check_not_negative(self.name, reconstruction_weight=reconstruction_weight)
        self.width = width
        self.reconstruction_weight = reconstruction_weight
        self._merging: Any = None
        self._projection: Any = None

    @property
    def shares(self) -> dict[str, float]:
        """What share each of the teacher's layers has in the target, as learned so far."""
        if self._merging is None:
            raise ValueError(f"{self.name} has no shares before a Distiller has built it.")
        shares = ops.convert_to_numpy(self._merging.shares()).tolist()
        return dict(zip(map(layer_name, self.teacher_taps), shares, strict=True))

    def build(self, student: Signals, teacher: Signals) -> dict[str, keras.layers.Layer]:
        ours, *theirs = self._shapes_of_all(student, teacher)
        width = self.width or ours[-1]
        self._projection = projection(ours, width, use_bias=True, name=f"{self.name}_adapter")
        self._projection.build(ours)
        self._merging = Merging(width, name=f"{self.name}_merging")
        self._merging.build([(*ours[:-1], shape[-1]) for shape in theirs])
        return {"adapter": self._projection, "merging": self._merging}

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        ours = student.taps[self.student_taps[0]]
        layers = [_at_size(teacher.taps[tap], ours.shape) for tap in self.teacher_taps]
        target, unread = self._merging(layers)
        distance = functional.hint_mse(self._projection(ours), ops.stop_gradient(target))
        return distance + self.reconstruction_weight * unread

    def _check_layers(self) -> None:
        if len(self.student_taps) != 1 or len(self.teacher_taps) < 2:
            raise ValueError(
                f"{self.name} merges several of the teacher's layers for one of the student's; got "
                f"{len(self.student_taps)} of the student and {len(self.teacher_taps)} of the "
                f"teacher. For one of each there is FeatureHint."
            )

    def _shapes_of_all(self, student: Signals, teacher: Signals) -> list[tuple[int, ...]]:
        ours = tuple(student.taps[self.student_taps[0]].shape)
        theirs = [tuple(teacher.taps[tap].shape) for tap in self.teacher_taps]
        for tap, shape in zip(self.teacher_taps, theirs, strict=True):
            said = (
                f"{self.name}: the output of the student's {layer_name(self.student_taps[0])!r} is "
                f"{ours} and that of the teacher's {layer_name(tap)!r} {shape}"
            )
            if len(shape) != len(ours):
                raise ValueError(f"{said}. Name layers of equal rank.")
            if None in (*ours[1:], *shape[1:]):
                raise ValueError(
                    f"{said}. Give both models a fixed input size: an axis of unknown size can be "
                    f"neither pooled nor projected."
                )
        return [ours, *theirs]


class Merging(keras.layers.Layer):
    """Tensors of one size merged into one, and read back from it."""

    def __init__(self, width: int, **options: Any) -> None:
        super().__init__(dtype="float32", **options)
        self.width = width
        self.inward: list[keras.layers.Layer] = []
        self.outward: list[keras.layers.Layer] = []

    def build(self, shapes: list[tuple[int, ...]]) -> None:
        for shape in shapes:
            merged = (*shape[:-1], self.width)
            inward = projection(shape, self.width)
            # With a bias, what is the same in every example takes no room in the target.
            outward = projection(merged, shape[-1], use_bias=True)
            inward.build(shape)
            outward.build(merged)
            self.inward.append(inward)
            self.outward.append(outward)
        self.scores = self.add_weight(shape=(len(shapes),), initializer="zeros", name="scores")
        self.built = True

    def shares(self) -> Tensor:
        """`(layers,)`, positive, of sum 1."""
        return ops.softmax(self.scores)

    def call(self, layers: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The merged tensor, and how badly the layers are read back from it, `(batch,)`."""
        layers = [_standardized(layer) for layer in layers]
        shares = self.shares()
        merged = sum(
            shares[index] * _standardized(inward(layer))
            for index, (inward, layer) in enumerate(zip(self.inward, layers, strict=True))
        )
        unread = [
            functional.hint_mse(outward(merged), layer)
            for outward, layer in zip(self.outward, layers, strict=True)
        ]
        return merged, ops.mean(ops.square(ops.stack(unread)), axis=0)


def _standardized(x: Tensor) -> Tensor:
    """Each example at mean 0 and variance 1 over all its numbers."""
    axes = tuple(range(1, len(x.shape)))
    centred = x - ops.mean(x, axis=axes, keepdims=True)
    return centred / ops.sqrt(ops.mean(ops.square(centred), axis=axes, keepdims=True) + 1e-6)


def _at_size(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    x = at_least_float32(x)
    for axis in range(1, len(shape) - 1):
        x = adaptive_pool(x, axis, shape[axis])
    return x
