"""A sensitivity that is ready spares its measuring, and has to be that of the same model."""

import dataclasses

import keras
import numpy as np
import pytest

import keras_distill as kd
from keras_distill.edge.search import bits as searching


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(48, 6)).astype("float32")


def made(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(24, "relu", name="a"),
            keras.layers.Dense(32, "relu", name="b"),
            keras.layers.Dense(3, name="scores"),
        ],
        name=f"made_{seed}",
    )


@pytest.fixture(scope="module")
def first(x):
    return kd.edge.search_bits(made(0), x, max_drop=1.0, show_progress=False)


def search(x, sensitivity, model=None, **more):
    return kd.edge.search_bits(
        model or made(0), x, max_drop=0.0, sensitivity=sensitivity, show_progress=False, **more
    )


def test_a_second_budget_measures_nothing_anew(x, first, monkeypatch):
    anew = search(x, None)

    def measure(*_):
        raise AssertionError("measured anew")

    monkeypatch.setattr(searching, "measure", measure)
    ready = search(x, first.sensitivity)
    assert dataclasses.replace(anew, sensitivity=first.sensitivity) == ready
    assert ready.weight_bits != first.weight_bits


def test_of_another_model(x, first):
    with pytest.raises(ValueError, match=r"another model, 'made_0', .*weights of 'made_1' changed"):
        search(x, first.sensitivity, made(1))
    trained = made(0)
    kernel = trained.layers[0].kernel
    kernel.assign(kernel * 1.001)
    with pytest.raises(ValueError, match="before the weights of 'made_0' changed"):
        search(x, first.sensitivity, trained)
    renamed = dataclasses.replace(first.sensitivity, rows=first.sensitivity.rows[2:])
    with pytest.raises(ValueError, match=r"kernels are those of b, scores; .* of a, b, scores"):
        search(x, renamed)
    with pytest.raises(TypeError, match=r"as a kd.edge.Sensitivity.*got BitSearch"):
        search(x, first)


def test_of_other_settings(x, first):
    with pytest.raises(ValueError, match=r"outputs {'made_0': 'logits'}; .* {'made_0': 'numbers'}"):
        search(x, first.sensitivity, output="numbers")
    with pytest.raises(ValueError, match="on 48 examples; here are 32"):
        search(x[:32], first.sensitivity)
    with pytest.raises(ValueError, match=r"another teacher .* was 0.000e\+00, here it is"):
        search(x, first.sensitivity, teacher=made(1))
