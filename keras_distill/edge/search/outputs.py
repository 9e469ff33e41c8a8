"""A model's outputs beside the reference's: what they mean, and what rounding loses of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_distill.edge.search.divergence import (
    LOG_SHARES,
    NUMBERS,
    YES_OR_NO,
    as_log_shares,
    as_yes_or_no,
    divergence,
)
from keras_distill.edge.verification.heads import Head
from keras_distill.signals.outputs import KINDS, check_kind

__all__ = ["Output", "check_kinds"]

_SAID = (*KINDS, "numbers")
# By what an output is said to be, how its answers are read and judged.
_READ = {
    "logits": (LOG_SHARES, "classes"),
    "probabilities": (LOG_SHARES, "classes"),
    "sigmoid": (YES_OR_NO, "yes or no"),
    "numbers": (NUMBERS, "numbers"),
}
# And by what labels and numbers make of it.
_FOUND = {"classes": "logits", "yes or no": "sigmoid", "numbers": "numbers"}


def check_kinds(said: Any) -> Any:
    """`said`, or ValueError where it is no kind of an output, nor a dict of them."""
    return check_kind(said, "output", _SAID)


@dataclass(frozen=True)
class Output:
    """One output of the float model beside the reference's, both as `read` has them.

    Attributes:
      name: as the model calls it.
      kind: "logits", "probabilities", "sigmoid" or "numbers".
      are_shares: whether the model's answers lie from 0 to 1, behind a softmax or a sigmoid.
      of_float, reference: a row an example.
      labels: None where there are none.
      judged: as what `Head` is to judge it; None to find out from the labels.
    """

    name: str
    kind: str
    are_shares: bool
    of_float: np.ndarray
    reference: np.ndarray
    labels: np.ndarray | None
    judged: str | None

    @classmethod
    def of(
        cls,
        name: str,
        traced: str,
        said: str,
        answers: np.ndarray,
        reference: Any,
        labels: np.ndarray | None,
    ) -> Output:
        """Finds out what an output is.

        Args:
          name: of the output.
          traced: what the model's graph tells: "logits" where it tells nothing.
          said: what the user said: "auto" for nothing.
          answers: those of the float model.
          reference: a `signals.Head` of the teacher's answers; None for `answers`.
          labels: None where there are none.

        Raises:
          ValueError: labels that do not belong to it; a teacher of another shape or meaning, or
            that answers NaN.
        """
        kind = _kind(name, traced, said, answers, labels)
        way, judged = _READ[kind]
        inside = bool(answers.size and answers.min() >= 0 and answers.max() <= 1)
        shares = kind == "probabilities" or (kind == "sigmoid" and inside)
        of_float = _read(way, answers, shares)
        theirs = of_float if reference is None else _of_teacher(name, kind, answers, reference)
        unlabelled = labels is None and np.issubdtype(answers.dtype, np.floating)
        own = said != "auto" or unlabelled
        made = cls(name, kind, shares, of_float, theirs, labels, judged if own else None)
        made.lost(answers)  # Labels of another output are told of before any work.
        return made

    def apart(self, answers: np.ndarray) -> float:
        """The divergence of some answers of the model from the reference."""
        return divergence(_READ[self.kind][0], self.reference, self._read(answers))

    def lost(self, answers: np.ndarray) -> float:
        """What some answers of the model lose beside the float model's; infinite for NaN.

        Of accuracy where there are labels of classes, else of the agreement with the reference's
        choices, else of the correlation with it.
        """
        before, after = (
            Head.of(self.name, one, self.reference, self.labels, self.judged)
            for one in (self.of_float, self._read(answers))
        )
        hits = [head.hits(head.file) for head in (before, after)]
        if hits[0] is not None and hits[1] is not None:
            return float(hits[0].mean() - hits[1].mean())
        was, now = (head.agreement(self.reference) for head in (before, after))
        if was is None or now is None:
            was, now = (head.correlation(self.reference) for head in (before, after))
        return math.inf if math.isnan(was - now) else was - now

    def _read(self, answers: np.ndarray) -> np.ndarray:
        return _read(_READ[self.kind][0], answers, self.are_shares)


def _kind(name: str, traced: str, said: str, answers: np.ndarray, labels: np.ndarray | None) -> str:
    if said != "auto":
        return said
    many = answers.ndim > 1 and answers.shape[-1] > 1
    if traced == "sigmoid" or (traced == "probabilities" and many):
        return traced
    # Class numbers have no distance, but a square tells whether they are equal.
    return _FOUND.get(Head.of(name, answers, answers, labels).kind, "numbers")


def _read(way: str, answers: np.ndarray, shares: bool) -> np.ndarray:
    if way == LOG_SHARES:
        return as_log_shares(answers, are_shares=shares)
    return as_yes_or_no(answers, are_shares=shares) if way == YES_OR_NO else answers


def _of_teacher(name: str, kind: str, answers: np.ndarray, given: Any) -> np.ndarray:
    """The teacher's answers as the model's are read."""
    found = np.asarray(given.logits)
    if found.shape != answers.shape:
        raise ValueError(
            f"Expected the teacher to answer for {name!r} in the model's shape, {answers.shape}; "
            f"got {found.shape}."
        )
    if np.isnan(found).any():
        raise ValueError(f"The teacher answers for {name!r} with NaN: look at its weights.")
    way, fits = _READ[kind][0], {"logits"}
    fits |= {LOG_SHARES: {"probabilities"}, YES_OR_NO: {"sigmoid"}}.get(way, set())
    if given.kind not in fits:
        raise ValueError(
            f"The output {name!r} is read as {kind!r}, and the teacher's is {given.kind!r}. Give a "
            f"teacher whose answers mean the same, or say what they are: output={{{name!r}: ...}}, "
            f"teachers.Model(teacher, output=...)."
        )
    # Logarithms of probabilities are scores, too.
    return _read(way, found, shares=given.kind == "sigmoid")
