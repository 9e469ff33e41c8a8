"""An objective for models that rank items: recommenders, search."""

from typing import Any, ClassVar

import keras

from keras_distill import functional
from keras_distill.functional.tensors import Tensor
from keras_distill.objectives.layer_base import check_whole
from keras_distill.objectives.logits_base import (
    LogitsObjective,
    before_sigmoid,
    check_positive,
)
from keras_distill.signals import Signals

__all__ = ["RankingDistillation"]


@keras.saving.register_keras_serializable("keras_distill")
class RankingDistillation(LogitsObjective):
    """The student ranks the teacher's best items high.

    See `functional.ranking_distillation` for the formula. Both models score all items, `(batch,
    items)`, as logits or behind a sigmoid; of the teacher only the order counts. A `TeacherCache`
    serves that keeps at least as many items as `top_k`; scores that its dtype rounds to one number
    are ranked by their index.

    Args:
      top_k: how many of the teacher's items are learned.
      position_scale: over how many positions the weight of the teacher's items falls by a factor of
        e.
      discrepancy_sharpness: how fast the weight of an item grows with the items that the student
        ranks above it and the teacher does not. None weighs by position alone, as the authors do
        for the first epochs: take two objectives, their weights `schedules.Steps`.
      weight, output, name: see `Objective`.

    Raises:
      ValueError: a top_k below 1, above the number of items or above what a cache has kept; a
        parameter that is not positive.

    Source: Tang and Wang, KDD 2018; the numbers are those of the authors' code, which adds it to
    the label loss: `label_weight=0.5` has the same proportion.

    >>> RankingDistillation(top_k=50, position_scale=10.0).name
    'ranking_distillation'
    """

    shift_invariant: ClassVar[bool] = False
    kinds: ClassVar[tuple[str, ...]] = ("logits", "sigmoid")
    examples = (
        {"top_k": 3},
        {"top_k": 5, "position_scale": 3.0, "discrepancy_sharpness": 1.0},
    )

    def __init__(
        self,
        *,
        top_k: int = 10,
        position_scale: float = 1.0,
        discrepancy_sharpness: float | None = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_whole("RankingDistillation", top_k=top_k)
        check_positive("RankingDistillation", position_scale=position_scale)
        if discrepancy_sharpness is not None:
            check_positive("RankingDistillation", discrepancy_sharpness=discrepancy_sharpness)
        self.top_k = top_k
        self.position_scale = position_scale
        self.discrepancy_sharpness = discrepancy_sharpness

    def build(self, student: Signals, teacher: Signals) -> dict[str, keras.layers.Layer]:
        self._check_kept(teacher)
        adapters = super().build(student, teacher)
        items = student.logits.shape[-1]
        if items < self.top_k:
            raise ValueError(
                f"{self.name}: top_k is {self.top_k}, and the models score {items} items (output "
                f"{tuple(student.logits.shape)}). Give a top_k of at most {items}."
            )
        return adapters

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        self._check_kept(teacher)
        return functional.ranking_distillation(
            _scores(student),
            _scores(teacher),
            top_k=self.top_k,
            position_scale=self.position_scale,
            discrepancy_sharpness=self.discrepancy_sharpness,
        )

    def _check_kept(self, teacher: Signals) -> None:
        if teacher.top_k is not None and teacher.top_k < self.top_k:
            raise ValueError(
                f"{self.name}: top_k is {self.top_k}, and the cache has kept the teacher's "
                f"{teacher.top_k} largest scores, so that the order of the rest is lost. Build it "
                f"with top_k={self.top_k} or more, or learn top_k={teacher.top_k}."
            )


def _scores(signals: Signals) -> Tensor:
    return before_sigmoid(signals.logits) if signals.from_sigmoid else signals.logits
