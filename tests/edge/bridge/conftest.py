"""Tiny models with weights that show every mistake."""

import keras
import numpy as np
import pytest


@pytest.fixture(scope="session")
def randomised():
    """Sets every float weight of a Keras 3 model to random numbers, the positive ones positive."""

    def randomise(model, seed=0):
        generator = np.random.default_rng(seed)
        for variable in model.weights:
            if "float" not in variable.dtype:
                continue
            value = 0.5 * generator.normal(size=variable.shape)
            positive = "variance" in variable.name or variable.name == "gamma"
            variable.assign(0.3 + np.abs(value) if positive else value)
        for layer in model.layers:
            if hasattr(layer, "finalize_state"):
                layer.finalize_state()
        return model

    return randomise


@pytest.fixture(scope="session")
def forked():
    """Builds a model of nested models, a shared layer, operations, dicts in and out."""

    def build(custom=None):
        keras.utils.set_random_seed(0)
        image = keras.Input((6, 6, 3), name="image")
        token = keras.Input((4,), dtype="int32", name="token")
        shared = keras.layers.Conv2D(3, 3, padding="same", name="shared")
        block = keras.Sequential(
            [
                keras.Input((6, 6, 3)),
                keras.layers.Conv2D(3, 1, activation="silu", name="point"),
                keras.layers.BatchNormalization(name="norm"),
            ],
            name="block",
        )
        x = shared(block(shared(image))) + image
        x = x[:, 1:, ::2] * 2 + 1
        x = keras.ops.mean(x, axis=(1, 2))
        inner = keras.Input((4,), dtype="int32")
        embedded = keras.layers.Embedding(5, 3, name="table")(inner)
        pooled = keras.layers.GlobalAveragePooling1D(name="pool")(embedded)
        text = keras.Model(inner, pooled, name="text")(token)
        joined = keras.layers.Concatenate(name="joined")([x, text])
        if custom is not None:
            joined = custom(joined)
        outputs = {
            "label": keras.layers.Dense(3, name="label")(joined),
            "score": keras.layers.Dense(1, activation="hard_sigmoid", name="score")(joined),
        }
        return keras.Model({"image": image, "token": token}, outputs, name="forked")

    return build


@pytest.fixture(scope="session")
def forked_batch():
    generator = np.random.default_rng(1)
    return {
        "image": generator.normal(size=(3, 6, 6, 3)).astype("float32"),
        "token": generator.integers(0, 5, (3, 4)).astype("int32"),
    }
