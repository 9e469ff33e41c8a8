"""The report: frozen numbers, and words that do not embellish them."""

import dataclasses

import pytest
from rich.console import Console

from keras_distill.pipeline import figures
from keras_distill.pipeline.report import DemoReport, ModelResult, median_ms


def report(distilled=0.95, baseline=0.90, passed=True, labels=1.0):
    def result(name, accuracy, size, passed=None):
        return ModelResult(name, f"{name}.bin", 250_000, size, accuracy, 0.9, 0.5, "Keras", passed)

    results = (
        result("teacher", 0.99, 1_000_000),
        result("baseline", baseline, 20_000),
        result("distilled", distilled, 20_000),
        result("float32 file", distilled, 10_000, True),
        result("int8 file", distilled, 5_000, passed),
    )
    return DemoReport(
        {"dataset": "digits", "labels": labels}, 200, results, {"teacher": 1.0}, {}, "host"
    )


def test_what_each_model_was_told_is_said_first():
    assert report(labels=1.0).words()[0].endswith("knew the labels of all training images.")
    assert "Baseline and student know 10% of them" in report(labels=0.1).words()[0]


def test_a_gain_is_a_gain():
    assert (
        "The distilled student gains 5.0 points on the labels-only twin: "
        "95.0% against 90.0%, 10 of 200 images." in report().words()
    )


def test_a_loss_is_shown_as_a_loss():
    assert (
        "The distilled student LOSES 2.0 points on the labels-only twin: "
        "88.0% against 90.0%, 4 of 200 images." in report(distilled=0.88).words()
    )


def test_an_unverified_file_is_named():
    failed = report(passed=False)
    assert not failed.passed()
    assert any(line.startswith("NOT VERIFIED: the int8 file") for line in failed.words())
    assert report().passed()


def test_the_table_holds_every_number_in_80_columns():
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(report().table())
    text = console.export_text()
    assert "…" not in text
    # 5,000 bytes against 1,000,000 and 20,000; 95% against 99% and 90%.
    for words in ("200x smaller", "4.0x smaller", "-4.0 pts", "+5.0 pts", "the same"):
        assert words in text


def test_it_survives_json(tmp_path):
    report().save(tmp_path / "report.json")
    assert DemoReport.load(tmp_path / "report.json") == report()


def test_it_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        report().host = "elsewhere"


def test_the_pictures_are_pictures(tmp_path):
    figures.training_curves({"teacher": {"val_accuracy": [0.1, 0.2]}}, tmp_path / "a.png")
    figures.accuracy_against_size(report(), tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_the_median_leaves_the_first_calls_out():
    calls = []
    assert median_ms(lambda: calls.append(None), calls=3) >= 0.0
    assert len(calls) == 13
