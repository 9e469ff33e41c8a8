"""What masks scores before a softmax leaves the scores their steps, however it is written."""

import keras
import numpy as np
import pytest

from keras_distill import edge

layers, ops = keras.layers, keras.ops


def attention(x, scores):
    return ops.matmul(ops.softmax(scores), x)


def similar(x):
    return ops.matmul(x, ops.transpose(x, (0, 2, 1)))


# By name, what is made of words, those that carry a mask, and where there is padding, 1 there.
KINDS = {
    "MultiHeadAttention": lambda x, masked, _: layers.MultiHeadAttention(2, 4)(masked, masked),
    "causal": lambda x, *_: layers.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True),
    "Attention": lambda x, masked, _: layers.Attention()([masked, masked]),
    "AdditiveAttention": lambda x, masked, _: layers.AdditiveAttention()([masked, masked]),
    "selected": lambda x, _, padding: attention(x, ops.where(padding > 0, -1e9, similar(x))),
    "added": lambda x, _, padding: attention(x, similar(x) + padding * -1e9),
    "subtracted": lambda x, _, padding: attention(x, similar(x) - padding * 1e9),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """By name, the model's answers and its int8 file's."""
    keras.utils.set_random_seed(1)
    ids = keras.Input((6,), dtype="int32")
    normal = keras.initializers.RandomNormal(stddev=1.0)
    masked = layers.Embedding(20, 8, mask_zero=True, embeddings_initializer=normal)(ids)
    x = layers.Embedding(20, 8, embeddings_initializer=normal)(ids)
    padding = ops.cast(ops.equal(ids, 0), "float32")[:, None, :]
    made = {name: make(x, masked, padding) for name, make in KINDS.items()}
    model = keras.Model(ids, {name: layers.Flatten()(y) for name, y in made.items()})
    rng = np.random.default_rng(0)
    rows = rng.integers(1, 20, (64, 6)).astype("int32")
    rows[np.arange(6) >= rng.integers(3, 7, (64, 1))] = 0
    path = tmp_path_factory.mktemp("masked") / "file.tflite"
    edge.export_tflite(model, path, precision="int8", representative_data=rows)
    return model.predict(rows, verbose=0), edge.load_tflite(path).predict(rows)


@pytest.mark.parametrize("name", KINDS)
def test_an_int8_file_follows(answers, name):
    expected, found = (one[name].ravel() for one in answers)
    # Where a billion is in the scores' range: 0.4 to 0.92.
    assert np.corrcoef(found, expected)[0, 1] > 0.998
