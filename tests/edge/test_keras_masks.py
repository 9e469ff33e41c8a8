"""Keras' masks: they go through compressed layers as through plain ones, warnings included."""

import re
import warnings

import keras
import numpy as np
import pytest

from keras_distill import edge
from keras_distill._keras import mask_of

layers = keras.layers
pytestmark = pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")


def text(*behind, mask_zero=True):
    return keras.Sequential(
        [keras.Input((6,), dtype="int32"), layers.Embedding(20, 8, mask_zero=mask_zero), *behind]
    )


def steps(*behind):
    return keras.Sequential([keras.Input((6, 4)), layers.Masking(), *behind])


def by_operation():
    x = keras.Input((6,), dtype="int32")
    y = layers.Embedding(20, 8, mask_zero=True)(x)
    return keras.Model(x, y + layers.Dense(8)(y))


def by_attention():
    x = keras.Input((6,), dtype="int32")
    y = layers.Embedding(20, 8, mask_zero=True)(x)
    y = layers.LayerNormalization()(y + layers.MultiHeadAttention(2, 4)(y, y))
    return keras.Model(x, layers.GlobalAveragePooling1D()(y))


def nested():
    return keras.Sequential([keras.Input((6,), dtype="int32"), text(), layers.Dropout(0.1)])


def masked_outside():
    x = keras.Input((6,), dtype="int32")
    inside = keras.Input((6, 8))
    body = keras.Model(inside, layers.Dense(4)(layers.Dense(8)(inside)))
    return keras.Model(x, body(layers.Embedding(20, 8, mask_zero=True)(x)))


KINDS = {
    "masked outside": masked_outside,
    "dense": lambda: text(layers.Dense(4, activation="relu")),
    "its own activation": lambda: text(layers.Dense(4, activation="silu")),
    "normalisation": lambda: text(layers.LayerNormalization(), layers.BatchNormalization()),
    "wrapped": lambda: steps(layers.TimeDistributed(layers.Dense(4))),
    "lstm": lambda: text(layers.LSTM(4, return_sequences=True)),
    "pooled": lambda: text(layers.Dense(4), layers.GlobalAveragePooling1D()),
    "nested": nested,
    "an operation": by_operation,
    "attention": by_attention,
    "masking": lambda: steps(layers.Dense(4)),
    "a layer that lets it fall": lambda: steps(layers.Conv1D(4, 3), layers.ReLU()),
}
COMPRESSIONS = {
    "quantize_aware": edge.quantize_aware,
    "prune": lambda model: edge.prune(model, 0.5),
    "cluster": lambda model: edge.cluster(model, 4),
    "to_legacy": lambda model: edge.wrap_legacy(edge.to_legacy(model)),
}


def answered(model, x):
    """The mask on a model's answer, and what Keras warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mask = mask_of(model(x))
    return None if mask is None else np.asarray(mask), about_masks(caught)


def about_masks(caught):
    said = (str(one.message) for one in caught if "mask" in str(one.message))
    # The class of a nested model is a compressed one's.
    return {re.sub(r"\(of type .*?\)", "", words) for words in said}


@pytest.mark.parametrize("compress", COMPRESSIONS.values(), ids=COMPRESSIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_compressed_model_carries_masks_as_the_plain_one(kind, compress):
    model = KINDS[kind]()
    rng = np.random.default_rng(0)
    shape = (3, *model.inputs[0].shape[1:])
    x = rng.integers(1, 20, shape).astype(model.inputs[0].dtype)
    x[:, 4:] = 0
    mask, said = answered(model, x)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        small = compress(model)
    assert about_masks(caught) <= said
    found, warned = answered(small, x)
    np.testing.assert_array_equal(found, mask)
    # tf_keras lets masks fall without a word.
    assert warned == said or (compress is COMPRESSIONS["to_legacy"] and warned <= said)
