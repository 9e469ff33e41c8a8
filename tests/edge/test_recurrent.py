"""Recurrent layers at int8: no loop, no crash, and the answers of the float model."""

import keras
import numpy as np
import pytest

from keras_distill import edge
from keras_distill.edge.analysis import Analysis
from keras_distill.edge.export.prepare import prepared
from keras_distill.litert import converter

layers = keras.layers
SHAPE = (8, 8)
BIASED = {"bias_initializer": "random_normal"}


class Leaking(layers.Layer):
    """A cell of one's own: its state leaks."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")

    def call(self, x, states):
        state = 0.5 * states[0] + 0.5 * keras.ops.tanh(keras.ops.matmul(x, self.kernel))
        return state, [state]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


# A name, and the layers behind the input. Biases, for those of zero hide a lost one.
KINDS = {
    "lstm": [layers.LSTM(6, **BIASED)],
    "lstm_backwards": [layers.LSTM(6, go_backwards=True, return_sequences=True, **BIASED)],
    "lstm_relu": [layers.LSTM(6, activation="relu", **BIASED)],
    "lstm_hard_sigmoid": [layers.LSTM(6, recurrent_activation="hard_sigmoid", **BIASED)],
    "lstm_without_bias": [layers.LSTM(6, use_bias=False, go_backwards=True)],
    "cells": [layers.RNN([layers.GRUCell(5), layers.LSTMCell(4)])],
    "both_ways_cells": [layers.Bidirectional(layers.RNN(layers.GRUCell(4)))],
    "own_cell": [layers.RNN(Leaking(6))],
    "gru": [layers.GRU(6, **BIASED)],
    "gru_backwards": [layers.GRU(6, go_backwards=True, return_sequences=True, **BIASED)],
    "gru_reset_before": [layers.GRU(6, reset_after=False, **BIASED)],
    "gru_without_bias": [layers.GRU(6, use_bias=False)],
    "simple": [layers.SimpleRNN(6, **BIASED)],
    "both_ways": [layers.Bidirectional(layers.LSTM(4, return_sequences=True, **BIASED))],
    "both_ways_gru": [layers.Bidirectional(layers.GRU(4, **BIASED), merge_mode="sum")],
    "stacked": [layers.GRU(5, return_sequences=True), layers.LSTM(4), layers.Dense(3)],
}


@pytest.fixture(scope="module")
def rows(digits):
    """Each digit read as eight steps of eight pixels, around zero."""
    return (2.0 * digits.x_train[:400].reshape(-1, *SHAPE) - 1.0).astype("float32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    x = keras.Input(SHAPE, name="steps")
    outputs = {}
    for name, parts in KINDS.items():
        y = x
        for part in parts:
            y = part(y)
        outputs[name] = y
    model = keras.Model(x, outputs, name="recurrent")
    # The layers above were made before the seed was set.
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        scale = 0.4 if len(variable.shape) > 1 else 0.1
        variable.assign(rng.normal(size=variable.shape, scale=scale))
    return model


@pytest.fixture(scope="module")
def answers(model, rows, tmp_path_factory):
    """The float model's answers, and those of a plain and of a quantised int8 file."""
    folder = tmp_path_factory.mktemp("recurrent")
    made = {"float": model.predict(rows[200:232], verbose=0)}
    quantised = edge.quantize_aware(model, calibration_data=rows[:200])
    for kind, source, options in (
        ("plain", model, {"representative_data": rows[:200]}),
        ("quantised", quantised, {}),
    ):
        path = folder / f"{kind}.tflite"
        export = edge.export_tflite(source, path, precision="int8", **options)
        made[kind] = edge.load_tflite(path).predict(rows[200:232])
        made[f"{kind}_export"] = export
        made[f"{kind}_reversed"] = edge.load_tflite(path).predict(rows[200:232][::-1])
    return made


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("kind", ["plain", "quantised"])
def test_an_int8_file_answers_as_the_float_model(answers, kind, name):
    expected, found = answers["float"][name], answers[kind][name]
    # Eight steps, each of which rounds its state to 1/128: a few hundredths of states in -1..1.
    assert np.abs(found - expected).max() < 0.12
    assert np.mean(np.abs(found - expected)) < 0.02
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("kind", ["plain", "quantised"])
def test_rows_do_not_influence_each_other(answers, kind):
    # LiteRT keeps a fused LSTM's state from one call to the next, unless it is reset.
    for name in KINDS:
        np.testing.assert_array_equal(answers[f"{kind}_reversed"][name][::-1], answers[kind][name])


@pytest.mark.parametrize("kind", ["plain", "quantised"])
def test_no_loop_and_no_float(answers, kind):
    export = answers[f"{kind}_export"]
    # The first step's gates, of no state yet, are split as constants. From a range of ours to the
    # converter's own of a fused LSTM a tensor passes through float.
    assert set(export.float_ops) <= {"SPLIT", *(["DEQUANTIZE"] if kind == "quantised" else [])}
    assert "WHILE" not in export.ops
    # lstm, lstm_backwards, two of both_ways and one of stacked.
    assert export.ops["UNIDIRECTIONAL_SEQUENCE_LSTM"] == 5


def test_without_loops_the_float_model_computes_the_same(model, rows):
    unrolled = prepared(Analysis(model), "int8").model
    expected, found = (one.predict(rows[:16], verbose=0) for one in (model, unrolled))
    for name in KINDS:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)


@pytest.mark.parametrize("merge_mode", ["concat", "sum", "ave", "mul"])
@pytest.mark.parametrize("cell", [layers.GRU, layers.LSTM])
def test_each_way_of_merging(rows, merge_mode, cell):
    both = layers.Bidirectional(cell(3, return_sequences=True), merge_mode=merge_mode)
    one = keras.Sequential([keras.Input(SHAPE), both])
    unrolled = prepared(Analysis(one), "int8").model
    np.testing.assert_allclose(unrolled(rows[:4]), one(rows[:4]), atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "known"),
    [
        # LiteRT's own LSTM is calibrated by the converter.
        (layers.LSTM(3), []),
        (layers.LSTM(3, recurrent_activation="hard_sigmoid"), [True]),
        (layers.LSTM(3, recurrent_activation="relu"), [False]),
        (layers.LSTM(3, activation="relu"), [False]),
        (layers.RNN(layers.LSTMCell(3)), [False]),
    ],
)
def test_states_have_a_known_range_where_their_gates_are_bounded(layer, known):
    small = edge.quantize_aware(sequential(layer, layers.Dense(1)))
    outer = small.get_layer(layer.name)
    found = [wanted for wanted in getattr(outer, "outputs_config", ()) if wanted is not False]
    assert [wanted is not True for wanted in found] == known


def test_a_convolutional_lstm_is_unrolled(tmp_path):
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(16, 3, 5, 5, 2)).astype("float32")
    model = keras.Sequential(
        [keras.Input(x.shape[1:]), layers.ConvLSTM2D(3, 3), layers.GlobalAveragePooling2D()]
    )
    small = edge.quantize_aware(model, calibration_data=x)
    export = edge.export_tflite(small, tmp_path / "clip.tflite", precision="int8")
    assert export.float_ops == {}
    expected, found = model.predict(x, verbose=0), edge.load_tflite(export.path).predict(x)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(("layer", "loops"), [(layers.GRU(2), True), (layers.Dense(2), False)])
def test_a_model_without_loops_is_converted_as_it_is(layer, loops):
    nested = sequential(sequential(layer))
    assert (prepared(Analysis(nested), "int8").model is not nested) == loops


@pytest.mark.slow
def test_keyword_spotting(digits, tmp_path):
    """A small model with an LSTM's and a GRU's head, trained, quantised and tuned."""
    pixels = digits.x_train, digits.x_test
    x_train, x_test = ((2.0 * x.reshape(-1, *SHAPE) - 1.0).astype("float32") for x in pixels)
    keras.utils.set_random_seed(0)
    x = keras.Input(SHAPE, name="steps")
    y = layers.Conv1D(24, 3, padding="causal", use_bias=False, name="conv")(x)
    y = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(y))
    model = keras.Model(
        x,
        {
            "lstm": layers.Dense(10, name="lstm_logits")(layers.LSTM(20, name="lstm_cells")(y)),
            "gru": layers.Dense(10, name="gru_logits")(layers.GRU(20, name="gru_cells")(y)),
        },
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    labels = dict.fromkeys(("lstm", "gru"), digits.y_train)
    model.compile(keras.optimizers.Adam(1e-2), {"lstm": loss, "gru": loss})
    model.fit(x_train, labels, epochs=8, batch_size=32, verbose=0)
    twin = edge.quantize_aware(model, calibration_data=x_train[:300])
    twin.compile(keras.optimizers.Adam(1e-3), {"lstm": loss, "gru": loss})
    twin.fit(x_train, labels, epochs=1, batch_size=64, verbose=0)
    export = edge.export_tflite(twin, tmp_path / "kws.tflite", precision="int8")
    assert export.float_ops == {}
    expected = twin.predict(x_test, verbose=0)
    found = edge.load_tflite(export.path).predict(x_test)
    for head in ("lstm", "gru"):
        ours, theirs = (answer[head].argmax(-1) for answer in (found, expected))
        right = [np.mean(classes == digits.y_test) for classes in (ours, theirs)]
        assert right[1] > 0.85
        assert right[1] - right[0] <= 0.02
        assert np.mean(ours == theirs) >= 0.97


def sequential(*parts, shape=SHAPE):
    return keras.Sequential([keras.Input(shape), *parts])


def stateful():
    return keras.Sequential(
        [keras.Input(batch_shape=(1, *SHAPE)), layers.GRU(3, stateful=True, name="cells")]
    )


def test_what_has_no_int8_form_is_named_before_training():
    with pytest.raises(ValueError, match=r"'cells' is stateful.*initial_state="):
        edge.quantize_aware(stateful())
    (row,) = edge.inspect(stateful()).rows
    assert row.quantisable == "refused"
    assert "stateful" in row.why
    # Its sizes may be settled when it is exported.
    with_open_steps = sequential(layers.GRU(3, name="cells"), shape=(None, 8))
    assert edge.inspect(with_open_steps).rows[0].quantisable == "refused"
    edge.quantize_aware(with_open_steps)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: sequential(layers.GRU(3, name="cells"), shape=(None, 8)), "open number of steps"),
        (stateful, "stateful"),
    ],
)
def test_what_has_no_int8_form_is_named(tmp_path, monkeypatch, build, words):
    monkeypatch.setattr(converter.WORKER, "ask", None)
    model = build()
    data = [np.ones((4, *(size or 8 for size in x.shape[1:])), "float32") for x in model.inputs]
    with pytest.raises(ValueError, match=words) as caught:
        edge.export_tflite(
            model,
            tmp_path / "no.tflite",
            precision="int8",
            representative_data=data if len(data) > 1 else data[0],
        )
    assert "'cells'" in str(caught.value)
    assert "dynamic_int8" in str(caught.value)
