"""Objects that a recipe asks for by the names of their classes: closed lists, and no others."""

import inspect
from collections.abc import Mapping
from typing import Any

import keras
from pydantic import model_validator

from keras_distill import objectives, schedules
from keras_distill.pipeline.recipes.strict import Strict

__all__ = [
    "CALLBACKS",
    "OBJECTIVES",
    "OPTIMIZERS",
    "Callback",
    "Objective",
    "Scheduled",
    "build_number",
    "optimizer",
    "taken_by",
]

OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "nadam": keras.optimizers.Nadam,
    "rmsprop": keras.optimizers.RMSprop,
    "sgd": keras.optimizers.SGD,
}
SCHEDULES = {name: getattr(schedules, name) for name in ("Linear", "Cosine", "Steps", "WarmUp")}
OBJECTIVES = {
    name: kind
    for name, kind in vars(objectives).items()
    if inspect.isclass(kind)
    and issubclass(kind, objectives.Objective)
    and kind is not objectives.Objective
}
CALLBACKS = {"TerminateOnNaN": keras.callbacks.TerminateOnNaN}


def _known(kind: str, name: str, known: Mapping[str, Any]) -> str:
    if name not in known:
        raise ValueError(f"{kind} takes {', '.join(sorted(known))}; got {name}")
    return name


class Scheduled(Strict):
    """A number that changes over the updates, such as `{schedule: Linear, start: 4, end: 1}`."""

    model_config = Strict.model_config | {"extra": "allow"}
    schedule: str

    @model_validator(mode="after")
    def _builds(self) -> "Scheduled":
        _known("schedule", self.schedule, SCHEDULES)
        self.built()
        return self

    def built(self) -> Any:
        """The schedule itself."""
        return _made(SCHEDULES[self.schedule], self.schedule, self.model_extra or {})


class _ByName(Strict):
    """A class by its name, alone or with its arguments beside it."""

    model_config = Strict.model_config | {"extra": "allow"}

    @model_validator(mode="before")
    @classmethod
    def _of_a_name(cls, value: Any) -> Any:
        return {next(iter(cls.model_fields)): value} if isinstance(value, str) else value


class Objective(_ByName):
    """What is learned of the teacher: `SoftTargets`, or `{objective: DKD, beta: 2}`."""

    objective: str

    @model_validator(mode="after")
    def _builds(self) -> "Objective":
        _known("objective", self.objective, OBJECTIVES)
        self.built()
        return self

    def built(self) -> Any:
        """A new one."""
        arguments = {key: build_number(value) for key, value in (self.model_extra or {}).items()}
        return _made(OBJECTIVES[self.objective], self.objective, arguments)


class Callback(_ByName):
    """A callback of Keras, or `{callback: module:Class, ...}`, which needs `--import module`."""

    callback: str

    @model_validator(mode="after")
    def _is_known(self) -> "Callback":
        if ":" not in self.callback:
            _known("callback", self.callback, CALLBACKS)
        return self

    def arguments(self) -> dict[str, Any]:
        """What stands beside the name."""
        return dict(self.model_extra or {})


def build_number(value: Any) -> Any:
    """A number, or the schedule that a mapping asks for; anything else as it is."""
    if isinstance(value, Scheduled):
        return value.built()
    if isinstance(value, Mapping) and "schedule" in value:
        return Scheduled.model_validate(value).built()
    return value


def optimizer(name: str, rate: Any, arguments: Mapping[str, Any]) -> keras.optimizers.Optimizer:
    """One of Keras' by its name in lower case.

    Raises:
      ValueError: an argument that it has not.
    """
    return _made(OPTIMIZERS[name], name, {"learning_rate": rate, **arguments})


def taken_by(kind: Any) -> dict[str, inspect.Parameter]:
    """What a class takes, by name; of an objective also what the base class takes."""
    own = inspect.signature(kind).parameters
    found = {key: one for key, one in own.items() if one.kind is not one.VAR_KEYWORD}
    if len(found) < len(own):
        base = inspect.signature(objectives.Objective.__init__).parameters
        found |= {key: one for key, one in base.items() if key not in ("self", *found)}
    return found


def _made(kind: Any, name: str, arguments: Mapping[str, Any]) -> Any:
    allowed = taken_by(kind)
    if unknown := [key for key in arguments if key not in allowed]:
        raise ValueError(f"{name} has no argument {unknown[0]}; it takes {', '.join(allowed)}")
    needed = [key for key, one in allowed.items() if one.default is one.empty]
    if missing := [key for key in needed if key not in arguments]:
        raise ValueError(f"{name} needs {' and '.join(missing)}; it takes {', '.join(allowed)}")
    try:
        return kind(**arguments)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error
