"""Bits by how fast their file runs: no clock is asked, but what stands for it."""

import re

import keras
import numpy as np
import pytest

import keras_distill as kd
from keras_distill.edge.search import latency
from keras_distill.edge.search.latency import InTurns


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(48, 12)).astype("float32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense
    return keras.Sequential(
        [
            keras.Input((12,)),
            dense(32, "relu", name="a"),
            dense(64, "relu", name="b"),
            dense(4, name="scores"),
        ]
    )


@pytest.fixture(scope="module")
def sensitivity(model, x):
    return kd.edge.sensitivity(model, x, show_progress=False)


def test_files_are_timed_in_turns():
    # The machine slows down from call to call: the n-th takes n ms.
    calls = []

    def measure(path):
        calls.append(path)
        return float(len(calls))

    turns = InTurns("eight", measure)
    assert turns.milliseconds("four") == 6.0  # 2, 4, 6, 8, 10
    assert calls == ["eight", "four"] * 5
    assert turns.milliseconds("eight") == 5.0  # 1, 3, 5, 7, 9
    assert turns.milliseconds("other") == 16.0  # 12, 14, 16, 18, 20
    assert len(calls) == 20
    # All of its rounds: 1, 3, ... 19.
    assert turns.milliseconds("eight") == 10.0
    alone = InTurns("eight", measure)
    assert alone.milliseconds("eight") == 23.0  # 21 to 25
    assert len(calls) == 25


def search(model, x, sensitivity, monkeypatch, clock, **bounds):
    monkeypatch.setattr(latency, "median_ms", clock)
    return kd.edge.search_bits(model, x, sensitivity=sensitivity, show_progress=False, **bounds)


def of_size(path):
    return path.stat().st_size / 1000


def against_size(path):
    return 1e6 / path.stat().st_size


def test_the_most_bits_that_are_fast_enough(model, x, sensitivity, monkeypatch):
    whole = search(model, x, sensitivity, monkeypatch, of_size, max_milliseconds=1e3)
    assert whole.weight_bits == {}
    assert whole.latency_p50_ms == whole.latency_p50_ms_at_8 == whole.bytes / 1000
    longest = (whole.bytes - 1) / 1000
    fast = search(model, x, sensitivity, monkeypatch, of_size, max_milliseconds=longest)
    small = kd.edge.search_bits(
        model, x, sensitivity=sensitivity, show_progress=False, max_bytes=whole.bytes - 1
    )
    # What takes as many milliseconds as kilobytes is one search for both.
    assert fast.weight_bits == small.weight_bits != {}
    assert fast.latency_p50_ms == fast.bytes / 1000 <= longest
    assert fast.latency_p50_ms_at_8 == whole.bytes / 1000
    assert f"{fast.latency_p50_ms:.4f} ms" in str(fast)
    assert small.latency_p50_ms is None
    assert "ms" not in str(small).splitlines()


def test_fewer_bits_may_be_slower(model, x, sensitivity, monkeypatch):
    def loose(**more):
        return search(model, x, sensitivity, monkeypatch, against_size, max_drop=1.0, **more)

    small = loose()
    whole = search(model, x, sensitivity, monkeypatch, against_size, max_milliseconds=1e6)
    longest = 1e6 / whole.bytes
    # The drop alone takes the smallest file, which is the slowest here.
    assert set(small.weight_bits) == {"a", "b", "scores"}
    assert loose(max_milliseconds=longest).weight_bits == {}
    with pytest.raises(
        ValueError, match=re.escape(f"takes {longest:.4f} ms, with {whole.bytes:,}")
    ):
        loose(max_milliseconds=longest / 2)


def test_a_file_that_is_small_is_not_fast(model, x, sensitivity, monkeypatch):
    bounds = {"max_bytes": 10**6, "max_milliseconds": 0.001}
    whole = kd.edge.search_bits(
        model, x, sensitivity=sensitivity, show_progress=False, max_bytes=10**6
    )
    told = "within max_bytes=1000000 runs in 0.001 ms on this machine: the fastest takes"
    with pytest.raises(ValueError, match=told):
        search(model, x, sensitivity, monkeypatch, of_size, **bounds)
    bounds = {"max_bytes": whole.bytes - 1, "max_milliseconds": 1e6 / whole.bytes}
    told = f"within max_bytes={whole.bytes - 1} runs in .* all layers at 8 bits"
    with pytest.raises(ValueError, match=told):
        search(model, x, sensitivity, monkeypatch, against_size, **bounds)


def test_a_clock_answers():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    found = kd.edge.search_bits(model, x, max_milliseconds=1e4, show_progress=False)
    assert found.latency_p50_ms == found.latency_p50_ms_at_8 > 0
