"""What both models said of a batch, and its labels: classes or numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_distill.functional.tensors import UNLABELLED

TASKS = ("auto", "classes", "numbers")


@dataclass(frozen=True)
class Answers:
    """What both models said of one batch.

    Attributes:
      student, teacher: float64, `(batch, classes)` log-probabilities or `(batch, ..., columns)`
        numbers.
      labels: `(batch,)` class numbers, -1 for a row without; or numbers like the answers', NaN for
        one without.
      student_grams, teacher_grams: `(batch, batch)` of each layer.
    """

    student: np.ndarray
    teacher: np.ndarray
    labels: np.ndarray
    student_grams: Sequence[np.ndarray]
    teacher_grams: Sequence[np.ndarray]


def class_numbers(labels: np.ndarray, rows: int, classes: int) -> np.ndarray:
    """Labels as class numbers.

    Args:
      labels: `(batch,)`, `(batch, 1)` or one-hot `(batch, classes)`.
      rows: how many examples there are.
      classes: how many classes.

    Returns:
      `(batch,)` int64, -1 for a row without a label.

    Raises:
      ValueError: labels of another shape, or that are no classes.
    """
    if labels.shape == (rows, classes):
        if not (np.isin(labels, (0, 1)).all() and (labels.sum(axis=-1) == 1).all()):
            raise ValueError(
                f"Expected class numbers or one-hot labels; those of shape {labels.shape} are "
                f"neither. For soft labels give their argmax; where the models answer with "
                f"numbers, task='numbers'."
            )
        return labels.argmax(axis=-1)
    if labels.shape not in ((rows,), (rows, 1)):
        raise ValueError(
            f"Expected labels of shape ({rows},), ({rows}, 1) or one-hot ({rows}, {classes}); got "
            f"{labels.shape}."
        )
    numbers = labels.reshape(rows).astype("int64")
    wrong = (numbers != labels.reshape(rows)) | (numbers < UNLABELLED) | (numbers >= classes)
    if wrong.any():
        raise ValueError(
            f"Expected class numbers from 0 to {classes - 1}, or -1 for a row without a label; "
            f"got {labels.reshape(rows)[wrong][0]}."
        )
    return numbers


def task_of(task: str, ours: tuple, theirs: tuple, kind: str) -> str:
    """Whether the models answer with classes or with numbers.

    Args:
      task: one of `TASKS`; "auto" takes one number an example for a number, all else for classes.
      ours, theirs: the shapes of the student's and of the teacher's output.
      kind: of the student's output.

    Raises:
      ValueError: outputs that are not of the task, a teacher's of another shape.
    """
    if task not in TASKS:
        raise ValueError(f"explain: task must be one of {', '.join(TASKS)}; got {task!r}.")
    if task == "numbers" or (task == "auto" and kind == "logits" and ours[1:] == (1,)):
        if len(ours) < 2 or ours[-1] is None or kind == "probabilities":
            raise ValueError(
                f"explain: numbers are of shape (batch, ..., columns), and no softmax. The "
                f"student's output is {ours} ({kind})."
            )
        if len(ours) != len(theirs) or any(
            None not in pair and pair[0] != pair[1]
            for pair in zip(ours[1:], theirs[1:], strict=True)
        ):
            raise ValueError(
                f"explain: the student answers {ours} and the teacher {theirs}. Both must answer "
                f"with the same numbers."
            )
        return "numbers"
    if len(ours) != 2 or ours[-1] in (None, 1) or kind == "sigmoid":
        raise ValueError(
            f"explain compares classifiers, one class of two or more an example (logits or softmax "
            f"of shape (batch, classes)), and with task='numbers' what are numbers. The student's "
            f"output is {ours} ({kind})."
        )
    if len(theirs) != 2 or theirs[-1] not in (None, ours[-1]):
        raise ValueError(
            f"explain: the student answers {ours} and the teacher {theirs}. Both must answer "
            f"over the same classes."
        )
    return "classes"


def numbers_of(labels: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Labels as numbers.

    Args:
      labels: of the answers' shape, or without a last axis of one; None for none.
      shape: the answers', `(batch, ..., columns)`.

    Returns:
      float64 of that shape, NaN where there is no label.

    Raises:
      ValueError: another shape, an infinite number.
    """
    if labels is None:
        return np.full(shape, np.nan)
    labels = np.asarray(labels)
    if labels.shape != shape and (*labels.shape, 1) != shape:
        raise ValueError(
            f"Expected a label for each number that the models answer, {shape}; got labels of "
            f"shape {labels.shape}."
        )
    found = labels.reshape(shape).astype("float64")
    if np.isinf(found).any():
        raise ValueError("Expected labels that are numbers, or NaN for none; got infinite ones.")
    return found
