"""A model with every way of joining in it, a compiler of classifiers, processes of their own."""

import os
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill.edge.quantize.calibrate import ranges_of


@pytest.fixture
def small():
    """Conv, BatchNorm and ReLU that become one operation, a depthwise layer and a head."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            keras.layers.Conv2D(8, 3, use_bias=False, name="first"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.ReLU(name="relu"),
            keras.layers.DepthwiseConv2D(3, padding="same", name="depthwise"),
            keras.layers.Conv2D(12, 3, strides=2, activation="relu", name="middle"),
            keras.layers.Flatten(name="flat"),
            keras.layers.Dense(10, name="logits"),
        ],
        name="small",
    )


@pytest.fixture(scope="session")
def compiled():
    """Compiles a classifier by labels: `compiled(model, optimizer="adam", **options)`."""

    def compile_(model, optimizer="adam", **options):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, **{"jit_compile": False, **options})
        return model

    return compile_


@pytest.fixture(scope="session")
def few(digits):
    """The first batches of the digits: `few(count, size=16)`."""

    def take(count, size=16):
        x, y = digits.x_train[: count * size], digits.y_train[: count * size]
        return tf.data.Dataset.from_tensor_slices((x, y)).batch(size)

    return take


@pytest.fixture(scope="session")
def bounds():
    """Every range that data sets, by its number: `bounds(model)`, float32 pairs."""

    def read(model):
        return {i: np.float32(one.bounds()) for i, one in enumerate(ranges_of(model))}

    return read


@pytest.fixture(scope="session")
def in_a_fresh_process():
    """Runs Python source in a process of its own and returns what it printed."""

    def run(source):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(source)],
            capture_output=True,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run
