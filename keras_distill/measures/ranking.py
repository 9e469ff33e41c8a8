"""Metrics of recommenders: which items are ranked high."""

from __future__ import annotations

import numpy as np

from keras_distill.measures.metric import CLASSES, YES_OR_NO, Answered, Metric, ratio

__all__ = ["ndcg", "recall"]


def ndcg(k: int = 10) -> Metric:
    """The normalised discounted cumulative gain of the first `k` items, mean over examples.

    sum over the relevant items among the first k of 1 / log2(1 + rank), over the most that could
    be. An example without a relevant item does not count.

    Source: Jarvelin and Kekalainen, "Cumulated Gain-Based Evaluation of IR Techniques", ACM TOIS,
    2002.
    """
    discounts = 1 / np.log2(np.arange(k) + 2)

    def under(answered: Answered, weights: np.ndarray) -> np.ndarray:
        first, wanted = _first(answered, k)
        best = np.concatenate([[0.0], np.cumsum(discounts)])[np.minimum(wanted, k).astype(int)]
        gain = first @ discounts[: first.shape[-1]]
        gain = np.divide(gain, best, out=np.zeros(len(best)), where=best > 0)
        return ratio(weights, gain, (best > 0).astype("float64"))

    return Metric(f"NDCG@{k}", under, share=True, tasks=(CLASSES, YES_OR_NO))


def recall(k: int = 10) -> Metric:
    """The share of an example's relevant items among the first `k`, mean over examples."""

    def under(answered: Answered, weights: np.ndarray) -> np.ndarray:
        first, wanted = _first(answered, k)
        share = np.divide(first.sum(-1), wanted, out=np.zeros(len(wanted)), where=wanted > 0)
        return ratio(weights, share, (wanted > 0).astype("float64"))

    return Metric(f"recall@{k}", under, share=True, tasks=(CLASSES, YES_OR_NO))


def _first(answered: Answered, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of the first `k` items are relevant, `(rows, k)`, and how many are in all, `(rows,)`.

    Ties are in the items' order.
    """
    scores = answered.answers
    if scores.ndim != 2:
        raise ValueError(f"Expected scores of items, (rows, items); got {scores.shape}.")
    if answered.task == CLASSES:
        relevant = answered.labels[:, None] == np.arange(scores.shape[-1])
    else:
        relevant = answered.labels == 1
    order = np.argsort(-scores, axis=-1, kind="stable")[:, :k]
    return np.take_along_axis(relevant, order, -1).astype("float64"), relevant.sum(-1)
