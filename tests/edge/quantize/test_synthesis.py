"""Inputs made up from BatchNormalizations, and what is calibrated and corrected on them."""

import keras
import numpy as np
import pytest

from keras_distill import edge
from keras_distill.edge.quantize.calibrate import ranges_of
from keras_distill.edge.quantize.synthesis import _mismatch, _rows, synthesized
from keras_distill.graph.replay import trace

layers = keras.layers


@pytest.fixture(scope="module")
def pixels():
    # Blots of 0 to 255, as images have.
    coarse = np.random.default_rng(0).uniform(0, 255, (128, 3, 3, 3))
    return coarse.repeat(3, 1).repeat(3, 2).astype("float32")


@pytest.fixture(scope="module")
def settled(pixels):
    """A network that has seen pixels, its statistics theirs."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((9, 9, 3)),
            layers.Conv2D(8, 3, use_bias=False),
            layers.BatchNormalization(momentum=0.5, name="first"),
            layers.ReLU(),
            layers.Conv2D(8, 3, use_bias=False),
            layers.BatchNormalization(momentum=0.5, name="second"),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5),
        ]
    )
    for _ in range(20):
        model(pixels, training=True)
    return model


def test_made_up_inputs_give_the_statistics_that_training_saw(settled):
    before = settled.get_weights()
    x = keras.tree.flatten(synthesized(settled))[0]
    assert x.shape == (64, 9, 9, 3)
    first, second = settled.get_layer("first"), settled.get_layer("second")
    read = keras.Model(settled.inputs, [first.input, second.input])(x)
    for norm, tensor in zip((first, second), read, strict=True):
        rows = np.asarray(tensor).reshape(-1, 8)
        deviation = np.sqrt(norm.moving_variance.numpy())
        assert np.abs((rows.mean(0) - norm.moving_mean.numpy()) / deviation).max() < 0.2
        assert np.abs(rows.std(0) / deviation - 1).max() < 0.2
    # The pixels' size comes of it, from noise of 1.
    assert 40 < x.std() < 400
    assert all(map(np.array_equal, before, settled.get_weights()))


def test_a_channel_that_noise_wakes_counts_by_its_logarithm():
    norm = layers.BatchNormalization(epsilon=1e-3)
    norm.build((None, 2))
    norm.set_weights([np.ones(2), np.zeros(2), np.array([3.0, 0.0]), np.array([0.999, 0.0])])
    # The first reads 3 +- 1, as it was but for its epsilon; the second, which was dead, -10 and 10:
    # a mean of 0, and deviations of sqrt(100 + 0.001) and sqrt(0.001), apart in units of 0.001.
    x = np.array([[2.0, -10.0], [4.0, 10.0]], "float32")
    first = (np.sqrt(1.001) - 1.0) ** 2
    second = (np.sqrt(100.001) - np.sqrt(0.001)) ** 2 / 0.001
    expected = (np.log1p(first) + np.log1p(second)) / 2
    np.testing.assert_allclose(_mismatch(norm, x), expected, rtol=1e-4)


def test_large_maps_make_fewer_inputs():
    """2^20 numbers in each of two tensors, with gradients 16 MiB an input: 64 in a gigabyte."""

    def network(size):
        x = keras.Input((size, size, 4))
        return trace(keras.Model(x, layers.ReLU()(layers.Conv2D(4, 1)(x))))

    assert [_rows(network(size)) for size in (8, 512, 1024, 4096)] == [64, 64, 16, 8]


def test_ranges_without_data_are_near_those_of_data_and_biases_follow(settled, pixels):
    with_data = edge.quantize_aware(settled, calibration_data=pixels)
    small = edge.calibrate(edge.quantize_aware(settled))
    widths = [
        [np.subtract(*one.bounds()[::-1]) for one in ranges_of(model)]
        for model in (with_data, small)
    ]
    ratios = np.divide(*widths)
    # The head's own answers have no statistics before them.
    assert ((ratios > 0.4) & (ratios < 2.5))[:-1].all()
    edge.correct_biases(small)
    ours, theirs = (np.asarray(model(pixels)).ravel() for model in (small, settled))
    assert np.corrcoef(ours, theirs)[0, 1] > 0.97


def test_a_model_that_tells_nothing_is_refused():
    def refused(model, because):
        with pytest.raises(ValueError, match=because):
            edge.calibrate(edge.quantize_aware(model))

    x = keras.Input((4,))
    refused(keras.Model(x, layers.Dense(2)(x)), "no BatchNormalization")
    # Fresh statistics say nothing.
    refused(keras.Model(x, layers.BatchNormalization()(layers.Dense(2)(x))), "training has moved")
    ids = keras.Input((4,), dtype="int32")
    norm = layers.BatchNormalization()
    model = keras.Model(ids, norm(layers.Dense(2)(layers.Embedding(9, 2)(ids))))
    norm.moving_mean.assign([1.0, 2.0])
    refused(model, "int32: ids")
    open_sizes = keras.Input((None, 2))
    refused(keras.Model(open_sizes, norm(open_sizes)), "open sizes")
