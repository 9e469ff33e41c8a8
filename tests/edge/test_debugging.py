"""Each layer is compared with itself: an equal file shows no error, a damaged one shows where."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_distill import edge
from keras_distill.edge.debugging.debug import DebugReport, LayerError, debug
from keras_distill.litert import runner


def randomised(model, seed=0):
    """Fresh BatchNormalizations do nothing, so a file without them would look right."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.name in ("gamma", "moving_variance"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif weight.name in ("beta", "moving_mean", "bias"):
            weight.assign(rng.normal(0, 0.2, weight.shape))
    return model


def normed(x, layer, activation=None):
    x = layers.BatchNormalization(name=f"{layer.name}_bn")(layer(x))
    return x if activation is None else layers.ReLU(activation, name=f"{layer.name}_relu")(x)


def residual():
    """Folded norms with and without an activation, a residual sum, plain operations, nesting."""
    inputs = keras.Input((8, 8, 3))
    x = normed(inputs, layers.Conv2D(8, 3, padding="same", name="stem"), 6.0)
    y = normed(x, layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="deep"), 6.0)
    y = normed(y, layers.Conv2D(8, 1, use_bias=False, name="narrow"))
    x = layers.Add(name="sum")([x, y]) * 0.5
    inner = keras.Sequential(
        [
            keras.Input((8, 8, 8)),
            layers.Conv2D(4, 3, name="stem"),
            layers.BatchNormalization(name="norm"),
            layers.LeakyReLU(name="leaky"),
        ],
        name="inner",
    )
    x = layers.Dropout(0.3)(layers.Flatten(name="flat")(inner(x)))
    return keras.Model(inputs, layers.Dense(4, activation="softmax", name="classes")(x))


def sequence():
    """One-dimensional layers, which a .tflite runs in two dimensions, and two heads."""
    inputs = keras.Input((16, 4))
    x = layers.Conv1D(8, 3, activation="relu", name="conv")(inputs)
    x = layers.MaxPooling1D(2, name="pool")(x)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.GlobalAveragePooling1D(name="average")(x)
    heads = {
        "up": layers.Dense(3, name="up")(x),
        "down": layers.Dense(1, activation="sigmoid", name="down")(x),
    }
    return keras.Model(inputs, heads)


def shared():
    """One layer called twice, and an activation with a gradient of its own."""
    inputs = keras.Input((8, 8, 3))
    twice = layers.Conv2D(3, 3, padding="same", name="twice")
    x = twice(layers.LeakyReLU(name="leaky")(twice(inputs)))
    return keras.Model(inputs, layers.Conv2D(4, 3, activation="swish", name="swish")(x))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.conv = layers.Conv2D(4, 3, activation="relu", name="conv")
        self.flat = layers.Flatten(name="flat")
        self.dense = layers.Dense(3, name="dense")

    def call(self, x):
        return self.dense(self.flat(self.conv(x)))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 8, 8, 3), "float32"))
    return model


EXPECTED = {
    residual: [
        # The factor behind the sum is folded into the next convolution: it is nowhere.
        *("stem_relu", "deep_relu", "narrow_bn", "sum"),
        *("inner/norm", "inner/leaky", "flat", "classes"),
    ],
    # Keras flattens a dict by its sorted keys, so does the file; the order is the converter's.
    sequence: ["conv", "pool", "norm", "attention", "average", "down", "up"],
    shared: ["twice", "leaky", "twice:1", "swish"],
    subclassed: ["conv", "flat", "dense"],
}


@pytest.mark.parametrize("build", EXPECTED, ids=lambda build: build.__name__)
@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_every_layer_of_a_float_file_equals_the_models(build, batch_size, tmp_path):
    if batch_size == 3 and build is not residual:
        pytest.skip("one model shows it")
    keras.utils.set_random_seed(0)
    model = randomised(build())
    shape = (16, 4) if build is sequence else (8, 8, 3)
    x = np.random.default_rng(0).normal(size=(10, *shape)).astype("float32")
    export = edge.export_tflite(model, tmp_path / "m.tflite", batch_size=batch_size)
    report = debug(export, model, x)
    inside = "attention/"  # An attention layer has layers of its own.
    found = [row.layer for row in report.layers if not row.layer.startswith(inside)]
    assert found == EXPECTED[build]
    # Float32 rounds at 2^-24, 144 dB; a layer taken for its neighbour shows tens of dB at best.
    assert min(row.snr_db for row in report.layers) > 100
    assert max(row.max_abs_error for row in report.layers) < 1e-4
    assert min(row.correlation for row in report.layers) > 0.99999
    assert report.first_guilty(100) is None
    assert report.examples == 10


@pytest.fixture(scope="module")
def plain():
    """Convolutions that the user gave no names, all of one shape."""
    keras.utils.set_random_seed(1)
    blocks = [layers.Conv2D(6, 3, padding="same", activation="relu") for _ in range(4)]
    return keras.Sequential(
        [keras.Input((8, 8, 1)), *blocks, layers.Flatten(), layers.Dense(10, name="logits")]
    )


@pytest.fixture(scope="module")
def int8(plain, digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("debug") / "int8.tflite"
    return edge.export_tflite(
        plain, path, precision="int8", representative_data=digits.x_train[:200]
    )


@pytest.mark.parametrize("damaged", [0, 1, 2, 3])
def test_the_damaged_layer_is_the_first_guilty_one(plain, int8, digits, damaged):
    name = plain.layers[damaged].name
    copy = keras.models.clone_model(plain)
    copy.set_weights(plain.get_weights())
    kernel = copy.layers[damaged].kernel
    kernel.assign(kernel[:, :, :, ::-1])
    report = debug(int8, copy, digits.x_test)
    guilty = report.first_guilty()
    assert guilty is not None
    assert guilty.layer == name
    before = report.layers[: report.layers.index(guilty)]
    assert [row.layer for row in before] == [layer.name for layer in plain.layers[:damaged]]
    assert all(row.snr_db > 25 and row.correlation > 0.99 for row in before)
    assert debug(int8, plain, digits.x_test).first_guilty() is None


def test_figures_are_those_of_the_tensor(plain, int8, digits):
    x = digits.x_test[:20]
    rows = debug(int8, plain, x, examples=20).layers
    # The last layer's output is the file's.
    file = edge.load_tflite(int8.path).predict(x).astype("float64")
    model = plain.predict(x, verbose=0).astype("float64")
    expected = 10 * math.log10((model**2).sum() / ((model - file) ** 2).sum())
    assert rows[-1].layer == "logits"
    assert rows[-1].dtype == "int8"
    assert rows[-1].shape == (1, 10)
    correlation = np.corrcoef(file.ravel(), model.ravel())[0, 1]
    # Without a delegate a kernel may round the other way, a step of int8 here and there.
    assert rows[-1].snr_db == pytest.approx(expected, abs=0.5)
    assert rows[-1].correlation == pytest.approx(correlation, abs=1e-4)


@pytest.mark.parametrize("precision", ["float16", "int16x8"])
def test_other_precisions(exported, digits_model, digits, precision):
    rows = debug(exported(precision), digits_model, digits.x_test).layers
    assert len(rows) == 4
    assert 40 < min(row.snr_db for row in rows) < 100


def test_only_the_rows_asked_for_are_run(plain, int8, digits):
    dataset = tf.data.Dataset.from_tensor_slices((digits.x_test, digits.y_test)).batch(7)
    report = debug(str(int8.path), plain, dataset, examples=10)
    same = debug(int8, plain, digits.x_test[:10])
    assert report.examples == 10
    assert report.layers == same.layers
    with pytest.raises(ValueError, match="examples"):
        debug(int8, plain, dataset, examples=0)


def test_a_file_of_others_runs_in_the_child(plain, int8, digits, tmp_path, monkeypatch):
    expected = debug(int8, plain, digits.x_test)
    path = tmp_path / "other.tflite"
    # Behind a flatbuffer nothing is read; but this process has not made such a file.
    path.write_bytes(int8.path.read_bytes() + b" ")

    def refuse(*arguments):
        raise AssertionError("a file of others was opened here")

    monkeypatch.setattr(runner, "KeptRun", refuse)
    found = debug(path, plain, digits.x_test)
    assert found.layers == expected.layers


def test_a_model_that_the_file_does_not_know_is_refused(int8, digits):
    other = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(name="one"), layers.Dense(10, name="two")],
        name="other",
    )
    with pytest.raises(ValueError, match=r"int8\.tflite.*'other'.*exported from"):
        debug(int8, other, digits.x_test)


def test_data_of_another_shape_is_refused(plain, int8, digits):
    with pytest.raises(ValueError, match=r"\(8, 8, 1\).*\(32, 4, 8, 1\)"):
        debug(int8, plain, digits.x_test[:, :4])
    with pytest.raises(TypeError, match=r"keras\.Model"):
        debug(int8, lambda x: x, digits.x_test)


def test_nothing_is_left_on_the_model(plain, int8, digits):
    before = plain.get_weights()
    debug(int8, plain, digits.x_test)
    assert not any("call" in vars(layer) for layer in plain._flatten_layers())
    for old, new in zip(before, plain.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_reports_print_and_write_json(plain, int8, digits):
    report = debug(int8, plain, digits.x_test)
    lines = str(report).splitlines()
    assert lines[0].startswith("layer")
    assert len(lines) == len(report.layers) + 2
    assert f"{report.layers[0].snr_db:.1f}" in lines[1]
    written = json.loads(report.to_json())
    assert written["layers"][0]["layer"] == report.layers[0].layer
    assert written["path"] == str(int8.path)


def test_what_is_not_finite():
    rows = [LayerError("a", "ADD", "float32", (1,), snr, 0.0, 1.0) for snr in (math.inf, math.nan)]
    report = DebugReport("f.tflite", 1, tuple(rows), 0)
    assert report.first_guilty() is rows[1]
    assert [row["snr_db"] for row in json.loads(report.to_json())["layers"]] == [None, None]


def test_a_wrapped_layer_has_one_name(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4, 3)), keras.layers.GRU(4, name="gru")])
    x = np.random.default_rng(0).normal(size=(16, 4, 3)).astype("float32")
    small = edge.quantize_aware(model, calibration_data=x)
    export = edge.export_tflite(small, tmp_path / "gru.tflite", precision="int8")
    assert [row.layer for row in edge.debug(export, small, x).layers] == ["gru"]
