"""Layers that the search leaves in float."""

import keras
import numpy as np
import pytest

import keras_distill as kd
from keras_distill.edge.search.rounded import Rounded

layers = keras.layers


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(64, 12)).astype("float32")


@pytest.fixture(scope="module")
def model(x):
    """In each channel of `spoiled` a weight beside which 8 bits see hardly any other."""
    keras.utils.set_random_seed(0)
    vector = keras.Input((12,), name="vector")
    # The first input is always 1, and its share is taken off again.
    y = layers.Dense(16, activation="relu", name="first")(vector)
    y = layers.Dense(24, activation="relu", name="spoiled")(y)
    made = keras.Model(vector, layers.Dense(5, name="scores")(y), name="made")
    kernel, bias = made.get_layer("first").get_weights()
    kernel[:, 0], bias[0] = 0.0, 1.0
    made.get_layer("first").set_weights([kernel, bias])
    kernel, bias = made.get_layer("spoiled").get_weights()
    kernel[0] = 40.0
    made.get_layer("spoiled").set_weights([kernel, bias - kernel[0]])
    return made


def test_the_spoiled_layer_stays_in_float(model, x, tmp_path):
    labels = model.predict(x, verbose=0).argmax(-1)
    found = kd.edge.search_bits(
        model, (x, labels), max_drop=0.15, bits=(4, 8, 32), show_progress=False
    )
    assert found.weight_bits["spoiled"] == 32
    assert set(found.weight_bits.values()) <= {4, 32}
    small = kd.edge.quantize_aware(model, calibration_data=x, weight_bits=found.weight_bits)
    right = np.mean(small.predict(x, verbose=0).argmax(-1) == labels)
    # The search has the ranges that were calibrated at 8 bits, which are too wide here.
    assert 1 - right <= found.drop <= 0.15
    export = kd.edge.export_tflite(small, tmp_path / "mixed.tflite", precision="int8")
    assert export.bytes == found.bytes
    assert export.float_layers == ("spoiled",)
    # 16 x 24 weights of four bytes in place of one, and nothing else of this size.
    assert found.bytes - found.bytes_at_8 > 2 * 16 * 24
    assert "spoiled" in str(found).splitlines()[1]
    # Without float no choice is so right.
    with pytest.raises(ValueError, match=r"bits=\(4, 8, 32\).*precision='int16x8'"):
        kd.edge.search_bits(model, (x, labels), max_drop=0.15, show_progress=False)


def test_bytes_decide_how_far_float_goes(model, x):
    found = kd.edge.search_bits(model, x, max_bytes=10**6, bits=(8, 32), show_progress=False)
    ready = found.sensitivity
    # What is better in float is so, and what is not is not: with room for all of it.
    better = {row.path for row in ready.rows if row.at_float is not None}
    better = {row.path for row in ready.rows if row.path in better and row.at_float < row.at_8}
    assert set(found.weight_bits) == better >= {"spoiled"}
    # One byte less than that has room for the steepest alone.
    less = kd.edge.search_bits(
        model, x, max_bytes=found.bytes - 1, bits=(8, 32), sensitivity=ready, show_progress=False
    )
    assert less.bytes < found.bytes
    assert set(less.weight_bits) < better
    assert "spoiled" in less.weight_bits


def test_float_in_the_search_is_float_in_the_model(model, x):
    rounded = Rounded(model, x)
    assert rounded.wide == ("first", "spoiled", "scores")
    bits = dict.fromkeys(rounded.paths, (8, 8)) | {"spoiled": (32, 8)}
    small = kd.edge.quantize_aware(model, calibration_data=x, weight_bits={"spoiled": 32})
    answers = small.predict(x, verbose=0)
    at_8 = rounded(x, dict.fromkeys(rounded.paths, (8, 8)))
    # The ranges are calibrated beside other weights, and so a little others.
    assert np.abs(rounded(x, bits) - answers).mean() < 0.02
    assert np.abs(at_8 - answers).mean() > 0.05
