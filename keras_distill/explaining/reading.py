"""Both models' answers to one batch: one forward each, layers and logits alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.data import batches
from keras_distill.explaining.answers import Answers, class_numbers, numbers_of, task_of
from keras_distill.explaining.layers import default_layers
from keras_distill.explaining.similarity import gram
from keras_distill.explaining.teacher_twin import teacher_layers, twin_of
from keras_distill.functional.tensors import UNLABELLED
from keras_distill.objectives import Objective, Signals
from keras_distill.objectives.base import layer_name
from keras_distill.signals.reader import ModelReader, student_reader
from keras_distill.teachers.cache import CachedBatch
from keras_distill.training.checks import check_student
from keras_distill.training.distiller import Distiller
from keras_distill.training.step import pairs_of_heads


@dataclass(frozen=True)
class View:
    """A student, and how both models see the data.

    `output` says what the student returns, as `Distiller`'s `student_output`.
    """

    model: keras.Model
    student_preprocess: Callable | None
    teacher_preprocess: Callable | None
    output: str

    @classmethod
    def of(
        cls,
        student: Any,
        student_preprocess: Callable | None,
        teacher_preprocess: Callable | None,
        output: str,
    ) -> View:
        """Of a model with what is said of it, or of a Distiller, which says all that itself."""
        if not isinstance(student, Distiller):
            check_student(student)
            return cls(student, student_preprocess, teacher_preprocess, output)
        if student_preprocess or teacher_preprocess or output != "auto":
            raise ValueError(
                "A Distiller says itself how both models see the data: leave student_preprocess=, "
                "teacher_preprocess= and student_output= out, or give distiller.student."
            )
        return cls(
            student.student,
            student._student_preprocess,
            student._teacher_preprocess,
            student._student_output,
        )


class PairReader:
    """Runs student and teacher on batches.

    Args:
      view: the student.
      teacher: as `Distiller` takes it; nothing of it changes.
      output: the head to look at, in models of several.
      student_layers, teacher_layers: layers as taps name them; None to choose some.
      task: "classes", "numbers" or "auto".

    Attributes:
      task: "classes" or "numbers".
      columns: how many classes there are, or numbers.
      student_shapes, teacher_shapes: the layers' output shapes by name.

    Raises:
      ValueError: neither classes nor numbers, others than the teacher's, layers that can't be
        read.
    """

    def __init__(
        self,
        view: View,
        teacher: Any,
        output: str | None,
        student_layers: Sequence[Any] | None,
        teacher_layers: Sequence[Any] | None,
        task: str = "auto",
    ):
        self._view, self._teacher = view, twin_of(teacher)
        self._teacher.meet(view.model)
        # Nothing but its `output` is looked at: it says which heads belong together.
        self._head = Objective(output=output, name="explain")
        self._reader = self._student_reader(student_layers)
        self._specs = self._reader.spec, self._teacher_spec(teacher_layers)
        self.task, self.columns = self._checked_task(task)
        self.student_shapes, self.teacher_shapes = map(_shapes, self._specs)
        self._run = tf.function(self._forward, autograph=False, reduce_retracing=True)

    @property
    def compares_layers(self) -> bool:
        """Whether there are layers of both models to compare."""
        return bool(self.student_shapes and self.teacher_shapes)

    def check_data(self, data: Any) -> None:
        """Refuse data that the teacher can't answer for."""
        self._teacher.check_data(data)

    def __call__(self, x: Any, y: Any) -> Answers:
        """The answers to one batch of NumPy arrays, labels or None."""
        found = self._run(_tensors(x), _tensors(y))
        student, teacher, ours, theirs = keras.tree.map_structure(np.asarray, found)
        _refuse_nan("student", student)
        _refuse_nan("teacher", teacher)
        return Answers(
            student.astype("float64"),
            teacher.astype("float64"),
            self._labels(y, student.shape),
            ours,
            theirs,
        )

    def _student_reader(self, layers: Sequence[Any] | None) -> ModelReader:
        model, output = self._view.model, self._view.output
        return _readable(
            lambda keys: student_reader(model, keys, output), layers, lambda: default_layers(model)
        )

    def _teacher_spec(self, layers: Sequence[Any] | None) -> Signals:
        differs = self._view.student_preprocess or self._view.teacher_preprocess
        spec = None if differs else self._reader.input_spec
        return _readable(
            lambda keys: self._teacher.prepare(spec, keys),
            layers,
            lambda: teacher_layers(self._teacher, self._head.output),
        )

    def _checked_task(self, task: str) -> tuple[str, int]:
        pairs = pairs_of_heads(self._head, *self._specs)
        if len(pairs) > 1:
            names = ", ".join(map(repr, self._specs[0].heads))
            raise ValueError(f"explain: the student has the outputs {names}. Name one: output=...")
        ours, theirs = (tuple(signals.logits.shape) for signals in pairs[0][:2])
        head = self._head.output if self._specs[0].names else None
        found = task_of(task, ours, theirs, self._reader.kinds[head])
        return found, ours[-1]

    def _forward(self, x: Any, y: Any) -> tuple:
        ours, theirs = self._student_signals(x), self._teacher_signals(x, y)
        ((student, teacher, _),) = pairs_of_heads(self._head, ours, theirs)
        grams = ([gram(tensor) for tensor in one.taps.values()] for one in (ours, theirs))
        return self._answer(student), self._answer(teacher), *grams

    def _answer(self, signals: Signals) -> Any:
        return signals.log_probs() if self.task == "classes" else tf.cast(signals.logits, "float32")

    def _student_signals(self, x: Any) -> Signals:
        x = student_inputs(x)
        if self._view.student_preprocess is not None:
            x = self._view.student_preprocess(x)
        with self._reader.recording() as recorder:
            answer = self._view.model(x, training=False)
        return self._reader.signals(answer, recorder)

    def _teacher_signals(self, x: Any, y: Any) -> Signals:
        if self._view.teacher_preprocess is not None:
            x = self._view.teacher_preprocess(x)
        return self._teacher.answer(x, y)

    def _labels(self, y: Any, shape: tuple[int, ...]) -> np.ndarray:
        ((_, _, labels),) = pairs_of_heads(self._head, *self._specs, y)
        if self.task == "numbers":
            return numbers_of(labels, shape)
        if labels is None:
            return np.full(shape[0], UNLABELLED)
        return class_numbers(np.asarray(labels), shape[0], self.columns)


def small_batches(data: Any, batch_size: int) -> Iterator[tuple[Any, Any]]:
    """`(x, y)` of at most `batch_size` rows, whatever the batches of a data set hold."""
    for x, y, _ in batches(data, batch_size):
        rows = len(keras.tree.flatten(x)[0])
        for start in range(0, rows, batch_size):
            chosen = slice(start, start + batch_size)
            yield _sliced(x, chosen), _sliced(y, chosen)


def student_inputs(x: Any) -> Any:
    """What the data has for the student: a cache's batches hold the teacher's answers too."""
    return x.inputs if isinstance(x, CachedBatch) else x


def _shapes(signals: Signals) -> dict[str, tuple]:
    """The tapped layers' output shapes by name."""
    shapes = {layer_name(key): tuple(tensor.shape) for key, tensor in signals.taps.items()}
    if len(shapes) < len(signals.taps):
        names = ", ".join(map(layer_name, signals.taps))
        raise ValueError(f"explain: two layers have one name ({names}). Give their paths.")
    return shapes


def _sliced(structure: Any, chosen: slice) -> Any:
    return None if structure is None else keras.tree.map_structure(lambda a: a[chosen], structure)


def _tensors(structure: Any) -> Any:
    return None if structure is None else keras.tree.map_structure(_tensor, structure)


def _tensor(array: Any) -> tf.Tensor:
    # As `predict` does: a model computes in Keras' float, whatever NumPy made.
    wide = getattr(array, "dtype", None) == np.float64
    return tf.convert_to_tensor(array, keras.backend.floatx() if wide else None)


def _readable(build: Callable, named: Sequence[Any] | None, choose: Callable) -> Any:
    """`build(keys)` with the layers that are named, or those of the chosen that can be read."""
    if named is not None:
        return build(tuple(named))
    chosen = choose()
    try:
        return build(chosen)
    except ValueError:
        return build(tuple(key for key in chosen if _works(build, key)))


def _works(build: Callable, key: str) -> bool:
    try:
        build((key,))
    except ValueError:
        return False
    return True


def _refuse_nan(whose: str, answers: np.ndarray) -> None:
    broken = np.isnan(answers).reshape(len(answers), -1).any(axis=-1)
    if broken.any():
        raise ValueError(
            f"The {whose} answers NaN to {broken.sum()} of {len(broken)} examples of a batch. "
            f"Look for NaN in its weights and in the data."
        )
