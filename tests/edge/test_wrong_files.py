"""Files that are wrong, each in its own way: all are caught by what `verify` asks by default."""

import json
import math
import re

import numpy as np
import pytest
from by_hand import dense_file

from keras_distill import edge
from keras_distill.litert.runner import LatencyReport, TFLiteRunner, load_tflite

RNG = np.random.default_rng(0)
ROWS, SIZE = 200, 6
X = RNG.normal(size=(ROWS, SIZE)).astype("float32")
W = RNG.normal(size=(SIZE, 4))
OTHER = RNG.normal(size=(SIZE, 4))
B = np.zeros(4)
LOGITS = X @ W
CLASSES = LOGITS.argmax(-1)
YES = (LOGITS[:, 0] > 0).astype("int32")
ONE, ONE_B = W[:, :1], B[:1]
WIDE = float(np.abs(LOGITS).max())


@pytest.fixture(autouse=True)
def no_timing(monkeypatch):
    """Timing starts a process, and nothing here is about it."""
    report = LatencyReport(1.0, 1.0, 1, 1, 1, "here")
    monkeypatch.setattr(TFLiteRunner, "benchmark", lambda self: report)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def linear(weights, bias=0.0, then=lambda y: y):
    """A NumPy model."""
    return lambda x: then(np.asarray(x) @ weights + bias).astype("float32")


def argmax(x):
    return np.asarray(np.asarray(x) @ W).argmax(-1)


def both(x):
    return {"kind": linear(W)(x), "yes": linear(ONE)(x)}


AT_CHANCE = RNG.integers(0, 4, ROWS)
# So far that the class is always the first, and all answers correlate by 0.98.
FAR_APART = np.array([30.0, 10.0, -10.0, -30.0])
INT8 = {"precision": "int8", "output_range": WIDE}
TWO = {"kind": (W, B), "yes": (ONE, ONE_B)}
# The file's outputs and options, the model, the labels, what the report says of it.
WRONG = {
    "a binary classifier that learned another question": (
        ({"y": (OTHER[:, :1], ONE_B)}, {"end": "LOGISTIC"}),
        linear(ONE, then=sigmoid),
        YES,
        "accuracy against the model",
    ),
    "a binary classifier of int8 whose threshold has moved": (
        ({"y": (ONE, ONE_B + 0.3 * WIDE)}, INT8),
        linear(ONE),
        YES[:, None],
        "accuracy against the model",
    ),
    "one of two heads, the other has one unit": (
        ({"kind": (OTHER, B), "yes": (ONE, ONE_B)}, {}),
        both,
        {"kind": CLASSES, "yes": YES},
        r"accuracy against the model \(kind\)",
    ),
    "one unit beside a head of classes, unlabelled": (
        ({"kind": (W, B), "yes": (-ONE, ONE_B)}, {}),
        both,
        {"kind": CLASSES},
        r"the model's numbers \(yes\)",
    ),
    "class numbers of another network": (
        ({"y": (OTHER, B)}, {"end": "ARG_MAX"}),
        argmax,
        None,
        "correlation with the model",
    ),
    "an unrelated regressor of int8": (
        ({"y": (OTHER[:, :1], ONE_B)}, INT8),
        linear(ONE),
        X[:, 0],
        "correlation with the model",
    ),
    "a float file of another network, both at chance": (
        ({"y": (0.01 * OTHER, B)}, {}),
        linear(0.01 * W),
        AT_CHANCE,
        "the model's numbers",
    ),
    "a float16 file of another network, both at chance": (
        ({"y": (OTHER, B)}, {"precision": "float16"}),
        linear(W),
        AT_CHANCE,
        "the model's numbers",
    ),
    "an int8 file of another network, both at chance": (
        ({"y": (OTHER, B)}, INT8),
        linear(W),
        AT_CHANCE,
        "correlation with the model",
    ),
    "an int8 file of another network of the same large biases": (
        ({"y": (OTHER, FAR_APART)}, {"precision": "int8", "output_range": 40.0}),
        linear(W, FAR_APART),
        FAR_APART.argmax() + np.zeros(ROWS, int),
        "correlation with the model: around the mean row, answers correlate -",
    ),
    "a file of an earlier epoch": (
        ({"y": (W + 0.05 * OTHER, B)}, {}),
        linear(W),
        CLASSES,
        "the model's numbers",
    ),
    "a file that answers NaN": (
        ({"y": (W, B + math.nan)}, {}),
        linear(W),
        None,
        "answers are numbers: the file answers NaN in 200 of 200 rows, first in 0",
    ),
    "a float16 file of a network trained on": (
        ({"y": (W + 0.05 * OTHER, B)}, {"precision": "float16"}),
        linear(W),
        CLASSES,
        "the model's numbers",
    ),
    "classes in another order": (
        ({"y": (W[:, ::-1], B)}, INT8),
        linear(W),
        None,
        "correlation with the model",
    ),
    "inputs that were to be scaled": (
        ({"y": (W / 255, B)}, {}),
        linear(W),
        CLASSES,
        "the model's numbers",
    ),
    "a constant": (({"y": (0 * W, B)}, INT8), linear(W), None, "correlation with the model"),
    "an output range that is too small": (
        ({"y": (W, B)}, {"precision": "int8", "output_range": WIDE / 12}),
        linear(W),
        None,
        "correlation with the model",
    ),
    "a multi-label head with a label turned round": (
        ({"y": (W * [1, 1, 1, -1], B)}, {"end": "LOGISTIC"}),
        linear(W, then=sigmoid),
        (LOGITS > 0).astype("int32"),
        "accuracy against the model",
    ),
}


def worst_rows(file, model):
    """By the model's range, of each output the row that is furthest off."""
    ours, theirs = load_tflite(file).predict(X), model(X)
    pairs = (
        [(ours[key], theirs[key]) for key in ours] if isinstance(ours, dict) else [(ours, theirs)]
    )
    flat = [np.abs(a.astype("float64") - b).reshape(ROWS, -1).max(-1) for a, b in pairs]
    return {int(one.argmax()) for one in flat}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_is_caught_by_default(what, tmp_path):
    (heads, options), model, labels, words = WRONG[what]
    file = dense_file(tmp_path / "file.tflite", heads, **options)
    data = X if labels is None else (X, labels)
    with pytest.raises(edge.VerificationError, match=words) as caught:
        edge.verify(file, model, data)
    report = caught.value.report
    assert not report.passed
    if "the model" in words and "accuracy" not in words:
        named = re.search(r"row (?:is )?(\d+)", str(caught.value))
        assert named is not None
        assert int(named[1]) in worst_rows(file, model)
    assert not json.loads(report.to_json())["passed"]


RIGHT = {
    "float32": (({"y": (W, B)}, {}), linear(W), CLASSES),
    "float16": (({"y": (W, B)}, {"precision": "float16"}), linear(W), CLASSES),
    "int8": (({"y": (W, B)}, INT8), linear(W), None),
    "two heads": ((TWO, {}), both, [CLASSES, YES]),
    "yes or no": (({"y": (ONE, ONE_B)}, {"end": "LOGISTIC"}), linear(ONE, then=sigmoid), YES),
    "class numbers": (({"y": (W, B)}, {"end": "ARG_MAX"}), argmax, CLASSES),
    "a constant": (({"y": (0 * W, B + 1)}, {}), linear(0 * W, 1.0), None),
    # Of which int8 tells little more than the biases.
    "biases above all": (
        ({"y": (0.1 * W, FAR_APART)}, {"precision": "int8", "output_range": 32.0}),
        linear(0.1 * W, FAR_APART),
        None,
    ),
}


@pytest.mark.parametrize("what", RIGHT)
def test_the_right_file_passes(what, tmp_path):
    (heads, options), model, labels = RIGHT[what]
    file = dense_file(tmp_path / "file.tflite", heads, **options)
    report = edge.verify(file, model, X if labels is None else (X, labels))
    assert report.passed
    if labels is not None:
        assert report.accuracy_file == report.accuracy_reference == 1.0
    if what not in ("int8", "a constant", "biases above all"):
        assert report.agreement == 1.0


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (CLASSES + 4, r"labels of 0 to 3 .* 200 of 200 are others: 4, 5, 6, 7"),
        (np.where(CLASSES == 0, 255, CLASSES), "others: 255"),
        ([CLASSES, YES], r"outputs \['y'\]; got 2"),
        ({"z": CLASSES}, r"\['y'\]; got \['z'\]"),
    ],
)
def test_labels_that_are_not_the_outputs_are_refused(labels, words, tmp_path):
    file = dense_file(tmp_path / "file.tflite", {"y": (W, B)})
    with pytest.raises(ValueError, match=words):
        edge.verify(file, linear(W), (X, labels))


def test_labels_of_minus_one_and_one_are_no_yes_and_no(tmp_path):
    file = dense_file(tmp_path / "file.tflite", {"y": (ONE, ONE_B)})
    with pytest.raises(ValueError, match="0 for no"):
        edge.verify(file, linear(ONE), (X, 2 * YES - 1))


def test_each_tolerance_can_be_given(tmp_path):
    off = dense_file(tmp_path / "off.tflite", {"y": (0.9 * W, B)})
    with pytest.raises(edge.VerificationError, match="max_error"):
        edge.verify(off, linear(W), X)
    assert edge.verify(off, linear(W), X, max_error=0.2).passed
    poor = dense_file(tmp_path / "poor.tflite", {"y": (W + 0.6 * OTHER, B)}, **INT8)
    for asked, limits in (
        ("min_correlation", {"min_quantized_correlation": -1}),
        ("min_quantized_correlation", {"min_correlation": -1}),
    ):
        with pytest.raises(edge.VerificationError, match=asked):
            edge.verify(poor, linear(W), X, quantized=linear(W), **limits)
    limits = {"min_correlation": 0.5, "min_quantized_correlation": 0.5}
    assert edge.verify(poor, linear(W), X, quantized=linear(W), **limits).passed


def test_a_nan_of_the_model_is_no_agreement(tmp_path):
    file = dense_file(tmp_path / "file.tflite", {"y": (W, B + math.nan)})
    with pytest.raises(edge.VerificationError, match="the model answers NaN in 200 of 200 rows"):
        edge.verify(file, linear(W, math.nan), X)


def test_the_error_counts_rows_and_says_where_they_were_lost(tmp_path):
    file = dense_file(tmp_path / "file.tflite", {"y": (OTHER, B)})
    right, tuned = (np.argmax(X @ w, -1) == CLASSES for w in (OTHER, W + OTHER))
    wrong, trained = ROWS - right.sum(), ROWS - tuned.sum()
    with pytest.raises(edge.VerificationError) as caught:
        edge.verify(file, linear(W), (X, CLASSES), quantized=linear(W + OTHER))
    words = str(caught.value)
    assert f"{wrong} of 200 rows, beyond noise" in words
    assert f"training lost {trained} of them, the conversion {wrong - trained}" in words


def test_the_report_says_on_what(tmp_path):
    import hashlib

    file = dense_file(tmp_path / "file.tflite", {"y": (W, B)})
    first = edge.verify(file, linear(W), (X, CLASSES))
    again = edge.verify(file, linear(W), (X[:50], CLASSES[:50]))
    assert (first.rows, again.rows) == (200, 50)
    assert first.data_sha256 != again.data_sha256
    assert first.data_sha256 == edge.verify(file, linear(W), (X, CLASSES)).data_sha256
    assert first.file_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert {"keras_distill", "tensorflow", "keras", "ai-edge-litert", "python"} <= {*first.versions}
    written = json.loads(first.to_json())
    assert written["date"].endswith("+00:00")
    assert written["path"] == str(file)
