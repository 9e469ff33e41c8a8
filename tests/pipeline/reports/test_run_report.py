"""What a run's report measures, and the words that its terminal reads."""

import dataclasses
import json

import numpy as np
import pytest

import keras_distill as kd
from keras_distill.pipeline.reports import RunReport, measure
from keras_distill.pipeline.reports.record import Beside, Row
from keras_distill.pipeline.reports.tables import beside_teacher


def test_every_figure_is_the_models_own(report, made, digits):
    for one, row in zip(made, report.rows, strict=True):
        asked = kd.edge.load_tflite(one.path) if one.is_file else kd.load_model(one.path)
        answers = np.asarray(asked.predict(digits.x_test)).argmax(-1)
        assert row.value == pytest.approx(np.mean(answers == digits.y_test))
        assert row.low <= row.value <= row.high
        assert row.bytes == one.path.stat().st_size
        by_class = {c.name: c.values[row.name] for c in report.classes}
        right = (answers == digits.y_test)[digits.y_test == 0]
        assert by_class["digit 0"] == pytest.approx(right.mean())
    assert sum(one.examples for one in report.classes) == report.test_rows == len(digits.x_test)


def test_what_is_compared_with_what(report):
    teacher, twin, student, _, int8 = report.rows
    assert (report.teacher, report.twin) == (teacher.name, twin.name)
    assert (report.student(), report.file()) == (student, int8)
    assert teacher.from_teacher is None
    assert teacher.agreement == 1.0
    assert twin.from_twin is None
    for row in (student, int8):
        assert row.from_teacher.difference == pytest.approx(row.value - teacher.value)
        assert row.from_twin.difference == pytest.approx(row.value - twin.value)


def test_models_and_files_are_timed_in_litert_alike(report):
    teacher, twin, student, *files = report.rows
    assert all(row.litert_p50_ms > 0 for row in report.rows)
    # One architecture, one float32 file.
    assert student.litert_p50_ms == twin.litert_p50_ms != teacher.litert_p50_ms
    assert student.litert_bytes == files[0].bytes < teacher.litert_bytes
    assert all(row.keras_p50_ms is None for row in files)
    # 3 x 3 x 16 + 16, 3 x 3 x 16 x 10 + 10.
    assert teacher.parameters == 160 + 1450
    # 3 x 3 x 4 + 4, 3 x 3 x 4 x 10 + 10.
    assert [row.parameters for row in (student, *files)] == [410] * 3


def test_the_layers_of_the_files(report):
    float32, int8 = (
        [one for one in report.layers if one.file == f"export {kind}"]
        for kind in ("float32", "int8")
    )
    assert {one.layer for one in int8} >= {"low", "logits"}
    assert {one.dtype for one in int8 if one.layer in ("low", "logits")} == {"int8"}
    assert all(one.equal or one.snr_db > 100 for one in float32)
    assert all(10 < one.snr_db < 100 for one in int8 if one.layer == "logits")
    # Weights are no zeros but by chance.
    assert all(one.sparsity < 0.2 for one in int8 if one.layer in ("low", "logits"))


def test_what_stages_found_is_taken_up(report, records):
    assert [row.verified for row in report.rows] == [None] * 4 + [True]
    (found,) = report.robustness
    judged = records["judge"]
    assert set(found.conditions) == set(judged.conditions)
    for condition in judged.conditions:
        figure = judged.figure("file", "accuracy", condition)
        assert found.conditions[condition]["file"] == pytest.approx(figure.value)
    assert [len(some) for some in found.kinds().values()] == [1, 2]


def row(name, value, size, ms, **options):
    plain = {"line": name, "stage": "train", "file": f"{name}.keras", "is_file": False}
    plain |= {"bytes_zipped": size, "litert_p50_ms": ms} | options
    return Row(name=name, value=value, low=value, high=value, bytes=size, **plain)


def with_rows(report, *rows, **options):
    return dataclasses.replace(report, rows=rows, classes=(), layers=(), **options)


@pytest.fixture
def round_numbers(report):
    """A teacher, a twin, a student and a file whose ratios are known."""
    worse = Beside(-0.07, -0.1, -0.04, "worse")
    alike = Beside(0.01, -0.02, 0.04, "not told apart")
    file = {"stage": "export", "line": "student", "is_file": True}
    return with_rows(
        report,
        row("teacher", 0.99, 520_000, 0.19, keras_p50_ms=2.91, litert_bytes=260_000, agreement=1.0),
        row("twin", 0.91, 40_000, 0.02, agreement=0.9),
        row("student", 0.92, 40_000, 0.02, from_teacher=worse, from_twin=alike, agreement=0.925),
        row(
            "file", 0.92, 10_000, 0.01, from_teacher=worse, from_twin=alike, agreement=0.925, **file
        ),
        teacher="teacher",
        twin="twin",
    )


def test_ratios_are_words(round_numbers):
    words = " ".join(round_numbers.words())
    # 520,000 / 10,000, 260,000 / 10,000, 0.19 / 0.01, 2.91 / 0.01.
    for expected in (
        "52 x fewer bytes than the teacher (520.0 kB)",
        "26 x fewer than the teacher as a LiteRT file of its own",
        "19 x faster than the teacher's own LiteRT file",
        "291 x faster than the teacher in Keras",
        "7.0 points worse than the teacher (4.0 to 10.0)",
        "not told apart from its twin that learned from labels alone (+1.0 points, -2.0 to +4.0)",
        "Students knew 270 of 1,078 training labels",
    ):
        assert expected in words
    assert "1/" not in str(round_numbers)


def test_the_cells_beside_the_teacher(round_numbers):
    assert list(beside_teacher(round_numbers, round_numbers["teacher"])) == []
    assert list(beside_teacher(round_numbers, round_numbers["file"])) == [
        "52 x fewer bytes",
        "19 x faster",
        "-7.0 points",
        "agrees: 92.5 %",
    ]


def test_the_table_fits_a_terminal(report, round_numbers):
    for one in (report, round_numbers):
        text = one.table().as_text()
        assert max(map(len, text.splitlines())) <= 80
        assert "…" not in text


def test_a_larger_and_slower_file_is_called_so(report):
    file = {"line": "student", "stage": "export", "is_file": True}
    worse = with_rows(
        report,
        row("teacher", 0.9, 1000, 0.5, litert_bytes=1000, keras_p50_ms=1.0),
        row("file", 0.9, 3000, 1.0, verified=False, **file),
        teacher="teacher",
        twin=None,
    )
    words = " ".join(worse.words())
    assert "3.0 x more bytes than the teacher" in words
    assert "2.0 x slower than the teacher's own LiteRT file" in words
    assert "about as fast as the teacher in Keras" in words
    assert words.startswith("NOT VERIFIED: file")
    assert not worse.passed


def test_without_labels_it_says_whose_answers_stand_for_them(report):
    unlabelled = dataclasses.replace(report, labelled=False)
    assert any("no labels: the answers of train teacher" in one for one in unlabelled.words())
    assert not any("no labels" in one for one in report.words())


def test_the_front_is_what_nothing_beats(report):
    rows = (
        row("small", 0.8, 10, 3.0),
        row("beaten", 0.7, 20, 1.0),
        row("large", 0.9, 30, 2.0),
        row("no better", 0.9, 40, 4.0),
        row("untimed", 0.95, 50, None),
        row("unasked", None, 1, 1.0),
    )
    found = with_rows(report, *rows, teacher=None, twin=None)
    assert [one.name for one in found.front("bytes")] == ["small", "large", "untimed"]
    assert [one.name for one in found.front("litert_p50_ms")] == ["beaten", "large"]
    errors = dataclasses.replace(found, better=-1, share=False)
    assert [one.name for one in errors.front("bytes")] == ["small", "beaten"]


def test_it_survives_json(report, tmp_path):
    report.save(tmp_path / "report.json")
    assert RunReport.load(tmp_path / "report.json") == report
    values = json.loads((tmp_path / "report.json").read_text())
    values["rows"][1]["bytes"] = "many"
    (tmp_path / "report.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"rows\.1\.bytes"):
        RunReport.load(tmp_path / "report.json")


def test_two_of_one_name_are_refused_before_any_work(made):
    with pytest.raises(ValueError, match="different names"):
        measure([made[0], made[0]], None, None, None)
