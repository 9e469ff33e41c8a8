"""Metrics of numbers: scikit-learn's on the same answers."""

import numpy as np
import pytest
from sklearn import metrics as sk

from keras_distill import measures
from keras_distill.measures.metric import NUMBERS, Answered, Metric

METRICS = {
    "MAE": (measures.mae(), sk.mean_absolute_error),
    "RMSE": (measures.rmse(), sk.root_mean_squared_error),
    "R2": (measures.r2(), sk.r2_score),
}


@pytest.fixture
def answered():
    rng = np.random.default_rng(0)
    labels = 100 + rng.normal(size=50)
    return Answered(NUMBERS, labels + rng.normal(size=50), labels)


@pytest.mark.parametrize("name", METRICS)
def test_they_are_scikit_learns(name, answered):
    metric, library = METRICS[name]
    assert metric(answered) == pytest.approx(library(answered.labels, answered.answers), abs=1e-9)
    holes = answered.labels.copy()
    holes[::4] = np.nan
    known = ~np.isnan(holes)
    expected = library(holes[known], answered.answers[known])
    assert metric(Answered(NUMBERS, answered.answers, holes)) == pytest.approx(expected, abs=1e-9)


def test_quantiles_are_scikit_learns():
    rng = np.random.default_rng(1)
    found, labels = rng.normal(size=(30, 2)), rng.normal(size=30)
    answered = Answered(NUMBERS, found, np.repeat(labels[:, None], 2, 1))
    each = [sk.mean_pinball_loss(labels, found[:, i], alpha=q) for i, q in enumerate((0.1, 0.9))]
    assert measures.quantile_loss((0.1, 0.9))(answered) == pytest.approx(np.mean(each))
    with pytest.raises(ValueError, match="each of the 3 levels"):
        measures.quantile_loss((0.1, 0.5, 0.9))(answered)
    with pytest.raises(ValueError, match="between 0 and 1"):
        measures.quantile_loss((0.1, 1.0))


def test_equal_labels_have_no_r2():
    same = Answered(NUMBERS, np.array([1.0, 2.0]), np.array([0.1, 0.1]))
    assert np.isnan(measures.r2()(same))


def test_a_function_of_ones_own_sees_rows_as_often_as_they_weigh(answered):
    metric = Metric.of("mean", lambda a, y: float(a.mean()), better=-1)
    found = metric.under(answered, np.eye(50)[:2] * 3)
    assert found.tolist() == pytest.approx(answered.answers[:2].tolist())
