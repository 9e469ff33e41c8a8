"""Masks and states of recurrent layers at int8: what Keras answers with them, the file answers."""

import keras
import numpy as np
import pytest

from keras_distill import edge
from keras_distill.edge.analysis import Analysis
from keras_distill.edge.export.prepare import prepared

layers = keras.layers
# Plain Keras says so of the nested model, too.
pytestmark = pytest.mark.filterwarnings("ignore:Layer 'inside' .* was passed an input with a mask")
STEPS, WIDTH = 5, 4


def nested(ids):
    """The mask comes with the tensor alone: inside, nothing tells of it."""
    x = keras.Input((STEPS, 6))
    return keras.Model(x, layers.GRU(WIDTH)(x), name="inside")(ids)


def stacked(x):
    return layers.GRU(WIDTH)(layers.LSTM(WIDTH, return_sequences=True)(x))


def each_step(x):
    return layers.Bidirectional(layers.LSTM(WIDTH, return_sequences=True))(x)


# By name, what is made of the masked words and of a state.
KINDS = {
    "lstm": lambda x, _: layers.LSTM(WIDTH)(x),
    "gru": lambda x, _: layers.GRU(WIDTH)(x),
    "backwards": lambda x, _: layers.GRU(WIDTH, go_backwards=True)(x),
    "simple": lambda x, _: layers.SimpleRNN(WIDTH)(x),
    "both ways": lambda x, _: layers.Bidirectional(layers.GRU(WIDTH))(x),
    "both ways, each step": lambda x, _: each_step(x),
    "stacked": lambda x, _: stacked(x),
    "told that it is no training": lambda x, _: layers.GRU(WIDTH)(x, training=False),
    "nested": lambda x, _: nested(x),
    "from a state": lambda x, h: layers.GRU(WIDTH)(x * 1.0, initial_state=h),
    "from two states": lambda x, h: layers.LSTM(WIDTH)(x * 1.0, initial_state=[h, h]),
    "its last state": lambda x, _: layers.LSTM(WIDTH, return_state=True)(x * 1.0)[2],
}


@pytest.fixture(scope="module")
def model():
    ids, state = keras.Input((STEPS,), dtype="int32", name="ids"), keras.Input((WIDTH,), name="h")
    words = layers.Embedding(20, 6, mask_zero=True)(ids)
    found = keras.Model([ids, state], {name: make(words, state) for name, make in KINDS.items()})
    rng = np.random.default_rng(1)
    for variable in found.trainable_variables:
        scale = 0.5 if len(variable.shape) > 1 else 0.1
        variable.assign(rng.normal(size=variable.shape, scale=scale))
    return found


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 20, (96, STEPS)).astype("int32")
    ids[np.arange(STEPS) >= rng.integers(1, STEPS + 1, (96, 1))] = 0
    return [ids, rng.normal(size=(96, WIDTH)).astype("float32")]


@pytest.fixture(scope="module")
def answers(model, rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("states") / "quantised.tflite"
    small = edge.quantize_aware(model, calibration_data=rows)
    edge.export_tflite(small, path, precision="int8")
    return edge.load_tflite(path).predict(rows)


@pytest.mark.parametrize("name", KINDS)
def test_an_int8_file_follows(model, rows, answers, name):
    expected = model.predict(rows, verbose=0)[name]
    # A lost mask or state gives some 0.9 and less.
    assert np.corrcoef(answers[name].ravel(), expected.ravel())[0, 1] > 0.995


def test_without_loops_it_computes_the_same(model, rows):
    expected, found = (
        one.predict(rows, verbose=0) for one in (model, prepared(Analysis(model), "int8").model)
    )
    for name in KINDS:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)
