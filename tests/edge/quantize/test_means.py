"""Average pooling in a quantised model rounds as LiteRT does, at the border, too."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill as kd
from keras_distill.edge.quantize import means

layers = keras.layers


# Steps of one from -128 to 127, so that an integer's number is itself. Sums by hand: a half goes
# away from zero; a window at the border counts what is inside.
@pytest.mark.parametrize(
    ("numbers", "size", "padding", "expected"),
    [
        # 3 / 2, -3 / 2, 5 / 2
        ([1, 2, -1, -2, 2, 3], 2, "valid", [2, -2, 3]),
        # 1 / 3, 5 / 3, -5 / 3
        ([0, 0, 1, 1, 2, 2, -1, -2, -2], 3, "valid", [0, 2, -2]),
        # 7 in threes of 3: two zeros, before and behind: (1 + 2) / 2, (4 + 5 + 6) / 3, (-1 - 2) / 2
        ([1, 2, 4, 5, 6, -1, -2], 3, "same", [2, 5, -2]),
    ],
)
def test_means_by_hand(numbers, size, padding, expected):
    layer = layers.AveragePooling1D(size, padding=padding)
    x = np.array(numbers, "float32").reshape(1, -1, 1)
    found = np.asarray(means.to_steps(layer, x, np.float32(-128), np.float32(127)))
    assert found.ravel().tolist() == expected


def test_a_half_goes_away_from_the_integer_zero():
    """Of the range 0 to 255 it lies at 128: halves below it go down, above it up."""
    layer = layers.AveragePooling1D(2)
    x = np.array([2, 3, 200, 201], "float32").reshape(1, -1, 1)
    found = np.asarray(means.to_steps(layer, x, np.float32(0), np.float32(255)))
    assert found.ravel().tolist() == [2, 201]


POOLS = {
    "2 by 2": ((8, 8, 3), lambda: layers.AveragePooling2D(2)),
    "3 by 3, same": ((7, 7, 3), lambda: layers.AveragePooling2D(3, strides=2, padding="same")),
    "4 by 2, same, steps of 1": (
        (6, 5, 3),
        lambda: layers.AveragePooling2D((4, 2), strides=1, padding="same"),
    ),
    "over time, same": ((9, 3), lambda: layers.AveragePooling1D(4, padding="same")),
    "over time": ((9, 3), lambda: layers.AveragePooling1D(2)),
}


def quantised(shape, parts, count=64):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(shape), *parts])
    if not count:
        return kd.edge.quantize_aware(model), None
    # Integers on the range's own steps, so that halves come, on both sides of zero.
    x = np.random.default_rng(0).integers(-20, 107, size=(count, *shape)).astype("float32")
    x.ravel()[:2] = [-128.0, 127.0]
    return kd.edge.quantize_aware(model, calibration_data=x), x


@pytest.mark.parametrize("name", POOLS)
def test_the_file_gives_the_same_integers(name, tmp_path):
    shape, pool = POOLS[name]
    small, x = quantised(shape, [pool()])
    export = kd.edge.export_tflite(small, tmp_path / "m.tflite", precision="int8")
    assert export.ops["AVERAGE_POOL_2D"] == 1
    expected = small.predict(x, verbose=0)
    found = kd.edge.load_tflite(export.path).predict(x)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    # Where nothing is rounded means lie between the steps.
    plain = keras.Sequential([keras.Input(shape), pool()]).predict(x, verbose=0)
    assert np.abs(plain - expected).max() > 0.3


def test_the_range_is_found_past_what_hands_it_on(tmp_path):
    parts = [
        layers.Conv2D(4, 1, activation="relu"),
        layers.MaxPooling2D(2),
        layers.Dropout(0.1),
        layers.ZeroPadding2D(1),
        layers.AveragePooling2D(3, strides=1, padding="same"),
    ]
    small, x = quantised((8, 8, 3), parts)
    path = kd.edge.export_tflite(small, tmp_path / "m.tflite", precision="int8").path
    apart = np.abs(kd.edge.load_tflite(path).predict(x) - small.predict(x, verbose=0))
    low, high = small.layers[2].output_ranges[0].bounds()
    step = (high - low) / 255
    # One step where the convolution rounds a tie apart; hardly ever anything between.
    assert apart.max() < 1.01 * step
    assert np.mean(apart > 0.01 * step) < 0.02


def test_gradients_are_those_of_the_mean():
    layer = layers.AveragePooling2D(2, padding="same")
    x = tf.Variable(np.random.default_rng(0).normal(size=(2, 5, 5, 1)).astype("float32"))
    found = []
    for pool in (layer, lambda x: means.to_steps(layer, x, tf.constant(-2.0), tf.constant(3.0))):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(pool(x) * [[[[2.0]]]])
        found.append(tape.gradient(total, x).numpy())
    np.testing.assert_array_equal(*found)


def test_sizes_may_be_open_and_the_file_of_a_model_comes_back(tmp_path):
    small, _ = quantised((None, None, 3), [layers.AveragePooling2D(3, padding="same")], count=0)
    x = np.random.default_rng(0).integers(-128, 128, size=(4, 7, 8, 3)).astype("float32")
    kd.edge.calibrate(small, x)
    expected = small.predict(x, verbose=0)
    small.save(tmp_path / "small.keras")
    again = kd.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), expected)
    assert np.all(expected == np.round(expected))
    assert [type(one).__name__ for one in kd.edge.strip(small).layers][1:] == ["AveragePooling2D"]


def test_a_part_of_a_whole_and_a_mean_of_all_have_ranges_of_their_own():
    x = keras.Input((4, 4, 3))
    pooled = layers.AveragePooling2D(3, strides=1, padding="same", name="part")(x)
    whole = layers.Concatenate()([pooled, layers.Conv2D(2, 1)(x)])
    model = keras.Model(x, layers.AveragePooling2D(4, name="all")(whole))
    small = kd.edge.quantize_aware(model)
    assert not hasattr(small.get_layer("part"), "output_ranges")
    assert len(small.get_layer("all").output_ranges) == 1
