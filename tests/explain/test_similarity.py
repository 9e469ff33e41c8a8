"""CKA and the layer map, against the papers' formulas written out."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_distill.explaining.similarity import (
    MinibatchCKA,
    gram,
    match_in_order,
    propose_map,
    u_centred,
)


def features(rows, width, seed):
    return np.random.default_rng(seed).normal(size=(rows, width)) + 3.0


def grams(*batches):
    return [np.asarray(gram(tf.constant(batch))) for batch in batches]


def unbiased_hsic(k, kk):
    """Song et al. 2012, equation 5, with its traces and sums as they stand there."""
    n = len(k)
    k, kk = k - np.diag(np.diag(k)), kk - np.diag(np.diag(kk))
    ones = np.ones(n)
    middle = (ones @ k @ ones) * (ones @ kk @ ones) / ((n - 1) * (n - 2))
    return (np.trace(k @ kk) + middle - 2 / (n - 2) * ones @ k @ kk @ ones) / (n * (n - 3))


def test_a_layer_turned_and_scaled_is_the_same_layer():
    turn, _ = np.linalg.qr(features(6, 6, seed=1))
    cka = MinibatchCKA(1, 1)
    for seed in (2, 3, 4):
        x = features(16, 6, seed)
        cka.add(grams(x), grams(0.1 * x @ turn - 7.0))
    assert cka.result()[0, 0] == pytest.approx(1.0, abs=1e-5)


def test_it_is_the_ratio_of_the_batches_mean_unbiased_estimates():
    sizes = [12, 12, 6]
    ours = [features(rows, 5, seed) for seed, rows in enumerate(sizes)]
    theirs = [np.concatenate([x[:, :2] ** 2, features(len(x), 3, 9)], axis=1) for x in ours]
    cka = MinibatchCKA(1, 1)
    for x, y in zip(ours, theirs, strict=True):
        cka.add(grams(x), grams(y))
    # Uncentred here: HSIC does not see the shift that `gram` removes.
    k, kk = [x @ x.T for x in ours], [y @ y.T for y in theirs]
    cross, own, other = (
        np.average([unbiased_hsic(a, b) for a, b in zip(left, right, strict=True)], weights=sizes)
        for left, right in ((k, kk), (k, k), (kk, kk))
    )
    assert cka.result()[0, 0] == pytest.approx(cross / np.sqrt(own * other), rel=1e-4)


def test_with_many_rows_it_is_the_centred_gram_formula():
    # Kornblith et al. 2019: tr(K H L H) over the norms; its bias goes with width / rows.
    x = features(600, 4, seed=0)
    y = np.concatenate([x[:, :2], features(600, 2, seed=1)], axis=1)
    h = np.eye(600) - 1 / 600
    k, kk = h @ x @ x.T @ h, h @ y @ y.T @ h
    direct = np.sum(k * kk) / (np.linalg.norm(k) * np.linalg.norm(kk))
    cka = MinibatchCKA(1, 1)
    cka.add(grams(x), grams(y))
    assert cka.result()[0, 0] == pytest.approx(direct, abs=0.01)


def test_what_has_nothing_in_common_is_at_zero_however_small_the_batch():
    # The biased estimate would be near 1 here: 8 rows, 64 features.
    cka = MinibatchCKA(1, 1)
    for seed in range(200):
        cka.add(grams(features(8, 64, seed)), grams(features(8, 64, 1000 + seed)))
    assert abs(cka.result()[0, 0]) < 0.05


def test_a_layer_that_tells_no_examples_apart_has_none():
    cka = MinibatchCKA(2, 1)
    x = features(8, 3, seed=0)
    cka.add(grams(np.zeros((8, 4)), x), grams(x))
    found = cka.result()[:, 0]
    assert np.isnan(found[0])
    assert found[1] == pytest.approx(1.0)


def test_too_few_rows_say_nothing():
    cka = MinibatchCKA(1, 1)
    cka.add(grams(features(3, 2, 0)), grams(features(3, 2, 0)))
    assert cka.rows == 0
    with pytest.raises(ValueError, match="4 rows or more; got 3"):
        u_centred(np.eye(3))


def every_matching(rows, columns):
    for count in range(min(rows, columns) + 1):
        for chosen in itertools.combinations(range(rows), count):
            for partners in itertools.combinations(range(columns), count):
                yield list(zip(chosen, partners, strict=True))


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4), (1, 4)])
def test_no_other_rising_pairing_scores_more(shape):
    for seed in range(20):
        scores = np.random.default_rng(seed).uniform(-0.2, 1.0, size=shape)
        found = match_in_order(scores)
        assert all(a < b and c < d for (a, c), (b, d) in itertools.pairwise(found))
        best = max(sum(scores[p] for p in pairs) for pairs in every_matching(*shape))
        assert sum(scores[p] for p in found) == pytest.approx(best)


def test_the_map_holds_only_what_a_hint_can_be_made_of():
    cka = np.array([[0.9, 0.2, 0.1], [0.3, 0.95, 0.4], [np.nan, 0.1, 0.9]])
    ours = {"a": (None, 8, 8, 4), "b": (None, 4, 4, 8), "c": (None, 16)}
    theirs = {"x": (None, 8, 8, 9), "y": (None, 16), "z": (None, 32)}
    # b would suit y best, and a map can't learn to be a vector.
    assert propose_map(cka, ours, theirs) == {"a": "x", "c": "z"}
    assert propose_map(cka, {**ours, "a": (None, None, 8, 4)}, theirs) == {"b": "x", "c": "z"}


def test_sequences_of_any_length_are_paired():
    cka = np.array([[0.9, 0.1], [0.2, 0.8]])
    ours = {"a": (None, None, 4), "b": (None, None, 4)}
    theirs = {"x": (None, None, 16), "y": (None, 9, 16)}
    assert propose_map(cka, ours, theirs) == {"a": "x", "b": "y"}
