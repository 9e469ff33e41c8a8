"""A trained network with branches, and its quantised twins."""

import keras
import pytest

from keras_distill import edge

layers = keras.layers


@pytest.fixture(scope="session")
def branched(digits):
    """Convolutions with BatchNorm and ReLU, a depthwise one, a sum of two branches, a head."""
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 1), name="image")
    y = layers.Conv2D(8, 3, use_bias=False, name="first")(x)
    y = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(y))
    left = layers.Conv2D(8, 3, padding="same", name="left")(y)
    right = layers.DepthwiseConv2D(3, padding="same", name="right")(y)
    y = layers.ReLU(name="joined")(layers.Add(name="sum")([left, right]))
    y = layers.Dense(10, name="logits")(layers.GlobalAveragePooling2D(name="mean")(y))
    model = keras.Model(x, y, name="branched")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss)
    model.fit(digits.x_train, digits.y_train, epochs=4, batch_size=64, verbose=0)
    # The file has no step for a norm's sign: one that turns its channel round.
    gamma = model.get_layer("norm").gamma
    gamma.assign(gamma * ([1.0, -1.0] * 4))
    return model


@pytest.fixture(scope="session")
def quantised(digits):
    """A calibrated twin: `quantised(model, bits=8, data=digits)`."""

    def make(model, bits=8, data=digits.x_train[:256]):
        return edge.quantize_aware(model, calibration_data=data, weight_bits=bits)

    return make
