"""Step sizes that are learned: the paper's gradient, and the same steps in the file."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

import keras_distill as kd
from keras_distill.edge.compress.layer import Compressed
from keras_distill.edge.quantize.calibrate import ranges_of
from keras_distill.edge.quantize.ranges import fake_quant
from keras_distill.edge.quantize.steps import (
    LearnedGrid,
    LearnedRange,
    on_learned_grid,
    on_learned_range,
)

layers = keras.layers


def by_the_paper(value, step, most, upstream):
    """Equations 1 to 3 of LSQ and its gradient scale, a number at a time; a step a column."""
    rounded, of_value, of_step = (np.zeros_like(a, "float64") for a in (value, value, step))
    for row, column in np.ndindex(*value.shape):
        v, s, up = value[row, column], step[0, column], upstream[row, column]
        if -most < v / s < most:
            bar, slope, moves = np.rint(v / s), -v / s + np.rint(v / s), 1.0
        else:
            bar = slope = most * np.sign(v)
            moves = 0.0
        rounded[row, column] = bar * s
        of_value[row, column] = moves * up
        of_step[0, column] += slope * up / np.sqrt(len(value) * most)
    return rounded, of_value, of_step


@pytest.mark.parametrize("most", [7.0, 127.0])
def test_the_gradient_is_the_papers(most):
    random = np.random.default_rng(0)
    value = random.normal(size=(40, 3))
    # From a step that clips a third of the numbers to one that reaches far beyond them.
    step = np.array([[1.0, 2.0, 4.0]]) / most
    upstream = random.normal(size=value.shape)
    v, s = (tf.Variable(a, dtype=tf.float64) for a in (value, step))
    with tf.GradientTape() as tape:
        found = on_learned_grid(v, s, most)
        loss = tf.reduce_sum(found * upstream)
    expected = by_the_paper(value, step, most, upstream)
    for ours, theirs in zip((found, *tape.gradient(loss, (v, s))), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)


def network(bits=4):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(6, 3, use_bias=False, name="first"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.Flatten(name="flat"),
            layers.Dense(3, name="last"),
        ]
    )
    x = np.random.default_rng(0).normal(size=(64, 8, 8, 2)).astype("float32")
    y = np.random.default_rng(1).integers(0, 3, size=64)
    small = kd.edge.quantize_aware(model, calibration_data=x, weight_bits=bits, learned_steps=True)
    return model, small, x, y


def trained(small, x, y, epochs=8):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    small.compile(keras.optimizers.Adam(1e-2), loss)
    small.fit(x, y, epochs=epochs, batch_size=16, verbose=0)
    return small


def grid_of(small, name):
    ((grid,),) = small.get_layer(name).treatments.values()
    return grid


def test_it_begins_where_the_plain_grid_is():
    model, small, x, _ = network()
    plain = kd.edge.quantize_aware(model, calibration_data=x, weight_bits=4)
    np.testing.assert_allclose(small.predict(x, verbose=0), plain.predict(x, verbose=0), atol=1e-5)


@pytest.mark.parametrize("bits", [4, 8])
def test_steps_train_and_the_file_has_them(bits, tmp_path):
    _, small, x, y = network(bits)
    trained(small, x, y)
    seen = {}
    for name in ("first", "depthwise", "last"):
        factor = grid_of(small, name).factor.numpy()
        assert (np.abs(factor - 1.0) > 1e-3).mean() > 0.9
        kernel = small.get_layer(name).layer.kernel.numpy()
        seen[name] = small.get_layer(name).treated_weights()["kernel"].numpy()
        others = (0, 1) if name == "depthwise" else tuple(range(kernel.ndim - 1))
        # Each channel reaches its outermost number, by which a file tells its scale.
        scale = np.abs(seen[name]).max(axis=others, keepdims=True) / (2 ** (bits - 1) - 1)
        steps = seen[name] / scale
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
        np.testing.assert_allclose(scale, grid_of(small, name).scale(kernel), rtol=1e-5)
    # Some weight is clipped: its step is smaller than the plain grid's.
    clipped = np.abs(small.get_layer("last").layer.kernel.numpy()).max(axis=0)
    assert (np.abs(seen["last"]).max(axis=0) < 0.999 * clipped).any()
    export = kd.edge.export_tflite(small, tmp_path / "small.tflite", precision="int8")
    assert export.dtypes.get("int4", 0) == (3 if bits == 4 else 0)
    answers = kd.edge.load_tflite(export.path).predict(x)
    low, high = list(small.get_layer("last").ranges())[-1].bounds()
    assert np.abs(answers - small.predict(x, verbose=0)).max() <= 3.01 * (high - low) / 255


def test_saved_and_loaded_it_trains_on_from_the_same_steps(tmp_path):
    _, small, x, y = network()
    trained(small, x, y, epochs=2)
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), small.predict(x, verbose=0))
    before = grid_of(loaded, "last").factor.numpy()
    np.testing.assert_array_equal(before, grid_of(small, "last").factor.numpy())
    assert any(grid_of(loaded, "last").factor is v for v in loaded.trainable_variables)
    stripped = kd.edge.strip(loaded)
    np.testing.assert_allclose(
        stripped.get_layer("last").kernel,
        small.get_layer("last").treated_weights()["kernel"],
        atol=1e-6,
    )


def test_a_step_too_wide_counts_as_the_one_that_reaches_the_largest_weight():
    # Largest 0.7 and 1.4; both have steps of 0.1 and 0.2 to begin with.
    weight = np.float32([[0.7, -1.4], [0.26, 0.5], [0.0, -0.1]])
    layer = layers.Dense(2, use_bias=False, name="dense")
    keras.Sequential([keras.Input((3,)), layer])
    layer.set_weights([weight])
    grid = LearnedGrid((-1,), 4)
    Compressed(layer, {"kernel": [grid]})
    np.testing.assert_allclose(grid.first, [[0.1, 0.2]], rtol=1e-6)
    grid.factor.assign([[2.0, 0.5]])
    np.testing.assert_allclose(grid.scale(weight), [[0.1, 0.1]], rtol=1e-6)
    np.testing.assert_allclose(
        grid(tf.constant(weight)), [[0.7, -0.7], [0.3, 0.5], [0.0, -0.1]], atol=1e-6
    )
    # The gradient finds the way back all the same.
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(grid(tf.constant(weight)) * [[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    # (0 + 3 - 2.6) * first / sqrt(3 * 7), the first weight being on the bound: 7 or 0.
    found = float(tape.gradient(loss, grid.factor.value)[0, 0])
    assert any(
        found == pytest.approx(slope * 0.1 / np.sqrt(21.0), abs=1e-4) for slope in (0.4, 7.4)
    )


def test_a_channel_of_zeros_moves_on():
    layer = layers.Dense(2, name="dense")
    model = keras.Sequential([keras.Input((3,)), layer])
    layer.kernel.assign([[1.0, 0.0], [0.5, 0.0], [0.2, 0.0]])
    small = kd.edge.quantize_aware(
        model, weight_bits=4, learned_steps=True, preserve_sparsity=False
    )
    kernel = small.get_layer("dense").layer.kernel
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(small.get_layer("dense").treated_weights()["kernel"])
    gradient = np.asarray(tape.gradient(loss, kernel.value))
    np.testing.assert_array_equal(gradient[:, 1], [1.0, 1.0, 1.0])
    assert np.isfinite(gradient).all()


def test_reconstruct_keeps_the_steps_and_what_they_clip(tmp_path):
    _, small, x, y = network()
    trained(small, x, y)
    before = {n: small.get_layer(n).treated_weights()["kernel"].numpy() for n in ("first", "last")}
    scales = {n: grid_of(small, n).scale(small.get_layer(n).layer.kernel.value) for n in before}
    kd.edge.reconstruct(small, data=x, iterations=40, verbose=False)
    for name, kernel in before.items():
        after = small.get_layer(name).treated_weights()["kernel"].numpy()
        np.testing.assert_allclose(
            grid_of(small, name).scale(small.get_layer(name).layer.kernel.value),
            scales[name],
            rtol=1e-5,
        )
        moved = np.abs(after - kernel) / np.asarray(scales[name])
        # To the step beside at most.
        assert moved.max() <= 1.001


@pytest.mark.parametrize("low", [0.0, -0.7, -2.0])
def test_a_learned_range_rounds_as_others_do(low):
    x = np.random.default_rng(0).normal(size=(2000,)).astype("float32")
    # At a tie either step is right.
    apart = np.abs(on_learned_range(x, low, 1.3) - fake_quant(tf.constant(x), low, 1.3))
    assert np.mean(apart > 1e-5) < 2e-3


def test_the_gradient_of_a_ranges_ends():
    """A number at a time: inside round(v) - v steps to high, as many the other way to low."""
    low, high = -1.0, 1.55  # 256 steps of 0.01.
    x = np.float64([-3.0, -1.2, -0.503, 0.004, 0.5078, 2.0])
    upstream = np.float64([1.0, 2.0, 3.0, 5.0, 7.0, 11.0])
    # -0.3, -0.4 and 0.22 of a step off inside; each end is all of what lies beyond it.
    off = (np.rint(x / 0.01) - x / 0.01)[2:5] @ upstream[2:5] / 255
    ends = [tf.Variable(end, dtype=tf.float32) for end in (low, high)]
    values = tf.Variable(x, dtype=tf.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(on_learned_range(values, *ends) * upstream.astype("float32"))
    of_x, of_low, of_high = tape.gradient(loss, (values, *ends))
    np.testing.assert_array_equal(of_x, [0.0, 0.0, 3.0, 5.0, 7.0, 0.0])
    assert float(of_low) == pytest.approx(1.0 + 2.0 - off, abs=1e-4)
    assert float(of_high) == pytest.approx(11.0 + off, abs=1e-4)


def test_a_range_that_was_set_is_trained_and_follows_no_batch():
    one = LearnedRange()
    one.set(0.0, 2.0)
    # 8 numbers a row; one of them lies beyond the end, of which the gradient is 2 a unit.
    x = np.zeros((4, 2, 4), "float32")
    x[0, 0, 0] = 9.0
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(one(tf.constant(x), training=True))
    assert one.bounds() == (0.0, 2.0)
    gradient = tape.gradient(loss, one.factor.value)
    np.testing.assert_allclose(gradient, [0.0, 2.0 / np.sqrt(8 * 255)], rtol=1e-5)
    one.factor.assign([1.0, 0.75])
    assert one.bounds() == (0.0, 1.5)
    for training in (True, False):
        assert float(tf.reduce_max(one(tf.constant(x), training=training))) == 1.5
    # Calibrated again it begins again.
    one.set(-1.0, 3.0)
    assert one.bounds() == (-1.0, 3.0)


def test_the_first_batch_sets_a_range_that_nothing_has_set():
    one = LearnedRange()
    assert not one.is_set
    for batch in ([0.0, 0.0], [-1.0, 2.0], [-7.0, 9.0]):
        one(tf.constant([batch]), training=True)
        if batch == [0.0, 0.0]:
            # Zeros tell nothing.
            assert one.bounds() == (0.0, 0.0)
    assert one.bounds() == (-1.0, 2.0)


def test_ranges_train_with_the_weights_and_the_file_has_them(tmp_path):
    _, small, x, y = network(8)
    ranges = ranges_of(small)
    assert {type(one) for one in ranges} == {LearnedRange}
    calibrated = np.array([one.bounds() for one in ranges])
    trained(small, x, y)
    learned = np.array([one.bounds() for one in ranges])
    moved = learned / np.where(calibrated, calibrated, 1.0)
    assert (np.abs(moved[calibrated != 0] - 1.0) > 1e-3).mean() > 0.9
    # An end of zero is one of all ReLUs.
    np.testing.assert_array_equal(learned[calibrated == 0], 0.0)
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    assert [one.bounds() for one in ranges_of(loaded)] == [one.bounds() for one in ranges]
    assert all(
        any(one.factor is variable for variable in loaded.trainable_variables)
        for one in ranges_of(loaded)
    )
    export = kd.edge.export_tflite(loaded, tmp_path / "small.tflite", precision="int8")
    held = Interpreter(str(export.path)).get_tensor_details()
    scales = [one["quantization_parameters"]["scales"] for one in held]
    alone = [float(one[0]) for one in scales if len(one) == 1]
    for low, high in learned:
        assert any(scale == pytest.approx((high - low) / 255, rel=1e-5) for scale in alone)
    answers = kd.edge.load_tflite(export.path).predict(x)
    low, high = ranges[-1].bounds()
    assert np.abs(answers - small.predict(x, verbose=0)).max() <= 3.01 * (high - low) / 255


def test_known_ranges_and_those_of_frozen_layers_are_not_trained():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, name="frozen", trainable=False),
            layers.Dense(2, activation="softmax", name="classes"),
        ]
    )
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    small = kd.edge.quantize_aware(model, calibration_data=x, learned_steps=True)
    assert small.get_layer("classes").output_ranges[0].fixed is not None
    frozen, grid = small.get_layer("frozen").output_ranges[0], grid_of(small, "frozen")
    before = frozen.bounds()
    small.compile(keras.optimizers.SGD(1.0), "mse")
    small.fit(10 * x, np.zeros((32, 2), "float32"), verbose=0)
    assert frozen.bounds() == before
    np.testing.assert_array_equal(grid.factor, 1.0)
    plain = kd.edge.quantize_aware(model, calibration_data=x)
    assert not any(isinstance(one, LearnedRange) for one in ranges_of(plain))
