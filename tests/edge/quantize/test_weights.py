"""Weights lie on int8's symmetric grid, channel by channel, and train as if they did not."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill.edge.quantize import kinds
from keras_distill.edge.quantize.weights import Grid, on_grid, rounded_by

WEIGHT = [[1.27, 0.503], [-0.634, -2.54], [0.0, 0.031]]


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        # Column maxima 1.27 and 2.54: steps of 0.01 and 0.02, of which there are
        # 127, -63.4, 0 and 25.15, -127, 1.55.
        ((-1,), [[1.27, 0.50], [-0.63, -2.54], [0.0, 0.04]]),
        # Row maxima 1.27, 2.54 and 0.031: steps of 0.01, 0.02 and 0.031 / 127.
        ((0,), [[1.27, 0.50], [-0.64, -2.54], [0.0, 0.031]]),
        # One step of 0.02 for all: 63.5 (to even: 64), 25.15; -31.7, -127; 0, 1.55.
        ((), [[1.28, 0.50], [-0.64, -2.54], [0.0, 0.04]]),
        # A step a number: nothing is rounded.
        ((0, 1), WEIGHT),
    ],
)
def test_golden(axes, expected):
    np.testing.assert_allclose(on_grid(tf.constant(WEIGHT), axes), expected, atol=1e-6)


def test_the_gradient_is_the_identitys():
    weight = tf.Variable(WEIGHT)
    factors = tf.constant([[3.0, -1.0], [2.0, 5.0], [7.0, 0.5]])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(on_grid(weight, (-1,)) * factors)
    np.testing.assert_array_equal(tape.gradient(loss, weight), factors)


def test_zeros_stay_zeros_and_a_channel_of_zeros_is_no_division_by_zero():
    weight = np.random.default_rng(0).normal(size=(3, 3, 4, 5)).astype("float32")
    weight[np.abs(weight) < 0.5] = 0.0
    weight[..., 2] = 0.0
    rounded = on_grid(tf.constant(weight), (-1,)).numpy()
    assert np.isfinite(rounded).all()
    np.testing.assert_array_equal(rounded[weight == 0.0], 0.0)
    # Half a step of a channel whose largest is about 3 is 0.012: nothing kept becomes zero.
    assert (rounded[weight != 0.0] != 0.0).all()


def test_it_is_tensorflows_narrow_range_per_channel():
    weight = np.random.default_rng(0).normal(size=(3, 3, 16, 8)).astype("float32")
    largest = np.abs(weight).max(axis=(0, 1, 2))
    theirs = tf.quantization.fake_quant_with_min_max_vars_per_channel(
        weight, -largest, largest, narrow_range=True
    ).numpy()
    ours = on_grid(tf.constant(weight), (-1,)).numpy()
    steps = weight / (largest / 127.0)
    # Between two steps, theirs rounds up and ours to even.
    clear = np.abs(np.abs(steps - np.floor(steps)) - 0.5) > 1e-3
    assert clear.mean() > 0.99
    np.testing.assert_allclose(ours[clear], theirs[clear], atol=1e-6)


def layer_with_kernel(layer, shape):
    keras.Sequential([keras.Input(shape), layer])
    return layer


IMAGE, SEQUENCE = (6, 6, 4), (6, 4)


@pytest.mark.parametrize(
    ("layer", "shape", "channels"),
    # Which axes have scales of their own in a file: the output channels, wherever Keras puts them.
    [
        (keras.layers.Conv2D(5, 3), IMAGE, {"kernel": (1, 1, 1, 5)}),
        (keras.layers.Conv1D(5, 3), SEQUENCE, {"kernel": (1, 1, 5)}),
        (keras.layers.Dense(5), SEQUENCE, {"kernel": (1, 5)}),
        (keras.layers.DepthwiseConv2D(3, depth_multiplier=2), IMAGE, {"kernel": (1, 1, 4, 2)}),
        (keras.layers.DepthwiseConv1D(3, depth_multiplier=2), SEQUENCE, {"kernel": (1, 4, 2)}),
        # Keras holds transposed kernels as (height, width, out, in).
        (keras.layers.Conv2DTranspose(5, 3), IMAGE, {"kernel": (1, 1, 5, 1)}),
        (keras.layers.Conv1DTranspose(5, 3), SEQUENCE, {"kernel": (1, 5, 1)}),
        (
            keras.layers.SeparableConv2D(5, 3),
            IMAGE,
            {"depthwise_kernel": (1, 1, 4, 1), "pointwise_kernel": (1, 1, 1, 5)},
        ),
        (
            keras.layers.SeparableConv1D(5, 3),
            SEQUENCE,
            {"depthwise_kernel": (1, 4, 1), "pointwise_kernel": (1, 1, 5)},
        ),
        (keras.layers.EinsumDense("abc,cd->abd", (None, 5)), SEQUENCE, {"kernel": (1, 1)}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, keras.Layer) else "",
)
def test_each_kernels_channels(layer, shape, channels):
    layer_with_kernel(layer, shape)
    axes = kinds.weights_of(layer)
    assert set(axes) == set(channels)
    for name, scales in channels.items():
        kernel = np.asarray(getattr(layer, name))
        others = tuple(axis for axis, size in enumerate(scales) if size == 1)
        if scales == (1, 4, 2) or len(scales) == kernel.ndim:
            steps = np.abs(kernel).max(axis=others, keepdims=True) / 127.0
        assert steps.shape == scales
        found = on_grid(tf.constant(kernel), axes[name]).numpy()
        np.testing.assert_allclose(found, steps * np.rint(kernel / steps), atol=1e-6)


def test_weights_that_stay_as_they_are():
    norm = layer_with_kernel(keras.layers.BatchNormalization(), IMAGE)
    prelu = layer_with_kernel(keras.layers.PReLU(), IMAGE)
    assert kinds.weights_of(norm) == kinds.weights_of(prelu) == {}


def test_a_grid_comes_back_from_its_config():
    grid = Grid.from_config(Grid((-2, -1)).get_config())
    weight = np.random.default_rng(0).normal(size=(3, 4, 2)).astype("float32")
    np.testing.assert_array_equal(grid(weight), on_grid(tf.constant(weight), (-2, -1)))


def test_another_rule_holds_inside_its_block_alone():
    grid, weight, seen = Grid((-1,)), tf.constant(WEIGHT), []

    def shifted(one, value):
        seen.append(one)
        return value + 1.0

    with rounded_by(lambda one, value: value):
        with rounded_by(shifted):
            np.testing.assert_allclose(grid(weight), np.float32(WEIGHT) + 1)
        np.testing.assert_array_equal(grid(weight), weight)
    np.testing.assert_array_equal(grid(weight), on_grid(weight, (-1,)))
    assert seen == [grid]
