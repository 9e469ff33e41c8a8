"""What a Distiller refuses or warns of before any training."""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_distill import _keras, schedules
from keras_distill.data import no_keras3_model
from keras_distill.graph.traits import does
from keras_distill.objectives import Objective
from keras_distill.objectives.logits_base import LogitsObjective
from keras_distill.signals.outputs import by_path
from keras_distill.training import saving

__all__ = [
    "check_backend",
    "check_balances",
    "check_data",
    "check_label_loss",
    "check_label_weight",
    "check_student",
    "check_trainable",
    "check_trained",
    "check_validated",
    "warn_of_random_layers",
    "warn_of_regression",
    "warn_of_swap",
]

# Keras' losses between numbers, by name.
_ON_NUMBERS = {
    "huber",
    "log_cosh",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_error",
    "mean_squared_logarithmic_error",
}

# What a model may define for its own training, and what a Distiller does in its place.
_OWN_STEPS = {
    "train_step": "the Distiller's own update",
    "test_step": "the Distiller's own evaluation",
    "compute_loss": "compile(loss=), and what the student adds by add_loss",
    "compute_metrics": "compile(metrics=)",
}


def check_backend() -> None:
    """Keras runs on TensorFlow, whose trainer and teachers this package builds on."""
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"keras_distill trains on the TensorFlow backend; Keras runs on "
            f"{keras.backend.backend()!r}. Set KERAS_BACKEND=tensorflow before importing keras."
        )


def check_student(student: Any) -> None:
    """The student is a built Keras 3 model, and nothing of its own is passed over in silence."""
    if not isinstance(student, keras.Model):
        words = no_keras3_model(student, "The student must be a keras.Model (Keras 3)")
        raise TypeError(f"{words} The order is Distiller(student, teacher, objectives).")
    if isinstance(student, saving.WholeFiles):
        raise TypeError(
            f"The student {student.name!r} is itself a {type(student).__name__}. Give its "
            f"student: {student.name}.student."
        )
    if not student.built:
        raise ValueError(
            f"The student {student.name!r} has no weights yet: give it an Input, build it with "
            f"student.build(input_shape), or call it once on a batch."
        )
    _warn_of_own_steps(student)


def check_trainable(student: keras.Model, variables: Sequence[Any]) -> None:
    """There is something to train; ValueError where there is not."""
    if not variables:
        raise ValueError(
            f"The student {student.name!r} has no trainable weights, so nothing can be learned. If "
            f"trainable=False froze it, set trainable=True; if it was quantised to int8 "
            f"(model.quantize), distil the float model and quantise afterwards, or train int8 "
            f"layers with keras_distill.edge.quantize_aware(model)."
        )
    if not student.trainable_variables:
        warnings.warn(
            f"The student {student.name!r} has no trainable weights: only the objectives' adapters "
            f"and weights learn.",
            stacklevel=2,
        )


def check_label_weight(label_weight: Any) -> Any:
    """`label_weight` in [0, 1]: a Python number, a schedule or a variable."""
    schedules.check_within("Distiller", "label_weight", label_weight, 0, 1)
    changes = schedules.is_scheduled(label_weight)
    return label_weight if changes else schedules.constant(label_weight)


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


def check_validated(validate: Any, objectives: Sequence[Objective]) -> bool:
    """`validate_objectives` of `compile`; ValueError where there is no objective."""
    if not isinstance(validate, bool):
        raise ValueError(f"validate_objectives must be True or False; got {validate!r}.")
    if validate and not objectives:
        raise ValueError(
            "validate_objectives=True, and this distiller has no objectives. Give "
            "Distiller(..., objectives=[...]), or leave it out."
        )
    return validate


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
    # RandAugment's own layers have its name.
    names = dict.fromkeys(
        layer.name
        for layer in _keras.layers_of(student, itself=False)
        if does(layer, "augmentation")
    )
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

    Raises:
      ValueError: it does not, with what would.
    """
    for head, one in _losses_by_head(loss, list(kinds)):
        from_logits = _from_logits(one)
        if from_logits is None or head not in kinds:
            continue
        kind = kinds[head]
        if from_logits != (kind == "logits"):
            where = "" if head is None else f" at its output {head!r}"
            name = one if isinstance(one, str) else getattr(one, "name", type(one).__name__)
            raise ValueError(
                f"The student returns {_GIVES[kind]}{where}, and the loss {name!r} was told "
                f"from_logits={from_logits}. {_mend(kind, one)}"
            )


def warn_of_regression(
    loss: Any, kinds: Mapping[str | None, str], objectives: Sequence[Objective]
) -> None:
    """A loss on numbers beside an objective that compares distributions over classes."""
    for head, one in _losses_by_head(loss, list(kinds)):
        found = keras.losses.get(one) if isinstance(one, str) and not _left_to_labels(one) else one
        name = getattr(found, "name", None) or getattr(found, "__name__", "")
        softmax = [
            o.name
            for o in objectives
            if isinstance(o, LogitsObjective) and o.shift_invariant and o.output in (None, head)
        ]
        if name in _ON_NUMBERS and kinds.get(head) == "logits" and softmax:
            warnings.warn(
                f"The label loss {name} reads numbers, and {', '.join(softmax)} takes the same "
                f"outputs for scores of classes. For regression use "
                f"objectives.RegressionTargets().",
                stacklevel=3,
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


def _warn_of_own_steps(student: keras.Model) -> None:
    """What a student defines for its own `fit`, a Distiller's `fit` does not call."""
    for name, instead in _OWN_STEPS.items():
        owner = next(kind for kind in type(student).__mro__ if name in vars(kind))
        if owner.__module__.partition(".")[0] not in ("keras", "keras_distill"):
            warnings.warn(
                f"The student's own {name} ({owner.__qualname__}.{name}) is not called here; "
                f"{instead} stands in its place.",
                stacklevel=5,
            )


def _losses_by_head(loss: Any, heads: list) -> list[tuple[Any, Any]]:
    if isinstance(loss, Mapping):
        return list(by_path(loss).items())
    if isinstance(loss, (list, tuple)):
        return list(zip(heads, by_path(loss).values(), strict=False))
    return [(head, loss) for head in heads]


def _left_to_labels(loss: Any) -> bool:
    """A name by which Keras takes the cross-entropy that fits the labels, of probabilities."""
    return isinstance(loss, str) and loss.lower() in ("crossentropy", "ce")


def _from_logits(loss: Any) -> bool | None:
    if loss is None:
        return None
    if _left_to_labels(loss):
        return False
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    if isinstance(loss, keras.losses.Loss):
        bound = _keras.bound_arguments(loss)
        if "from_logits" in bound:
            return bool(bound["from_logits"])
        value = getattr(loss, "from_logits", None)
        return None if value is None else bool(value)
    if not callable(loss) or not getattr(loss, "__module__", "").startswith("keras."):
        return None
    parameter = inspect.signature(loss).parameters.get("from_logits")
    return None if parameter is None else bool(parameter.default)


_GIVES = {
    "logits": "logits",
    "probabilities": "probabilities",
    "sigmoid": "a sigmoid's probabilities",
}


def _mend(kind: str, loss: Any) -> str:
    if kind == "logits":
        loss = keras.losses.get(loss) if isinstance(loss, str) else loss
        name = getattr(loss, "__name__", None) or type(loss).__name__
        name = "".join(word[:1].upper() + word[1:] for word in name.split("_"))
        ends = ("sigmoid", "sigmoid") if "Binary" in name else ("softmax", "probabilities")
        return (
            f"Use keras.losses.{name}(from_logits=True); if the student does end in a {ends[0]}, "
            f"say Distiller(..., student_output={ends[1]!r})."
        )
    last = "sigmoid" if kind == "sigmoid" else "softmax"
    return f"Drop from_logits=True, or the student's final {last}."
