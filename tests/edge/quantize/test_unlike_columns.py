"""A table's columns of unlike units: normalised in float, before the first range."""

import keras
import numpy as np
import pytest

import keras_distill as kd

layers = keras.layers
# Areas beside ratios.
UNITS = np.array([1000.0, 1.0, 0.01, 30.0], "float32")
ROWS = np.random.default_rng(0).normal(1.0, 1.0, size=(400, 4)).astype("float32")
TABLE = ROWS * UNITS


def normalization(rows=TABLE):
    layer = layers.Normalization()
    layer.adapt(rows)
    return layer


def trained_norm():
    layer = layers.BatchNormalization()
    layer.build((None, 4))
    layer.moving_mean.assign(TABLE.mean(0))
    layer.moving_variance.assign(TABLE.var(0))
    return layer


def moved(x):
    return normalization()(layers.Reshape((4,))(layers.Reshape((2, 2))(x)))


FRONTS = {
    "Normalization": lambda x: normalization()(x),
    "BatchNormalization": lambda x: trained_norm()(x),
    "moved about": moved,
    "two": lambda x: layers.Rescaling(0.5)(normalization()(x)),
}


def network(front):
    keras.utils.set_random_seed(1)
    x = keras.Input((4,), name="table")
    hidden = layers.Dense(16, activation="relu")(front(x))
    return keras.Model(x, layers.Dense(3)(hidden))


def correlation(a, b):
    return np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]


@pytest.mark.parametrize("name", FRONTS)
def test_a_small_column_beside_a_large_one_keeps_its_numbers(name, tmp_path):
    model = network(FRONTS[name])
    exact = model.predict(TABLE, verbose=0)
    small = kd.edge.quantize_aware(model, calibration_data=TABLE)
    assert correlation(small.predict(TABLE, verbose=0), exact) > 0.999
    export = kd.edge.export_tflite(small, tmp_path / "small.tflite", precision="int8")
    found = kd.edge.load_tflite(export.path).predict(TABLE)
    assert correlation(found, exact) > 0.999
    assert export.dtypes["int8"] > 4
    # What the small column says is there: alone it moves the answer as in float.
    other = TABLE.copy()
    other[:, 2] = np.roll(other[:, 2], 1)
    moved = kd.edge.load_tflite(export.path).predict(other) - found
    assert correlation(moved, model.predict(other, verbose=0) - exact) > 0.98


def test_a_float_model_and_its_data_give_the_same(tmp_path):
    model = network(FRONTS["Normalization"])
    export = kd.edge.export_tflite(
        model, tmp_path / "model.tflite", precision="int8", representative_data=TABLE
    )
    found = kd.edge.load_tflite(export.path).predict(TABLE)
    assert correlation(found, model.predict(TABLE, verbose=0)) > 0.999
    report = str(kd.edge.inspect(model))
    assert "unlike units" in report


@pytest.mark.parametrize(
    ("rows", "unlike"),
    [
        (TABLE, True),
        (ROWS, False),
        (ROWS * 1000.0, False),
        # Ten steps a deviation, and six.
        (ROWS * np.array([1.0, 1.0, 1.0, 3.0], "float32"), False),
        (ROWS * np.array([1.0, 1.0, 1.0, 12.0], "float32"), True),
        # LiteRT's ranges hold zero, of which these numbers are far.
        (ROWS + 1000.0, True),
        # A column that is always the same says nothing.
        (ROWS * np.array([1.0, 1.0, 1.0, 0.0], "float32"), False),
    ],
)
def test_the_layers_own_statistics_tell(rows, unlike):
    model = network(lambda x: normalization(rows)(x))
    rows = kd.edge.inspect(model).rows
    found = next(row for row in rows if row.path.startswith("normalization"))
    assert ("unlike units" in found.why) == unlike


def test_integers_can_not_hold_such_an_input(tmp_path):
    model = network(FRONTS["Normalization"])
    small = kd.edge.quantize_aware(model, calibration_data=TABLE)
    with pytest.raises(ValueError, match=r"\['table'\].*unlike units"):
        kd.edge.export_tflite(small, tmp_path / "small.tflite", precision="int8", input_type="int8")


def test_a_norm_inside_of_the_network_is_an_integer_operation():
    def inside(x):
        hidden = layers.Dense(4, activation="tanh")(normalization()(x))
        return trained_norm()(hidden)

    small = kd.edge.quantize_aware(network(inside), calibration_data=TABLE)
    inner = [layer for layer in small.layers if "batch_normalization" in layer.name]
    rows = kd.edge.inspect(network(inside)).rows
    assert inner
    assert next(row.quantisable for row in rows if "batch" in row.path) == "rewritten"


@pytest.mark.parametrize("quantised", [False, True])
def test_in_front_of_a_recurrent_layer_nothing_is_lost_either(quantised, tmp_path):
    """Rows that settle its gates would round the columns to one range."""
    keras.utils.set_random_seed(1)
    steps = TABLE.reshape(80, 5, 4)
    x = keras.Input((5, 4), name="steps")
    model = keras.Model(x, layers.Dense(2)(layers.LSTM(6)(normalization(steps)(x))))
    given = {} if quantised else {"representative_data": steps}
    source = kd.edge.quantize_aware(model, calibration_data=steps) if quantised else model
    export = kd.edge.export_tflite(source, tmp_path / "m.tflite", precision="int8", **given)
    found = kd.edge.load_tflite(export.path).predict(steps)
    assert correlation(found, model.predict(steps, verbose=0)) > 0.999
