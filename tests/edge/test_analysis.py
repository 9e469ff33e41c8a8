"""What is known of a model that becomes a file: found once, whoever asks for it."""

from collections import Counter

import keras
import numpy as np
import pytest

from keras_distill import edge
from keras_distill.edge.analysis import Analysis
from keras_distill.edge.quantize import exact, scores
from keras_distill.graph import replay
from keras_distill.litert import converter

layers, ops = keras.layers, keras.ops
ROWS = np.random.default_rng(0).uniform(0, 9, (16, 6)).astype("float32")


def joined():
    x = keras.Input((6,))
    parts = [layers.Dense(2, name="one")(x), layers.Dense(3, name="two")(x)]
    return keras.Model(x, layers.Dense(2, name="last")(layers.Concatenate()(parts)))


def of_words(rounded=False, size=6):
    ids = keras.Input((size,))
    words = layers.Embedding(10, 4)(ops.floor(ids) if rounded else ids)
    return keras.Model(ids, layers.Dense(2, name="last")(layers.GRU(3)(words)))


def masked():
    x, mask = keras.Input((6,)), keras.Input((6,))
    attention = layers.MultiHeadAttention(1, 2, name="last")
    hidden = layers.Reshape((6, 1))(ops.softmax(x + mask * -1e9))
    return keras.Model([x, mask], attention(hidden, hidden))


def halves():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return joined()
    finally:
        keras.config.set_dtype_policy("float32")


CALLS = {
    "plain": lambda: (joined(), {"precision": "float32"}),
    "on rows": lambda: (joined(), {"representative_data": ROWS}),
    "in half precision": lambda: (halves(), {"representative_data": ROWS}),
    "ids, unrolled": lambda: (of_words(), {"representative_data": ROWS}),
    "sizes closed": lambda: (
        of_words(size=None),
        {"representative_data": ROWS, "input_shape": (6,)},
    ),
    "computed": lambda: (
        of_words(rounded=True),
        {"representative_data": ROWS, "precision": "int16x8"},
    ),
    "quantised": lambda: (
        edge.quantize_aware(masked(), calibration_data=[ROWS, np.float32(ROWS > 5)]),
        {},
    ),
    "stripped": lambda: (
        edge.quantize_aware(of_words(), calibration_data=ROWS),
        {"precision": "float16"},
    ),
}


@pytest.mark.filterwarnings("ignore:.* compute ids, categories or marks")
@pytest.mark.parametrize("name", CALLS)
def test_an_export_asks_each_model_once(name, tmp_path, monkeypatch):
    model, options = CALLS[name]()
    asked, kept = Counter(), []

    def counted(module, name):
        real = getattr(module, name)

        def call(one, *args):
            kept.append(one)  # Else another may get its id.
            asked[name, id(one)] += not any(args[1:2])  # No nested model's.
            return real(one, *args)

        monkeypatch.setattr(module, name, call)

    def convert(*args, **kwargs):
        raise converter.ConversionError("No.", ["last"])

    counted(replay, "_walk")
    counted(exact, "exact_values")
    counted(scores, "kinds_of")
    monkeypatch.setattr(converter, "convert", convert)
    with pytest.raises(converter.ConversionError, match=r"No\. It is about .*last"):
        edge.export_tflite(model, tmp_path / "no.tflite", **{"precision": "int8", **options})
    assert set(asked.values()) == {1}


class Hidden(keras.Model):
    """Layers alone are known of it."""

    def __init__(self):
        super().__init__()
        self.words = layers.StringLookup(vocabulary=["a"], name="words")
        self.table = layers.Embedding(3, 2, name="table")

    def call(self, x):
        return self.table(self.words(x))


def test_a_hidden_graph_is_empty_and_its_layers_are_known():
    model = Hidden()
    model(np.array([["a"]]))
    found = Analysis(model)
    assert not found.graph.steps
    assert not found.exact_inputs
    assert not found.computed_exactly
    assert found.paths == ("words", "table")
    assert found.lookups == (model.words,)
    assert not found.has_ranges
    assert not found.is_compressed
    with pytest.raises(ValueError, match=r"Hidden.*hidden in call"):
        _ = found.open_inside


def test_a_rewritten_model_is_asked_anew():
    model = joined()
    found = Analysis(model)
    assert found.of(model) is found
    small = found.of(edge.quantize_aware(model))
    assert small.has_ranges
    assert not found.has_ranges
