"""Numbers of different sizes joined share one range: said before, and judged after."""

import warnings

import keras
import numpy as np
import pytest

from keras_distill import edge
from keras_distill.edge.joins import parts_of_outputs

layers = keras.layers
ROWS = np.random.default_rng(0).normal(size=(96, 8)).astype("float32")


def detector(join=True, nested=False):
    """Boxes of some hundred pixels and scores of 0 to 1, joined or two outputs."""
    keras.utils.set_random_seed(0)
    x = keras.Input((8,), name="x")
    hidden = layers.Dense(16, activation="relu")(x)
    boxes = layers.Rescaling(200.0, name="boxes")(layers.Dense(4)(hidden))
    scores = layers.Dense(3, activation="sigmoid", name="scores")(hidden)
    if not join:
        return keras.Model(x, [boxes, scores])
    model = keras.Model(x, layers.Concatenate(name="joined")([boxes, scores]))
    return keras.Sequential([keras.Input((8,)), model]) if nested else model


WORDS = r"joined'.* share one range: a step of .*scores' .* outputs of their own"


@pytest.mark.parametrize("nested", [False, True])
def test_calibration_warns_of_a_part_without_steps(nested):
    model = detector(nested=nested)
    with pytest.warns(UserWarning, match=WORDS):
        edge.quantize_aware(model, calibration_data=ROWS)


def test_two_outputs_and_parts_of_one_size_warn_of_nothing():
    x = keras.Input((8,))
    alike = [layers.Dense(4)(x), layers.Dense(2, activation="tanh")(x)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        edge.quantize_aware(detector(join=False), calibration_data=ROWS)
        edge.quantize_aware(keras.Model(x, layers.Concatenate()(alike)), calibration_data=ROWS)


def test_inspect_names_the_parts_to_look_out_for():
    (row,) = [row for row in edge.inspect(detector()).rows if row.path == "joined"]
    assert "one range for all parts, beside which that of scores may be too small" in row.why


def test_the_parts_of_outputs():
    x = keras.Input((4, 6))
    one, two = layers.Conv1D(2, 1, name="one"), layers.Conv1D(3, 1, name="two")
    whole = layers.Concatenate(name="whole")([one(x), two(x)])
    below = layers.Concatenate(axis=1, name="below")([x, x])
    model = keras.Model(x, {"b": whole, "a": below, "c": two(x)})
    found = parts_of_outputs(model, ["b", "c", "a"])
    spans = [[(part.name, part.axis, part.start, part.stop) for part in parts] for parts in found]
    assert spans == [
        [("one", 2, 0, 2), ("two", 2, 2, 5)],
        [],
        [("input", 1, 0, 4), ("input", 1, 4, 8)],
    ]
    assert parts_of_outputs(lambda x: x, ["y"]) == [()]


STACKS = {"stack": lambda parts: keras.ops.stack(parts, axis=1), "hstack": keras.ops.hstack}


def test_what_is_stacked_and_read_elsewhere_keeps_its_numbers(tmp_path):
    keras.utils.set_random_seed(0)
    x = keras.Input((8,))
    answers = {}
    for name, stack in STACKS.items():
        hidden = layers.Reshape((2, 4))(layers.Dense(8)(x))
        answers[name] = layers.Flatten()(stack([hidden, hidden * 4.0]))
        answers[f"{name} beside"] = hidden + 1.0
    small = edge.quantize_aware(keras.Model(x, answers), calibration_data=ROWS)
    export = edge.export_tflite(small, tmp_path / "stack.tflite", precision="int8")
    expected, found = small.predict(ROWS, verbose=0), edge.load_tflite(export.path).predict(ROWS)
    for name, answer in expected.items():
        # 0.93 where a part's own range is taken for the whole's.
        assert np.corrcoef(np.ravel(found[name]), np.ravel(answer))[0, 1] > 0.999, name


def test_a_constant_has_its_places_among_the_parts():
    x = keras.Input((3, 4), name="x")
    marks = np.full((2, 3, 2), 9.0, "float32")
    model = keras.Model(x, keras.ops.concatenate([marks, x], axis=-1))
    (parts,) = parts_of_outputs(model, ["y"])
    rows = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    assert [part.name for part in parts] == ["constant", "input"]
    np.testing.assert_array_equal(parts[1].of(model(rows).numpy()), rows)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("joins") / "joined.tflite"
    with pytest.warns(UserWarning, match=WORDS):
        return edge.export_tflite(detector(), path, precision="int8", representative_data=ROWS)


def test_each_part_of_a_join_is_judged(file):
    with pytest.raises(edge.VerificationError, match=r"joined: scores") as caught:
        edge.verify(file, detector(), ROWS)
    failed = [check.name for check in caught.value.report.checks if not check.passed]
    assert failed == ["correlation with the model (joined: scores)"]
    # The whole looks well: the boxes' numbers are all that it sees.
    assert caught.value.report.correlation > 0.999


def test_debug_names_the_part_that_is_lost(file):
    report = edge.debug(file, detector(), ROWS)
    assert report.first_guilty().layer == "joined: scores"
    (whole,) = [row for row in report.layers if row.layer == "joined"]
    assert whole.snr_db > 30
