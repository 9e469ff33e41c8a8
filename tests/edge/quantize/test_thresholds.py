"""Where each method cuts a histogram whose best cut is known."""

import numpy as np
import pytest
import scipy.stats

from keras_distill.edge.quantize import thresholds
from keras_distill.edge.quantize.thresholds import METHODS, Histogram, kl, mse, percentile


def bell(low=-8.0, high=8.0, bins=2048, width=1.0, outliers=0):
    """A normal distribution's histogram, with some values in the last bin."""
    edges = np.linspace(low, high, bins + 1)
    counts = np.round(1e9 * np.diff(scipy.stats.norm.cdf(edges, scale=width)))
    counts[-1] += outliers
    return Histogram(counts, low, high)


def test_centers():
    np.testing.assert_allclose(Histogram(np.ones(4), -1.0, 1.0).centers, [-0.75, -0.25, 0.25, 0.75])


@pytest.mark.parametrize(
    ("low", "high", "share", "expected"),
    [
        # One value a unit: 10 of 100 left out, 5 on either side of a two-sided one.
        (-50.0, 50.0, 90.0, (-45.0, 45.0)),
        (0.0, 100.0, 90.0, (0.0, 90.0)),
        (-100.0, 0.0, 90.0, (-90.0, 0.0)),
        # Half a bin is half a unit.
        (0.0, 100.0, 99.5, (0.0, 99.5)),
        # Values that begin above zero: the range begins at zero.
        (100.0, 200.0, 90.0, (0.0, 190.0)),
        (-50.0, 50.0, 100.0, (-50.0, 50.0)),
    ],
)
def test_percentile_on_equal_counts(low, high, share, expected):
    found = percentile(Histogram(np.ones(100), low, high), share)
    assert found == pytest.approx(expected)


def test_percentile_by_default_leaves_out_a_ten_thousandth():
    assert percentile(Histogram(np.ones(100), 0.0, 100.0)) == pytest.approx((0.0, 99.99))
    # Of a normal distribution, 0.005% on either side lie beyond 3.89 deviations.
    quantile = scipy.stats.norm.ppf(0.99995)
    assert percentile(bell()) == pytest.approx((-quantile, quantile), abs=0.01)


def test_mse_finds_the_balance_of_rounding_and_clipping():
    # N values spread evenly from 0 to 10, one at 100. With the top at c, rounding costs
    # N (c/255)^2 / 12 and clipping (100 - c)^2. The sum is least at c = 100 / (1 + N / 780300),
    # for 255^2 * 12 = 780300: at 50 for as many values.
    counts = np.zeros(4000)
    counts[:400] = 780300 / 400
    counts[-1] = 1
    low, high = mse(Histogram(counts, 0.0, 100.0))
    assert low == 0.0
    assert high == pytest.approx(50.0, abs=3.0)
    low, high = mse(Histogram(counts[::-1], -100.0, 0.0))
    assert low == pytest.approx(-50.0, abs=3.0)
    assert high == 0.0


def test_mse_cuts_nothing_where_rounding_is_exact():
    # 256 different values, at the steps of the whole range.
    counts = np.zeros(511)
    counts[::2] = 5
    assert mse(Histogram(counts, -0.5, 510.5)) == pytest.approx((0.0, 510.5), abs=1.0)


def test_mse_error_is_by_definition():
    histogram = Histogram(np.array([1.0, 4.0, 2.0]), -1.5, 1.5)
    # Centres -1, 0, 1 over -0.51..0.765, steps of 0.005: off by 0.49, 0 and 0.235.
    expected = 1 * 0.49**2 + 2 * 0.235**2
    assert thresholds._squared_error(histogram, -0.51, 0.765) == pytest.approx(expected)


def divergence(counts, cut, levels):
    """Migacz's recipe, bin by bin, and SciPy's KL of what comes of it."""
    p = [float(count) for count in counts[:cut]]
    p[-1] += sum(counts[cut:])
    q = [0.0] * cut
    for level in range(levels):
        bins = [b for b in range(cut) if b * levels // cut == level]
        held = [b for b in bins if counts[b] > 0]
        for b in held:
            q[b] = sum(counts[b] for b in bins) / len(held)
    return scipy.stats.entropy(p, q)


@pytest.mark.parametrize("cut", [256, 271, 300])
def test_kl_of_one_cut_is_scipys(cut):
    counts = np.random.default_rng(0).integers(1, 100, 300).astype(float)
    ours = thresholds._divergence(counts, cut, 128)
    assert ours == pytest.approx(divergence(counts, cut, 128), rel=1e-9)
    assert ours > 0.01


def test_kl_takes_the_cut_of_the_smallest_divergence():
    # Rough, then a long, thin tail; each bin holds something, so that Q is nowhere zero.
    counts = np.ones(400)
    counts[:290] = np.random.default_rng(0).integers(50, 100, 290)
    by_hand = min(range(256, 401), key=lambda cut: divergence(counts, cut, 256))
    assert 256 < by_hand < 400
    assert kl(Histogram(counts, 0.0, 400.0)) == pytest.approx((0.0, float(by_hand)))


def test_kl_of_values_that_are_levels_already_cuts_nothing():
    # As many bins as levels: P and Q are one, and any cut would be worse.
    counts = np.random.default_rng(0).integers(50, 100, 256).astype(float)
    assert kl(Histogram(counts, 0.0, 2.0)) == (0.0, 2.0)


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
class TestEveryMethod:
    def test_outliers_are_cut(self, method):
        # Twenty of 10^9 values at 100 deviations: keeping them would leave 13 steps to the rest.
        low, high = method(bell(-100.0, 100.0, bins=20000, outliers=20))
        assert -10.0 < low < -2.0
        assert 2.0 < high < 12.0

    def test_one_side_stays_one_side(self, method):
        half = bell()
        low, high = method(Histogram(half.counts[1024:], 0.0, 8.0))
        assert low == 0.0
        assert 2.0 < high <= 8.0
        low, high = method(Histogram(half.counts[:1024], -8.0, 0.0))
        assert -8.0 <= low < -2.0
        assert high == 0.0

    def test_two_sides_of_a_mirrored_histogram_mirror(self, method):
        low, high = method(bell())
        assert low == pytest.approx(-high, rel=0.05)

    def test_it_stays_inside_what_was_seen_and_around_zero(self, method):
        for histogram in (bell(-3.0, 9.0), bell(2.0, 9.0, width=5.0), bell(-9.0, -2.0, width=5.0)):
            low, high = method(histogram)
            assert min(histogram.low, 0.0) <= low <= 0.0 <= high <= max(histogram.high, 0.0)
            assert high > low

    def test_a_tensor_of_nothing_but_zeros(self, method):
        counts = np.zeros(2048)
        counts[0] = 1000
        for high in (0.0, 1e-12):
            found = method(Histogram(counts, 0.0, high))
            assert np.isfinite(found).all()
            assert found[0] == 0.0 <= found[1] <= high

    def test_a_constant_tensor_keeps_its_value(self, method):
        counts = np.zeros(2048)
        counts[0] = 1000
        low, high = method(Histogram(counts, 3.0, 3.001))
        assert low == 0.0
        assert high == pytest.approx(3.0, rel=0.01)
        counts = counts[::-1]
        low, high = method(Histogram(counts, -3.001, -3.0))
        assert low == pytest.approx(-3.0, rel=0.01)
        assert high == 0.0
