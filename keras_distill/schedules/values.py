"""A number or what stands for one: its bounds, and its value at an update."""

from typing import Any

import keras

from .balance import Balance
from .observed import TeacherEntropy
from .over_steps import Schedule

__all__ = ["bounds", "check_within", "is_scheduled", "value_at"]

_KerasSchedule = keras.optimizers.schedules.LearningRateSchedule
# Where a schedule of Keras' own, which knows no bounds, is looked at.
_LOOKED_AT = (*range(10), *(int(1.5**power) for power in range(6, 40)))


def is_scheduled(value: Any) -> bool:
    """Whether it is anything but a constant."""
    return isinstance(value, (_KerasSchedule, TeacherEntropy, Balance))


def value_at(value: Any, step: Any) -> Any:
    """The number after `step` updates: constants pass, and so does what follows the teacher."""
    if isinstance(value, Balance):
        return value.factor()
    return value(step) if isinstance(value, _KerasSchedule) else value


def bounds(value: Any) -> tuple[float, float]:
    """The least and the largest value; of Keras' own schedules, among those looked at."""
    if isinstance(value, (Schedule, TeacherEntropy)):
        return value.bounds
    if isinstance(value, _KerasSchedule):
        values = [float(value(step)) for step in _LOOKED_AT]
        return min(values), max(values)
    return value, value


def check_within(
    owner: str,
    name: str,
    value: Any,
    least: float,
    most: float = float("inf"),
    *,
    above: bool = False,
    follows: type | None = None,
) -> None:
    """Refuse a constant, or a schedule that at some update goes, out of `[least, most]`.

    Args:
      owner: who asks, for the message.
      name: of the argument.
      value: a number or what stands for one.
      least, most: the range, both ends in it; infinity is never.
      above: whether `least`, then 0, is itself out.
      follows: `TeacherEntropy` or `Balance`, where the argument takes that kind besides.

    Raises:
      ValueError: with the value, or with what the schedule reaches, or with the kind.
    """
    if isinstance(value, (TeacherEntropy, Balance)) and not isinstance(value, follows or ()):
        meant = "a weight" if isinstance(value, Balance) else "SoftTargets' temperature"
        raise ValueError(
            f"{owner}: {name} can't be {type(value).__name__}, which is for {meant}. Give a number "
            f"or a schedule over the updates."
        )
    if isinstance(value, Balance):
        return  # Both kinds stay above 0 whatever they see.
    low, high = bounds(value)
    if (low > least if above else low >= least) and high <= most and high < float("inf"):
        return
    wanted = "positive" if above else f"finite and at least {least:g}"
    if most < float("inf"):
        wanted = f"in [{least:g}, {most:g}]"
    if is_scheduled(value):
        raise ValueError(
            f"{owner}: {name} must be {wanted} at every update; the schedule "
            f"{type(value).__name__} runs from {low:g} to {high:g}."
        )
    raise ValueError(f"{owner}: {name} must be {wanted}; got {value}.")
