"""A number or what stands for one: its bounds, and its value at an update."""

from typing import Any

import keras

from keras_distill.schedules.balance import Balance
from keras_distill.schedules.observed import TeacherEntropy
from keras_distill.schedules.over_steps import Schedule
from keras_distill.schedules.scalars import constant, is_variable

__all__ = ["bounds", "check_within", "is_scheduled", "value_at"]

_KerasSchedule = keras.optimizers.schedules.LearningRateSchedule
# Where a schedule of Keras' own, which knows no bounds, is looked at.
_LOOKED_AT = (*range(10), *(int(1.5**power) for power in range(6, 40)))


def is_scheduled(value: Any) -> bool:
    """Whether it is anything but a constant."""
    return isinstance(value, (_KerasSchedule, TeacherEntropy, Balance)) or is_variable(value)


def value_at(value: Any, step: Any) -> Any:
    """The number after `step` updates: constants pass, and so does what follows the teacher."""
    if isinstance(value, Balance):
        return value.factor()
    if is_variable(value):
        return keras.ops.cast(value, "float32")
    if isinstance(value, _KerasSchedule):
        return value(step)
    # A scalar of NumPy's or the backend's would bring its own dtype into the arithmetic.
    number = None if isinstance(value, (int, float)) else constant(value)
    return value if number is None else number


def bounds(value: Any) -> tuple[float, float]:
    """The least and the largest value; of Keras' own schedules, among those looked at."""
    if isinstance(value, (Schedule, TeacherEntropy)):
        return value.bounds
    if isinstance(value, _KerasSchedule):
        values = [float(value(step)) for step in _LOOKED_AT]
        return min(values), max(values)
    number = constant(value)
    return (float("nan"),) * 2 if number is None else (number, number)


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
      value: a number or what stands for one; a variable is looked at as it is now.
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
    # Of what is no number at all, the bounds compare with nothing.
    if (low > least if above else low >= least) and high <= most and high < float("inf"):
        return
    wanted = "positive" if above else f"finite and at least {least:g}"
    if most < float("inf"):
        wanted = f"in [{least:g}, {most:g}]"
    if is_scheduled(value) and not is_variable(value):
        raise ValueError(
            f"{owner}: {name} must be {wanted} at every update; the schedule "
            f"{type(value).__name__} runs from {low:g} to {high:g}."
        )
    kinds = "" if constant(value) is not None else ": a number, a schedule or a keras.Variable"
    raise ValueError(f"{owner}: {name} must be {wanted}{kinds}; got {value!r}.")
