"""What the objectives on the models' answers share: which answers fit, and which labels."""

from typing import Any, ClassVar

import keras
from keras import backend, ops

from keras_distill import _keras, schedules
from keras_distill._pages import see
from keras_distill.functional.tensors import UNLABELLED, Shape, Tensor, inverse_sigmoid
from keras_distill.objectives.base import Objective
from keras_distill.signals import Signals

__all__ = [
    "LogitsObjective",
    "before_sigmoid",
    "check_class_labels",
    "check_constant",
    "check_kinds",
    "check_not_negative",
    "check_positive",
    "check_range",
    "check_share",
    "check_temperature",
]


class LogitsObjective(Objective):
    """An objective that sees nothing but logits over the same classes, position by position."""

    per_position: ClassVar[bool] = True

    kinds: ClassVar[tuple[str, ...]] = ("logits", "probabilities")

    def build(self, student: Signals, teacher: Signals) -> dict[str, keras.layers.Layer]:
        check_kinds(self, student, teacher)
        ours, theirs = tuple(student.logits.shape), tuple(teacher.logits.shape)
        self._check_class_axis(ours, theirs)
        if ours[-1] != theirs[-1]:
            raise ValueError(
                f"{self.name}: the student has {ours[-1]} classes (output {ours}) and the "
                f"teacher {theirs[-1]} (output {theirs}). Both must answer over the same "
                f"classes: rebuild the student's last layer, or give the head with output=."
            )
        if ours[-1] == 1 and self.shift_invariant:
            raise ValueError(
                f"{self.name}: both models answer with one number an example ({ours}), and "
                f"a softmax over one class is always 1. Use objectives.RegressionTargets() for a "
                f"number, objectives.MultiLabelTargets() for a yes or no, or two classes."
            )
        self._check_positions(ours, theirs)
        return {}

    def _check_class_axis(self, ours: Shape, theirs: Shape) -> None:
        if min(len(ours), len(theirs)) > 1:
            return
        who = "teacher" if len(theirs) == 1 else "student"
        raise ValueError(
            f"{self.name}: the student answers with {ours} and the teacher with {theirs}, and the "
            f"{who} has no axis of classes. Of classes give the scores, (batch, classes); of a "
            f"number (batch, 1), the model's answer with [:, None] behind it, and "
            f"objectives.RegressionTargets() for it."
        )

    def _check_positions(self, ours: Shape, theirs: Shape) -> None:
        if len(ours) != len(theirs) or any(
            a != b for a, b in zip(ours, theirs, strict=True) if None not in (a, b)
        ):
            raise ValueError(
                f"{self.name}: the student answers with {ours} and the teacher with {theirs}, and "
                f"the positions are compared one by one. Resize one of the outputs inside its "
                f"model."
            )


def check_kinds(objective: Objective, student: Signals, teacher: Signals) -> None:
    """ValueError where a model's answer is none that the objective takes."""
    for who, signals in (("student", student), ("teacher", teacher)):
        if signals.kind == "sigmoid" and "sigmoid" not in objective.kinds:
            raise ValueError(
                f"{objective.name}: the {who} ends in a sigmoid, a yes or no for each label, and "
                f"this objective takes logits{_or_softmax(objective)}. Use MultiLabelTargets, or "
                f"a {who} without the final sigmoid.{see('answers')}"
            )
        known = "probabilities" in objective.kinds and objective.shift_invariant
        if signals.kind == "probabilities" and not known:
            raise ValueError(
                f"{objective.name}: the {who} gives probabilities, and their logits are known only "
                f"up to a constant an example. Use SoftTargets, or a {who} without the final "
                f"softmax.{see('answers')}"
            )


def _or_softmax(objective: Objective) -> str:
    return " or a softmax over the classes" if "probabilities" in objective.kinds else ""


def before_sigmoid(probabilities: Tensor) -> Tensor:
    """The logits of what a sigmoid gave, as exact as they can be had."""
    # For its own losses Keras keeps a sigmoid's input on the output.
    kept = _keras.kept_logits(probabilities)
    return inverse_sigmoid(probabilities) if kept is None else kept


def check_class_labels(name: str, labels: Tensor, logits: Tensor) -> Any:
    """`labels`, unless one of them names no class.

    Args:
      name: of the objective that asks.
      labels: integers, -1 where there is none; one-hot labels pass.
      logits: `(batch, ..., classes)`.

    Raises:
      ValueError: a label out of range. In a graph it is an assertion that fails with the step
        (XLA leaves it out, and the value becomes NaN).
    """
    labels, classes = ops.convert_to_tensor(labels), logits.shape[-1]
    if len(labels.shape) == len(logits.shape) and labels.shape[-1] == classes > 1:
        return labels
    expected = (
        f"{name}: labels must be in [0, {classes}), the student's classes, or {UNLABELLED} for an "
        f"example without a label"
    )
    # Unsigned labels can't be compared with -1.
    check_range(ops.cast(labels, "int32"), UNLABELLED, classes, expected)
    return labels


def check_range(numbers: Tensor, least: int, stop: int, expected: str) -> None:
    """ValueError, or in a graph an assertion that fails with the step, where one is out of range.

    Args:
      numbers: integers.
      least, stop: the range, `stop` not in it.
      expected: how the message begins.
    """
    smallest, largest = ops.min(numbers), ops.max(numbers)
    if backend.backend() == "tensorflow" and not hasattr(smallest, "numpy"):
        # keras.ops has no assertion, so this asks the backend.
        import tensorflow as tf

        in_range = tf.logical_and(smallest >= least, largest < stop)
        tf.debugging.Assert(in_range, [f"{expected}; got", smallest, "to", largest])
    elif smallest < least or largest >= stop:
        raise ValueError(f"{expected}; got {int(smallest)} to {int(largest)}.")


def check_positive(owner: str, **values: Any) -> None:
    """ValueError where a hyper-parameter, constant or schedule, is not positive and finite."""
    for name, value in values.items():
        schedules.check_within(owner, name, value, 0, above=True)


def check_temperature(owner: str, temperature: Any) -> None:
    """As `check_positive`, for an objective that takes a temperature an example, too."""
    kind = schedules.TeacherEntropy
    schedules.check_within(owner, "temperature", temperature, 0, above=True, follows=kind)


def check_not_negative(owner: str, **values: Any) -> None:
    """ValueError where a hyper-parameter, constant or schedule, is negative or not finite."""
    for name, value in values.items():
        schedules.check_within(owner, name, value, 0)


def check_share(owner: str, **values: Any) -> None:
    """ValueError where a hyper-parameter, constant or schedule, is not in [0, 1)."""
    for name, value in values.items():
        schedules.check_within(owner, name, value, 0, 1)
        if schedules.bounds(value)[1] == 1:
            raise ValueError(
                f"{owner}: {name} must be in [0, 1), below 1 at every update; got {value!r}."
            )


def check_constant(owner: str, **values: Any) -> None:
    """ValueError where a hyper-parameter is a schedule and is read once, before training."""
    for name, value in values.items():
        if schedules.is_scheduled(value):
            raise ValueError(
                f"{owner}: {name} is read once, when the Distiller is built: give a number, not "
                f"{type(value).__name__}."
            )
