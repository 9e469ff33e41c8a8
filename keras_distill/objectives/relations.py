"""Objectives on how the examples of a batch lie to each other.

A batch of one says nothing: it is refused where its size is known when the step is traced; where
only the step knows it (a remainder of one), it counts zero. Under a strategy each replica compares
the examples of its own share of the batch.
"""

import math
from typing import Any

import keras
from keras import ops

from keras_distill import functional
from keras_distill.functional.tensors import Tensor, check_several
from keras_distill.objectives.base import Objective, layer_name
from keras_distill.objectives.layer_base import check_whole
from keras_distill.objectives.logits_base import check_kinds, check_not_negative
from keras_distill.signals import Signals

__all__ = [
    "CorrelationCongruence",
    "ProbabilisticTransfer",
    "RelationalKD",
    "SimilarityPreserving",
]


class _Relational(Objective):
    """Compares two layers' outputs, or the logits where no layer is named."""

    relational = True
    shift_invariant = False
    kinds = ("logits", "sigmoid")
    examples = ({}, {"student": "map", "teacher": "map"})

    def __init__(self, student: Any = None, teacher: Any = None, **options: Any) -> None:
        super().__init__(**options)
        if (student is None) != (teacher is None):
            raise ValueError(
                f"{self.name}: name a layer of both models, or of neither to compare the logits; "
                f"got student={student!r} and teacher={teacher!r}."
            )
        if student is not None:
            self.student_taps, self.teacher_taps = (student,), (teacher,)

    def build(self, student: Signals, teacher: Signals) -> dict[str, keras.layers.Layer]:
        if self.student_taps:
            return {}
        check_kinds(self, student, teacher)
        return {}

    def _pair(self, student: Signals, teacher: Signals) -> tuple[Tensor, Tensor]:
        if self.student_taps:
            pair = student.taps[self.student_taps[0]], teacher.taps[self.teacher_taps[0]]
        else:
            pair = student.logits, teacher.logits
        check_several(self._label(), pair[0])
        return pair

    def _label(self) -> str:
        taps = map(layer_name, (*self.student_taps, *self.teacher_taps))
        return f"{type(self).__name__}({', '.join(map(repr, taps))})"


@keras.saving.register_keras_serializable("keras_distill")
class SimilarityPreserving(_Relational):
    """Examples that are alike to the teacher become alike to the student.

    See `functional.similarity_preserving` for the formula. The widths may differ.

    Args:
      student, teacher: layers as in `FeatureHint`, vectors or maps (flattened); without them the
        logits are compared.
      weight, output, name: see `Objective`. The authors' weight is 3000.

    Raises:
      ValueError: one layer named and not the other; logits known only up to a constant.

    Source: Tung and Mori, ICCV 2019. The paper compares the matrices scaled row by row, as here.

    >>> SimilarityPreserving("block4", "conv5_out").name
    'similarity_preserving'
    """

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        return functional.similarity_preserving(*self._pair(student, teacher))


@keras.saving.register_keras_serializable("keras_distill")
class RelationalKD(_Relational):
    """Distances between examples, and angles at them, become the teacher's.

    See `functional.relational_kd` for the formula. The widths may differ. Memory grows with the
    layer's width times batch^2: name a pooled layer rather than a large map.

    Args:
      student, teacher: layers as in `FeatureHint`, vectors or maps (flattened); without them the
        logits are compared.
      distance_weight, angle_weight: factors of the two parts, not negative.
      weight, output, name: see `Objective`.

    Raises:
      ValueError: one layer named and not the other; logits known only up to a constant; a negative
        factor.

    Source: Park et al., CVPR 2019.

    >>> RelationalKD("pool", "pool", angle_weight=0.0).angle_weight
    0.0
    """

    def __init__(
        self,
        student: Any = None,
        teacher: Any = None,
        *,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, **options)
        check_not_negative(self.name, distance_weight=distance_weight, angle_weight=angle_weight)
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        return functional.relational_kd(
            *self._pair(student, teacher),
            distance_weight=self.distance_weight,
            angle_weight=self.angle_weight,
        )


@keras.saving.register_keras_serializable("keras_distill")
class ProbabilisticTransfer(_Relational):
    """Who is whose neighbour, as a distribution over the batch, becomes the teacher's.

    See `functional.probabilistic_transfer` for the formula. The widths may differ.

    Args:
      student, teacher: layers as in `FeatureHint`, vectors or maps (flattened); without them the
        logits are compared.
      weight, output, name: see `Objective`. Reference code's weight is 30000, for it divides by
        batch^2.

    Raises:
      ValueError: one layer named and not the other; logits known only up to a constant.

    Source: Passalis and Tefas, ECCV 2018. The paper leaves an example out of its own neighbours;
    the authors' code, as here, keeps it.

    >>> ProbabilisticTransfer(weight=30000.0).weight
    30000.0
    """

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        return functional.probabilistic_transfer(*self._pair(student, teacher))


@keras.saving.register_keras_serializable("keras_distill")
class CorrelationCongruence(_Relational):
    """Errors of examples that follow each other in the batch shrink together.

    See `functional.correlation_congruence` for the formula.

    Args:
      student, teacher: layers as in `FeatureHint`, vectors or maps (flattened); without them the
        logits are compared.
      width: None compares the features themselves, the student's brought to the teacher's width by
        a linear embedding where they differ. A number embeds both sides in that many, as reference
        code does (with 128): both embeddings are trained, and nothing keeps them from shrinking.
      weight, output, name: see `Objective`. Reference code's weight is 0.02.

    Raises:
      ValueError: one layer named and not the other; logits known only up to a constant; a width
        below 1; layers of unknown size that would have to be embedded.

    Source: Peng et al., ICCV 2019. The paper compares kernel matrices over the whole batch; the
    authors' code, as here, multiplies the errors of neighbours.

    >>> CorrelationCongruence("pool", "pool", width=128).width
    128
    """

    ordered = True

    def __init__(
        self,
        student: Any = None,
        teacher: Any = None,
        *,
        width: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, **options)
        if width is not None:
            check_whole(self.name, width=width)
        self.width = width
        self._embeddings: tuple[Any, ...] = (None, None)

    def build(self, student: Signals, teacher: Signals) -> dict[str, keras.layers.Layer]:
        super().build(student, teacher)
        ours, theirs = (math.prod(t.shape[1:]) if None not in t.shape[1:] else None
                        for t in self._pair(student, teacher))  # fmt: skip
        made: dict[str, keras.layers.Layer] = {}
        if self.width is not None:
            made = {"student": self._embedding("student", ours, self.width),
                    "teacher": self._embedding("teacher", theirs, self.width)}  # fmt: skip
        elif ours != theirs:
            made = {"student": self._embedding("student", ours, theirs)}
        self._embeddings = made.get("student"), made.get("teacher")
        return {f"{side}_embedding": layer for side, layer in made.items()}

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        pair = zip(self._embeddings, self._pair(student, teacher), strict=True)
        return functional.correlation_congruence(*(_embedded(e, x) for e, x in pair))

    def _embedding(self, side: str, given: int | None, width: int | None) -> keras.layers.Layer:
        if given is None or width is None:
            raise ValueError(
                f"{self._label()}: a layer of unknown size can't be embedded. Give both models a "
                f"fixed input size, or name layers that give vectors."
            )
        layer = keras.layers.Dense(width, dtype="float32", name=f"{self.name}_{side}_embedding")
        layer.build((None, given))
        return layer


def _embedded(embedding: Any, x: Tensor) -> Tensor:
    return x if embedding is None else embedding(ops.reshape(x, (-1, math.prod(x.shape[1:]))))
