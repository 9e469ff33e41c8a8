"""Single operations in a file: they answer as Keras does, or an error names them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_distill import edge

RULES = {
    "where": lambda t: ops.where(t > 0, t, -2.0 * t),
    "below": lambda t: ops.where(t > 0, t, 0.1 * t),
    "least": lambda t: ops.minimum(t, 0.5),
    "most": lambda t: ops.maximum(0.3 * t, t),
    "negative": lambda t: -t,
    "sorted": ops.sort,
    "selu": ops.selu,
    "elu": ops.elu,
    "variance": lambda t: ops.var(t, -1),
    "sum": lambda t: ops.sum(t, -1),
    "padded": lambda t: ops.pad(t, ((0, 0), (1, 1)), constant_values=5.0),
    "unit": ops.normalize,
    "gelu": lambda t: ops.gelu(t, approximate=False),
    "prelu": lambda t: layers.PReLU(alpha_initializer="random_uniform")(t),
    "kept above": lambda t: t * ops.cast(t > 0, t.dtype),
    "hard_silu": lambda t: layers.Activation("hard_silu")(t),
    "normed": lambda t: layers.LayerNormalization()(t),
    "grouped": lambda t: layers.GroupNormalization(1)(t),
}
# Whole numbers: as they are, or one of the neighbours in the ranking where two are equal.
NUMBERED = {
    "argmax": lambda t: ops.argmax(t, -1),
    "argmin": lambda t: ops.argmin(t, -1),
    "kept": lambda t: ops.argmax(t, -1, keepdims=True),
    "first": lambda t: ops.top_k(t, 2)[1],
}


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).normal(size=(200, 8)).astype("float32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    x = keras.Input((8,), name="x")
    # Operations in float read the input itself, and constants that others read as integers.
    hidden = layers.Dense(8, name="hidden")(x)
    made = {name: rule(hidden) for name, rule in RULES.items()}
    made["read"] = ops.where(x > 0, x, -2.0 * x)
    return keras.Model(x, {**made, **{name: rule(hidden) for name, rule in NUMBERED.items()}})


@pytest.fixture(scope="module")
def answers(model, rows, tmp_path_factory):
    """By precision, the file's answers and its record."""
    folder = tmp_path_factory.mktemp("operations")
    found = {}
    for precision in ("float32", "int8", "int16x8"):
        given = {} if precision == "float32" else {"representative_data": rows}
        path = folder / f"{precision}.tflite"
        export = edge.export_tflite(model, path, precision=precision, **given)
        found[precision] = edge.load_tflite(path).predict(rows), export
    return found


@pytest.mark.parametrize("name", [*RULES, "read"])
@pytest.mark.parametrize(
    ("precision", "steps"),
    # The largest error as part of the largest number. int8: some roundings to 1/128 of it;
    # int16x8: the kernel's eight bits alone.
    [("float32", 1e-5), ("int8", 0.06), ("int16x8", 0.03)],
)
def test_an_operation_answers_as_keras(model, rows, answers, precision, steps, name):
    expected, found = np.asarray(model(rows)[name]), answers[precision][0][name]
    assert np.abs(found - expected).max() <= steps * np.abs(expected).max()


@pytest.mark.parametrize("name", NUMBERED)
@pytest.mark.parametrize("precision", ["float32", "int8", "int16x8"])
def test_a_place_is_the_same_place(model, rows, answers, precision, name):
    expected, found = np.asarray(model(rows)[name]), answers[precision][0][name]
    # Where a step makes two numbers equal, the other may come first.
    least = {"float32": 1.0, "int8": 0.9, "int16x8": 0.95}[precision]
    assert np.mean(expected == found) >= least


def test_what_has_no_int16_kernel_is_float_and_reported(answers):
    export = answers["int16x8"][1]
    # Of HARD_SWISH the converter of TensorFlow 2.19 makes products.
    assert {"HARD_SWISH", "ELU"} & set(export.ops) <= set(export.float_ops)
    assert "ELU" in export.float_ops
    assert "FULLY_CONNECTED" not in export.float_ops
    assert export.dtypes["int16"] > export.dtypes["float32"]


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_an_activation_that_the_converter_knows_stays_whole(answers, precision):
    assert "GELU" in answers[precision][1].ops


@pytest.mark.parametrize("operation", [ops.maximum, layers.Minimum()])
def test_a_quantised_choice_of_two_ranges(operation, rows, tmp_path):
    keras.utils.set_random_seed(0)
    x = keras.Input((8,))
    parts = layers.Dense(8)(x), 20.0 * ops.tanh(layers.Dense(8)(x))
    answer = operation(list(parts)) if isinstance(operation, layers.Layer) else operation(*parts)
    small = edge.quantize_aware(keras.Model(x, answer), calibration_data=rows)
    path = tmp_path / "choice.tflite"
    edge.export_tflite(small, path, precision="int8")
    found, expected = edge.load_tflite(path).predict(rows), small.predict(rows, verbose=0)
    # Read in the other's range: 0.96.
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999


class Inverse(layers.Layer):
    def call(self, x):
        return tf.linalg.inv(x)


class Hidden(keras.Model):
    def __init__(self):
        super().__init__()
        self.inverse = Inverse(name="inverter")

    def call(self, x):
        return self.inverse(x)


@pytest.mark.parametrize("subclassed", [True, False])
def test_a_missing_kernel_names_its_layer(tmp_path, subclassed):
    x = np.eye(3, dtype="float32")[None]
    model = Hidden() if subclassed else keras.Sequential([Inverse(name="inverter")])
    model(x)
    with pytest.raises(edge.ConversionError, match=r"MatrixInverse.*'inverter'"):
        edge.export_tflite(model, tmp_path / "no.tflite")


def test_a_crash_names_the_loop(tmp_path):
    x = np.ones((4, 2, 5, 3), "float32")
    model = keras.Sequential(
        [keras.Input(x.shape[1:]), layers.TimeDistributed(layers.LSTM(2), name="clips")]
    )
    with pytest.raises(edge.ConversionError, match=r"SIGSEGV.*'clips'"):
        edge.export_tflite(model, tmp_path / "no.tflite", precision="int8", representative_data=x)
