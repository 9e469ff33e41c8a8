"""A tiny teacher, a little data, and folders compared byte by byte."""

import keras
import numpy as np
import pytest


@pytest.fixture(scope="session")
def data():
    """70 examples of five numbers, their labels and weights."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((70, 5)).astype("float32")
    return x, rng.integers(0, 4, 70).astype("int32"), rng.random(70).astype("float32")


@pytest.fixture
def teacher():
    """Five numbers to four logits, over a layer "hidden"."""
    keras.utils.set_random_seed(7)
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(6, activation="tanh", name="hidden"),
            keras.layers.Dense(4, name="logits"),
        ]
    )


@pytest.fixture(scope="session")
def content():
    """Everything in a cache's folder, by file."""

    def read(folder):
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}

    return read
