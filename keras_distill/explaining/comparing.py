"""The one pass over the data that fills the record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_distill.explaining.explanation import Explanation
from keras_distill.explaining.number_tallies import NumbersTally
from keras_distill.explaining.numbers import NumbersExplanation
from keras_distill.explaining.reading import PairReader, View, small_batches, student_inputs
from keras_distill.explaining.similarity import FEWEST_ROWS, MinibatchCKA, Similarity, propose_map
from keras_distill.explaining.tallies import ClassesTally
from keras_distill.progress import bar
from keras_distill.signals.outputs import check_kind


def explain(
    student: Any,
    teacher: Any,
    data: Any,
    *,
    task: str = "auto",
    output: str | None = None,
    student_layers: Sequence[Any] | None = None,
    teacher_layers: Sequence[Any] | None = None,
    class_names: Sequence[str] | None = None,
    worst: int = 16,
    bins: int = 15,
    batch_size: int = 64,
    student_preprocess: Callable | None = None,
    teacher_preprocess: Callable | None = None,
    student_output: str = "auto",
    verbose: bool = True,
) -> Explanation | NumbersExplanation:
    """What a student learned of its teacher, measured in one pass over the data.

    Both models run once a batch, in inference; nothing of either changes. Memory does not grow
    with the data.

    Args:
      student: a Keras 3 model that answers with classes or numbers, or a `Distiller`, which also
        says how both see the data.
      teacher: what a `Distiller` takes: a model of either generation, a
        `keras_distill.teachers.Teacher`, or a callable that returns logits.
      data: any data argument, validation data best. Labels are class numbers or one-hot, -1 for
        a row without, or numbers, NaN for none; without any there is no accuracy, no calibration
        and no error. Sample weights are not used. With a `TeacherCache` as the teacher, its
        `dataset(...)`.
      task: "classes", one of several an example; "numbers", of shape (batch, ..., columns), each
        column in a unit of its own; "auto": numbers where the student has one unit without an
        activation, else classes.
      output: the one to look at, in models of several outputs.
      student_layers, teacher_layers: layers to compare, named as objectives name them, in order of
        depth; by default up to 12 ends of blocks. `()` compares none.
      class_names: of the classes, or of the columns, for tables and pictures; else numbers.
      worst: how many of the examples that the student lost the most on are kept.
      bins: of the calibration, of equal width.
      batch_size: rows a forward, 4 or more where layers are compared. Larger ones estimate the
        similarity with less noise. Larger batches of a data set are split.
      student_preprocess, teacher_preprocess: callables on `x`, as `Distiller` takes them.
      student_output: "logits", "probabilities" or "auto" (detected; else logits).
      verbose: show progress.

    Returns:
      An `Explanation`, of numbers a `NumbersExplanation`: `print` it, `save` it with its pictures,
      take its `layer_map` for hints.

    Raises:
      TypeError: the student is no Keras 3 model.
      ValueError: neither classes nor numbers, classes that differ, labels out of range, a layer
        that does not exist, an option out of range, an answer that is not a number.

    Source: see `MinibatchCKA` for the similarity, `Calibration.ece` for the calibration.

    >>> def build(width):
    ...     return keras.Sequential([keras.Input((4,)), keras.layers.Dense(width, name="hidden"),
    ...                              keras.layers.Dense(3, name="logits")])
    >>> x = np.random.default_rng(0).normal(size=(32, 4))
    >>> record = explain(build(8), build(16), (x, np.zeros(32, int)), verbose=False)
    >>> record.examples, record.layer_map
    (32, {'hidden': 'hidden'})
    """
    _check_numbers(worst=(worst, 0), bins=(bins, 1), batch_size=(batch_size, 1))
    check_kind(student_output, "student_output")
    view = View.of(student, student_preprocess, teacher_preprocess, student_output)
    reader = PairReader(view, teacher, output, student_layers, teacher_layers, task)
    reader.check_data(data)
    names = _checked_names(class_names, reader)
    _check_rows(reader, batch_size)
    cka = MinibatchCKA(len(reader.student_shapes), len(reader.teacher_shapes))
    tally: ClassesTally | NumbersTally
    if reader.task == "classes":
        tally = ClassesTally(reader.columns, worst, bins)
    else:
        tally = NumbersTally(reader.columns, worst)
    with bar("Comparing", _length(data), verbose) as advance:
        for x, y in small_batches(data, batch_size):
            answers = reader(x, y)
            tally.add(answers, student_inputs(x))
            if reader.compares_layers:
                cka.add(answers.student_grams, answers.teacher_grams)
            advance(len(answers.labels))
    return tally.result(names, _name(teacher), view.model.name, *_similarity(reader, cka))


def _similarity(reader: PairReader, cka: MinibatchCKA) -> tuple[Similarity | None, str]:
    """The similarity, or None and why."""
    for whose, shapes in (("student", reader.student_shapes), ("teacher", reader.teacher_shapes)):
        if not shapes:
            return None, f"the {whose} has no layers to compare, or none were named"
    if not cka.rows:
        return None, f"no batch of the data has {FEWEST_ROWS} rows, which CKA needs"
    found = cka.result()
    return Similarity(
        student_layers=tuple(reader.student_shapes),
        teacher_layers=tuple(reader.teacher_shapes),
        cka=found,
        layer_map=propose_map(found, reader.student_shapes, reader.teacher_shapes),
    ), ""


def _check_numbers(**numbers: tuple[int, int]) -> None:
    for name, (value, least) in numbers.items():
        if not isinstance(value, int) or value < least:
            raise ValueError(
                f"explain: {name} must be a whole number of at least {least}; got {value!r}."
            )


def _check_rows(reader: PairReader, batch_size: int) -> None:
    if reader.compares_layers and batch_size < FEWEST_ROWS:
        raise ValueError(
            f"explain: batch_size={batch_size}, and comparing layers takes {FEWEST_ROWS} rows or "
            f"more at a time. Raise it, or compare none: student_layers=()."
        )


def _checked_names(names: Sequence[str] | None, reader: PairReader) -> tuple[str, ...]:
    if names is None:
        return tuple(map(str, range(reader.columns)))
    if isinstance(names, str) or len(names) != reader.columns:
        raise ValueError(
            f"explain: class_names must name the models' {reader.columns} {reader.task}; got "
            f"{names!r}."
        )
    return tuple(map(str, names))


def _name(teacher: Any) -> str:
    """What the record calls it."""
    own = getattr(teacher, "name", None) or getattr(teacher, "__name__", None)
    return own if isinstance(own, str) else type(teacher).__name__


def _length(data: Any) -> int | None:
    """How many examples arrays hold; None for what tells only by being read."""
    leaf = keras.tree.flatten(data)[0]
    return len(leaf) if isinstance(leaf, np.ndarray) else None
