"""How sparse a pruned weight is to be after so many updates of the optimiser."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from keras_distill.data import qualified_name
from keras_distill.functional.tensors import Tensor

_TFMOTS = ("ConstantSparsity", "PolynomialDecay")


@dataclass(frozen=True)
class Schedule:
    """Sparsity as a function of the number of updates; TFMOT's two schedules.

    0 before `begin_step`. Then constant, s(t) = sparsity, where `end_step` is None or `begin_step`;
    else polynomial, s(t) = sparsity - (sparsity - initial_sparsity) * (1 - p)^power,
    p = (t - begin_step) / (end_step - begin_step) held to [0, 1].

    Args:
      sparsity: the final share of zeros, in [0, 1).
      begin_step: the number of updates after which pruning begins.
      end_step: the number of updates after which the final sparsity is reached; None for at once.
      initial_sparsity: the share of zeros at `begin_step`, `sparsity` at most.
      power: of the polynomial.
      frequency: t counts in whole multiples of it from `begin_step`, up to the last before
        `end_step`; None for a sparsity that moves at every update.

    Raises:
      ValueError: a sparsity outside [0, 1), a negative step, an end before the beginning, an
        initial sparsity above the final one.

    Source: Zhu and Gupta 2017, "To prune, or not to prune", equation 1; TFMOT's `ConstantSparsity`
    and `PolynomialDecay`.

    >>> [round(float(Schedule(0.8, 0, 10)(step)), 4) for step in (0, 5, 10, 20)]
    [0.0, 0.7, 0.8, 0.8]
    """

    sparsity: float
    begin_step: int = 0
    end_step: int | None = None
    initial_sparsity: float = 0.0
    power: float = 3
    frequency: int | None = None

    def __post_init__(self) -> None:
        _check_sparsity(self.sparsity)
        if not 0 <= self.initial_sparsity <= self.sparsity:
            raise ValueError(
                f"Expected initial_sparsity from 0 to the final sparsity, {self.sparsity}: zeros "
                f"are never filled again; got {self.initial_sparsity!r}."
            )
        _check_step("begin_step", self.begin_step)
        if self.end_step is None:
            return
        _check_step("end_step", self.end_step)
        if self.end_step < self.begin_step:
            raise ValueError(
                f"Expected end_step at or after begin_step={self.begin_step}; got "
                f"end_step={self.end_step}. Both count updates of the optimiser from 0."
            )

    @property
    def at_once(self) -> bool:
        """Whether the final sparsity comes in one step."""
        return self.end_step in (None, self.begin_step)

    def __call__(self, step: Tensor) -> Tensor:
        """The sparsity, a float32 scalar, after `step` updates; in the graph or outside."""
        begun = tf.cast(step, tf.int64) - self.begin_step
        if self.at_once:
            return tf.where(begun >= 0, tf.constant(self.sparsity, tf.float32), 0.0)
        assert self.end_step is not None
        length = self.end_step - self.begin_step
        if self.frequency is not None:
            begun = tf.minimum(begun, length) // self.frequency * self.frequency
        part = tf.clip_by_value(tf.cast(begun, tf.float32) / length, 0.0, 1.0)
        left = (self.initial_sparsity - self.sparsity) * tf.pow(1 - part, float(self.power))
        return tf.where(begun >= 0, left + self.sparsity, 0.0)


def is_tfmots(schedule: Any) -> bool:
    """Whether it is one of TFMOT's pruning schedules."""
    kind = type(schedule)
    return kind.__name__ in _TFMOTS and kind.__module__.startswith("tensorflow_model_optimization.")


def from_tfmot(schedule: Any) -> Schedule:
    """TFMOT's schedule as ours: the same sparsity at every step.

    Constant sparsity has no end here: its mask, once made, holds.
    """
    if type(schedule).__name__ == "ConstantSparsity":
        return Schedule(schedule.target_sparsity, schedule.begin_step)
    return Schedule(
        schedule.final_sparsity,
        schedule.begin_step,
        schedule.end_step,
        schedule.initial_sparsity,
        schedule.power,
        schedule.frequency,
    )


def _check_sparsity(sparsity: Any) -> None:
    number = isinstance(sparsity, (int, float)) and not isinstance(sparsity, bool)
    if not number or not 0 <= sparsity < 1:
        came = sparsity if number else f"{sparsity!r} ({qualified_name(sparsity)})"
        raise ValueError(
            f"Expected sparsity as the share of zeros, a number from 0 up to but not including 1, "
            f"or one of TFMOT's schedules, {' or '.join(_TFMOTS)}; got {came}."
        )


def _check_step(name: str, step: Any) -> None:
    try:
        number = -1 if isinstance(step, bool) else operator.index(step)
    except TypeError:
        number = -1
    if number < 0:
        raise ValueError(f"Expected {name} as a number of updates, 0 or more; got {step!r}.")
