"""What each layer costs at 4, 8 and 16 bits, and which of them can do with 4."""

import keras
import numpy as np
import pytest

import keras_distill as kd
from keras_distill.edge.search.chain import Option, chain
from keras_distill.edge.search.divergence import (
    LOG_SHARES,
    NUMBERS,
    YES_OR_NO,
    as_log_shares,
    as_yes_or_no,
    divergence,
)
from keras_distill.edge.search.measured import Measured
from keras_distill.edge.search.outputs import Output
from keras_distill.edge.search.rounded import Rounded

layers = keras.layers


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(96, 8, 8, 2)).astype("float32")


@pytest.fixture(scope="module")
def model(x):
    """`spoiled` has a weight in each channel beside which 4 bits see few others."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 2), name="image")
    y = layers.Conv2D(6, 3, use_bias=False, name="first")(image)
    y = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(y))
    y = layers.Flatten(name="flat")(y)
    y = layers.Dense(24, activation="tanh", name="spoiled")(y)
    y = layers.Dense(24, activation="relu", name="fine")(y)
    made = keras.Model(image, layers.Dense(5, name="logits")(y), name="made")
    kernel, bias = made.get_layer("spoiled").get_weights()
    # A channel that is always there, and its constant share taken off again.
    kernel[0, :] = 5 * np.abs(kernel).max()
    first = np.eye(1, 6)[0]
    made.get_layer("norm").set_weights([1 - first, first, 0 * first, 0 * first + 1])
    made.get_layer("spoiled").set_weights([kernel, bias - kernel[0]])
    return made


@pytest.fixture(scope="module")
def found(model, x):
    return kd.edge.sensitivity(model, x, show_progress=False)


def kl(reference, answers):
    read = [as_log_shares(scores, are_shares=False) for scores in (reference, answers)]
    return divergence(LOG_SHARES, *read)


def test_divergence_by_hand():
    p, q = np.array([[0.5, 0.25, 0.25]]), np.array([[0.25, 0.5, 0.25]])
    # 0.5 ln 2 - 0.25 ln 2, of shares as of scores.
    shares = [as_log_shares(one, are_shares=True) for one in (p, q)]
    assert divergence(LOG_SHARES, *shares) == pytest.approx(0.25 * np.log(2))
    assert kl(np.log(p) + 3, np.log(q) - 1) == pytest.approx(0.25 * np.log(2))
    # Yes at 3 to 1 where it is even, in one of two labels: 0.5 ln(1/2 / 3/4) + 0.5 ln(1/2 / 1/4).
    even, sure = np.array([[0.5, 0.5]]), np.array([[0.75, 0.5]])
    expected = 0.5 * np.log(4 / 3)
    assert divergence(YES_OR_NO, even, sure) == pytest.approx(expected)
    scores = as_yes_or_no(np.array([[np.log(3), 0.0]]), are_shares=False)
    assert divergence(YES_OR_NO, even, scores) == pytest.approx(expected)
    # Numbers: (1 + 1) / 2 over a variance of 4.
    a, b = np.array([[-2.0], [2.0]]), np.array([[-1.0], [3.0]])
    assert divergence(NUMBERS, a, b) == pytest.approx(1 / 4)
    assert divergence(NUMBERS, a, np.array([[np.nan], [3.0]])) == np.inf


def test_a_chain_buys_the_steepest_step_first():
    # 8 bits of `b` save 6 a byte; those of `a` 1, but 32 of them 2: 8 lies above the hull.
    a = [Option(4, 1, 9.0), Option(8, 2, 8.0), Option(32, 4, 3.0)]
    b = [Option(4, 1, 6.0), Option(8, 2, 0.0), Option(32, 3, 0.0)]
    assert chain({"a": a, "b": b}) == [{"a": 4, "b": 4}, {"a": 4, "b": 8}, {"a": 32, "b": 8}]
    # Nothing is bought that is no better.
    assert chain({"a": [Option(8, 2, 1.0), Option(4, 1, 1.0)]}) == [{"a": 4}]


@pytest.mark.parametrize("weights", [8, 4])
def test_all_layers_rounded_are_the_quantised_model(model, x, weights):
    rounded = Rounded(model, x)
    ours = rounded(x, dict.fromkeys(rounded.paths, (weights, 8)))
    small = kd.edge.quantize_aware(model, calibration_data=x)
    # The same ranges: calibrated at 4 bits they would be others.
    for layer in small.layers:
        for done in getattr(layer, "treatments", {}).values():
            done[-1].bits = weights
    expected = small.predict(x, verbose=0)
    # Where a value lies between two steps the order of a sum may decide.
    (low, high) = [r for layer in small.layers[-1:] for r in layer.ranges()][-1].bounds()
    assert np.abs(ours - expected).max() <= 1.01 * (high - low) / 255
    assert np.mean(np.abs(ours - expected) > 1e-5) < 0.01


def test_no_layer_rounded_is_the_float_model(model, x):
    ours = Rounded(model, x)(x, {})
    np.testing.assert_allclose(ours, model.predict(x, verbose=0), atol=1e-5)


def test_the_spoiled_layer_is_found(found, model):
    rows = {row.path: row for row in found.rows}
    assert [row.path for row in found.rows if row.at_4 is not None] == [
        "first", "spoiled", "fine", "logits"
    ]  # fmt: skip
    assert max(rows.values(), key=lambda row: row.at_4 or 0).path == "spoiled"
    for row in rows.values():
        assert row.at_16 <= row.at_8 + 1e-7
        assert row.at_4 is None or row.at_4 > row.at_8
    # 6 x 6 places of 6 channels; 3 x 3 x 2 weights for each of 36 x 6 values.
    assert rows["spoiled"].weights == rows["spoiled"].macs == 216 * 24
    assert rows["first"].macs == 18 * 216
    assert rows["first"].weights == 18 * 6
    assert found.float_divergence == 0.0
    assert found.examples == 96


def test_the_record_shows_itself(found):
    said = str(found)
    assert "spoiled" in said
    assert "2,592" in said
    assert "96 examples" in said
    figure = found.plot()
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [r.path for r in found.rows]


def test_a_teacher_is_the_reference(model, x, found):
    teacher = keras.models.clone_model(model)
    named = kd.edge.sensitivity(model, x, teacher=teacher, show_progress=False)
    apart = kl(teacher.predict(x, verbose=0), model.predict(x, verbose=0))
    assert named.float_divergence == pytest.approx(apart, rel=1e-4)
    assert apart > 0.01
    other = keras.Sequential([keras.Input((8, 8, 2)), layers.Flatten(), layers.Dense(3)])
    with pytest.raises(
        ValueError, match=r"'logits' in the model's shape, \(96, 5\); got \(96, 3\)"
    ):
        kd.edge.sensitivity(model, x, teacher=other, show_progress=False)


def test_a_file_that_fits(model, x, tmp_path):
    small = kd.edge.quantize_aware(model, calibration_data=x)
    whole = kd.edge.export_tflite(small, tmp_path / "8.tflite", precision="int8").bytes
    found = kd.edge.search_bits(model, x, max_bytes=whole - 250, show_progress=False)
    # 24 x 24 weights save 288 bytes, and no other layer has to go with them.
    assert set(found.weight_bits) == {"fine"}
    assert found.bytes_at_8 == whole
    small = kd.edge.quantize_aware(model, calibration_data=x, weight_bits=found.weight_bits)
    export = kd.edge.export_tflite(small, tmp_path / "4.tflite", precision="int8")
    assert export.bytes == found.bytes <= whole - 250
    assert export.dtypes["int4"] == 1
    assert "fine" in str(found)


def test_as_far_as_the_answers_allow(model, x):
    labels = model.predict(x, verbose=0).argmax(-1)
    everything = kd.edge.search_bits(model, (x, labels), max_drop=1.0, show_progress=False)
    assert set(everything.weight_bits) == {"first", "spoiled", "fine", "logits"}
    some = kd.edge.search_bits(model, (x, labels), max_drop=0.15, show_progress=False)
    small = kd.edge.quantize_aware(model, calibration_data=x, weight_bits=some.weight_bits)
    right = np.mean(small.predict(x, verbose=0).argmax(-1) == labels)
    assert 1 - right == pytest.approx(some.drop, abs=0.011)
    assert some.drop <= 0.15 < everything.drop
    assert some.bytes < some.bytes_at_8
    assert some.bytes > everything.bytes
    # The labels are the model's own answers: without them it is the agreement that is lost.
    bare = kd.edge.search_bits(model, x, max_drop=0.15, show_progress=False)
    assert (bare.weight_bits, bare.drop) == (some.weight_bits, some.drop)


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ({}, "Expected max_bytes or max_drop"),
        ({"max_bytes": 500}, r"No choice of bits gives a file of 500 bytes: the smallest"),
        ({"max_bytes": 8000, "max_drop": 0.1}, r"keeps both .* within the drop has [\d,]+ bytes"),
    ],
)
def test_bounds_that_nothing_meets(model, x, bounds, words):
    with pytest.raises(ValueError, match=words):
        kd.edge.search_bits(model, x, show_progress=False, **bounds)


def test_numbers_instead_of_classes(x):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((8, 8, 2)), layers.Flatten(), layers.Dense(1, name="y")])
    found = kd.edge.search_bits(model, x, max_drop=0.5, show_progress=False)
    assert found.weight_bits == {"y": 4}
    small = kd.edge.quantize_aware(model, calibration_data=x, weight_bits=4)
    pair = (small.predict(x, verbose=0).ravel(), model.predict(x, verbose=0).ravel())
    assert found.drop == pytest.approx(1 - np.corrcoef(*pair)[0, 1], abs=1e-3)


def test_rounded_shares_are_shares(x):
    keras.utils.set_random_seed(2)
    image = keras.Input((8, 8, 2))
    scores = layers.Dense(60, name="scores")(layers.Flatten()(image))
    bare = keras.Model(image, scores)
    soft = keras.Model(image, layers.Softmax(name="shares")(scores))
    rows = [kd.edge.sensitivity(one, x, show_progress=False).rows for one in (bare, soft)]
    of_scores, of_shares = ({row.path: row for row in some} for some in rows)
    assert of_shares["scores"].at_4 == pytest.approx(of_scores["scores"].at_4, rel=0.5)
    # Steps of 1 / 256 for sixty shares.
    assert of_shares["shares"].at_8 < 0.02


def test_labels_by_the_outputs_names(x):
    keras.utils.set_random_seed(3)
    image = keras.Input((8, 8, 2))
    flat = layers.Flatten()(image)
    model = keras.Model(image, [layers.Dense(3, name=name)(flat) for name in ("zulu", "alpha")])
    chosen = [one.argmax(-1) for one in model.predict(x, verbose=0)]
    for labels in ({"zulu": chosen[0], "alpha": chosen[1]}, {"alpha": chosen[1]}, chosen):
        measured = Measured(model, (x, labels))
        answers = measured.answers({})
        # Right answers are lost where the other output's scores are given, and nothing else is.
        swapped = measured.drop(answers[::-1])
        assert measured.drop(answers) == 0.0
        assert swapped > 0.3


def test_a_layer_in_two_places_is_rounded_once(x):
    shared, image = layers.Dense(6, name="shared"), keras.Input((6,))
    sub = keras.Sequential([keras.Input((6,)), shared], name="sub")
    model = keras.Model(image, layers.Dense(3, name="last")(sub(shared(image))))
    found = kd.edge.sensitivity(model, x[:, 0, :3].reshape(96, 6), show_progress=False)
    assert [row.path for row in found.rows if row.weights] == ["shared", "last"]
    assert found.rows[1].at_4 > found.rows[1].at_8 > 0


def heads(x, *names, kind=None):
    keras.utils.set_random_seed(4)
    image = keras.Input((8, 8, 2))
    flat = layers.Flatten()(image)
    made = {name: layers.Dense(3, kind, name=name)(flat) for name in names}
    return keras.Model(image, list(made.values()))


def test_outputs_go_together_by_name(x):
    model = heads(x, "box", "label")
    other = keras.Model(model.input, [model.get_layer(n).output for n in ("label", "box")])
    found = kd.edge.sensitivity(model, x, teacher=other, show_progress=False)
    assert found.float_divergence == pytest.approx(0.0, abs=1e-9)
    with pytest.raises(ValueError, match="no output for the student's 'label'"):
        kd.edge.sensitivity(model, x, teacher=heads(x, "box", "kind"), show_progress=False)
    with pytest.raises(ValueError, match=r"have the outputs of .*'box', 'label'.*; it has one"):
        kd.edge.sensitivity(model, x, teacher=heads(x, "box"), show_progress=False)
    shares = heads(x, "box", "label", kind="softmax")
    with pytest.raises(ValueError, match=r"'box' is read as 'sigmoid', and the teacher's"):
        kd.edge.sensitivity(
            model, x, teacher=shares, output={"box": "sigmoid"}, show_progress=False
        )


def test_what_an_output_is(x):
    def read(model, labels=None, **said):
        data = x if labels is None else (x, labels)
        return [output.kind for output in Measured(model, data, **said).outputs]

    real, marks = np.random.default_rng(0).normal(size=(2, 96, 3)).astype("float32")
    marks = (marks > 0).astype("float32")
    assert read(heads(x, "y")) == ["logits"]
    assert read(heads(x, "y", kind="softmax")) == ["probabilities"]
    assert read(heads(x, "y", kind="sigmoid")) == ["sigmoid"]
    assert read(heads(x, "y"), real) == ["numbers"]
    assert read(heads(x, "y"), marks) == ["sigmoid"]
    assert read(heads(x, "y"), output="numbers") == ["numbers"]
    two = heads(x, "box", "label")
    assert read(two, output={"box": "numbers"}) == ["numbers", "logits"]
    assert "'box' as numbers" in str(
        kd.edge.sensitivity(two, x, output={"box": "numbers"}, show_progress=False)
    )
    with pytest.raises(ValueError, match=r"one of 'auto', 'logits'.*got 'classes'"):
        read(two, output="classes")
    with pytest.raises(ValueError, match="output names 'boxes'; the model's outputs are 'box'"):
        read(two, output={"boxes": "numbers"})
    with pytest.raises(ValueError, match="Expected labels for the outputs"):
        read(two, real)


def test_answers_of_nan_are_lost(x):
    of_float = np.linspace(0, 1, 6, dtype="float32").reshape(6, 1)
    spoiled = np.where(np.arange(6)[:, None] == 2, np.nan, of_float)
    one = Output.of("y", "logits", "auto", of_float, None, None)
    assert (one.lost(of_float), one.apart(of_float)) == (0.0, 0.0)
    assert one.lost(spoiled) == one.apart(spoiled) == np.inf


def test_trial_files_are_calibrated_on_all_rows(model, x, monkeypatch):
    from keras_distill.edge.search import files

    seen, made = [], files.quantize_aware

    def watched(*args, calibration_data, **kwargs):
        small = made(*args, calibration_data=calibration_data, **kwargs)
        seen.append(len(small.calibration_rows["image"]))
        return small

    monkeypatch.setattr(files, "quantize_aware", watched)
    kd.edge.search_bits(model, x, max_bytes=10**6, show_progress=False)
    assert set(seen) == {96}
