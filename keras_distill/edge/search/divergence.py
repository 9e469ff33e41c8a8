"""How far a model's answers lie from a reference's, by what they mean."""

from __future__ import annotations

import numpy as np
import scipy.special

__all__ = ["LOG_SHARES", "NUMBERS", "YES_OR_NO", "as_log_shares", "as_yes_or_no", "divergence"]

# What answers are once they are read: see `divergence`.
LOG_SHARES, YES_OR_NO, NUMBERS = "log shares", "yes or no", "numbers"
# What is 0 in 256 steps is a half of one at most.
_LEAST = 1.0 / 512


def as_log_shares(answers: np.ndarray, *, are_shares: bool) -> np.ndarray:
    """Scores or shares of the classes of the last axis as logarithms of shares.

    Args:
      answers: `(rows, ..., classes)`.
      are_shares: shares, which rounding may have kept from adding up to 1.

    >>> np.exp(as_log_shares(np.array([[0.5, 0.75]]), are_shares=True)).tolist()
    [[0.4, 0.6]]
    """
    answers = answers.astype("float64")
    if not are_shares:
        return scipy.special.log_softmax(answers, axis=-1)
    above = np.maximum(answers, _LEAST)
    return np.log(above / above.sum(axis=-1, keepdims=True))


def as_yes_or_no(answers: np.ndarray, *, are_shares: bool) -> np.ndarray:
    """Scores of yes, or what a sigmoid made of them, as probabilities.

    >>> as_yes_or_no(np.array([[0.0]]), are_shares=False).tolist()
    [[0.5]]
    """
    answers = answers.astype("float64")
    found = answers if are_shares else scipy.special.expit(answers)
    return np.clip(found, _LEAST, 1 - _LEAST)


def divergence(kind: str, reference: np.ndarray, answers: np.ndarray) -> float:
    """How far `answers` lie from a reference, a mean over all places.

    Logarithms of shares: KL(reference || answers) = sum p log(p / q) over the last axis, in nats.
    Yes or no: the same of each number's two answers, summed over the last axis. Numbers:
    (answer - reference)^2 / var(reference). Infinite where an answer is NaN.

    Args:
      kind: `LOG_SHARES`, `YES_OR_NO` or `NUMBERS`.
      reference, answers: `(rows, ..., classes)`, of that kind.

    >>> half, quarter = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])
    >>> round(divergence(LOG_SHARES, half, quarter), 4)  # 0.5 ln 2 + 0.5 ln(2 / 3)
    0.1438
    """
    if np.isnan(answers).any():
        return float("inf")
    if kind == LOG_SHARES:
        return float(np.mean(np.sum(np.exp(reference) * (reference - answers), axis=-1)))
    if kind == YES_OR_NO:
        each = scipy.special.rel_entr(reference, answers)
        each = each + scipy.special.rel_entr(1 - reference, 1 - answers)
        return float(np.mean(each.sum(axis=-1)))
    square = np.square(answers.astype("float64") - reference)
    return float(np.mean(square) / (np.var(reference, dtype="float64") or 1.0))
