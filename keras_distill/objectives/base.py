"""What an objective is."""

import copy
import inspect
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import keras

from keras_distill import schedules
from keras_distill.functional.tensors import Tensor
from keras_distill.schedules.arguments import kept_arguments, names_of_arguments
from keras_distill.signals import Signals

__all__ = ["Objective", "layer_name"]


class Objective:
    """One thing to learn from a teacher. Subclass it, inside or outside the package.

    A subclass names the layers it needs in `student_taps` and `teacher_taps` (set in `__init__`),
    makes its adapters in `build`, and computes in `__call__`. It never reduces over the batch.

    What it is it says in class attributes, where it differs from the defaults; the conformance
    suite holds it to them.

    Attributes:
      relational: True where examples are compared with each other, so that one alone says nothing.
      per_position: True where an answer by position (tokens, pixels) is read position by position:
        its value is the mean of what it says of each as an example of its own. A mask or a sample
        weight by position then applies to each.
      ordered: True where the order of the examples in the batch counts.
      random: True where it draws numbers in training, anew in each step and for each place in the
        batch; in evaluation it draws the same ones each time.
      needs_labels: True where it can't do without labels.
      label_kind: what these are: "classes" (integers, -1 for a row without; or one-hot) or
        "values" (numbers of the outputs' shape).
      at_teacher: its value where the student gives just what the teacher gives: "zero" (the
        minimum), "minimum" (above zero, no gradient) or "elsewhere" (it pulls on).
      detached: True where a weight in it follows the student and is a constant to the gradient,
        which then is not the value's slope.
      shift_invariant: True where a constant added to all logits of a position changes nothing. One
        that isn't takes no model whose logits are known only up to a constant.
      kinds: which answers it takes where it compares answers: "logits", "probabilities" (logits
        known up to a constant a position), "sigmoid" (what a sigmoid gave); the others are refused.
      training: False in a copy that evaluates, where no variable may move: hand it on to layers,
        `adapter(x, training=self.training)`.
      examples: keyword arguments of instances to hold to all this, where the required arguments are
        not all layers that give maps. Both models then have five classes, and layers called "map",
        "vector", "sequence", "attention", "mask" (1 for a token, 0 for padding) and "row" (a number
        below 16); "map_2" is another map.

    Args:
      weight: non-negative factor of this objective in the total, a number or a schedule.
      output: the head whose logits it sees, in a model of several outputs. Without it an objective
        on logits serves every head and adds; one with taps sees the first.
      name: what the logs call it; by default the class' name in snake_case.

    Raises:
      ValueError: the weight is negative or not finite, or a schedule that ever is.
    """

    student_taps: tuple[Any, ...] = ()
    teacher_taps: tuple[Any, ...] = ()
    training: bool = True
    relational: ClassVar[bool] = False
    per_position: ClassVar[bool] = False
    ordered: ClassVar[bool] = False
    random: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False
    label_kind: ClassVar[str] = "classes"
    at_teacher: ClassVar[str] = "zero"
    detached: ClassVar[bool] = False
    shift_invariant: ClassVar[bool] = True
    kinds: ClassVar[tuple[str, ...]] = ("logits", "probabilities", "sigmoid")
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)

    def __new__(cls, *args: Any, **kwargs: Any) -> "Objective":
        _refuse_unnamed(cls, args)
        return super().__new__(cls)

    def __init__(
        self, *, weight: Any = 1.0, output: str | None = None, name: str | None = None
    ) -> None:
        schedules.check_within(type(self).__name__, "weight", weight, 0, follows=schedules.Balance)
        self.weight = weight
        self.output = output
        self.name = name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).lower()

    def build(self, student: Signals, teacher: Signals) -> dict[str, keras.layers.Layer]:
        """Check shapes and make adapters, before any training.

        Args:
          student, teacher: Signals of `keras.KerasTensor`s, batch None.

        Returns:
          Adapters by name, which the Distiller trains with the student and leaves out of it.

        Raises:
          ValueError: the shapes do not fit; both are named.
        """
        return {}

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        """One value an example, `(batch,)`."""
        raise NotImplementedError(f"{type(self).__name__} defines no __call__.")

    def settings(self) -> dict[str, Any]:
        """The arguments it was made with, as they are now, of those that it keeps by name."""
        return kept_arguments(self)

    def scheduled(self) -> dict[str, Any]:
        """What of it is no constant, by name: schedules, and variables that it was given."""
        given = names_of_arguments(self)
        return {
            name: value
            for name, value in vars(self).items()
            if schedules.is_scheduled(value) and (name in given or not schedules.is_variable(value))
        }

    def at(self, step: Any) -> "Objective":
        """This objective after `step` updates: a number in the place of each schedule."""
        given = {**self.settings(), **self.scheduled()}
        found = {name: schedules.value_at(value, step) for name, value in given.items()}
        return self.with_values({k: v for k, v in found.items() if v is not given[k]})

    def evaluating(self) -> "Objective":
        """This objective in evaluation: its layers stand still."""
        return self.with_values({"training": False})

    def seeing(self, teacher: Signals, mask: Tensor | None = None) -> "Objective":
        """This objective for one answer of the teacher: what follows the answer is a tensor.

        Args:
          mask: booleans by position of the answer, False at padding, or None.
        """
        followed = {k: v for k, v in vars(self).items() if isinstance(v, schedules.TeacherEntropy)}
        return self.with_values({k: v(teacher.logits, mask) for k, v in followed.items()})

    def get_config(self) -> dict[str, Any]:
        """Arguments that rebuild this objective, each kept under its name. Layers go by theirs.

        Raises:
          NotImplementedError: a subclass keeps one of its arguments under no such name, and has no
            `get_config` of its own that says it.
        """
        names = names_of_arguments(self)
        config = {name: self._saved(value) for name, value in self.settings().items()}
        for name in ("student", "teacher"):
            taps = [layer_name(tap) for tap in getattr(self, f"{name}_taps")]
            if name in names:
                config[name] = taps if len(taps) > 1 else next(iter(taps), None)
        lost = sorted(names - set(config))
        if lost and type(self).get_config is Objective.get_config:
            raise NotImplementedError(
                f"{type(self).__name__} can't be saved: it keeps its argument {lost[0]!r} under no "
                f"attribute of that name. Write self.{lost[0]} = {lost[0]} in its __init__, or a "
                f"get_config."
            )
        return config

    def _saved(self, value: Any) -> Any:
        if any(value is tap for tap in (*self.student_taps, *self.teacher_taps)):
            return layer_name(value)
        if isinstance(value, keras.layers.Layer) and not schedules.is_scheduled(value):
            return keras.saving.serialize_keras_object(value)
        return list(value) if isinstance(value, tuple) else value

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Objective":
        """The objective that `get_config` described."""
        revive = keras.saving.deserialize_keras_object
        saved = {k for k, v in config.items() if isinstance(v, dict) and "class_name" in v}
        return cls(**{k: revive(v) if k in saved else v for k, v in config.items()})

    def with_values(self, changes: Mapping[str, Any]) -> "Objective":
        """This objective with other values of these attributes; itself where there are none."""
        if not changes:
            return self
        changed = copy.copy(self)
        vars(changed).update(changes)
        return changed


def layer_name(tap: Any) -> str:
    """What a tapped layer is called in a config and in messages."""
    return tap if isinstance(tap, str) else tap.name


def _refuse_unnamed(kind: type, values: tuple[Any, ...]) -> None:
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]  # type: ignore[misc]
    if any(p.kind == p.VAR_POSITIONAL for p in parameters):
        return
    placed = [p.name for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD]
    named = [p.name for p in parameters if p.kind == p.KEYWORD_ONLY] + ["weight"]
    if len(values) > len(placed):
        given = zip([*placed, *named], map(repr, values), strict=False)
        meant = ", ".join(v if name in placed else f"{name}={v}" for name, v in given)
        raise TypeError(
            f"{kind.__name__} takes its numbers by name; got {', '.join(map(repr, values))}. "
            f"Write {kind.__name__}({meant})."
        )
