"""How far a model's answers lie from a reference's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.special

from keras_distill.edge.verification.heads import Head

__all__ = ["are_shares", "divergence"]


def divergence(
    reference: Sequence[np.ndarray],
    answers: Sequence[np.ndarray],
    shares: Sequence[bool] | None = None,
) -> float:
    """The sum over the outputs of KL(reference || answers), of numbers the relative squared error.

    Where an output's last axis is longer than 1 it holds classes: sum p log(p / q), in nats, mean
    over all places; elsewhere mean (answer - reference)^2 / var(reference).

    Args:
      reference, answers: for each output an array, a row an example; scores or shares of classes.
      shares: for each output, whether `answers` has shares, which rounding may have kept from
        adding up to 1; None to find out from the answers.

    >>> half = np.log([[0.5, 0.5]])
    >>> round(divergence([half], [np.log([[0.25, 0.75]])]), 4)  # 0.5 ln 2 + 0.5 ln(2 / 3)
    0.1438
    """
    found = shares or list(map(are_shares, answers))
    return float(sum(map(_apart, reference, answers, found)))


def are_shares(answers: np.ndarray) -> bool:
    """Whether an output has shares of classes, as softmax gives them, and no scores."""
    return bool(answers.min() >= 0 and np.allclose(answers.sum(axis=-1), 1.0, atol=1e-2))


def _apart(reference: np.ndarray, answers: np.ndarray, shares: bool) -> float:
    reference, answers = reference.astype("float64"), answers.astype("float64")
    if Head.of("", answers, reference, None).kind == "classes":
        p, q = _log_shares(reference, are_shares(reference)), _log_shares(answers, shares)
        return np.mean(np.sum(np.exp(p) * (p - q), axis=-1))
    return np.mean(np.square(answers - reference)) / (np.var(reference) or 1.0)


def _log_shares(answers: np.ndarray, shares: bool) -> np.ndarray:
    if shares:
        # What is 0 in 256 steps is a half of one at most.
        above = np.maximum(answers, 1.0 / 512)
        return np.log(above / above.sum(axis=-1, keepdims=True))
    return scipy.special.log_softmax(answers, axis=-1)
