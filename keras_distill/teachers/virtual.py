"""A teacher that is no model: labels, softened."""

import math
from typing import Any

import keras
from keras import ops

from keras_distill.signals import Signals
from keras_distill.teachers.base import Teacher

__all__ = ["Virtual"]


class Virtual(Teacher):
    """Teacher-free: the right class has the probability `correct`, the others share the rest.

    With `SoftTargets(temperature=1)` this is label smoothing; at a higher temperature it is the
    hand-made teacher of Tf-KD. A row labelled -1 gets the uniform answer.

    Args:
      num_classes: at least 2.
      correct: probability of the right class, above `1 / num_classes` and below 1.
      output: the student's output whose labels it looks at, in a model of several.

    Raises:
      ValueError: too few classes, `correct` out of range, data without labels.

    Source: Yuan et al., "Revisiting Knowledge Distillation via Label Smoothing Regularization",
    CVPR 2020, equation 9; Szegedy et al., CVPR 2016, section 7.

    >>> probabilities = ops.softmax(Virtual(5, correct=0.9).answer(None, ops.array([2])).logits)
    >>> [round(float(p), 3) for p in probabilities[0]]
    [0.025, 0.025, 0.9, 0.025, 0.025]
    """

    def __init__(self, num_classes: int, correct: float = 0.9, *, output: str | None = None):
        if num_classes < 2:
            raise ValueError(f"num_classes must be 2 or more; got {num_classes}.")
        if not 1 / num_classes < correct < 1:
            raise ValueError(
                f"correct must be above chance, {1 / num_classes:.3g}, and below 1; got {correct}."
            )
        self.num_classes, self.correct, self._output = num_classes, correct, output

    def prepare(self, input_spec: Any, taps: tuple) -> Signals:
        if taps:
            raise ValueError(
                f"A virtual teacher has no layers, and objectives ask for {', '.join(taps)}. Give "
                f"it objectives on logits only."
            )
        return Signals(keras.KerasTensor((None, self.num_classes)))

    def __call__(self, x: Any) -> Signals:
        raise ValueError("A virtual teacher answers from labels alone: give (x, y).")

    def answer(self, x: Any, labels: Any) -> Signals:
        if isinstance(labels, dict):
            labels = labels.get(self._output)
        if labels is None:
            raise ValueError(
                "A virtual teacher answers from labels alone, and the data has none. Give (x, y); "
                "output= names the labels where there are several."
            )
        # log p up to a constant: 0 for the wrong classes, the log odds for the right one.
        gap = math.log(self.correct * (self.num_classes - 1) / (1 - self.correct))
        return Signals(gap * self._one_hot(labels))

    def fingerprint(self) -> str:
        return f"virtual({self.num_classes},{self.correct})"

    def _one_hot(self, labels: Any) -> Any:
        labels = ops.convert_to_tensor(labels)
        if len(labels.shape) == 2 and labels.shape[-1] == self.num_classes:
            return ops.cast(labels, "float32")
        if len(labels.shape) == 2 and labels.shape[-1] == 1:
            labels = ops.squeeze(labels, -1)
        if len(labels.shape) != 1:
            raise ValueError(
                f"A virtual teacher wants one class an example, (batch,) or one-hot "
                f"(batch, {self.num_classes}); got labels of shape {tuple(labels.shape)}."
            )
        return ops.one_hot(ops.cast(labels, "int32"), self.num_classes, dtype="float32")
