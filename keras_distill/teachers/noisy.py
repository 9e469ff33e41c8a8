"""A teacher whose answers are disturbed, as a regulariser."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_distill.functional.tensors import inverse_sigmoid
from keras_distill.signals import Head, Signals
from keras_distill.teachers.composite import Composite

__all__ = ["Noisy"]


class Noisy(Composite):
    """Multiplies a teacher's logits by `1 + noise`, new noise each time.

    One teacher so stands for many; the noise is normal, of mean 0. Logarithms of probabilities are
    centred first, since they are logits up to a constant; of a sigmoid's output the log odds are
    disturbed. Layer outputs are not disturbed.

    Args:
      teacher: a model, callable or `Teacher`.
      sigma: standard deviation of the noise, at least 0.
      probability: the share of examples that are disturbed, in (0, 1].
      seed: of the noise; where it stands is saved in a Distiller's checkpoints.

    Raises:
      ValueError: a negative sigma, a probability outside (0, 1].

    Source: Sau and Balasubramanian, "Deep Model Compression: Distilling Knowledge from Noisy
    Teachers", 2016, section 3.

    >>> Noisy(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]), 0.2).sigma
    0.2
    """

    def __init__(
        self, teacher: Any, sigma: float = 0.1, *, probability: float = 1.0, seed: int = 0
    ):
        if not 0 <= sigma < float("inf"):
            raise ValueError(f"sigma must be finite and at least 0; got {sigma}.")
        if not 0 < probability <= 1:
            raise ValueError(f"probability must be in (0, 1]; got {probability}.")
        super().__init__([teacher])
        self.sigma, self.probability, self._start = sigma, probability, seed
        self._seeds: Any = None

    def prepare(self, input_spec: Any, taps: tuple) -> Signals:
        # Not earlier: under a strategy the Distiller is built in its scope.
        self._seeds = keras.random.SeedGenerator(self._start)
        return self._members[0].prepare(input_spec, taps)

    @property
    def state(self) -> tuple:
        own = () if self._seeds is None else (self._seeds.state,)
        return (*own, *super().state)

    def settings(self) -> str:
        return f"{self.sigma},{self.probability},{self._start}"

    def kinds(self) -> dict[str | None, str]:
        return self._members[0].kinds()

    def join(self, answers: Sequence[Signals]) -> Signals:
        (signals,) = answers
        return signals.changed(self._noisy)

    def undisturbed(self, x: Any, labels: Any) -> Signals:
        return self._members[0].undisturbed(x, labels)

    def _noisy(self, head: Head) -> Any:
        if self._seeds is None:
            self._seeds = keras.random.SeedGenerator(self._start)
        logits = ops.cast(head.logits, "float32")
        if head.kind == "sigmoid":
            logits = inverse_sigmoid(logits)
        if head.kind == "probabilities":
            logits -= ops.mean(logits, axis=-1, keepdims=True)
        noise = self.sigma * keras.random.normal(ops.shape(logits), seed=self._seeds)
        if self.probability < 1:
            shape = (ops.shape(logits)[0], *[1] * (len(logits.shape) - 1))
            drawn = keras.random.uniform(shape, seed=self._seeds) < self.probability
            noise *= ops.cast(drawn, noise.dtype)
        logits *= 1.0 + noise
        return ops.sigmoid(logits) if head.kind == "sigmoid" else logits
