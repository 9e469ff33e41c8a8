"""Budgets of no sense, and those that no choice meets, are refused before anything is measured."""

import keras
import numpy as np
import pytest

import keras_distill as kd
from keras_distill.edge.search import bits as searching
from keras_distill.edge.search.bounds import Bounds, check_bits


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "max_bytes or max_drop or max_milliseconds"),
        ({"max_bytes": 0}, "whole number, 1 or more; got 0"),
        ({"max_bytes": True}, "whole number, 1 or more; got True"),
        ({"max_bytes": 1e5}, "whole number, 1 or more; got 100000.0"),
        ({"max_bytes": "60k"}, "whole number, 1 or more; got '60k'"),
        ({"max_drop": 2}, "max_drop from 0 to 1"),
        ({"max_drop": float("nan")}, "max_drop from 0 to 1, .*; got nan"),
        ({"max_milliseconds": 0.0}, "a time above 0, .*; got 0.0"),
        ({"max_milliseconds": float("inf")}, "a time above 0, .*; got inf"),
        ({"max_bytes": 9, "max_milliseconds": float("nan")}, "a time above 0, .*; got nan"),
    ],
)
def test_bounds_of_no_sense(given, words):
    with pytest.raises(ValueError, match=words):
        Bounds(**given)


def test_bounds_of_numpy_count():
    assert Bounds(max_bytes=np.int64(9), max_drop=np.float32(0.5)).max_bytes == 9


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        ((4, 8, 16), r"int16 for single layers: LiteRT computes wrong.*precision='int16x8'"),
        (16, "int16 for single layers"),
        ((4,), r"8 with 4 or 32 or both.*got \(4,\)"),
        ((8, 2), r"got \(8, 2\)"),
        ("48", "got '48'"),
    ],
)
def test_bits_that_no_layer_may_have(bits, words):
    with pytest.raises(ValueError, match=words):
        check_bits(bits)


def test_bits_in_any_order():
    assert check_bits([32, 8]) == (8, 32)
    assert check_bits(8) == (8,)


def test_a_size_that_no_file_has_is_refused_before_anything_is_measured(monkeypatch, tmp_path):
    x = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(40), keras.layers.Dense(3)])
    small = kd.edge.quantize_aware(model, calibration_data=x, weight_bits=4)
    least = kd.edge.export_tflite(small, tmp_path / "4.tflite", precision="int8").bytes

    def measure(*_):
        raise AssertionError("measured")

    monkeypatch.setattr(searching, "measure", measure)
    with pytest.raises(ValueError, match=f"{least - 1:,} bytes: the smallest has {least:,}"):
        kd.edge.search_bits(model, x, max_bytes=least - 1, show_progress=False)
    with pytest.raises(AssertionError, match="measured"):
        kd.edge.search_bits(model, x, max_bytes=least, show_progress=False)
