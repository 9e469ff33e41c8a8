"""Inputs of whole numbers that a model computes with: the first real tensor has a range."""

import keras
import numpy as np
import pytest

from keras_distill import edge
from keras_distill.edge.quantize.ranges import Range

layers, ops = keras.layers, keras.ops
BYTES, NUMBERS = (0.0, 255.0), None


def images(x):
    """What is usual in front of a network for pictures in bytes."""
    x = layers.CenterCrop(6, 6)(layers.Resizing(8, 8)(x))
    return layers.Rescaling(1 / 127.5, offset=-1.0)(x)


def padded(x):
    return layers.Rescaling(0.1)(layers.ZeroPadding2D()(x))


def normalized(x):
    layer = layers.Normalization()
    layer.adapt(np.linspace(-50.0, 300.0, 60).reshape(10, 6))
    return layer(x)


MODELS = {
    "rescaled_images": ("uint8", (9, 9, 3), images, BYTES),
    "padded": ("uint8", (9, 9, 3), padded, BYTES),
    "divided": ("uint8", (6,), lambda x: x / 255, BYTES),
    "subtracted_from": ("int32", (6,), lambda x: 1.0 - x * 0.5, NUMBERS),
    "dense": ("int32", (6,), layers.Dense(4), NUMBERS),
    "normalized": ("int32", (6,), normalized, NUMBERS),
    "averaged": ("uint8", (4, 4, 4), layers.GlobalAveragePooling2D(), BYTES),
    "activated": ("int32", (6,), layers.LeakyReLU(), NUMBERS),
    "shared": ("int32", (4, 6), layers.TimeDistributed(layers.Dense(4)), NUMBERS),
    "signed_bytes": ("int8", (6,), layers.Rescaling(0.1), (-128.0, 127.0)),
}


@pytest.fixture(params=list(MODELS))
def case(request):
    """A model, inputs of its dtype, and the range that these are to have."""
    keras.utils.set_random_seed(0)
    dtype, shape, first, known = MODELS[request.param]
    inputs = keras.Input(shape, dtype=dtype)
    x = layers.Flatten()(first(inputs))
    low, high = {"uint8": (0, 256), "int8": (-128, 128)}.get(dtype, (-50, 300))
    x_train = np.random.default_rng(0).integers(low, high, (64, *shape)).astype(dtype)
    return keras.Model(inputs, layers.Dense(3)(x)), x_train, known


def test_the_quantised_model_follows(case):
    model, x, known = case
    small = edge.quantize_aware(model, calibration_data=x)
    ranges = [one for one in small._flatten_layers() if isinstance(one, Range)]
    found = [one.bounds() for one in ranges if one.name.startswith("input_range")]
    assert len(found) == 1
    assert known is None or found == [known]
    expected = np.asarray(model(x))
    # Rounded to 256 steps, weights and results too.
    assert np.corrcoef(np.ravel(small(x)), np.ravel(expected))[0, 1] > 0.999


def test_bytes_are_normalised_as_the_real_numbers_that_they_are():
    inputs = keras.Input((4, 4, 4), dtype="uint8")
    model = keras.Model(inputs, layers.GroupNormalization(2)(inputs))
    x = np.random.default_rng(0).integers(0, 256, (64, 4, 4, 4)).astype("uint8")
    small = edge.quantize_aware(model, calibration_data=x)
    # Keras itself squares bytes in bytes.
    groups = x.astype("float64").reshape(64, 16, 2, 2)
    mean, variance = (how(groups, (1, 3), keepdims=True) for how in (np.mean, np.var))
    expected = (groups - mean) / np.sqrt(variance + 1e-3)
    assert np.corrcoef(np.ravel(small(x)), np.ravel(expected))[0, 1] > 0.999


def test_a_file_takes_bytes(tmp_path):
    inputs = keras.Input((9, 9, 3), dtype="uint8")
    x = layers.Conv2D(4, 3, activation="relu")(images(inputs))
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    x = np.random.default_rng(0).integers(0, 256, (32, 9, 9, 3)).astype("uint8")
    small = edge.quantize_aware(model, calibration_data=x)
    export = edge.export_tflite(small, tmp_path / "bytes.tflite", precision="int8")
    # From whole numbers to real ones, and no more: the rest is in integers.
    assert export.float_ops == {"CAST": 1}
    assert export.inputs[0].dtype == "uint8"
    found = edge.load_tflite(export).predict(x)
    assert np.corrcoef(np.ravel(found), np.ravel(model(x)))[0, 1] > 0.999


def embedded(ids, **kwargs):
    return layers.Flatten()(layers.Embedding(20, 4, **kwargs)(ids))


# What is made of ids before a Dense layer.
IDS = {
    "embedded": embedded,
    "cast": lambda ids: ops.cast(ids, "float32") / 20.0,
    "compared": lambda ids: ops.cast(ops.not_equal(ids, 0), "float32"),
    "by arithmetic": lambda ids: embedded(ops.mod(ids + 1, 20)),
    "masked": lambda ids: layers.LSTM(4)(layers.Embedding(20, 4, mask_zero=True)(ids)),
    "one-hot": lambda ids: layers.Flatten()(ops.one_hot(ids, 20)),
}


@pytest.mark.parametrize("dtype", ["int32", "float32"])
@pytest.mark.parametrize("kind", IDS)
def test_ids_at_int16x8(kind, dtype, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,), dtype=dtype)
    ids = inputs if dtype == "int32" else ops.cast(inputs, "int32")
    model = keras.Model(inputs, layers.Dense(3)(IDS[kind](ids)))
    x = np.random.default_rng(0).integers(0, 20, (48, 6)).astype(dtype)
    path = tmp_path / "ids.tflite"
    edge.export_tflite(model, path, precision="int16x8", representative_data=x)
    found = edge.load_tflite(path).predict(x)
    assert np.corrcoef(np.ravel(found), np.ravel(model(x)))[0, 1] > 0.9999


def test_whole_numbers_that_int16x8_has_not_are_named(tmp_path):
    ids = keras.Input((6,), dtype="int32")
    first = layers.Dense(3)(embedded(ops.where(ids > 7, ids, ops.zeros_like(ids))))
    model = keras.Model(ids, first)
    x = np.random.default_rng(0).integers(0, 20, (48, 6)).astype("int32")
    with pytest.raises(edge.ConversionError, match=r"\(.*Greater.*precision='int8'"):
        edge.export_tflite(model, tmp_path / "x", precision="int16x8", representative_data=x)
