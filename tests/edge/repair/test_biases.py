"""Bias correction: shifts worked out by hand, layer by layer, and what cannot be corrected."""

import keras
import numpy as np
import pytest

from keras_distill import edge
from keras_distill.edge.quantize.calibrate import ranges_of

layers = keras.layers
# Steps of 0.01: 0.504 becomes 0.50.
KERNEL = np.array([[1.27], [0.504]])
# The second input is 2 on average, so that the mean falls by 2 * 0.004.
X = np.array([[0.0, 1.0], [1.0, 3.0], [-1.0, 2.0]], "float32")


def sequential(*steps, shape=(2,)):
    return keras.Sequential([keras.Input(shape), *steps])


def bias_of(model, name, what="bias"):
    return getattr(model.get_layer(name).layer, what).numpy()


def test_the_mean_that_rounding_takes_comes_back():
    model = sequential(layers.Dense(1, name="a"))
    model.get_layer("a").set_weights([KERNEL, np.array([5.0])])
    small = edge.quantize_aware(model)
    kernel = small.get_layer("a").layer.kernel.numpy()
    assert edge.correct_biases(small, X) is small
    np.testing.assert_allclose(bias_of(small, "a"), [5.008], rtol=1e-6)
    # The weights underneath are as they were.
    np.testing.assert_array_equal(small.get_layer("a").layer.kernel, kernel)


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_the_shift_is_that_before_the_activation(activation):
    # All answers are below zero: behind the ReLU nothing is seen of the shift.
    model = sequential(layers.Dense(1, activation=activation, name="a"))
    model.get_layer("a").set_weights([KERNEL, np.array([-50.0])])
    small = edge.correct_biases(edge.quantize_aware(model), X)
    np.testing.assert_allclose(bias_of(small, "a"), [-49.992], rtol=1e-6)
    assert small.get_layer("a").layer.activation is keras.activations.get(
        "relu" if activation == "relu" else "linear"
    )


def test_a_later_layer_is_corrected_after_the_earlier_ones():
    # b doubles exactly: with a corrected there is nothing left for it, else 2 * 0.008.
    model = sequential(layers.Dense(1, name="a"), layers.Dense(1, name="b"))
    model.get_layer("a").set_weights([KERNEL, np.zeros(1)])
    model.get_layer("b").set_weights([np.array([[2.0]]), np.zeros(1)])
    small = edge.correct_biases(edge.quantize_aware(model), X)
    np.testing.assert_allclose(bias_of(small, "a"), [0.008], rtol=1e-4)
    np.testing.assert_allclose(bias_of(small, "b"), [0.0], atol=1e-6)


def test_a_layer_without_a_bias_leaves_its_shift_to_the_next():
    model = sequential(layers.Dense(1, use_bias=False, name="a"), layers.Dense(1, name="b"))
    model.get_layer("a").set_weights([KERNEL])
    model.get_layer("b").set_weights([np.array([[2.0]]), np.zeros(1)])
    small = edge.correct_biases(edge.quantize_aware(model), X)
    np.testing.assert_allclose(bias_of(small, "b"), [0.016], rtol=1e-4)


def test_the_beta_that_follows_takes_it():
    model = sequential(
        layers.Conv2D(1, 1, name="conv"),
        layers.BatchNormalization(epsilon=0.0, name="norm"),
        shape=(1, 1, 2),
    )
    model.get_layer("conv").set_weights([KERNEL.reshape(1, 1, 2, 1), np.zeros(1)])
    # Gamma over deviation: 3 / 2.
    model.get_layer("norm").set_weights([np.array([v]) for v in (3.0, 1.0, 0.5, 4.0)])
    small = edge.correct_biases(edge.quantize_aware(model), X.reshape(3, 1, 1, 2))
    np.testing.assert_allclose(bias_of(small, "norm", "beta"), [1.012], rtol=1e-6)
    np.testing.assert_array_equal(bias_of(small, "conv"), [0.0])


def test_in_front_of_a_beta_that_serves_two_places_the_bias_takes_it():
    x = keras.Input((1, 1, 2))
    convs = [layers.Conv2D(1, 1, name=name) for name in "ab"]
    norm = layers.BatchNormalization(name="norm")
    model = keras.Model(x, layers.Add()([norm(conv(x)) for conv in convs]))
    for conv in convs:
        conv.set_weights([KERNEL.reshape(1, 1, 2, 1), np.zeros(1)])
    small = edge.correct_biases(edge.quantize_aware(model), X.reshape(3, 1, 1, 2))
    # The mean falls by 2 * 0.004 before the norm.
    np.testing.assert_allclose(bias_of(small, "a"), [0.008], rtol=1e-4)
    np.testing.assert_allclose(bias_of(small, "b"), [0.008], rtol=1e-4)
    np.testing.assert_array_equal(bias_of(small, "norm", "beta"), [0.0])


def test_batches_of_unlike_sizes_count_by_their_rows():
    model = sequential(layers.Dense(1, name="a"))
    model.get_layer("a").set_weights([KERNEL, np.zeros(1)])
    batches = [(X[:1],), (X[1:],)]

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, number):
            return batches[number]

    small = edge.correct_biases(edge.quantize_aware(model), Batches())
    np.testing.assert_allclose(bias_of(small, "a"), [0.008], rtol=1e-4)


def test_a_network_keeps_its_means_under_coarse_ranges():
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 3))
    y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(6, 3, use_bias=False)(x)))
    z = layers.DepthwiseConv2D(3, padding="same", activation="relu")(y)
    y = layers.Concatenate()([layers.Add()([y, z]), z])
    outputs = layers.Dense(4)(layers.GlobalAveragePooling2D()(y))
    model = keras.Model(x, outputs)
    data = np.random.default_rng(0).normal(1, 2, (64, 8, 8, 3)).astype("float32")
    for _ in range(30):
        model(data, training=True)
    small = edge.quantize_aware(model, calibration_data=data)
    # Values clipped at half their range shift every mean; but for those of the answers.
    for one in ranges_of(small)[:-1]:
        low, high = one.bounds()
        one.set(low / 2, high / 2)

    def shift():
        return np.abs(np.mean(np.asarray(small(data)) - np.asarray(model(data)), axis=0)).max()

    before = shift()
    edge.correct_biases(small, data)
    assert shift() < before / 5


def test_what_cannot_be_corrected_is_refused():
    plain = sequential(layers.Dense(2, use_bias=False))
    with pytest.raises(ValueError, match="no ranges"):
        edge.correct_biases(plain, X)
    with pytest.raises(ValueError, match="no bias to correct"):
        edge.correct_biases(edge.quantize_aware(plain), X)
    with pytest.raises(ValueError, match="expected rows of shape"):
        edge.correct_biases(edge.quantize_aware(plain), X[:, :1])
    with pytest.raises(ValueError, match="needs data"):
        edge.correct_biases(edge.quantize_aware(plain))
