"""A temperature that follows what the teacher says."""

import math
from typing import Any

import keras
from keras import ops

from keras_distill.schedules.arguments import kept_arguments
from keras_distill.schedules.scalars import read_once

__all__ = ["TeacherEntropy"]


@keras.saving.register_keras_serializable("keras_distill")
class TeacherEntropy:
    """A temperature for each example: high where the teacher is sure, low where it hesitates.

    `T = low + (high - low) * (1 - H / log C)`, where H is the entropy of the teacher's answer at
    temperature 1 over C classes. A sure answer says little beyond its class until it is softened;
    one that is spread already would only be blurred. Over positions between batch and classes H is
    averaged.

    Args:
      low: the temperature for a uniform answer, above 0.
      high: the temperature for an answer without doubt, at least `low`.

    Raises:
      ValueError: not `0 < low <= high`.

    >>> temperature = TeacherEntropy(1.0, 5.0)(ops.array([[0.0, 0.0], [100.0, 0.0]]))
    >>> [round(float(value), 4) for value in temperature]
    [1.0, 5.0]
    """

    def __init__(self, low: float, high: float) -> None:
        self.low = read_once("TeacherEntropy", "low", low)
        self.high = read_once("TeacherEntropy", "high", high)
        if not 0 < self.low <= self.high < float("inf"):
            raise ValueError(f"TeacherEntropy: expected 0 < low <= high; got {low} and {high}.")

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest temperature."""
        return self.low, self.high

    def __call__(self, teacher_logits: Any, mask: Any = None) -> Any:
        """`(batch, ..., classes)` to `(batch,)` float32; the mask `(batch, ...)` is of padding."""
        logits = ops.cast(ops.convert_to_tensor(teacher_logits), "float32")
        log_probs = ops.log_softmax(logits, axis=-1)
        entropy = -ops.sum(ops.exp(log_probs) * log_probs, axis=-1)
        positions = tuple(range(1, len(entropy.shape)))
        if positions and mask is not None:
            kept = ops.cast(mask, "float32")
            for _ in range(len(entropy.shape) - len(kept.shape)):
                kept = kept[..., None]
            kept = ops.broadcast_to(kept, ops.shape(entropy))
            count = ops.maximum(ops.sum(kept, axis=positions), 1.0)
            entropy = ops.sum(entropy * kept, axis=positions) / count
        elif positions:
            entropy = ops.mean(entropy, axis=positions)
        doubt = ops.clip(entropy / math.log(logits.shape[-1]), 0.0, 1.0)
        return self.low + (self.high - self.low) * (1.0 - doubt)

    def get_config(self) -> dict[str, Any]:
        """Arguments that rebuild it."""
        return kept_arguments(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "TeacherEntropy":
        """The schedule that `get_config` described."""
        return cls(**config)
