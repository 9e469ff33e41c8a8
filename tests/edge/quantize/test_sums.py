"""The quantised model rounds as the file's kernels do, to the bit."""

from fractions import Fraction

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill.edge.export.tflite import export_tflite
from keras_distill.edge.quantize.aware import quantize_aware
from keras_distill.edge.quantize.sums import Sums, added, requantized
from keras_distill.litert.runner import load_tflite

layers = keras.layers
TRUE = tf.constant(True)


def test_a_bias_is_a_whole_number_of_the_sums_steps():
    # Steps of 1/4: 2.6 / (1/4) = 10.4 is 10. Of the sum 3 + 10 = 13 quarters, halves: 6.5 is 6.
    sums = Sums(tf.constant([0.25]), tf.constant([2.6]), TRUE)
    got = requantized(tf.constant([[0.75 + 2.6]]), sums, tf.constant(0.5))
    assert got.numpy().tolist() == [[3.0]]
    # In real numbers 3.35 lies nearer to 3.5.
    assert round(3.35 / 0.5) * 0.5 == 3.5


def test_a_channel_of_nothing_and_ranges_that_are_not_set_round_nothing():
    x = tf.constant([[0.3, 0.3]])
    step, none = tf.constant([0.0, 0.25]), tf.constant(False)
    got = requantized(x, Sums(step, tf.constant([0.3, 0.0]), TRUE), tf.constant(0.5))
    assert got.numpy().tolist() == [[np.float32(0.3), 0.0]]
    assert (requantized(x, Sums(step, None, none), tf.constant(0.5)) == x).numpy().all()
    terms = [tf.constant(0.3), tf.constant(0.1)]
    zero = tf.constant(0.0)
    assert added(terms, [zero, zero], zero, none) == terms[0] + terms[1]


@pytest.mark.parametrize("steps", [(0.013, 0.021, 0.034), (1.0, 3.0, 2.0), (0.5, 0.001, 0.3)])
def test_an_addition_is_that_of_whole_multipliers(steps):
    first, second, out = map(np.float32, steps)
    random = np.random.default_rng(0)
    a, b = random.integers(-128, 128, (2, 4000))
    ratios = [Fraction(float(np.float32(step / out))) for step in (first, second)]
    # The larger multiplier lies between 2^20 and 2^21.
    shift = next(n for n in range(10, 32) if 2**20 <= max(ratios) * 2**n < 2**21)
    one, other = (round(ratio * 2**shift) for ratio in ratios)
    whole = a.astype(int) * one + b.astype(int) * other
    expected = [(int(n) + 2 ** (shift - 1)) >> shift for n in whole]
    got = added(
        [tf.constant(a * first, "float32"), tf.constant(b * second, "float32")],
        [tf.constant(first), tf.constant(second)],
        tf.constant(out),
        TRUE,
    )
    assert np.rint(got.numpy() / out).astype(int).tolist() == expected


# --- whole files ---------------------------------------------------------------------------------


def conv(x, width=12, size=3, **options):
    return layers.Conv2D(width, size, padding="same", **options)(x)


def norm(x):
    return layers.BatchNormalization()(x)


def convolutions(x):
    x = layers.ReLU()(norm(conv(x, use_bias=False)))
    x = layers.ReLU(6.0)(norm(layers.DepthwiseConv2D(3)(layers.ZeroPadding2D(((0, 1), (2, 1)))(x))))
    return conv(layers.MaxPooling2D(2)(x), 24, activation="relu")


def lone_norms(x):
    x = layers.Normalization(mean=[0.1] * 6, variance=[0.3] * 6)(layers.Rescaling(0.7, 0.2)(x))
    return layers.ReLU()(norm(conv(norm(x), activation="relu")))


def scales(x):
    """Two in a row, of which the first folds into the second or both into what reads them."""
    normalized = layers.Normalization(mean=np.linspace(-0.2, 0.2, 6), variance=[0.3] * 6)
    return normalized(layers.Rescaling(0.7, 0.1)(x))


def in_front_of_a_border(x):
    x = layers.ZeroPadding2D(((0, 1), (0, 1)))(scales(x))
    return norm(layers.Conv2D(12, 3, strides=2, use_bias=False)(x))


def in_front_of_kernels(x):
    x = layers.ReLU()(norm(layers.Conv2D(12, 3, use_bias=False)(scales(x))))
    x = layers.DepthwiseConv2D(3)(norm(x))
    return layers.Dense(9)(norm(layers.Flatten()(x)))


def gated(x):
    x = layers.Activation("swish")(norm(conv(x)))
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = conv(conv(gate, 4, 1, activation="swish"), 12, 1, activation="sigmoid")
    return layers.Multiply()([x, gate])


def residual(x):
    x = conv(x)
    x = layers.ReLU()(layers.Add()([x, norm(conv(x))]))
    return layers.Add()([x, conv(x)])


def of_time(x):
    x = layers.Reshape((64, 6))(x)
    x = layers.ReLU()(norm(layers.Conv1D(16, 3)(x)))
    return layers.Dense(9)(layers.Dense(16, activation="relu")(x))


def nested(x):
    inside = keras.Input(x.shape[1:])
    return conv(keras.Model(inside, convolutions(inside), name="backbone")(x))


def model_of(build):
    """A small network whose weights, biases and statistics are all random."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 6), name="image")
    model = keras.Model(image, build(image))
    random = np.random.default_rng(1)
    for weight in model.weights:
        if any(name in weight.path for name in ("variance", "gamma")):
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
        elif any(name in weight.path for name in ("mean", "beta", "bias")):
            weight.assign(random.normal(0.0, 0.3, weight.shape))
    return model


def rows(count=48, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 8, 8, 6)).astype("float32")


def steps_apart(model, path, x):
    """How many steps a file's answers lie from the quantised model's."""
    export_tflite(model, path, precision="int8", input_type="int8")
    file = load_tflite(path)
    apart = (file.predict(x) - model.predict(x, verbose=0)) / file.outputs[0].scale
    assert np.abs(apart - np.rint(apart)).max() < 0.01
    return np.rint(apart)


IN_FRONT = [in_front_of_a_border, in_front_of_kernels]


@pytest.mark.parametrize(
    "build", [convolutions, lone_norms, *IN_FRONT, gated, residual, of_time, nested]
)
def test_the_file_answers_as_the_quantised_model_does(build, tmp_path):
    small = quantize_aware(model_of(build), calibration_data=rows())
    assert not steps_apart(small, tmp_path / "file.tflite", rows(seed=5)).any()


def test_a_loaded_model_rounds_as_the_saved_one(tmp_path):
    small = quantize_aware(model_of(residual), calibration_data=rows())
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    assert (loaded.predict(rows(), verbose=0) == small.predict(rows(), verbose=0)).all()


def test_a_layer_called_twice_rounds_in_its_range_alone(tmp_path):
    def twice(x):
        shared = layers.Conv2D(6, 3, padding="same", name="shared")
        return layers.Add()([shared(x), shared(layers.ReLU()(x))])

    small = quantize_aware(model_of(twice), calibration_data=rows())
    assert small.get_layer("shared").output_ranges[0].sums is None
    assert np.abs(steps_apart(small, tmp_path / "file.tflite", rows(seed=5))).max() <= 1


def test_training_sees_the_ranges_alone():
    # A sum's whole bias belongs to statistics that no longer move; in training they do.
    def scaled(x):
        return conv(layers.Rescaling(0.7, 0.2, name="scaled")(x))

    first = quantize_aware(model_of(scaled), calibration_data=rows()).get_layer("scaled")
    x = tf.constant(rows())
    trained = first(x, training=True)
    low, high = first.output_ranges[0].bounds()
    plain = tf.quantization.fake_quant_with_min_max_vars(first.layer(x), low, high)
    assert (trained == plain).numpy().all()


def test_gradients_at_inference_are_those_of_the_real_numbers():
    small = quantize_aware(model_of(residual), calibration_data=rows())
    last = small.layers[-1]
    terms = [tf.constant(rows(2)), tf.constant(rows(2, seed=1))]
    with tf.GradientTape() as tape:
        tape.watch(terms)
        total = tf.reduce_sum(last.added(terms[0] + terms[1], terms))
    assert all((one == 1).numpy().all() for one in tape.gradient(total, terms))


def test_a_range_of_nothing_and_infinite_numbers_stay_numbers():
    small = quantize_aware(model_of(residual), calibration_data=0 * rows())
    assert np.isfinite(small.predict(rows(), verbose=0)).all()
    one = small.layers[-1].output_ranges[0]
    assert np.isfinite(one(tf.constant([np.inf, -np.inf, 1.0]))).all()
