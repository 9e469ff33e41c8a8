"""A student distilled from files: what the command `keras-distill distil` does."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_distill import objectives
from keras_distill.data import batches
from keras_distill.pipeline import writing
from keras_distill.pipeline.inputs import LOADERS, Data, load_data, load_model, usage_errors
from keras_distill.signals.reader import student_reader
from keras_distill.training.distiller import Distiller
from keras_distill.training.stages import UsageError

__all__ = ["Request", "label_loss", "named_objective", "run"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What learns from what; the fields are the command's options."""

    teacher: Path
    student: Path
    data: str
    output: Path
    validation_data: str | None
    epochs: int
    batch_size: int
    learning_rate: float
    objective: Sequence[str]
    temperature: float | None
    label_weight: float | None
    loss: str | None
    seed: int
    backup: Path | None
    image_size: str | None
    rescale: str | None
    overwrite: bool


def run(request: Request, verbose: Any = "auto") -> Mapping[str, Sequence[float]]:
    """Distil, and write the student.

    Args:
      request: see there.
      verbose: as for `fit`.

    Returns:
      The history.

    Raises:
      UsageError: what was given can't be used; nothing was trained and nothing written.
    """
    writing.check(request.output, ".keras", request.overwrite)
    keras.utils.set_random_seed(request.seed)
    student, teacher = load_model(request.student), load_model(request.teacher)
    train, validation = _data(request, student)
    with usage_errors():
        learned = [named_objective(name, request.temperature) for name in request.objective]
        loss = _loss(request, student, train)
        asked: dict[str, Any] = {}
        if request.label_weight is not None:
            asked["label_weight"] = request.label_weight
        distiller = Distiller(student, teacher, learned, **asked)
        distiller.compile(
            optimizer=keras.optimizers.Adam(request.learning_rate),
            loss=loss,
            metrics=None if loss is None else ["accuracy"],
        )
        history = distiller.fit(
            **_examples(train, request.batch_size),
            validation_data=None if validation is None else validation.examples,
            epochs=request.epochs,
            verbose=verbose,
            callbacks=_callbacks(request),
        )
        writing.save(student, request.output)
    return history.history


def named_objective(name: str, temperature: float | None) -> objectives.Objective:
    """An objective by its class' name, as in `keras_distill`.

    Args:
      name: such as "SoftTargets"; of a class that needs no arguments.
      temperature: handed on; None for the class' own.

    Raises:
      UsageError: there is no such class, it asks for more than a name, or has no temperature.
    """
    known = {
        key: kind
        for key, kind in vars(objectives).items()
        if inspect.isclass(kind) and issubclass(kind, objectives.Objective) and _bare(kind)
    }
    if name not in known:
        raise UsageError(
            f"--objective takes {', '.join(sorted(known))}; got {name}. Objectives on layers need "
            f"these named: kd.Distiller in Python."
        )
    kind: Any = known[name]
    if temperature is None:
        return kind()
    if "temperature" not in inspect.signature(kind).parameters:
        raise UsageError(f"--temperature: {name} has none; leave it out.")
    return kind(temperature=temperature)


def label_loss(kind: str, labels: np.ndarray, units: int) -> keras.losses.Loss:
    """The cross-entropy that suits a model and its labels.

    Args:
      kind: what the model returns: "logits", "probabilities" or "sigmoid".
      labels: a batch of them.
      units: of the model's output.

    Raises:
      UsageError: they are no class labels.
    """
    from_logits = kind == "logits"
    if labels.shape[-1:] == (units,) and labels.ndim > 1 and units > 1:
        if not np.isin(labels, (-1, 0, 1)).all():
            raise UsageError("the labels y are numbers, no classes: say --loss, and --objective.")
        if kind == "sigmoid":
            return keras.losses.BinaryCrossentropy(from_logits=from_logits)
        return keras.losses.CategoricalCrossentropy(from_logits=from_logits)
    if not np.equal(np.mod(labels, 1), 0).all():
        raise UsageError("the labels y are numbers, no classes: say --loss, and --objective.")
    if units == 1:
        return keras.losses.BinaryCrossentropy(from_logits=from_logits)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)


def named_loss(name: str, kind: str) -> keras.losses.Loss:
    """A loss of Keras by its name, told what the model returns.

    Raises:
      UsageError: Keras knows none of that name.
    """
    camel = "".join(part.title() for part in name.split("_")) if "_" in name else name
    found: Any = getattr(keras.losses, camel, None)
    if not isinstance(found, type):
        raise UsageError(
            f"--loss takes one of Keras' by name, such as sparse_categorical_crossentropy or "
            f"mean_squared_error; got {name}."
        )
    takes = "from_logits" in inspect.signature(found).parameters
    options: dict[str, Any] = {"from_logits": kind == "logits"} if takes else {}
    return found(**options)


def _bare(kind: type) -> bool:
    needed = [
        parameter
        for parameter in inspect.signature(kind).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    return not needed and kind is not objectives.Objective


def _data(request: Request, student: keras.Model) -> tuple[Data, Data | None]:
    options: dict[str, Any] = {
        "batch_size": request.batch_size,
        "image_size": request.image_size,
        "rescale": request.rescale,
    }
    train = load_data(request.data, student, part="train", shuffle=True, **options)
    # A data set of ours brings its own.
    name = request.validation_data or (request.data if request.data in LOADERS else None)
    if name is None:
        return train, None
    validation = load_data(name, student, part="validation", **options)
    ours, theirs = train.class_names, validation.class_names
    if ours is not None and theirs is not None and ours != theirs:
        raise UsageError(
            f"{request.data} and {name} have other classes, {', '.join(ours)} and "
            f"{', '.join(theirs)}. They are numbered by name: make them the same."
        )
    return train, validation


def _loss(request: Request, student: keras.Model, train: Data) -> keras.losses.Loss | None:
    if not train.labelled:
        if request.loss is not None or request.label_weight is not None:
            raise UsageError(f"--loss and --label-weight: {request.data} has no labels.")
        return None
    kinds = student_reader(student).kinds
    if len(kinds) > 1:
        raise UsageError(
            f"{student.name} has the outputs {', '.join(map(str, kinds))}; the command trains "
            f"models of one. kd.Distiller in Python takes several."
        )
    (kind,) = kinds.values()
    if request.loss is not None:
        return named_loss(request.loss, kind)
    x, y, _ = next(batches(train.examples, 32))
    answer = student(x[:1], training=False)
    return label_loss(kind, np.asarray(y), answer.shape[-1])


def _examples(train: Data, batch_size: int) -> dict[str, Any]:
    if isinstance(train.examples, tuple):
        return {"x": train.examples[0], "y": train.examples[1], "batch_size": batch_size}
    if isinstance(train.examples, np.ndarray):
        return {"x": train.examples, "batch_size": batch_size}
    # It has its own order, and Keras warns of one that is asked for beside it.
    return {"x": train.examples, "shuffle": False}


def _callbacks(request: Request) -> list[keras.callbacks.Callback]:
    if request.backup is None:
        return []
    return [keras.callbacks.BackupAndRestore(request.backup)]
