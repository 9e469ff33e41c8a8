"""Metrics of classes, of yes or no, of rankings: scikit-learn's on the same answers."""

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from keras_distill import measures
from keras_distill.measures.metric import CLASSES, YES_OR_NO, Answered

ROWS, CLASS_COUNT, MACRO = 60, 4, "macro"


def shares(rng, rows=ROWS, classes=CLASS_COUNT, coarse=False):
    scores = rng.normal(size=(rows, classes))
    if coarse:  # So that there are ties.
        scores = np.rint(scores)
    exponents = np.exp(scores)
    return exponents / exponents.sum(-1, keepdims=True)


@pytest.fixture(params=[False, True], ids=["fine", "ties"])
def answered(request):
    rng = np.random.default_rng(3)
    labels = rng.integers(0, CLASS_COUNT, ROWS)
    return Answered(CLASSES, shares(rng, coarse=request.param), labels)


def brier_by_hand(labels, found):
    return np.mean(np.sum((found - np.eye(found.shape[-1])[labels]) ** 2, -1))


BY_LIBRARY = {
    "accuracy": (measures.accuracy(), lambda y, p: sk.accuracy_score(y, p.argmax(-1))),
    "top-2": (measures.top_k(2), lambda y, p: sk.top_k_accuracy_score(y, p, k=2)),
    "NLL": (measures.nll(), lambda y, p: sk.log_loss(y, p)),
    "perplexity": (measures.perplexity(), lambda y, p: np.exp(sk.log_loss(y, p))),
    "macro-F1": (measures.f1(), lambda y, p: sk.f1_score(y, p.argmax(-1), average="macro")),
    "mean IoU": (measures.mean_iou(), lambda y, p: sk.jaccard_score(y, p.argmax(1), average=MACRO)),
    "ROC-AUC": (measures.roc_auc(), lambda y, p: sk.roc_auc_score(y, p, multi_class="ovr")),
    "Brier": (measures.brier(), brier_by_hand),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_LIBRARY)
def test_of_classes_they_are_scikit_learns(name, answered):
    metric, library = BY_LIBRARY[name]
    assert metric.name == name
    assert metric(answered) == pytest.approx(library(answered.labels, answered.answers), abs=1e-9)


@pytest.mark.parametrize("name", BY_LIBRARY)
def test_a_weight_is_so_many_rows(name, answered):
    metric, _ = BY_LIBRARY[name]
    weights = np.random.default_rng(0).integers(0, 4, (3, ROWS))
    found = metric.under(answered, weights.astype(float))
    for one, value in zip(weights, found, strict=True):
        places = np.repeat(np.arange(ROWS), one)
        drawn = Answered(CLASSES, answered.answers[places], answered.labels[places])
        assert value == pytest.approx(metric(drawn), abs=1e-12)


@pytest.mark.parametrize("name", [*BY_LIBRARY, "ECE"])
def test_a_row_without_a_label_does_not_count(name, answered):
    metric = BY_LIBRARY[name][0] if name in BY_LIBRARY else measures.expected_calibration_error()
    some = np.arange(ROWS) % 3 > 0
    partly = Answered(CLASSES, answered.answers, np.where(some, answered.labels, -1))
    alone = Answered(CLASSES, answered.answers[some], answered.labels[some])
    if name in ("macro-F1", "mean IoU"):
        # A class that is answered only where no label is does not occur.
        assert set(alone.choices) | set(alone.labels) == set(range(CLASS_COUNT))
    assert metric(partly) == pytest.approx(metric(alone), abs=1e-12)


YES = {
    "accuracy": (measures.accuracy(), lambda y, p: sk.accuracy_score(y, p > 0.5)),
    "macro-F1": (measures.f1(), lambda y, p: sk.f1_score(y, p > 0.5)),
    "NLL": (measures.nll(), lambda y, p: sk.log_loss(y, p)),
    "Brier": (measures.brier(), lambda y, p: sk.brier_score_loss(y, p)),
    "ROC-AUC": (measures.roc_auc(), lambda y, p: sk.roc_auc_score(y, p)),
}


@pytest.mark.parametrize("columns", [None, 3], ids=["one", "several"])
@pytest.mark.parametrize("name", YES)
def test_of_yes_or_no_they_are_scikit_learns(name, columns):
    rng = np.random.default_rng(1)
    shape = (ROWS,) if columns is None else (ROWS, columns)
    found, labels = np.round(rng.uniform(0.01, 0.99, shape), 2), rng.integers(0, 2, shape)
    metric, library = YES[name]
    each = [(labels, found)] if columns is None else zip(labels.T, found.T, strict=True)
    expected = np.mean([library(y, p) for y, p in each])
    assert metric(Answered(YES_OR_NO, found, labels)) == pytest.approx(expected, abs=1e-9)


def test_calibration_by_hand():
    # Two bins: three answers of confidence 0.4 of which one is right, one of 0.9 that is right.
    found = np.array([[0.4, 0.3, 0.3]] * 3 + [[0.9, 0.05, 0.05]])
    answered = Answered(CLASSES, found, np.array([0, 1, 2, 0]))
    # 3/4 |1/3 - 0.4| + 1/4 |1 - 0.9| = 0.075
    assert measures.expected_calibration_error(2)(answered) == pytest.approx(0.075)
    # At the upper end of its bin an answer belongs to it: 0.5 falls in with 0.4.
    edge = Answered(YES_OR_NO, np.array([0.5, 0.4]), np.array([1, 0]))
    assert measures.expected_calibration_error(2)(edge) == pytest.approx(abs(0.45 - 0.5))


def test_calibration_is_scikit_learns_curve():
    rng = np.random.default_rng(6)
    found, labels = rng.uniform(size=500), rng.integers(0, 2, 500)
    often, sure = calibration_curve(labels, found, n_bins=15)
    # No answer lies on an edge; each of 15 bins has some.
    counts = np.histogram(found, 15, (0, 1))[0]
    expected = counts @ np.abs(often - sure) / 500
    assert measures.expected_calibration_error()(
        Answered(YES_OR_NO, found, labels)
    ) == pytest.approx(expected)


def test_each_position_of_a_map_counts():
    rng = np.random.default_rng(2)
    found = shares(rng, 6 * 5).reshape(6, 5, CLASS_COUNT)
    labels = rng.integers(0, CLASS_COUNT, (6, 5))
    labels[0, :3] = -1
    known = labels != -1
    for name in ("accuracy", "macro-F1", "mean IoU", "NLL"):
        metric, library = BY_LIBRARY[name]
        expected = library(labels[known], found[known])
        assert metric(Answered(CLASSES, found, labels)) == pytest.approx(expected), name


def test_rankings_are_scikit_learns():
    rng = np.random.default_rng(5)
    scores, relevant = rng.normal(size=(20, 15)), rng.integers(0, 2, (20, 15))
    relevant[3] = 0  # Nothing to be found: it does not count.
    rows = np.arange(20) != 3
    answered = Answered(YES_OR_NO, scores, relevant)
    expected = sk.ndcg_score(relevant[rows], scores[rows], k=4)
    assert measures.ndcg(4)(answered) == pytest.approx(expected)
    order = np.argsort(-scores, -1)[:, :4]
    hits = np.take_along_axis(relevant, order, -1).sum(-1)[rows] / relevant.sum(-1)[rows]
    assert measures.recall(4)(answered) == pytest.approx(hits.mean())
    # One item each: 1 / log2(1 + rank) of it, if it is among the first.
    one = Answered(CLASSES, np.array([[0.1, 0.7, 0.2]] * 2), np.array([2, 0]))
    assert measures.ndcg(2)(one) == pytest.approx(0.5 * 1 / np.log2(3))
    assert measures.recall(2)(one) == 0.5


def test_a_curve_needs_both_kinds():
    only = Answered(YES_OR_NO, np.array([0.2, 0.9]), np.array([1, 1]))
    assert np.isnan(measures.roc_auc()(only))
    with pytest.raises(ValueError, match="not of positions"):
        measures.roc_auc()(Answered(CLASSES, np.ones((2, 3, 2)), np.ones((2, 3), int)))
