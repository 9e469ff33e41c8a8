"""Metrics of probabilities: of one class among several, and of yes or no."""

from __future__ import annotations

import numpy as np

from keras_distill.measures.metric import CLASSES, YES_OR_NO, Answered, Metric, ratio

__all__ = [
    "accuracy",
    "brier",
    "f1",
    "mean_iou",
    "nll",
    "perplexity",
    "roc_auc",
    "top_k",
]

_BOTH = (CLASSES, YES_OR_NO)
# Below it a float32 softmax says nothing any more.
_LEAST = float(np.finfo("float32").eps)


def accuracy() -> Metric:
    """The share of labels that the answers choose; of yes or no, from 0.5 up it is a yes.

    >>> answered = Answered(CLASSES, np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1]))
    >>> accuracy()(answered)
    0.5
    """

    def under(answered: Answered, weights: np.ndarray) -> np.ndarray:
        hits = answered.by_row(answered.choices == answered.labels)
        return ratio(weights, hits, answered.by_row(np.ones(answered.labels.shape)))

    return Metric("accuracy", under, share=True, tasks=_BOTH)


def top_k(k: int = 5) -> Metric:
    """The share of labels among the `k` most likely classes.

    Classes as likely as the label's count before it, as in scikit-learn's where they come later.
    """

    def under(answered: Answered, weights: np.ndarray) -> np.ndarray:
        own = _of_label(answered.answers, answered)[..., None]
        above = (answered.answers > own).sum(-1)
        places = np.arange(answered.answers.shape[-1])
        later = places > np.maximum(answered.labels, 0)[..., None]
        above = above + ((answered.answers == own) & later).sum(-1)
        hits = answered.by_row(above < k)
        return ratio(weights, hits, answered.by_row(np.ones(answered.labels.shape)))

    return Metric(f"top-{k}", under, share=True, tasks=(CLASSES,))


def nll() -> Metric:
    """The mean of -log p(label), in nats; probabilities below 1.2e-7 count as that.

    An integer file's softmax knows 256 steps: what it calls 0 counts for 15.9 nats.
    """

    def under(answered: Answered, weights: np.ndarray) -> np.ndarray:
        total = answered.by_row(_surprise(answered))
        return ratio(weights, total, answered.by_row(np.ones(answered.labels.shape)))

    return Metric("NLL", under, better=-1, tasks=_BOTH)


def perplexity() -> Metric:
    """exp of the mean of -log p(label) over all positions of all examples: of language models."""

    def under(answered: Answered, weights: np.ndarray) -> np.ndarray:
        return np.exp(nll().under(answered, weights))

    return Metric("perplexity", under, better=-1, tasks=(CLASSES,))


def brier() -> Metric:
    """The mean of sum_k (p_k - [label = k])^2; of yes or no of (p - label)^2.

    Source: Brier, "Verification of Forecasts Expressed in Terms of Probability", Monthly Weather
    Review, 1950.
    """

    def under(answered: Answered, weights: np.ndarray) -> np.ndarray:
        if answered.task == YES_OR_NO:
            apart = np.square(answered.answers - answered.labels)
        else:
            own = _of_label(answered.answers, answered)
            apart = np.square(answered.answers).sum(-1) + 1 - 2 * own
        total = answered.by_row(apart)
        return ratio(weights, total, answered.by_row(np.ones(answered.labels.shape)))

    return Metric("Brier", under, better=-1, tasks=_BOTH)


def f1() -> Metric:
    """2 TP / (2 TP + FP + FN), the mean over the classes that occur in labels or answers.

    Of yes or no it is that of yes, the mean over the columns.
    """

    def under(answered: Answered, weights: np.ndarray) -> np.ndarray:
        both, chosen, true = _counts(answered, weights)
        return _mean_where(2 * both, chosen + true)

    return Metric("macro-F1", under, share=True, tasks=_BOTH)


def mean_iou() -> Metric:
    """TP / (TP + FP + FN), the mean over the classes that occur: of segmentation."""

    def under(answered: Answered, weights: np.ndarray) -> np.ndarray:
        both, chosen, true = _counts(answered, weights)
        return _mean_where(both, chosen + true - both)

    return Metric("mean IoU", under, share=True, tasks=_BOTH)


def roc_auc() -> Metric:
    """The area under the ROC curve; of several classes each against the rest, the mean.

    Source: Hanley and McNeil, "The meaning and use of the area under a ROC curve", Radiology, 1982:
    how often a positive example is scored above a negative one, ties by half.
    """

    def under(answered: Answered, weights: np.ndarray) -> np.ndarray:
        columns = [
            _area(scores[known], yes[known], weights[:, known])
            for scores, yes, known in _columns(answered)
        ]
        if not columns:
            return np.full(len(weights), np.nan)
        areas = np.stack(columns, -1)
        return _mean_of(areas, ~np.isnan(areas))

    return Metric("ROC-AUC", under, share=True, tasks=_BOTH)


def _of_label(values: np.ndarray, answered: Answered) -> np.ndarray:
    """Each label's own value; the first class' where there is none."""
    places = np.maximum(answered.labels, 0).astype(int)[..., None]
    return np.take_along_axis(values, places, -1)[..., 0]


def _surprise(answered: Answered) -> np.ndarray:
    if answered.task == CLASSES:
        found = _of_label(answered.answers, answered)
    else:
        found = np.where(answered.labels == 1, answered.answers, 1 - answered.answers)
    return -np.log(np.maximum(found, _LEAST))


def _counts(answered: Answered, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each class how often answer and label, answer, and label are it, `(sets, classes)`."""
    chosen, true, known = answered.choices, answered.labels, answered.known
    if answered.task == CLASSES:
        classes = answered.answers.shape[-1]
        masks = [(chosen == one, true == one) for one in range(classes)]
        found = [[answered.by_row(part) for part in (a & b, a, b)] for a, b in masks]
        stacked = np.array(found).transpose(1, 2, 0)
    else:
        columns = true.reshape(len(true), -1).shape[-1] if true.ndim > 1 else 1
        flat = [np.where(known, p, 0).reshape(len(true), -1, columns).sum(1)
                for p in (chosen & (true == 1), chosen, true == 1)]  # fmt: skip
        stacked = np.array(flat, "float64")
    # One product of matrices: the weights are read once.
    parts, rows, classes = stacked.shape
    sums = weights @ stacked.transpose(1, 0, 2).reshape(rows, parts * classes)
    both, picked, real = sums.reshape(len(weights), parts, classes).transpose(1, 0, 2)
    return both, picked, real


def _mean_where(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """The mean of above / below over the last axis, where there is something below."""
    there = below > 0
    return _mean_of(np.divide(above, below, out=np.zeros(above.shape), where=there), there)


def _mean_of(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    """The mean over the last axis of what is there; NaN of nothing."""
    total, count = np.where(there, values, 0.0).sum(-1), there.sum(-1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _columns(answered: Answered):
    """Scores, yes or no, and where there is a label, for each class or column of each row."""
    if answered.answers.ndim > 2 or (answered.task == CLASSES and answered.labels.ndim > 1):
        raise ValueError("ROC-AUC is of one answer an example, not of positions.")
    if answered.task == CLASSES:
        present = np.unique(answered.labels[answered.known]).astype(int)
        kept = present[-1:] if answered.answers.shape[-1] == 2 else present
        for one in kept:
            yield answered.answers[:, one], answered.labels == one, answered.known
        return
    shape = (answered.rows, -1)
    parts = (p.reshape(shape).T for p in (answered.answers, answered.labels == 1, answered.known))
    yield from zip(*parts, strict=True)


def _area(scores: np.ndarray, yes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    if not len(scores):
        return np.full(len(weights), np.nan)
    order = np.argsort(scores, kind="stable")
    begins = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    sorted_weights = weights[:, order]
    positive = np.add.reduceat(sorted_weights * yes[order], begins, axis=1)
    negative = np.add.reduceat(sorted_weights * ~yes[order], begins, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    pairs = positive.sum(1) * negative.sum(1)
    won = (positive * below).sum(1)
    return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)
