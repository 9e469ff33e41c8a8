"""Distilled training between two cuts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_distill.training.distiller import Distiller


@dataclass(frozen=True)
class Recovery:
    """How a student that was cut learns from its teacher again: `shrink(..., iterative=)`.

    Args:
      data: what `fit` takes: arrays `(x, y)`, a batched `tf.data.Dataset`, a `PyDataset`.
      rounds: cuts, each followed by training; the model gets smaller by the same factor each time.
      epochs: of training after each cut.
      optimizer: a name or a Keras optimiser; each round begins with a fresh one of its config.
      loss: the label loss; None to learn from the teacher alone.
      objectives: as `Distiller`'s; None for SoftTargets.
      label_weight: as `Distiller`'s.
      metrics: shown in training.
      options: more of `fit`'s arguments: `batch_size`, `validation_data`, `callbacks`, `verbose`.

    Raises:
      ValueError: rounds or epochs below one.

    Example:
      recovery = Recovery((x, y), rounds=3, epochs=2, loss="sparse_categorical_crossentropy")
      student, report = shrink(teacher, max_flops=2e6, iterative=recovery)
    """

    data: Any
    rounds: int = 3
    epochs: int = 1
    optimizer: Any = "adam"
    loss: Any = None
    objectives: Any = None
    label_weight: float = 0.1
    metrics: Sequence[Any] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("rounds", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"Recovery: {name} must be 1 or more; got {getattr(self, name)}.")

    def train(self, student: Any, teacher: Any) -> None:
        """Trains the student in place; it is compiled no longer afterwards than before."""
        distiller = Distiller(student, teacher, self.objectives, label_weight=self.label_weight)
        distiller.compile(
            optimizer=_fresh(self.optimizer), loss=self.loss, metrics=list(self.metrics) or None
        )
        distiller.fit(**self._fit_data(), epochs=self.epochs, **self.options)

    def _fit_data(self) -> dict[str, Any]:
        data = self.data if isinstance(self.data, tuple) else (self.data,)
        return dict(zip(("x", "y", "sample_weight"), data, strict=False))


def _fresh(optimizer: Any) -> Any:
    if isinstance(optimizer, keras.optimizers.Optimizer):
        return type(optimizer).from_config(optimizer.get_config())
    return optimizer
