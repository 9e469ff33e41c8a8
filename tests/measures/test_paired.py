"""Intervals that cover what they say they cover, and McNemar's test as SciPy has it."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats import contingency_tables

from keras_distill import measures
from keras_distill.measures.metric import CLASSES, Answered
from keras_distill.measures.paired import drawn, interval, mcnemar, resampled


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (3, 1), (9, 2), (40, 60)])
def test_mcnemars_test_is_the_exact_binomial_one(better, worse):
    ours = np.array([True] * better + [False] * worse + [True] * 5)
    theirs = np.array([False] * better + [True] * worse + [True] * 5)
    expected = stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert mcnemar(ours, theirs) == pytest.approx(expected)
    table = [[5, better], [worse, 0]]
    assert mcnemar(ours, theirs) == pytest.approx(contingency_tables.mcnemar(table).pvalue)


def test_of_many_it_is_the_chi_square_one():
    ours = np.repeat([True, False], [700, 620])
    # (b - c)^2 / (b + c) with one degree of freedom.
    assert mcnemar(ours, ~ours) == pytest.approx(stats.chi2.sf(80**2 / 1320, 1))
    table = [[0, 700], [620, 0]]
    library = contingency_tables.mcnemar(table, exact=False, correction=False)
    assert mcnemar(ours, ~ours) == pytest.approx(library.pvalue)


def test_an_interval_is_scipys_percentile_bootstrap():
    rng = np.random.default_rng(4)
    hits = rng.random(150) < 0.7
    answered = right(hits)
    draws = drawn({"m": answered}, [measures.accuracy()], 8000, 0)["m", "accuracy"]
    found = interval(hits.mean(), draws, 0.9)
    library = stats.bootstrap(
        (hits.astype(float),), np.mean, n_resamples=8000, confidence_level=0.9, method="percentile",
        rng=np.random.default_rng(1),
    )  # fmt: skip
    # Two samples of 8,000 resamples; accuracies are in steps of 1 / 150.
    assert (found.low, found.high) == pytest.approx(tuple(library.confidence_interval), abs=0.0068)
    assert draws.std() == pytest.approx(library.standard_error, rel=0.03)


def test_the_same_seed_draws_the_same_however_much_is_held(monkeypatch):
    from keras_distill.measures import paired

    whole = np.concatenate(list(resampled(7, 20, 1)))
    monkeypatch.setattr(paired, "_ENTRIES", 21)
    parts = list(resampled(7, 20, 1))
    assert len(parts) == 7
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert (whole.sum(-1) == 7).all()


def right(hits):
    """Answers that are right or wrong as told, of class 0 or 1."""
    return Answered(CLASSES, np.eye(2)[np.where(hits, 0, 1)], np.zeros(len(hits), int))


def test_intervals_cover_the_truth_as_often_as_they_say():
    """The truth is known here: two models, right on 80 and 75 % of examples, together on 70 %."""
    rng, trials, rows = np.random.default_rng(0), 300, 200
    covered = {"value": 0, "difference": 0}
    for trial in range(trials):
        kind = rng.choice(4, size=rows, p=(0.7, 0.1, 0.05, 0.15))
        models = {"a": right(np.isin(kind, (0, 1))), "b": right(np.isin(kind, (0, 2)))}
        draws = drawn(models, [measures.accuracy()], 300, trial)
        a, b = draws["a", "accuracy"], draws["b", "accuracy"]
        value = interval(0.0, a, 0.95)
        apart = interval(0.0, a - b, 0.95)
        covered["value"] += value.low <= 0.8 <= value.high
        covered["difference"] += apart.low <= 0.05 <= apart.high
    for name, count in covered.items():
        # Of 300 at 95 %: 285, give or take three standard deviations of 3.8; a percentile interval
        # of 200 rows is a little narrow.
        assert 270 <= count <= 296, name


def test_pairing_makes_the_interval_of_a_difference_narrow():
    rng = np.random.default_rng(1)
    both = rng.random(400) < 0.7
    a, b = both.copy(), both.copy()
    a[:8] = True
    b[:8] = False
    draws = drawn({"a": right(a), "b": right(b)}, [measures.accuracy()], 500, 0)
    found, other = draws["a", "accuracy"], draws["b", "accuracy"]
    apart, alone = interval(0.02, found - other, 0.95), interval(0.7, found, 0.95)
    assert apart.told == 1
    assert apart.high - apart.low < (alone.high - alone.low) / 2
