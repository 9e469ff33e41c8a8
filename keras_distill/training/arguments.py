"""Arguments as another tool takes them, and what serves here in their place."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_distill.data import qualified_name
from keras_distill.objectives import Objective, SoftTargets

__all__ = [
    "as_objectives",
    "check_compiled_with",
    "refuse_foreign_arguments",
    "refuse_unnamed_arguments",
]

_LABEL_WEIGHT = "Distiller(..., label_weight={value})"
_TEMPERATURE = "Distiller(..., objectives=[SoftTargets(temperature={value})])"
_OBJECTIVES = "Distiller(..., objectives=[...])"
_LABEL_LOSS = "compile(loss=...)"

_FOREIGN = {
    "T": _TEMPERATURE,
    "alpha": _LABEL_WEIGHT,
    "distill_loss_fn": _OBJECTIVES,
    "distillation_loss": _OBJECTIVES,
    "distillation_loss_fn": _OBJECTIVES,
    "distillation_loss_weights": "each objective's weight=",
    "distillation_losses": _OBJECTIVES,
    "distillation_temperature": _TEMPERATURE,
    "distillation_weight": _LABEL_WEIGHT + " (the labels' share: one minus this)",
    "hard_loss": _LABEL_LOSS,
    "kd_weight": _LABEL_WEIGHT + " (the labels' share: one minus this)",
    "soft_loss": _OBJECTIVES,
    "student_loss": _LABEL_LOSS,
    "student_loss_fn": _LABEL_LOSS,
    "student_loss_weight": _LABEL_WEIGHT,
    "student_model": "Distiller(student=...)",
    "teacher_model": "Distiller(teacher=...)",
    "temperature": _TEMPERATURE,
    # The two's own, at the other's door.
    "label_weight": _LABEL_WEIGHT,
    "objectives": _OBJECTIVES,
    "student_output": "Distiller(..., student_output=...)",
    "loss": _LABEL_LOSS,
    "metrics": "compile(metrics=...)",
    "optimizer": "compile(optimizer=...)",
}


def refuse_foreign_arguments(arguments: Mapping[str, Any], where: str) -> None:
    """TypeError that names every argument of another tool, with the spelling that serves here."""
    if not arguments:
        return
    unknown = [f"no {name!r}" for name in arguments if name not in _FOREIGN]
    known = [
        f"no {name!r} (write {_FOREIGN[name].format(value=_short(value))})"
        for name, value in arguments.items()
        if name in _FOREIGN
    ]
    raise TypeError(f"{where} takes {', '.join([*known, *unknown])}.")


def refuse_unnamed_arguments(values: Sequence[Any], where: str, after: str) -> None:
    """TypeError where more is given by place than has one."""
    if values:
        came = ", ".join(_short(value) for value in values)
        raise TypeError(f"{where} takes what comes after {after} by name; got {came} without one.")


def as_objectives(objectives: Any) -> list[Objective]:
    """What a Distiller was given as a list of objectives with names of their own."""
    if objectives is None:
        return [SoftTargets(temperature=2.0)]
    found = list(objectives) if isinstance(objectives, (list, tuple)) else [objectives]
    for objective in found:
        if not isinstance(objective, Objective):
            raise TypeError(
                f"objectives must be keras_distill.Objective instances, such as SoftTargets(), one "
                f"or a list; got {_short(objective)}. {_instead(objective)}"
            )
    names = [o.name for o in found]
    for name in names:
        if names.count(name) > 1 or name in ("loss", "label_loss"):
            raise ValueError(
                f"The objectives' names must differ from each other and from 'loss' and "
                f"'label_loss'; got {names}. Give one of them name=."
            )
    return found


def check_compiled_with(optimizer: Any, loss: Any) -> None:
    """TypeError where optimiser and loss changed places, or a class stands for an instance."""
    if isinstance(optimizer, keras.losses.Loss) or isinstance(loss, keras.optimizers.Optimizer):
        raise TypeError(
            f"It is compile(optimizer, loss), in this order; got {_short(optimizer)} as optimizer "
            f"and {_short(loss)} as loss."
        )
    for name, value in (("optimizer", optimizer), ("loss", loss)):
        if inspect.isclass(value):
            raise TypeError(
                f"compile() takes an instance as {name}; got the class {value.__qualname__}. Write "
                f"{value.__name__}(...)."
            )


def _instead(value: Any) -> str:
    kinds = {kind.__name__ for kind in type(value).__mro__}
    if inspect.isclass(value) and issubclass(value, Objective):
        return f"Write {value.__name__}(...)."
    if isinstance(value, str):
        return "Objectives are objects, not names: SoftTargets(temperature=2.0)."
    if isinstance(value, Mapping):
        return "Give a list, and each objective its name=, as the logs will call it."
    if isinstance(value, (int, float)):
        return f"A temperature goes into an objective: SoftTargets(temperature={value})."
    if "FeatureDistillation" in kinds:
        return "Here it is FeatureHint(student_layer, teacher_layer)."
    if "DistillationLoss" in kinds:
        return f"Here it is SoftTargets(temperature={getattr(value, 'temperature', 2.0)})."
    if isinstance(value, keras.losses.Loss) or callable(value):
        return (
            "A loss on labels goes to compile(loss=...); of the teacher one learns by "
            "SoftTargets(temperature=2.0) (divergence), by objectives.LogitsMSE() or "
            "objectives.RegressionTargets() (squared error), or by a subclass of Objective."
        )
    return "SoftTargets(temperature=2.0) is the usual one."


def _short(value: Any) -> str:
    if inspect.isclass(value):
        return f"the class {value.__qualname__}"
    plain = isinstance(value, (str, int, float, bool, type(None)))
    return repr(value) if plain else qualified_name(value)
