"""A tensor's range is found in training or set, and rounds it as the file will."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill.edge.compress.layer import exporting
from keras_distill.edge.quantize.ranges import Range, fake_quant, observed

# 256 steps of 0.01 from -1.00 to 1.55, zero the hundredth.
LOW, HIGH = -1.0, 1.55


def set_range(low=LOW, high=HIGH):
    one = Range(name="range")
    one.set(low, high)
    return one


def state(one):
    return [float(v.numpy()) for v in (one.low, one.high, one.seen)]


def test_fake_quant_golden():
    x = [-7.0, -1.0, -0.503, 0.0, 0.004, 0.006, 1.55, 9.0]
    expected = [-1.0, -1.0, -0.50, 0.0, 0.0, 0.01, 1.55, 1.55]
    np.testing.assert_allclose(fake_quant(tf.constant(x), LOW, HIGH), expected, atol=1e-6)


def test_zero_is_a_step_of_any_range():
    # Steps of 1/255 from -0.3: zero would fall on 76.5, and the range is moved by half a step.
    found = fake_quant(tf.constant([0.0, 1e-9, -1e-9]), -0.3, 0.7).numpy()
    np.testing.assert_array_equal(found, 0.0)


def test_the_gradient_is_one_inside_and_zero_outside():
    x = tf.Variable([-1.5, -0.99, 0.003, 1.54, 1.6])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(set_range()(x) * 3.0)
    np.testing.assert_array_equal(tape.gradient(loss, x), [0.0, 3.0, 3.0, 3.0, 0.0])


def test_in_training_it_is_the_mean_of_the_batches_extremes():
    one = Range()
    batches = [[-1.0, 2.0], [2.0, 5.0], [-3.0, -1.0], [-4.0, 9.0]]
    # Zero belongs to every range: minima -1, 0, -3, -4 and maxima 2, 5, 0, 9. With a decay of
    # n / (n + 1) after n batches the average is the plain mean: -8/4 and 16/4.
    for batch in batches:
        one(tf.constant(batch), training=True)
    assert state(one) == pytest.approx([-2.0, 4.0, 4.0])


def test_the_first_batch_is_rounded_to_its_own_range():
    one = Range()
    found = one(tf.constant([-2.0, 0.3333, 3.1]), training=True).numpy()
    # Steps of 5.1 / 255 = 0.02: 16.7 becomes 17.
    np.testing.assert_allclose(found, [-2.0, 0.34, 3.1], atol=1e-6)


@pytest.mark.parametrize("seen", [999.0, 5000.0])
def test_later_batches_move_it_by_a_thousandth(seen):
    one = set_range(-1.0, 1.0)
    one.seen.assign(seen)
    one(tf.constant([-3.0, 2.0]), training=True)
    assert state(one) == pytest.approx([-1.002, 1.001, seen + 1], abs=1e-6)


def test_a_set_range_moves_as_slowly_as_one_long_in_training():
    one = set_range(-1.0, 1.0)
    one(tf.constant([-3.0, 2.0]), training=True)
    assert one.bounds() == pytest.approx((-1.002, 1.001), abs=1e-6)


def test_zero_is_always_inside_what_is_set():
    assert set_range(0.5, 2.0).bounds() == (0.0, 2.0)
    assert set_range(-2.0, -0.5).bounds() == (-2.0, 0.0)


def test_a_known_range_has_no_state_and_never_moves():
    one = Range(fixed=(LOW, HIGH))
    assert one.variables == []
    assert one.is_set
    for training in (True, False):
        found = one(tf.constant([-5.0, 0.503, 5.0]), training=training)
        np.testing.assert_allclose(found, [-1.0, 0.50, 1.55], atol=1e-6)
    assert one.bounds() == (LOW, HIGH)


def test_an_unset_range_passes_everything():
    one, x = Range(), tf.constant([-0.12345, 0.5, 77.7])
    assert not one.is_set
    np.testing.assert_array_equal(one(x), x)
    np.testing.assert_array_equal(one(x, training=False), x)
    with exporting():
        np.testing.assert_array_equal(one(x), x)
    assert state(one) == [0.0, 0.0, 0.0]


def test_inference_evaluation_and_export_change_nothing():
    one = set_range()
    model = keras.Sequential([keras.Input((3,)), one])
    model.compile(loss="mse")
    before = state(one)
    x = np.float32([[-9.0, 0.503, 9.0]])
    rounded = np.float32([[-1.0, 0.50, 1.55]])
    np.testing.assert_allclose(model.predict(x, verbose=0), rounded, atol=1e-6)
    model.evaluate(x, x, verbose=0)
    with exporting():
        np.testing.assert_allclose(one(x), rounded, atol=1e-6)
    assert state(one) == before


def test_frozen_layers_still_follow():
    # What the layer before it computes may move all the same.
    one = Range(trainable=False)
    one(tf.constant([-1.0, 1.0]), training=True)
    assert one.is_set


def test_an_observed_range_shows_its_tensor_and_rounds_nothing():
    seen = []
    one, x = set_range(), tf.constant([0.12345, 7.0])
    with observed(lambda *shown: seen.append(shown)):
        np.testing.assert_array_equal(one(x, training=True), x)
    assert len(seen) == 1
    assert seen[0][0] is one
    assert one.bounds() == pytest.approx((LOW, HIGH))
    np.testing.assert_allclose(one(x), [0.12, 1.55], atol=1e-6)


def test_bfloat16_goes_in_and_out_and_the_range_is_float32():
    one = Range()
    x = tf.constant([-1.0, 0.3, 1.55], tf.bfloat16)
    y = one(x, training=True)
    assert y.dtype == tf.bfloat16
    # bfloat16's 1.55 is 1.546875.
    assert one.bounds() == pytest.approx((-1.0, 1.546875))
    # Half a step of 0.01 and bfloat16's own 2^-9 of the value.
    np.testing.assert_allclose(tf.cast(y, tf.float32), [-1.0, 0.3, 1.55], atol=0.005 + 1.55 / 512)


def test_a_saved_range_comes_back(tmp_path):
    one = Range(name="found")
    model = keras.Sequential([keras.Input((2,)), one, Range(fixed=(-1.0, 3.0), name="known")])
    for batch in ([-1.0, 2.0], [0.5, 5.0]):
        one(tf.constant([batch]), training=True)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert state(loaded.get_layer("found")) == state(one) == [-0.5, 3.5, 2.0]
    assert loaded.get_layer("known").bounds() == (-1.0, 3.0)
    x = np.float32([[0.777, -0.3]])
    np.testing.assert_array_equal(loaded(x), model(x))
