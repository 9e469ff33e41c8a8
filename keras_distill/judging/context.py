"""What the judge knows once it has seen the first batch: the task, the outputs, the labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_distill.edge.verification.answers import labels_of
from keras_distill.judging.candidates import Candidate
from keras_distill.measures.metric import CLASSES, NUMBERS, YES_OR_NO

__all__ = ["Context"]


@dataclass(frozen=True)
class Context:
    """What conditions and the pass over the data ask.

    Attributes:
      candidates: by name.
      task: `CLASSES`, `YES_OR_NO` or `NUMBERS`.
      output: the one that is judged, where there are several.
      outputs: the names of all of them.
      shape: of the answers to a batch, without its rows.
      batch_size: rows to ask at once.
    """

    candidates: Mapping[str, Candidate]
    task: str
    output: str | None
    outputs: tuple[str, ...]
    shape: tuple[int, ...]
    batch_size: int

    def differentiable(self, name: str | None, label: str) -> Callable[[Any], Any]:
        """The judged output's `signals.Head` of a Keras model, for a gradient.

        Args:
          name: of the candidate; None for the first that has gradients.
          label: of the condition that asks.

        Raises:
          ValueError: there is none.
        """
        able = [key for key, one in self.candidates.items() if one.signals is not None]
        name = name or (able[0] if able else None)
        if name not in able:
            words = ", ".join(map(repr, able)) or "there is none among those judged"
            raise ValueError(
                f"{label} follows a Keras model's gradients, and {name!r} has none; models that "
                f"have: {words}."
            )
        candidate = self.candidates[name]
        assert candidate.signals is not None
        signals = candidate.signals

        def head(x: Any) -> Any:
            found = signals(x)
            return found[candidate.chosen(found, self.output)]

        return head

    def read_labels(self, y: Any, rows: int) -> np.ndarray:
        """Labels as metrics read them: class numbers, 0 and 1, or float64 numbers.

        Raises:
          ValueError: labels of another shape, or out of range.
        """
        if len(self.outputs) > 1:
            names = list(self.outputs)
            y = dict(zip(names, labels_of(y, names, names), strict=True))[str(self.output)]
            if y is None:
                raise ValueError(f"The data has no labels for the output {self.output!r}.")
        labels = np.asarray(y)
        if self.task == CLASSES:
            return _classes(labels, rows, self.shape)
        single = self.shape[:-1] if self.shape[-1:] == (1,) else self.shape
        answers = (rows, *(single if self.task == YES_OR_NO else self.shape))
        if labels.size != np.prod(answers) or labels.shape[:1] != (rows,):
            raise ValueError(
                f"Expected a label for each answer, {answers}, for these models are asked for "
                f"{self.task}; got labels of {labels.shape}. Of classes they are whole numbers; "
                f"task= says what is asked."
            )
        labels = labels.reshape(answers)
        if self.task == NUMBERS:
            return labels.astype("float64")
        if not np.isin(labels, (-1, 0, 1)).all():
            strange = np.setdiff1d(labels, (-1, 0, 1))[:5].tolist()
            raise ValueError(f"Expected labels of 0 and 1, or -1 for none; got {strange}.")
        return labels.astype("int64")


def _classes(labels: np.ndarray, rows: int, shape: tuple[int, ...]) -> np.ndarray:
    classes = shape[-1]
    wanted = (rows, *shape[:-1])
    if labels.shape == (rows, *shape) and labels.size != np.prod(wanted):
        if not (np.isin(labels, (0, 1)).all() and (labels.sum(-1) == 1).all()):
            raise ValueError(
                "Expected class numbers or one-hot labels; these are shares. Give their argmax."
            )
        return labels.argmax(-1)
    if labels.size != np.prod(wanted) or labels.shape[:1] != (rows,):
        raise ValueError(
            f"Expected labels of {wanted}, or one-hot {(rows, *shape)}; got {labels.shape}."
        )
    numbers = labels.reshape(wanted)
    outside = numbers[(numbers < -1) | (numbers >= classes) | (numbers != np.rint(numbers))]
    if outside.size:
        raise ValueError(
            f"Expected labels of 0 to {classes - 1}, or -1 for none; {outside.size} of "
            f"{numbers.size} are others: {', '.join(f'{one:g}' for one in np.unique(outside)[:5])}."
        )
    return numbers.astype("int64")
