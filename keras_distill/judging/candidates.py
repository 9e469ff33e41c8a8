"""Models and files, asked alike."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import scipy.special
import tensorflow as tf

from keras_distill.data import qualified_name
from keras_distill.edge.interface import as_keras3, interface_of
from keras_distill.edge.records import TFLiteExport
from keras_distill.litert.runner import TFLiteRunner, load_tflite
from keras_distill.measures.metric import CLASSES, NUMBERS, YES_OR_NO
from keras_distill.signals.callables import told_kinds
from keras_distill.teachers.base import Teacher
from keras_distill.teachers.model import Model

__all__ = ["Candidate", "Said", "candidate_of", "read", "task_of"]


@dataclass(frozen=True)
class Said:
    """What one output said of a batch.

    Attributes:
      values: `(rows, ...)`.
      kind: "logits", "probabilities" or "sigmoid".
      logarithms: of probabilities, whether these are their logarithms.
    """

    values: np.ndarray
    kind: str
    logarithms: bool = False


class Candidate:
    """One of those that are judged.

    Args:
      name: in tables.
      ask: a batch of arrays to a `Said` by output, whose key is None where there is one.
      signals: the same in tensors, with a gradient; None for a file or a callable.
    """

    def __init__(
        self,
        name: str,
        ask: Callable[[Any], Mapping[str | None, Said]],
        signals: Callable[[Any], Mapping[str | None, Any]] | None = None,
    ):
        self.name, self._ask, self.signals = name, ask, signals

    def say(self, x: Any, output: str | None) -> Said:
        """What an output says of a batch.

        Raises:
          ValueError: there is no such output, or there are several and none is named.
        """
        found = self._ask(x)
        return found[self.chosen(found, output)]

    def outputs(self, x: Any) -> tuple[str | None, ...]:
        """The names of its outputs."""
        return tuple(self._ask(x))

    def chosen(self, found: Mapping[str | None, Any], output: str | None) -> str | None:
        """The key of the output that is asked for."""
        if len(found) == 1:
            return next(iter(found))
        if output in found and output is not None:
            return output
        came = "none was named" if output is None else f"got output={output!r}"
        raise ValueError(
            f"{self.name!r} has the outputs {', '.join(map(repr, found))}; {came}. Say which one "
            f"is judged: output=."
        )


def candidate_of(name: str, thing: Any, first: Any, like: Any) -> Candidate:
    """A candidate made ready.

    Args:
      name: in tables.
      thing: a Keras model, a path to a `.tflite`, what `export_tflite` or `load_tflite` returned, a
        `Teacher`, or a callable on a batch.
      first: the first batch of inputs, for a callable that can't tell what it takes.
      like: a Keras model whose inputs' order a file's follow, or None.

    Raises:
      TypeError: it is none of these.
      litert.CrashError: a file ends the process that opens it.
    """
    if isinstance(thing, (str, os.PathLike)) and os.fspath(thing).endswith(".keras"):
        raise TypeError(
            f"{name!r} is a path to a Keras model. Load it: "
            f"keras_distill.load_model({os.fspath(thing)!r})."
        )
    if isinstance(thing, (str, os.PathLike, TFLiteExport, TFLiteRunner)):
        runner = thing if isinstance(thing, TFLiteRunner) else load_tflite(thing)
        return _file(name, runner, like)
    if isinstance(thing, Teacher):
        return _model(name, thing, first, differentiable=False)
    if not callable(thing):
        raise TypeError(
            f"Expected {name!r} to be a Keras model, a .tflite, a Teacher or a callable; got "
            f"{qualified_name(thing)}."
        )
    is_model = isinstance(thing, keras.Model)
    guide = Model(as_keras3(thing) if is_model else thing, engine="keras")
    return _model(name, guide, first, differentiable=is_model)


def read(said: Said, task: str) -> np.ndarray:
    """Answers as a metric reads them: probabilities of classes or of yes, or numbers; float64."""
    values = said.values.astype("float64")
    if task == NUMBERS:
        return values
    if task == YES_OR_NO:
        found = values if said.kind == "sigmoid" else scipy.special.expit(values)
        return found[..., 0] if found.ndim > 1 and found.shape[-1] == 1 else found
    if said.kind != "probabilities" or said.logarithms:
        return scipy.special.softmax(values, axis=-1)
    total = values.sum(-1, keepdims=True)
    # An integer file's may all be rounded to 0.
    return np.divide(
        values, total, out=np.full(values.shape, 1 / values.shape[-1]), where=total > 0
    )


def task_of(kinds: set[str], shape: tuple[int, ...], labels: np.ndarray | None) -> str:
    """What models are asked, by what they are and what the labels look like.

    Args:
      kinds: of the candidates' outputs.
      shape: of their answers, `(rows, ...)`.
      labels: of some rows; None where there are none.
    """
    if "sigmoid" in kinds:
        return YES_OR_NO
    if "probabilities" in kinds:
        return CLASSES
    if labels is None:
        return CLASSES if len(shape) > 1 and shape[-1] > 1 else NUMBERS
    whole = bool(np.isin(labels, (-1, 0, 1)).all())
    if len(shape) < 2 or shape[-1] == 1:
        return YES_OR_NO if whole and np.issubdtype(labels.dtype, np.integer) else NUMBERS
    if labels.shape[1:] == shape[1:]:
        one_hot = whole and bool((labels.sum(-1) == 1).all())
        return CLASSES if one_hot else YES_OR_NO if whole else NUMBERS
    return CLASSES if bool((labels == np.rint(labels)).all()) else NUMBERS


def _file(name: str, runner: TFLiteRunner, like: Any) -> Candidate:
    kinds = told_kinds(runner)
    names = [info.name for info in runner.inputs]
    interface = interface_of(like) if like is not None and len(names) > 1 else None

    def ask(x: Any) -> dict[str | None, Said]:
        if len(names) == 1:
            x = keras.tree.flatten(x)[0]
        elif interface is not None and not (isinstance(x, dict) and set(x) == set(names)):
            x = interface.flat_inputs(x)
        answer = runner.predict(x)
        answers = answer if isinstance(answer, dict) else {None: answer}
        return {key: Said(values, kinds[key]) for key, values in answers.items()}

    return Candidate(name, ask)


def _model(name: str, guide: Teacher, first: Any, *, differentiable: bool) -> Candidate:
    specs = keras.tree.map_structure(
        lambda leaf: keras.KerasTensor((None, *leaf.shape[1:]), _dtype(leaf)), first
    )
    spec = guide.prepare(specs, ())
    # Signals do not tell of a softmax whose input they hold.
    kinds = {key: guide.kinds().get(key) or head.kind for key, head in spec.heads.items()}
    shares = {key for key, head in spec.heads.items() if head.kind == "sigmoid"}

    def forward(x: Any) -> dict[str, Any]:
        return {_key(key): head.logits for key, head in guide.undisturbed(x, None).heads.items()}

    run = tf.function(forward, autograph=False, reduce_retracing=True)

    def ask(x: Any) -> dict[str | None, Said]:
        answers = run(keras.tree.map_structure(tf.convert_to_tensor, x))
        return {
            key: Said(np.asarray(answers[_key(key)]), kind, logarithms=key not in shares)
            for key, kind in kinds.items()
        }

    signals = (lambda x: guide(x).heads) if differentiable else None
    return Candidate(name, ask, signals)


def _key(head: str | None) -> str:
    return "" if head is None else head


def _dtype(leaf: np.ndarray) -> str:
    return "string" if leaf.dtype.kind in "OUS" else leaf.dtype.name
