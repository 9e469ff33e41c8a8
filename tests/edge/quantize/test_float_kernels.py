"""Kernels of single layers in float, in a file of integers."""

import keras
import numpy as np
import pytest

import keras_distill as kd

layers = keras.layers


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(64, 6, 6, 2)).astype("float32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 2), name="image")
    y = layers.Conv2D(6, 3, use_bias=False, name="first")(image)
    y = layers.ReLU(name="first_relu")(layers.BatchNormalization(name="first_norm")(y))
    y = layers.Conv2D(8, 3, use_bias=False, name="second")(y)
    y = layers.ReLU(name="second_relu")(layers.BatchNormalization(name="second_norm")(y))
    y = layers.Dense(12, activation="relu", name="third")(layers.Flatten()(y))
    return keras.Model(image, layers.Dense(5, name="last")(y), name="made")


def on_steps(values, low, high):
    """Rounded to 256 steps over a range, zero among them: Jacob et al. 2018, equation 1."""
    scale = (high - low) / 255
    zero = np.round(-low / scale)
    return (np.clip(np.round(values / scale) + zero, 0, 255) - zero) * scale


def test_only_what_goes_in_and_out_is_rounded(tmp_path):
    random = np.random.default_rng(1)
    x = random.normal(size=(32, 6)).astype("float32")
    model = keras.Sequential([keras.Input((6,)), layers.Dense(3, name="dense")])
    # 0.3 beside 100 is no step of 8 bits, whose size is 100 / 127.
    kernel = random.uniform(0.1, 0.3, (6, 3)).astype("float32")
    kernel[0] = 100.0
    model.layers[0].set_weights([kernel, np.zeros(3, "float32")])
    x[:, 0] = 0.0
    small = kd.edge.quantize_aware(model, calibration_data=x, weight_bits={"dense": 32})
    export = kd.edge.export_tflite(small, tmp_path / "float.tflite", precision="int8")
    read, written = _bounds(small)
    expected = on_steps(on_steps(x, *read) @ kernel.astype("float64"), *written)
    answers = kd.edge.load_tflite(export.path).predict(x)
    step = (written[1] - written[0]) / 255
    # Half a step decides by the last digit.
    assert np.abs(answers - expected).max() < 1.01 * step
    assert np.mean(np.abs(answers - expected) > step / 2) < 0.02
    assert np.abs(small.predict(x, verbose=0) - expected).max() < 1.01 * step
    assert export.float_layers == ("dense",)
    assert "complex64" not in export.dtypes


def _bounds(small):
    found = [
        tuple(float(bound) for bound in one.bounds())
        for layer in small.layers
        for one in getattr(layer, "ranges", lambda: ())()
    ]
    assert len(found) == 2
    return found


def test_the_neighbours_stay_in_integers(model, x, tmp_path):
    small = kd.edge.quantize_aware(
        model, calibration_data=x, weight_bits={"second": 32, "third": 4}
    )
    export = kd.edge.export_tflite(small, tmp_path / "some.tflite", precision="int8")
    assert export.float_layers == ("second", "second_relu")
    assert export.dtypes["int4"] == 1
    answers = small.predict(x, verbose=0)
    found = kd.edge.load_tflite(export.path).predict(x)
    # A step of the last range.
    assert np.abs(found - answers).max() <= 1.01 * np.ptp(answers) / 200
    # The weights are those of the float model, not of a grid.
    np.testing.assert_array_equal(
        small.get_layer("second").layer.kernel, model.get_layer("second").kernel
    )


def test_a_skipped_convolution_is_in_float_between_ranges(model, x, tmp_path):
    whole = kd.edge.quantize_aware(model, calibration_data=x)
    whole = kd.edge.export_tflite(whole, tmp_path / "whole.tflite", precision="int8")
    small = kd.edge.quantize_aware(model, calibration_data=x, skip="second")
    export = kd.edge.export_tflite(small, tmp_path / "some.tflite", precision="int8")
    assert export.float_layers == ("second", "second_relu")
    # 3 x 3 x 6 x 8 weights of four bytes in place of one.
    assert export.bytes - whole.bytes > 3 * 432 - 100


def test_a_float_layer_trains_and_is_saved(model, x, tmp_path):
    small = kd.edge.quantize_aware(model, calibration_data=x, weight_bits={"second": 32})
    labels = np.arange(64) % 5
    small.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = np.array(small.get_layer("second").layer.kernel)
    small.fit(x, labels, verbose=0)
    assert np.abs(small.get_layer("second").layer.kernel - before).max() > 0
    small.save(tmp_path / "small.keras")
    again = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), small.predict(x, verbose=0))
    export = kd.edge.export_tflite(again, tmp_path / "again.tflite", precision="int8")
    assert "second" in export.float_layers
    assert not {"first", "third", "last"} & set(export.float_layers)


def test_a_pruned_kernel_keeps_its_zeros_in_float(tmp_path):
    # Conv1D has a twin of two dimensions in the file.
    x = np.random.default_rng(2).normal(size=(32, 8, 3)).astype("float32")
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.Input((8, 3)), layers.Conv1D(4, 3, name="one")])
    kernel, bias = model.layers[0].get_weights()
    kernel[0] = 0.0
    model.layers[0].set_weights([kernel, bias])
    for number, bits in enumerate(({"one": 32}, {"one": 8})):
        small = kd.edge.quantize_aware(model, calibration_data=x, weight_bits=bits)
        path = tmp_path / f"{number}.tflite"
        export = kd.edge.export_tflite(small, path, precision="int8")
        assert ("one" in export.float_layers) == (number == 0)
        answers = small.predict(x, verbose=0)
        found = kd.edge.load_tflite(export.path).predict(x)
        assert np.abs(found - answers).max() <= 1.01 * np.ptp(answers) / 200


@pytest.mark.parametrize(
    ("layer", "bits", "words"),
    [
        (layers.Conv2D(3, 3, name="one"), 32, r"4 or 8; got 32\. Single layers may have 32"),
        (
            layers.Conv2D(3, 3, name="one"),
            {"one": 16},
            r"4 or 8; got 16\. Single layers may have 32",
        ),
        (layers.Conv2DTranspose(3, 3, name="one"), {"one": 32}, r"'one' \(Conv2DTranspose\)"),
        (layers.SeparableConv2D(3, 3, name="one"), {"one": 32}, r"'one' \(SeparableConv2D\)"),
    ],
)
def test_what_no_file_holds_in_float(layer, bits, words):
    model = keras.Sequential([keras.Input((6, 6, 2)), layer])
    with pytest.raises(ValueError, match=words):
        kd.edge.quantize_aware(model, weight_bits=bits)


def test_beside_a_recurrent_layer_nothing_stays_in_float():
    made = [keras.Input((4, 3)), layers.LSTM(5, name="memory"), layers.Dense(2, name="one")]
    with pytest.raises(ValueError, match="in a model with 'memory' the converter settles"):
        kd.edge.quantize_aware(keras.Sequential(made), weight_bits={"one": 32})
