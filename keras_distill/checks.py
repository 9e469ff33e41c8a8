"""What a Distiller refuses or warns of before any training."""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_distill import schedules
from keras_distill.objectives import Objective, SoftTargets

__all__ = [
    "as_objectives",
    "check_backend",
    "check_balances",
    "check_data",
    "check_label_loss",
    "check_label_weight",
    "check_student",
    "check_trained",
    "refuse_foreign_arguments",
    "warn_of_random_layers",
    "warn_of_swap",
]

_FOREIGN = {
    "alpha": "label_weight=",
    "student_loss_weight": "label_weight=",
    "temperature": "[SoftTargets(temperature=...)] as objectives",
    "distillation_losses": "objectives",
    "distillation_loss_fn": "objectives",
    "distillation_loss": "objectives",
    "distillation_loss_weights": "each objective's weight=",
    "student_loss_fn": "compile(loss=...)",
    "student_loss": "compile(loss=...)",
}


def check_backend() -> None:
    """Keras runs on TensorFlow, whose trainer and teachers this package builds on."""
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"keras_distill trains on the TensorFlow backend; Keras runs on "
            f"{keras.backend.backend()!r}. Set KERAS_BACKEND=tensorflow before importing keras."
        )


def as_objectives(objectives: Any) -> list[Objective]:
    """What a Distiller was given as a list of objectives with names of their own."""
    if objectives is None:
        return [SoftTargets(temperature=4.0)]
    found = [objectives] if isinstance(objectives, Objective) else list(objectives)
    for objective in found:
        if not isinstance(objective, Objective):
            raise TypeError(
                f"objectives must be keras_distill.Objective instances, such as SoftTargets(); got "
                f"{objective!r}."
            )
    names = [o.name for o in found]
    for name in names:
        if names.count(name) > 1 or name in ("loss", "label_loss"):
            raise ValueError(
                f"The objectives' names must differ from each other and from 'loss' and "
                f"'label_loss'; got {names}. Give one of them name=."
            )
    return found


def refuse_foreign_arguments(arguments: Mapping[str, Any], where: str) -> None:
    """TypeError for the arguments of other Distillers, with the spelling that serves here."""
    for name in arguments:
        mend = _FOREIGN.get(name)
        if mend:
            raise TypeError(f"{where} takes no {name!r} here; write {mend}.")
        raise TypeError(f"{where} got an unexpected keyword argument {name!r}.")


def check_student(student: Any) -> None:
    """The student is a built Keras 3 model."""
    if not isinstance(student, keras.Model):
        kind = f"{type(student).__module__}.{type(student).__qualname__}"
        raise TypeError(
            f"The student must be a keras.Model (Keras 3); got {kind}. Rebuild it with Keras 3's "
            f"layers: tf_keras' classes have the same names but another base."
        )
    if not student.built:
        raise ValueError(
            f"The student {student.name!r} has no weights yet: give it an Input, build it with "
            f"student.build(input_shape), or call it once on a batch."
        )


def check_label_weight(label_weight: Any) -> Any:
    """`label_weight`, a number or a schedule in [0, 1]."""
    if not (isinstance(label_weight, (int, float)) or schedules.is_scheduled(label_weight)):
        raise ValueError(
            f"label_weight must be a number in [0, 1], or a schedule over the updates; got "
            f"{label_weight!r}."
        )
    schedules.check_within("Distiller", "label_weight", label_weight, 0, 1)
    return label_weight


def check_balances(objectives: Sequence[Objective], loss: Any) -> None:
    """ValueError where one weight serves two objectives, or has no label loss to follow."""
    owners: dict[int, str] = {}
    for objective in objectives:
        weight = objective.weight
        if not isinstance(weight, schedules.Balance):
            continue
        kind = type(weight).__name__
        if id(weight) in owners:
            raise ValueError(
                f"{objective.name}: its weight is the very {kind} of {owners[id(weight)]}. Each "
                f"objective needs one of its own."
            )
        owners[id(weight)] = objective.name
        if weight.measures_gradients and loss is None:
            raise ValueError(
                f"{objective.name}: {kind} follows the label loss' gradient, and compile() was "
                f"given no loss. Give loss=, or a weight that needs none."
            )


def warn_of_swap(student: keras.Model, teacher_params: int | None) -> None:
    """A student larger than its teacher was probably meant the other way round."""
    ours = student.count_params()
    if teacher_params is not None and ours > teacher_params:
        warnings.warn(
            f"The student {student.name!r} has {ours:,} weights and its teacher {teacher_params:,}."
            f" Are they swapped? It is Distiller(student, teacher); keras.distillation has the "
            f"opposite order.",
            stacklevel=4,
        )


def warn_of_random_layers(student: keras.Model) -> None:
    """Augmentation inside the student shows the teacher another picture."""
    names = [
        layer.name
        for layer in student._flatten_layers(include_self=False)
        if ".preprocessing." in type(layer).__module__ and type(layer).__name__.startswith("Random")
    ]
    if names:
        warnings.warn(
            f"The student augments its own input ({', '.join(names)}), so the teacher answers for "
            f"another view than the student sees. Augment in the dataset.",
            stacklevel=4,
        )


def check_label_loss(loss: Any, kinds: Mapping[str | None, str]) -> None:
    """A loss' `from_logits` agrees with what the student returns.

    Args:
      loss: as given to `compile`.
      kinds: "logits", "probabilities" or "sigmoid" by head.
    """
    for head, one in _losses_by_head(loss, list(kinds)):
        from_logits = _from_logits(one)
        if from_logits is None or head not in kinds:
            continue
        gives = "logits" if kinds[head] == "logits" else "probabilities"
        if from_logits != (gives == "logits"):
            where = "" if head is None else f" at its output {head!r}"
            name = one if isinstance(one, str) else getattr(one, "name", type(one).__name__)
            raise ValueError(
                f"The student returns {gives}{where}, and the loss {name!r} was told "
                f"from_logits={from_logits}. {_mend(gives)}"
            )


def check_data(x: Any) -> None:
    """There is something to fit."""
    cardinality = getattr(x, "cardinality", None)
    rows = None
    if callable(cardinality):
        rows = int(cardinality())
    elif hasattr(x, "shape") and len(x.shape):
        rows = x.shape[0]
    if rows == 0:
        raise ValueError("The training data yields no batch: it holds 0 examples.")


def check_trained(history: Any) -> None:
    """`fit` saw at least one batch (a generator tells only by running)."""
    if history.epoch and not history.history:
        raise ValueError("The training data yielded no batch: nothing was trained.")


def _losses_by_head(loss: Any, heads: list) -> list[tuple[Any, Any]]:
    if isinstance(loss, Mapping):
        return list(loss.items())
    if isinstance(loss, (list, tuple)):
        return list(zip(heads, loss, strict=False))
    return [(head, loss) for head in heads]


def _from_logits(loss: Any) -> bool | None:
    if loss is None:
        return None
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    if isinstance(loss, keras.losses.Loss):
        if hasattr(loss, "_fn_kwargs") and "from_logits" in loss._fn_kwargs:
            return bool(loss._fn_kwargs["from_logits"])
        value = getattr(loss, "from_logits", None)
        return None if value is None else bool(value)
    if not callable(loss) or not getattr(loss, "__module__", "").startswith("keras."):
        return None
    parameter = inspect.signature(loss).parameters.get("from_logits")
    return None if parameter is None else bool(parameter.default)


def _mend(gives: str) -> str:
    if gives == "logits":
        return (
            "Use keras.losses.SparseCategoricalCrossentropy(from_logits=True) (or the loss' own "
            "from_logits=True); if the student does end in a softmax, say "
            "Distiller(..., student_output='probabilities')."
        )
    return "Drop from_logits=True, or the student's final softmax."
