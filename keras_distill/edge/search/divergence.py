"""How far a model's answers lie from a reference's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.special

from keras_distill.edge.verification.heads import Head

__all__ = ["divergence"]


def divergence(reference: Sequence[np.ndarray], answers: Sequence[np.ndarray]) -> float:
    """The sum over the outputs of KL(reference || answers), of numbers the relative squared error.

    Where an output's last axis holds classes: sum p log(p / q), in nats, mean over all places;
    elsewhere mean (answer - reference)^2 / var(reference).

    Args:
      reference, answers: for each output an array, a row an example; scores or shares of classes.

    >>> half = np.log([[0.5, 0.5]])
    >>> round(divergence([half], [np.log([[0.25, 0.75]])]), 4)  # 0.5 ln 2 + 0.5 ln(2 / 3)
    0.1438
    """
    return float(sum(map(_apart, reference, answers)))


def _apart(reference: np.ndarray, answers: np.ndarray) -> float:
    reference, answers = reference.astype("float64"), answers.astype("float64")
    if Head.of("", answers, reference, None).kind == "classes":
        p, q = _log_shares(reference), _log_shares(answers)
        return np.mean(np.sum(np.exp(p) * (p - q), axis=-1))
    return np.mean(np.square(answers - reference)) / (np.var(reference) or 1.0)


def _log_shares(answers: np.ndarray) -> np.ndarray:
    sums = answers.sum(axis=-1)
    if answers.min() >= 0 and np.allclose(sums, 1.0, atol=1e-2):
        # The smallest share that a float32 softmax gives beside 1.
        return np.log(np.maximum(answers, 1e-8) / np.maximum(answers, 1e-8).sum(-1, keepdims=True))
    return scipy.special.log_softmax(answers, axis=-1)
