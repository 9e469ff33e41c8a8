"""How far answers agree: SciPy's correlation, at once and in parts, and scikit-learn's kappa."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from keras_distill.measures.agreement import Moments, correlation, kappa

RNG = np.random.default_rng(0)
OURS = RNG.normal(size=(40, 3)) + 100
THEIRS = OURS + RNG.normal(size=(40, 3))


def test_correlation_is_scipys():
    expected = stats.pearsonr(OURS.ravel(), THEIRS.ravel()).statistic
    assert correlation(OURS, THEIRS) == pytest.approx(expected)


@pytest.mark.parametrize("rows", [1, 7, 40])
def test_in_parts_it_is_scipys_as_well(rows):
    moments = Moments(3)
    holes = np.where(np.arange(120).reshape(40, 3) % 5 == 0, np.nan, THEIRS)
    for start in range(0, 40, rows):
        moments.add(OURS[start : start + rows], holes[start : start + rows])
    for column, found in enumerate(moments.correlation):
        known = ~np.isnan(holes[:, column])
        expected = stats.pearsonr(OURS[known, column], holes[known, column]).statistic
        assert found == pytest.approx(expected)


def test_kappa_is_scikit_learns():
    ours, theirs = RNG.integers(0, 4, (2, 200))
    theirs = np.where(RNG.random(200) < 0.5, ours, theirs)
    assert kappa(ours, theirs) == pytest.approx(sk.cohen_kappa_score(ours, theirs))


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([2.0, 2.0], [2.0, 2.01], 1.0),
        ([2.0, 2.0], [3.0, 4.0], 0.0),
        ([np.inf, 1.0, 2.0], [np.inf, 2.0, 4.0], 1.0),
        ([np.inf, 1.0, 2.0], [0.0, 2.0, 4.0], np.nan),
        ([np.nan, 1.0, 2.0], [0.0, 2.0, 4.0], np.nan),
    ],
)
def test_constants_and_what_is_no_number(ours, theirs, expected):
    found = correlation(np.array(ours), np.array(theirs))
    assert found == pytest.approx(expected, nan_ok=True)
