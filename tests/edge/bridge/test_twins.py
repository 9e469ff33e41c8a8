"""Every family of layers, with odd arguments: there, back again and wrapped."""

import keras
import numpy as np
import pytest

from keras_distill.edge.bridge import LegacyLayer, to_keras3, to_legacy, wrap_legacy
from keras_distill.edge.bridge.carried import carried_class

L = keras.layers
IMAGE, SEQUENCE, VOLUME, ROW = (7, 8, 4), (7, 4), (5, 6, 7, 2), (6,)


def case(layer, shape=IMAGE, dtype="float32"):
    return pytest.param(layer, shape, dtype, id=f"{type(layer).__name__}-{layer.name}")


TWINNED = [
    case(L.Conv2D(6, (3, 2), strides=2, padding="same", groups=2, activation="relu6")),
    case(L.Conv2D(5, 3, dilation_rate=2, use_bias=False, kernel_regularizer="l2")),
    case(L.Conv2D(4, 1, activation=keras.activations.hard_silu, kernel_constraint="non_neg")),
    case(L.Conv2D(4, 1, activation="leaky_relu", kernel_initializer="orthogonal")),
    case(L.Conv1D(5, 3, padding="causal", dilation_rate=2, activation="gelu"), SEQUENCE),
    case(L.Conv3D(3, 2, strides=(1, 2, 1)), VOLUME),
    case(L.Conv1DTranspose(3, 3, strides=2, padding="same"), SEQUENCE),
    case(L.Conv2DTranspose(3, 3, strides=2, padding="same", output_padding=1)),
    case(L.Conv2DTranspose(3, (2, 3), strides=(2, 1), padding="valid")),
    case(L.Conv3DTranspose(2, 2, strides=2), VOLUME),
    case(L.DepthwiseConv2D(3, strides=2, depth_multiplier=2, padding="same", activation="elu")),
    case(L.DepthwiseConv1D(3, depth_multiplier=3, padding="same"), SEQUENCE),
    case(L.SeparableConv2D(5, 3, depth_multiplier=2, pointwise_regularizer="l1")),
    case(L.SeparableConv1D(5, 3, dilation_rate=2), SEQUENCE),
    case(L.Dense(5, activation="hard_sigmoid", kernel_constraint=keras.constraints.MaxNorm(2.0))),
    case(L.Dense(5, activation="log_softmax", bias_initializer="ones"), ROW),
    case(L.Dense(5, activation="softmax", kernel_initializer="lecun_uniform"), ROW),
    case(L.EinsumDense("abc,cd->abd", output_shape=(None, 5), bias_axes="d"), SEQUENCE),
    case(L.Embedding(9, 3, mask_zero=True), ROW, "int32"),
    case(L.BatchNormalization(epsilon=0.01, momentum=0.5, center=False)),
    case(L.BatchNormalization(axis=2, scale=False)),
    case(L.LayerNormalization(epsilon=0.1, axis=[-2, -1])),
    case(L.LayerNormalization(center=False), ROW),
    case(L.GroupNormalization(2, epsilon=0.02)),
    case(L.UnitNormalization(axis=1)),
    case(L.Normalization()),
    case(L.Normalization(axis=None, mean=0.3, variance=4.0)),
    case(L.Normalization(invert=True), ROW),
    case(L.AveragePooling2D((2, 3), strides=1, padding="same")),
    case(L.MaxPooling2D(3, 2, padding="same")),
    case(L.AveragePooling1D(3), SEQUENCE),
    case(L.MaxPooling1D(2), SEQUENCE),
    case(L.MaxPooling3D(2), VOLUME),
    case(L.GlobalAveragePooling2D(keepdims=True)),
    case(L.GlobalMaxPooling1D(), SEQUENCE),
    case(L.ReLU(max_value=4.0, negative_slope=0.1, threshold=0.5)),
    case(L.LeakyReLU(negative_slope=0.17)),
    case(L.PReLU(shared_axes=[1, 2])),
    case(L.ELU(alpha=0.5)),
    case(L.Softmax(axis=1)),
    case(L.Activation("hard_swish")),
    case(L.Activation("silu")),
    case(L.Cropping2D(((1, 2), (0, 1)))),
    case(L.ZeroPadding2D(((0, 1), (2, 0)))),
    case(L.ZeroPadding1D(2), SEQUENCE),
    case(L.UpSampling2D((2, 3), interpolation="bilinear")),
    case(L.UpSampling2D(2, interpolation="bicubic")),
    case(L.UpSampling1D(3), SEQUENCE),
    case(L.Reshape((8, -1))),
    case(L.Permute((3, 1, 2))),
    case(L.RepeatVector(3), ROW),
    case(L.Flatten()),
    case(L.Rescaling(0.5, offset=-1.0)),
    case(L.Rescaling(1 / 127.5, offset=-1.0), IMAGE, "uint8"),
    case(L.Resizing(5, 9, interpolation="bilinear")),
    case(L.Resizing(4, 4, crop_to_aspect_ratio=True)),
    case(L.CenterCrop(4, 5)),
    case(L.Dropout(0.4, noise_shape=(None, 1, 8, 4), seed=3)),
    case(L.SpatialDropout2D(0.3)),
    case(L.GaussianNoise(0.2)),
    case(L.ActivityRegularization(l2=0.1)),
    case(L.SimpleRNN(3, return_sequences=True), SEQUENCE),
    case(L.LSTM(3, recurrent_activation="hard_sigmoid", unit_forget_bias=False), SEQUENCE),
    case(L.LSTM(3, return_sequences=True, go_backwards=True, use_bias=False), SEQUENCE),
    case(L.GRU(3, reset_after=False), SEQUENCE),
    case(L.GRU(3, unroll=True, activation="relu6"), SEQUENCE),
    case(L.ConvLSTM2D(2, 2, padding="same"), VOLUME),
    case(L.Bidirectional(L.LSTM(3, return_sequences=True), merge_mode="sum"), SEQUENCE),
    case(L.Bidirectional(L.GRU(3), backward_layer=L.GRU(3, go_backwards=True)), SEQUENCE),
    case(L.TimeDistributed(L.Conv2D(3, 2, activation="relu6")), VOLUME),
    case(L.TimeDistributed(L.BatchNormalization()), VOLUME),
]
CARRIED = [
    case(L.RMSNormalization(), ROW),
    case(L.SpectralNormalization(L.Dense(4)), ROW),
    case(L.Lambda(lambda x: keras.ops.square(x) + 1), ROW),
    case(L.Conv2D(3, 2, activation=L.PReLU())),
    case(L.Resizing(5, 9, antialias=True)),
    case(L.RNN([L.LSTMCell(3), L.GRUCell(2)]), SEQUENCE),
    case(L.RandomFlip()),
    case(L.CategoryEncoding(5, output_mode="count"), ROW, "int32"),
]


def model_of(layer, shape, dtype, randomised):
    inputs = keras.Input(shape, dtype=dtype, name="in")
    # A layer object serves all tests of its parameter: a fresh one each time.
    fresh = type(layer).from_config(layer.get_config()) if not is_lambda(layer) else layer
    return randomised(keras.Model(inputs, fresh(inputs)))


def is_lambda(layer):
    return isinstance(layer, L.Lambda)


def batch_of(shape, dtype):
    generator = np.random.default_rng(5)
    if "int" in dtype:
        return generator.integers(0, 5 if dtype == "int32" else 256, (3, *shape)).astype(dtype)
    return generator.normal(size=(3, *shape)).astype(dtype)


@pytest.mark.parametrize(("layer", "shape", "dtype"), TWINNED)
def test_a_twin_answers_alike_and_comes_back_exactly(layer, shape, dtype, randomised):
    model, x = model_of(layer, shape, dtype, randomised), batch_of(shape, dtype)
    twin = to_legacy(model)
    assert not isinstance(twin.layers[-1], carried_class())
    expected = np.asarray(model(x))
    np.testing.assert_allclose(twin(x), expected, atol=1e-5 * np.abs(expected).max())
    back = to_keras3(twin)
    assert type(back.layers[-1]) is type(layer)
    np.testing.assert_array_equal(back(x), expected)
    assert [w.shape for w in back.get_weights()] == [w.shape for w in model.get_weights()]
    wrapped = wrap_legacy(twin)
    assert isinstance(wrapped.layers[-1], LegacyLayer) == bool(twin.layers[-1].weights)
    # Keras 3's own layer where there are no weights: equal to rounding, not to the bit.
    np.testing.assert_allclose(wrapped(x), twin(x), atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize(("layer", "shape", "dtype"), CARRIED)
def test_what_has_no_twin_is_carried(layer, shape, dtype, randomised):
    model, x = model_of(layer, shape, dtype, randomised), batch_of(shape, dtype)
    twin = to_legacy(model)
    carrier = twin.layers[-1]
    assert isinstance(carrier, carried_class())
    assert carrier.operation is model.layers[-1]
    np.testing.assert_array_equal(twin(x), model(x, training=False))
    assert len(carrier.weights) == len(model.layers[-1].weights)
    assert to_keras3(twin).layers[-1] is model.layers[-1]


def test_stock_normalization_forgets_its_weights_and_ours_does_not(randomised):
    model = model_of(L.Normalization(), ROW, "float32", randomised)
    twin = to_legacy(model)
    from tf_keras.models import clone_model

    clone = clone_model(twin)
    clone.set_weights(twin.get_weights())
    x = batch_of(ROW, "float32")
    np.testing.assert_allclose(clone(x), model(x), atol=1e-5)


def test_an_activation_survives_tf_keras_cloning(randomised):
    # By its bare name a clone would read back tf_keras's own, 0.2 x + 0.5.
    model = model_of(L.Dense(4, activation="hard_sigmoid"), ROW, "float32", randomised)
    twin = to_legacy(model)
    from tf_keras.models import clone_model

    clone = clone_model(twin)
    clone.set_weights(twin.get_weights())
    x = batch_of(ROW, "float32")
    np.testing.assert_allclose(clone(x), model(x), atol=1e-6)


def test_mixed_precision_is_kept(randomised):
    model = model_of(L.Dense(4, dtype="mixed_float16"), ROW, "float32", randomised)
    twin = to_legacy(model)
    assert twin.layers[-1].compute_dtype == "float16"
    assert to_keras3(twin).layers[-1].compute_dtype == "float16"
