"""Damage: the same by seed however the rows are batched, worse with severity, refused elsewhere."""

import numpy as np
import pytest

from keras_distill import judging

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(6, 16, 20, 3)).astype("float32")
# Slow waves: the further they are shifted, the more they differ.
WAVES = np.sin(np.linspace(0, 4, 400) + RNG.uniform(0, 6, (6, 1)))
RECORDINGS = WAVES.astype("float32")
TOKENS = np.pad(RNG.integers(1, 50, (6, 30)), ((0, 0), (0, 10))).astype("int32")
TABLE = RNG.normal(size=(6, 9)).astype("float32")
DATA = {"images": IMAGES, "signals": RECORDINGS, "tokens": TOKENS, "tables": TABLE}
MAKERS = {
    "images": judging.image_corruptions,
    "signals": judging.signal_corruptions,
    "tokens": judging.token_corruptions,
    "tables": judging.table_corruptions,
}
ALL = [(kind, one) for kind, make in MAKERS.items() for one in make()]
OF_KIND = {kind: list({type(one): one for k, one in ALL if k == kind}) for kind in MAKERS}
KINDS = [(kind, made) for kind, found in OF_KIND.items() for made in found]


def seen(condition, x, size=100):
    parts = ((x[start : start + size], None) for start in range(0, len(x), size))
    return np.concatenate([found for found, _ in condition.batches(parts, None)])


@pytest.mark.parametrize(("kind", "condition"), ALL, ids=lambda one: getattr(one, "label", one))
def test_shape_and_type_stay_and_the_seed_decides(kind, condition):
    x = DATA[kind]
    before = x.copy()
    found = seen(condition, x)
    assert found.shape == x.shape
    assert found.dtype == x.dtype
    np.testing.assert_array_equal(found, seen(condition, x, 4))
    np.testing.assert_array_equal(x, before)
    assert not np.array_equal(found, x)


@pytest.mark.parametrize(("kind", "made"), KINDS, ids=lambda one: getattr(one, "__name__", one))
def test_a_higher_severity_changes_more(kind, made):
    # Many rows, for what each draws differs.
    x = np.concatenate([DATA[kind]] * 40)
    apart = [
        np.mean(np.square(seen(made(severity), x) - x.astype("float64")))
        for severity in range(1, 6)
    ]
    assert apart == sorted(apart)
    assert apart[-1] > 1.2 * apart[0]


@pytest.mark.parametrize(("kind", "made"), KINDS, ids=lambda one: getattr(one, "__name__", one))
def test_another_seed_draws_otherwise_where_something_is_drawn(kind, made):
    drawn = made not in (judging.Blur, judging.Contrast, judging.JPEG, judging.Pixelation)
    first, second = (seen(made(3, seed=seed), DATA[kind]) for seed in (0, 1))
    assert np.array_equal(first, second) is not drawn


@pytest.mark.parametrize(("kind", "made"), KINDS, ids=lambda one: getattr(one, "__name__", one))
def test_other_data_are_refused(kind, made):
    for other, x in DATA.items():
        # Floats of two axes: a recording looks like a row of a table.
        if other != kind and {other, kind} != {"signals", "tables"}:
            with pytest.raises(ValueError, match=r"is for"):
                seen(made(3), x)
    with pytest.raises(ValueError, match="1 to 5"):
        made(6)


@pytest.mark.parametrize("low_high", [(0, 1), (-1, 1), (0, 255)])
def test_images_of_any_range_are_damaged_alike(low_high):
    low, high = low_high
    scaled = (IMAGES * (high - low) + low).astype("float32")
    for made in OF_KIND["images"]:
        found = (seen(made(4), scaled) - low) / (high - low)
        np.testing.assert_allclose(found, seen(made(4), IMAGES), atol=0.02)
    with pytest.raises(ValueError, match="Say what a pixel may be"):
        seen(judging.Blur(3), IMAGES * 7 - 3)


def test_whole_numbers_stay_whole():
    x = (IMAGES * 255).astype("uint8")
    found = seen(judging.ImageNoise(2), x)
    assert found.dtype == np.uint8
    # Not wrapped around: what left the range stands at its end.
    assert np.abs(found.astype(int) - x).max() < 120


def test_noise_has_the_power_that_it_says():
    x = np.full((1, 80, 80, 3), 0.5, "float32")
    assert seen(judging.ImageNoise(2), x).std() == pytest.approx(0.08, rel=0.05)
    x = RNG.normal(size=(1, 50_000)).astype("float32")
    noise = seen(judging.SignalNoise(4), x) - x
    # 10 dB below: a tenth of the power.
    assert np.mean(noise**2) / np.mean(x**2) == pytest.approx(0.1, rel=0.05)


def test_a_blur_keeps_the_sum_and_a_rotation_turns():
    point = np.zeros((1, 41, 41, 1), "float32")
    point[0, 20, 20] = 1.0
    blurred = seen(judging.Blur(5), point)[0, ..., 0]
    assert blurred.sum() == pytest.approx(1.0, abs=1e-4)
    # The second moment of a Gaussian is its variance: 5 % of 41, squared.
    offsets = np.arange(41) - 20
    assert blurred.sum(0) @ offsets**2 == pytest.approx((0.05 * 41) ** 2, rel=0.05)
    line = np.zeros((1, 41, 41, 1), "float32")
    line[0, 20, 20:] = 1.0
    turned = seen(judging.Rotation(5), line)[0, ..., 0]
    row, column = np.argwhere(turned > 0.3).max(0)[0], 20 + 18
    # Thirty degrees: eighteen columns on, about ten rows up or down.
    place = turned[:, 20 + round(18 * np.cos(np.pi / 6))].argmax()
    assert abs(place - 20) == pytest.approx(18 * np.sin(np.pi / 6), abs=1.5), (row, column)


def test_a_shift_leaves_silence_and_gain_is_a_factor():
    x = np.ones((20, 100), "float32")
    for row in seen(judging.Shift(5), x):
        assert set(np.unique(row)) <= {0.0, 1.0}
        assert 75 <= row.sum() <= 100
    factors = np.unique(seen(judging.Gain(2), x))
    np.testing.assert_allclose(sorted(factors), [10 ** (-6 / 20), 10 ** (6 / 20)], rtol=1e-5)


def test_tokens_go_or_change_places_and_padding_stays_behind():
    for row, before in zip(seen(judging.DroppedTokens(5), TOKENS), TOKENS, strict=True):
        left = row[row != 0].tolist()
        rest = iter(before.tolist())
        assert all(token in rest for token in left)  # In their order.
        assert (row[len(left) :] == 0).all()
        assert len(left) < 30
    for row, before in zip(seen(judging.SwappedTokens(5), TOKENS), TOKENS, strict=True):
        assert sorted(row) == sorted(before)
        assert (row[30:] == 0).all()


def test_tables_lose_cells_to_the_mean_and_shift_by_spreads():
    x = np.zeros((400, 9), "float32")
    means, spreads = np.arange(9.0) + 1, np.arange(9.0) + 1
    gone = seen(judging.MissingCells(5, means=means), x)
    np.testing.assert_allclose(gone.max(0), means)
    assert (gone > 0).mean() == pytest.approx(0.4, abs=0.03)
    moved = seen(judging.ShiftedColumns(3, spreads=spreads), x)
    assert (moved == moved[0]).all()
    assert sorted(np.abs(moved[0] / spreads)) == [0] * 6 + [1] * 3
    with pytest.raises(ValueError, match="each of the 9"):
        seen(judging.ColumnNoise(3, spreads=np.ones(4)), x)


def test_one_of_several_inputs():
    x = {"image": IMAGES, "table": TABLE}
    condition = judging.Blur(3, input="image")
    ((found, _),) = condition.batches(iter([(x, None)]), None)
    assert not np.array_equal(found["image"], IMAGES)
    assert found["table"] is TABLE
    for wrong in (judging.Blur(3), judging.Blur(3, input="picture")):
        with pytest.raises(ValueError, match=r"Say which|no input 'picture'"):
            list(wrong.batches(iter([(x, None)]), None))
