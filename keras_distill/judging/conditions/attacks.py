"""Inputs that are changed to mislead a model that has gradients, and shown to all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from keras_distill.judging.conditions.base import Condition
from keras_distill.measures.metric import CLASSES, YES_OR_NO

__all__ = ["FGSM", "PGD"]

_LEAST = 1e-7


class PGD(Condition):
    """Projected gradient ascent on the label's loss, from a random start within the limits.

        x <- clip(x + step sign(gradient of the loss at x)), within epsilon of the example.

    A file has no gradients: it is shown what misleads the `source`, which is how an attacker who
    has the model, and not the file, would go about it.

    Args:
      epsilon: how far each number may move, in the input's unit.
      source: the name of the model that is attacked, a Keras model among those judged; None for
        the first that is one.
      steps: how many.
      step: how far each goes; None for 2.5 epsilon / steps, the authors' choice.
      range: lowest and highest value of an input; None for no limit.
      seed: of the starts.

    Raises:
      ValueError: a number that is not positive.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR
    2018.
    """

    name: ClassVar[str] = "PGD"

    def __init__(
        self,
        epsilon: float,
        *,
        source: str | None = None,
        steps: int = 10,
        step: float | None = None,
        range: tuple[float, float] | None = None,
        seed: int = 0,
    ):
        self._step = 2.5 * epsilon / steps if step is None and steps else step
        for words, value in (("epsilon", epsilon), ("steps", steps), ("step", self._step)):
            if not value or value < 0:
                raise ValueError(f"{self.name}: {words} must be positive; got {value!r}.")
        self._epsilon, self._source, self._steps = epsilon, source, steps
        self._range, self._seed = range, seed

    @property
    def label(self) -> str:
        """The name with its epsilon: "PGD 0.03"."""
        return f"{self.name} {self._epsilon:.3g}"

    def batches(self, source: Iterator[tuple[Any, Any]], context: Any) -> Iterator[tuple[Any, Any]]:
        signals = context.differentiable(self._source, self.label)
        rng = np.random.default_rng(self._seed)
        climb = tf.function(lambda x, y: self._gradient(signals, x, y, context.task))
        for x, y in source:
            if not isinstance(x, np.ndarray) or not np.issubdtype(x.dtype, np.floating):
                raise ValueError(f"{self.label} is for models of one input of floats.")
            if y is None:
                raise ValueError(f"{self.label} climbs the labels' loss; the data has no labels.")
            labels = context.read_labels(y, len(x))
            yield self._moved(x, labels, rng, climb), y

    def _start(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self._clipped(x + rng.uniform(-self._epsilon, self._epsilon, x.shape), x)

    def _moved(self, x: np.ndarray, labels: np.ndarray, rng: Any, climb: Any) -> np.ndarray:
        moved = self._start(x, rng)
        for _ in range(self._steps):
            uphill = climb(tf.constant(moved, x.dtype), tf.constant(labels)).numpy()
            moved = self._clipped(moved + self._step * np.sign(uphill), x)
        return moved.astype(x.dtype)

    def _clipped(self, moved: np.ndarray, x: np.ndarray) -> np.ndarray:
        moved = np.clip(moved, x - self._epsilon, x + self._epsilon)
        return moved if self._range is None else np.clip(moved, *self._range)

    @staticmethod
    def _gradient(signals: Any, x: Any, labels: Any, task: str) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = _loss(signals(x), labels, task)
        return tape.gradient(loss, x)


class FGSM(PGD):
    """One step of epsilon along the gradient's sign, from the example itself.

    Args:
      epsilon, source, range: see `PGD`.

    Source: Goodfellow, Shlens, Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR
    2015.
    """

    name: ClassVar[str] = "FGSM"

    def __init__(
        self,
        epsilon: float,
        *,
        source: str | None = None,
        range: tuple[float, float] | None = None,
    ):
        super().__init__(epsilon, source=source, steps=1, step=epsilon, range=range)

    def _start(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return x


def _loss(head: Any, labels: Any, task: str) -> Any:
    """The sum over the labels that there are; of rows without one the gradient is 0."""
    if task == CLASSES:
        known = labels >= 0
        each = tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels=tf.maximum(labels, 0), logits=head.logits
        )
    elif task == YES_OR_NO:
        known = labels >= 0
        target = tf.cast(tf.maximum(labels, 0), head.logits.dtype)
        if head.kind == "sigmoid":
            yes = tf.clip_by_value(head.logits, _LEAST, 1 - _LEAST)
            each = -target * tf.math.log(yes) - (1 - target) * tf.math.log(1 - yes)
        else:
            each = tf.nn.sigmoid_cross_entropy_with_logits(labels=target, logits=head.logits)
    else:
        known = tf.math.is_finite(labels)
        each = tf.square(head.logits - tf.cast(tf.where(known, labels, 0.0), head.logits.dtype))
    return tf.reduce_sum(tf.where(known, each, tf.zeros_like(each)))
