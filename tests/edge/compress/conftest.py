"""TFMOT as the yardstick, models that train in a second, and processes of their own."""

import os
import subprocess
import sys
import textwrap

import keras
import pytest

from keras_distill.edge import legacy


@pytest.fixture(scope="session")
def tfmot():
    return legacy.tfmot()


@pytest.fixture(scope="session")
def tf_keras():
    return legacy.tf_keras()


@pytest.fixture
def small():
    """Three kernels of 144, 4,608 and 1,280 numbers, a BatchNorm and a depthwise layer."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            keras.layers.Conv2D(16, 3, activation="relu", name="first"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.DepthwiseConv2D(3, padding="same", name="depthwise"),
            keras.layers.Conv2D(32, 3, strides=2, activation="relu", name="middle"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, name="logits"),
        ]
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
