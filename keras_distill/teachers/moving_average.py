"""The student's own past as its teacher."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_distill.graph.copying import copy_of
from keras_distill.signals import Signals
from keras_distill.teachers.composite import Composite
from keras_distill.teachers.model import Model

__all__ = ["MovingAverage"]


class MovingAverage(Composite):
    """A teacher whose weights are the moving average of the student's: the mean teacher.

    After update n each weight becomes `d * teacher + (1 - d) * student` with
    `d = min(decay, 1 - 1 / (n + 1))`, so that a young average forgets the start; BatchNorm's
    statistics are averaged alike. It answers at inference. Its weights are saved in the
    Distiller's checkpoints, since training would not resume without them.

    Args:
      student: the very model that the Distiller trains; None for whatever it trains, as
        `Distiller.load(path, MovingAverage())` needs.
      decay: in [0, 1).
      output: as `Model`.

    Raises:
      ValueError: a decay out of range; a Distiller of another student; one that can't be copied
        from its config.

    Source: Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017.

    >>> student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> MovingAverage(student, decay=0.99).decay
    0.99
    """

    def __init__(
        self, student: keras.Model | None = None, decay: float = 0.999, *, output: Any = "auto"
    ):
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1); got {decay}.")
        super().__init__([])
        self.decay = decay
        self._student: Any = student
        self._output = output
        self._average: Any = None

    @property
    def model(self) -> Any:
        """The averaged model, to evaluate or export; None before a Distiller is built with it."""
        return self._average

    def meet(self, student: Any) -> None:
        if self._student not in (None, student):
            raise ValueError(
                f"MovingAverage follows {self._student.name!r}, and the Distiller trains "
                f"{student.name!r}. Give it the same model, or none."
            )
        self._student = student

    def prepare(self, input_spec: Any, taps: tuple) -> Signals:
        # Not earlier: under a strategy the Distiller is built in its scope.
        if self._average is None:
            self._average = copy_of(self._student, self._student.name)
            self._average.trainable = False
            self._members = (Model(self._average, output=self._output, engine="keras"),)
        return self._members[0].prepare(input_spec, taps)

    def __call__(self, x: Any) -> Signals:
        if self._average is None:
            self.prepare(None, ())
        return super().__call__(x)

    def join(self, answers: Sequence[Signals]) -> Signals:
        return answers[0]

    def kinds(self) -> dict[str | None, str]:
        return self._members[0].kinds()

    @property
    def state(self) -> tuple:
        return () if self._average is None else tuple(self._average.variables)

    def after_update(self, iterations: Any) -> None:
        count = ops.cast(iterations, "float32")
        decay = ops.minimum(self.decay, 1.0 - 1.0 / (count + 1.0))
        for ours, theirs in zip(self._average.variables, self._student.variables, strict=True):
            if keras.backend.is_float_dtype(ours.dtype):
                d = ops.cast(decay, ours.dtype)
                ours.assign(d * ours.value + (1 - d) * ops.cast(theirs.value, ours.dtype))
            else:
                ours.assign(theirs.value)

    def fingerprint(self) -> str:
        # Not of its weights, which every update moves.
        return f"moving_average({self.decay})"

    def count_params(self) -> int | None:
        # It is the student again: neither larger nor smaller.
        return None
