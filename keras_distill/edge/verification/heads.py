"""One output of a file beside the model's and the labels: what it is, and how far they agree."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from keras_distill.edge.joins import Part
from keras_distill.measures.agreement import correlation, kappa

__all__ = ["Head"]


@dataclass(frozen=True)
class Head:
    """An output's arrays, a row an example.

    `kind` says how its answers are read: "classes" (the largest of the last axis), "yes or no"
    (each number above `threshold`), "class numbers" (equal or not) or "numbers". `labels` is None
    where there are none, or none that say right or wrong. `parts` are those of a concatenation.
    """

    name: str
    kind: str
    file: np.ndarray
    reference: np.ndarray
    labels: np.ndarray | None = None
    threshold: float = 0.0
    parts: tuple[Part, ...] = ()

    def each_part(self) -> Iterator[tuple[Part, Head]]:
        """The parts, each as an output of numbers."""
        for part in self.parts:
            ours, theirs = part.of(self.file), part.of(self.reference)
            yield part, Head(f"{self.name}: {part.name}", "numbers", ours, theirs)

    @classmethod
    def of(
        cls,
        name: str,
        file: np.ndarray,
        reference: np.ndarray,
        labels: np.ndarray | None,
        kind: str | None = None,
    ) -> Head:
        """Finds out the kind, where it is not given, from what the labels and numbers look like.

        Raises:
          ValueError: labels of another shape, outside the classes, or of which none is a 0.
        """
        if labels is not None:
            labels = _fitted(name, labels, reference)
        kind = kind or _kind(reference, labels)
        if kind == "classes" and labels is not None:
            labels = _class_numbers(name, labels, reference)
        elif kind == "numbers" or labels is None:
            labels = None
        elif kind == "yes or no":
            values = np.unique(labels)
            if -1 in values and 0 not in values:
                raise ValueError(
                    f"The labels of {name!r} are {values}: -1 stands for no label, and then every "
                    f"answer but yes is wrong. Give 0 for no."
                )
        shares = reference.size and reference.min() >= 0 and reference.max() <= 1
        return cls(name, kind, file, reference, labels, 0.5 if shares else 0.0)

    def choices(self, answers: np.ndarray) -> np.ndarray | None:
        """The class that each answer is for; -2 where it is NaN, None where there are none."""
        if self.kind == "numbers":
            return None
        if self.kind == "classes":
            return np.where(np.isnan(answers).any(-1), -2, answers.argmax(-1))
        if self.kind == "class numbers":
            return np.where(np.isnan(answers), -2, np.rint(np.nan_to_num(answers)))
        return np.where(np.isnan(answers), -2, answers > self.threshold)

    def hits(self, answers: np.ndarray) -> np.ndarray | None:
        """Right or wrong for each label that there is."""
        chosen = self.choices(answers)
        if self.labels is None or chosen is None:
            return None
        known = self.labels != -1
        return (chosen == self.labels)[known] if known.any() else None

    def agreement(self, other: np.ndarray) -> float | None:
        """Share of answers for which file and `other` choose the same class."""
        ours, theirs = self.choices(self.file), self.choices(other)
        if ours is None or theirs is None:
            return None
        return float(np.mean((ours == theirs) & (ours != -2)))

    def correlation(self, other: np.ndarray) -> float:
        """Pearson's; of class numbers Cohen's kappa, the agreement beyond chance."""
        ours, theirs = self.choices(self.file), self.choices(other)
        if self.kind == "class numbers" and ours is not None and theirs is not None:
            lost = -2 in ours or -2 in theirs
            return math.nan if lost else kappa(ours, theirs)
        return correlation(self.file, other)

    def row_correlation(self, other: np.ndarray) -> float:
        """Pearson's of what rows add to the mean row, which any network with these biases has."""
        ours, theirs = (values.astype("float64") for values in (self.file, other))
        return correlation(ours - ours.mean(0), theirs - theirs.mean(0))

    def row_spread(self) -> float:
        """How much the model's rows differ, as part of the range of its numbers; 0 of infinite."""
        if self.kind == "class numbers" or not np.isfinite(self.reference).all():
            return 0.0
        values = self.reference.astype("float64")
        return float(np.sqrt(np.mean(np.square(values - values.mean(0)))) / self.scale())

    def errors(self) -> np.ndarray:
        """The largest difference in each row; equal infinities differ by nothing."""
        a, b = (part.astype("float64") for part in (self.file, self.reference))
        with np.errstate(invalid="ignore"):
            apart = np.where(a == b, 0.0, np.abs(a - b))
        return apart.reshape(len(a), -1).max(-1)

    def scale(self) -> float:
        """The range of the model's numbers; their size where they are all the same."""
        finite = self.reference[np.isfinite(self.reference)].astype("float64")
        if not finite.size:
            return 1.0
        return float(np.ptp(finite)) or float(np.abs(finite).max()) or 1.0

    def size(self) -> float:
        """The model's largest number, without its sign."""
        return float(np.abs(self.reference[np.isfinite(self.reference)]).max(initial=0.0))

    def rows_of_nan(self, answers: np.ndarray) -> np.ndarray:
        """The numbers of the rows that hold a NaN."""
        return np.flatnonzero(
            np.isnan(answers.reshape(len(answers) if answers.ndim else 1, -1)).any(-1)
        )


def _fitted(name: str, labels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """The labels in the outputs' shape, or in that without its last axis of classes."""
    many = outputs.ndim > 1 and outputs.shape[-1] > 1
    if labels.shape == outputs.shape:
        return labels
    wanted = outputs.shape[:-1] if many else outputs.shape
    if labels.size == math.prod(wanted) and labels.shape[:1] == outputs.shape[:1]:
        trimmed = [size for size in labels.shape[1:] if size != 1]
        if trimmed == [size for size in wanted[1:] if size != 1]:
            return labels.reshape(wanted)
    one_hot = f" or one-hot {outputs.shape}" if many else ""
    raise ValueError(f"Expected labels of {wanted}{one_hot} for {name!r}; got {labels.shape}.")


def _kind(reference: np.ndarray, labels: np.ndarray | None) -> str:
    if not np.issubdtype(reference.dtype, np.floating):
        return "class numbers"
    many = reference.ndim > 1 and reference.shape[-1] > 1
    if labels is None:
        return "classes" if many else "numbers"
    whole = bool((labels == np.rint(labels)).all())
    if labels.shape != reference.shape:
        return "classes" if whole else "numbers"
    shares = labels.min() >= 0 and np.allclose(labels.sum(-1), 1)
    if many and shares:
        return "classes"
    if whole and bool((reference == np.rint(reference)).all()):
        return "class numbers"
    return "yes or no" if np.isin(labels, (-1, 0, 1)).all() else "numbers"


def _class_numbers(name: str, labels: np.ndarray, outputs: np.ndarray) -> np.ndarray | None:
    classes = outputs.shape[-1]
    if labels.shape == outputs.shape:
        # Of shares of several classes none is right.
        return labels.argmax(-1) if np.isin(labels, (0, 1)).all() else None
    outside = labels[(labels < -1) | (labels >= classes)]
    if outside.size:
        raise ValueError(
            f"Expected labels of 0 to {classes - 1} for the {classes} classes of {name!r}, or -1 "
            f"for none; {outside.size} of {labels.size} are others: "
            f"{', '.join(f'{one:g}' for one in np.unique(outside)[:5])}."
        )
    return labels
