"""Each method's ranges are what NumPy finds in the activations themselves."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import edge
from keras_distill.edge.quantize.calibrate import calibrate
from keras_distill.edge.quantize.thresholds import METHODS, Histogram
from keras_distill.signals import taps

layers = keras.layers
ROWS = np.random.default_rng(1).normal(size=(70, 6, 6, 2)).astype("float32")


@pytest.fixture(scope="module")
def source():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6, 6, 2), name="image"),
            layers.Conv2D(4, 3, activation="relu", name="positive"),
            layers.Conv2D(3, 3, name="both"),
            layers.Flatten(name="flat"),
            layers.Dense(5, activation="softmax", name="classes"),
        ]
    )


@pytest.fixture(scope="module")
def twin(source):
    """The quantised twin, and what its layers compute while nothing is rounded but weights."""
    quantised = edge.quantize_aware(source)
    names = ("positive", "both")
    with taps.recording([taps.find(quantised, name) for name in names]) as recorder:
        found = recorder.outputs(quantised(ROWS))
    recorded = {name: value.numpy() for name, value in zip(names, found, strict=True)}
    return quantised, {"image_range": ROWS, **recorded}


def output_bounds(model, name):
    return model.get_layer(name).output_ranges[0].bounds()


def expected(values, method):
    low, high = float(values.min()), float(values.max())
    if method == "moving_average":
        # Batches of 32 rows: 32, 32 and 6.
        parts = np.split(values, [32, 64])
        low = float(np.mean([part.min() for part in parts]))
        high = float(np.mean([part.max() for part in parts]))
    elif method != "minmax":
        counts, _ = np.histogram(values, bins=2048, range=(low, high))
        low, high = METHODS[method](Histogram(counts, low, high))
    return min(low, 0.0), max(high, 0.0)


@pytest.mark.parametrize("method", ["minmax", "moving_average", *METHODS])
def test_a_methods_ranges_are_numpys(twin, method):
    quantised, recorded = twin
    assert calibrate(quantised, ROWS, method) is quantised
    for name, values in recorded.items():
        low, high = expected(values, method)
        # A value on the edge of a bin may fall to either side of it.
        near = {"abs": 1e-5 if method in ("minmax", "moving_average") else 0.01 * (high - low)}
        assert output_bounds(quantised, name) == pytest.approx((low, high), **near)
    assert output_bounds(quantised, "positive")[0] == 0.0
    # Softmax's output is known; the tensor before it is found.
    assert output_bounds(quantised, "classes") == (0.0, 255 / 256)
    before = quantised.get_layer("classes").between[0].bounds()
    assert before[0] < 0 < before[1]


def test_methods_differ(twin):
    quantised, _ = twin
    # Heavy tails, which each method cuts at another place.
    tails = np.random.default_rng(0).standard_t(4, size=(1500, 6, 6, 2)).astype("float32")
    widths = {}
    for method in ("minmax", "moving_average", *METHODS):
        low, high = output_bounds(calibrate(quantised, tails, method), "image_range")
        widths[method] = high - low
    assert len(set(widths.values())) == 5
    assert max(widths, key=widths.get) == "minmax"


def test_weights_stay_and_calibrating_again_begins_anew(source, twin):
    quantised, _ = twin
    layer = quantised.get_layer("both").layer
    calibrate(quantised, 100 * ROWS)
    calibrate(quantised, ROWS)
    low, high = ROWS.min(), ROWS.max()
    assert output_bounds(quantised, "image_range") == pytest.approx((low, high))
    weights = source.get_layer("both").get_weights()
    for ours, theirs in zip(layer.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_norms_keep_their_statistics(small, digits):
    quantised = edge.quantize_aware(small)
    before = [v.numpy() for v in small.get_layer("norm").variables]
    calibrate(quantised, digits.x_train[:64])
    inside = quantised.get_layer("norm").layer
    for old, variable in zip(before, inside.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())


@pytest.mark.parametrize("kind", ["pair", "dataset", "pydataset"])
def test_any_data_argument(twin, kind):
    class Sequence(keras.utils.PyDataset):
        num_batches = 1

        def __getitem__(self, index):
            return ROWS, np.zeros(len(ROWS))

    labels = np.zeros(len(ROWS))
    data = {
        "pair": (ROWS, labels),
        "dataset": tf.data.Dataset.from_tensor_slices((ROWS, labels)).batch(16),
        "pydataset": Sequence(),
    }[kind]
    quantised, recorded = twin
    calibrate(quantised, data)
    values = recorded["both"]
    assert output_bounds(quantised, "both") == pytest.approx((values.min(), values.max()), rel=1e-5)


def shared_model():
    keras.utils.set_random_seed(0)
    x = keras.Input((3,), name="x")
    shared = layers.Dense(3, name="shared")
    y = shared(layers.Rescaling(10.0, name="ten")(shared(x)))
    # What a model answers is never cut, and is no place to see a cut.
    model = keras.Model(x, layers.Dense(2, name="last")(y))
    model.get_layer("shared").kernel.assign(np.eye(3))
    return model


def test_a_shared_layers_range_spans_its_calls():
    x = np.float32([[0.1, -0.2, 0.3], [1.0, 0.4, 0.2]])
    quantised = calibrate(edge.quantize_aware(shared_model()), x)
    # The identity, then ten times as much: -2..10 hold the first call's -0.2..1.
    assert output_bounds(quantised, "shared") == pytest.approx((-2.0, 10.0), rel=0.01)


def test_a_shared_layers_histogram_counts_both_calls():
    # Of 120,000 values, 8 are at 100 and 8 at 10; a ten-thousandth, 12, are cut. Of the second
    # call's 60,000 alone it would be 6, and the cut would lie at 100.
    x = np.random.default_rng(0).uniform(0, 0.1, size=(20000, 3)).astype("float32")
    x[::2500, 0] = 10.0
    data = tf.data.Dataset.from_tensor_slices(x).batch(10000)
    quantised = calibrate(edge.quantize_aware(shared_model()), data, "percentile")
    assert output_bounds(quantised, "shared") == pytest.approx((0.0, 10.0), abs=0.1)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_tensor_of_one_value(method):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="a"), layers.Dense(2)])
    model.get_layer("a").set_weights([np.zeros((3, 2)), np.full(2, 3.0)])
    quantised = calibrate(edge.quantize_aware(model), np.ones((4, 3), "float32"), method)
    assert output_bounds(quantised, "a") == pytest.approx((0.0, 3.0), rel=1e-5)


def test_two_inputs_in_a_dict():
    one, two = keras.Input((2,), name="one"), keras.Input((3,), name="two")
    both = layers.Concatenate()([one, two])
    model = keras.Model({"two": two, "one": one}, layers.Dense(2)(both))
    data = {"one": np.full((4, 2), 5.0, "float32"), "two": np.full((4, 3), -7.0, "float32")}
    quantised = calibrate(edge.quantize_aware(model), data)
    assert output_bounds(quantised, "one_range") == (0.0, 5.0)
    assert output_bounds(quantised, "two_range") == (-7.0, 0.0)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (ROWS[:0], "0 rows|got none"),
        (ROWS[:, :5], r"\(6, 6, 2\).*\(32, 5, 6, 2\)"),
        (ROWS[..., 0], r"\(6, 6, 2\)"),
        (np.where(ROWS > 3, np.nan, ROWS), "NaN"),
        (np.where(ROWS > 3, np.inf, ROWS), "NaN or infinite"),
        ([ROWS, ROWS], "rows of shape"),
    ],
)
def test_data_that_does_not_fit_changes_nothing(twin, data, words):
    quantised, _ = twin
    calibrate(quantised, ROWS)
    before = output_bounds(quantised, "both")
    with pytest.raises(ValueError, match=words):
        calibrate(quantised, data)
    assert output_bounds(quantised, "both") == before


def test_a_model_that_overflows(twin):
    quantised, _ = twin
    with pytest.raises(ValueError, match="computes NaN or infinite values"):
        calibrate(quantised, np.full_like(ROWS, 3e38))


def test_what_cannot_be_calibrated(source, twin):
    with pytest.raises(ValueError, match=r"'minmax', 'moving_average'.*got 'median'"):
        calibrate(twin[0], ROWS, "median")
    with pytest.raises(ValueError, match=r"no ranges to set.*quantize_aware"):
        calibrate(source, ROWS)
    with pytest.raises(TypeError, match="quantize_aware"):
        calibrate("model", ROWS)


def test_what_is_always_zero_has_a_range_and_a_file(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(4, activation="relu", bias_initializer="ones", name="lively"),
            keras.layers.Dense(4, kernel_initializer="zeros", name="dead"),
            keras.layers.Dense(2, name="last"),
        ]
    )
    x = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
    small = edge.quantize_aware(model, calibration_data=x)
    (one,) = small.get_layer("dead").ranges()
    assert one.bounds() == (0.0, 1.0)
    export = edge.export_tflite(small, tmp_path / "dead.tflite", precision="int8")
    np.testing.assert_array_equal(edge.load_tflite(export.path).predict(x), np.zeros((32, 2)))
