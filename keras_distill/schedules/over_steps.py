"""Numbers that follow the optimiser's updates."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_distill.schedules.arguments import kept_arguments
from keras_distill.schedules.scalars import read_once

__all__ = ["Cosine", "Linear", "Schedule", "Steps", "WarmUp"]


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A number for each update, computed in the graph: nothing is traced anew as it changes.

    It stands wherever a constant may: a temperature, a weight, the label weight. It counts the
    optimiser's updates, so a checkpoint resumes it, and it is a Keras schedule besides, which a
    learning rate may be, too.
    """

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest value it ever takes."""
        raise NotImplementedError(f"{type(self).__name__} defines no bounds.")

    def __call__(self, step: Any) -> Any:
        """Its value, a float32 scalar, after `step` updates."""
        raise NotImplementedError(f"{type(self).__name__} defines no __call__.")

    def get_config(self) -> dict[str, Any]:
        """Arguments that rebuild it, each kept under its name."""
        return kept_arguments(self)


class _Ramp(Schedule):
    """From `start` to `end` while `steps` updates are made, constant before and after."""

    def __init__(self, start: float, end: float, steps: int, *, begin: int = 0) -> None:
        start, end = _finite(type(self).__name__, start=start, end=end)
        if steps < 1 or begin < 0:
            raise ValueError(
                f"{type(self).__name__}: steps must be at least 1 and begin at least 0; got "
                f"steps={steps}, begin={begin}."
            )
        self.start, self.end, self.steps, self.begin = start, end, steps, begin

    @property
    def bounds(self) -> tuple[float, float]:
        return min(self.start, self.end), max(self.start, self.end)

    def _progress(self, step: Any) -> Any:
        made = ops.cast(step, "float32") - self.begin
        return ops.clip(made / self.steps, 0.0, 1.0)


@keras.saving.register_keras_serializable("keras_distill")
class Linear(_Ramp):
    """A straight line: `start + (end - start) * (step - begin) / steps`, constant outside it.

    Args:
      start: the value up to update `begin`.
      end: the value from update `begin + steps` on.
      steps: updates between the two, at least 1.
      begin: the update at which it sets out.

    Raises:
      ValueError: a number that is not finite, or steps out of range.

    >>> cooling = Linear(8.0, 2.0, steps=100)
    >>> [float(cooling(step)) for step in (0, 50, 100, 1000)]
    [8.0, 5.0, 2.0, 2.0]
    """

    def __call__(self, step: Any) -> Any:
        return self.start + (self.end - self.start) * self._progress(step)


@keras.saving.register_keras_serializable("keras_distill")
class Cosine(_Ramp):
    """Half a cosine: `end + (start - end) * (1 + cos(pi * progress)) / 2`.

    Args:
      start, end, steps, begin: as `Linear`.

    >>> [round(float(Cosine(1.0, 0.0, steps=4)(step)), 4) for step in (0, 1, 2, 4)]
    [1.0, 0.8536, 0.5, 0.0]
    """

    def __call__(self, step: Any) -> Any:
        falling = 0.5 * (1.0 + ops.cos(math.pi * self._progress(step)))
        return self.end + (self.start - self.end) * falling


@keras.saving.register_keras_serializable("keras_distill")
class WarmUp(Linear):
    """From nothing to `value` over `steps` updates, then constant.

    Args:
      value: what it reaches.
      steps: updates until then, at least 1.

    >>> [float(WarmUp(2.0, steps=4)(step)) for step in (0, 1, 4, 9)]
    [0.0, 0.5, 2.0, 2.0]
    """

    def __init__(self, value: float, steps: int) -> None:
        super().__init__(0.0, value, steps)
        self.value = self.end


@keras.saving.register_keras_serializable("keras_distill")
class Steps(Schedule):
    """Constant between the boundaries: `values[i]` from update `boundaries[i - 1]` on.

    Args:
      boundaries: increasing numbers of updates, the first above 0.
      values: one more than boundaries.

    Raises:
      ValueError: boundaries that do not increase, or another number of values.

    >>> [float(Steps([10, 20], [4.0, 2.0, 1.0])(step)) for step in (9, 10, 25)]
    [4.0, 2.0, 1.0]
    """

    def __init__(self, boundaries: Sequence[int], values: Sequence[float]) -> None:
        boundaries, values = list(boundaries), list(values)
        if len(values) != len(boundaries) + 1:
            raise ValueError(
                f"Steps: {len(boundaries)} boundaries part {len(boundaries) + 1} values; got "
                f"{len(values)} values."
            )
        if any(b <= a for a, b in zip([0, *boundaries], boundaries, strict=False)):
            raise ValueError(f"Steps: boundaries must increase, from above 0; got {boundaries}.")
        self.boundaries = boundaries
        self.values = _finite("Steps", **{f"values[{i}]": value for i, value in enumerate(values)})

    @property
    def bounds(self) -> tuple[float, float]:
        return min(self.values), max(self.values)

    def __call__(self, step: Any) -> Any:
        passed = ops.cast(ops.cast(step, "int64") >= ops.array(self.boundaries, "int64"), "int32")
        return ops.take(ops.array(self.values, "float32"), ops.sum(passed))


def _finite(owner: str, **values: Any) -> list[float]:
    found = {name: read_once(owner, name, value) for name, value in values.items()}
    for name, value in found.items():
        if not math.isfinite(value):
            raise ValueError(f"{owner}: {name} must be a finite number; got {value}.")
    return list(found.values())
