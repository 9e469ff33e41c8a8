"""Chains of dilated convolutions that pad nothing: only long inputs go through them."""

import keras
import numpy as np
import pytest

from keras_distill import edge, transfer

layers = keras.layers
DILATIONS = (1, 4, 16, 64, 128)
# A kernel of 3 takes 2 dilations off the length.
LEAST = 1 + 2 * sum(DILATIONS)


@pytest.fixture(scope="module")
def chain():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, 4))
    x = layers.Conv1D(8, 1, name="stem")(inputs)
    for d in DILATIONS:
        y = layers.Conv1D(8, 3, dilation_rate=d, activation="relu", name=f"b{d}_conv")(x)
        x = layers.Add(name=f"b{d}_add")([layers.Cropping1D(d, name=f"b{d}_crop")(x), y])
    for name in ("same", "again"):
        y = layers.Conv1D(8, 3, padding="same", name=f"{name}_conv")(x)
        x = layers.Add(name=f"{name}_add")([x, y])
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def test_blocks_are_found_and_left_out(chain):
    found = {block.name: block.removable for block in transfer.blocks(chain)}
    assert [name for name, removable in found.items() if removable] == ["same", "again"]
    student, _ = transfer.submodel(chain, lambda block: block.name != "again")
    x = np.random.default_rng(0).normal(size=(2, LEAST + 3, 4)).astype("float32")
    inner = keras.Model(chain.inputs, chain.get_layer("same_add").output)
    np.testing.assert_allclose(student(x), chain.get_layer("head")(inner(x)), atol=1e-6)


def test_the_bridge_tries_a_length_that_fits(chain):
    x = np.random.default_rng(0).normal(size=(2, LEAST, 4)).astype("float32")
    np.testing.assert_allclose(edge.to_legacy(chain)(x), chain(x), rtol=1e-4, atol=1e-4)


def test_a_model_that_no_length_fits_says_so():
    inputs = keras.Input((None, 4))
    model = keras.Model(inputs, layers.Reshape((7, 4))(inputs))
    with pytest.raises(ValueError, match=r"(?s)leaves sizes .* open.*Give its Input the"):
        edge.to_legacy(model)
