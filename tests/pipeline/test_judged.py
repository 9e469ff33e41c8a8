"""`keras-distill judge`: gates decide the status, files are written, bad input is one line."""

import json
import shutil
from xml.etree import ElementTree

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

import keras_distill as kd
from keras_distill.cli import app
from keras_distill.litert import runner as litert


@pytest.fixture
def judge(tmp_path, monkeypatch):
    """Runs the command in a folder with a model, its file and forty rows."""
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.save("a.keras")
    kd.edge.export_tflite(model, "b.tflite", precision="float32")
    x = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    np.savez("rows.npz", x=x, y=np.asarray(model(x)).argmax(-1))

    def run(*arguments):
        return CliRunner().invoke(app, ["judge", *map(str, arguments)])

    return run


def test_gates_decide(judge, tmp_path):
    outputs = ("--json", "r.json", "--junit", "j.xml", "--html", "r.html")
    passing = ("--gate", "b.accuracy >= a.accuracy - 0.5pt", "--gate", "b.accuracy >= 100%")
    done = judge("a.keras", "b.tflite", "--data", "rows.npz", *passing, *outputs)
    assert done.exit_code == 0, done.output
    assert "passed  b.accuracy >= 100%: 1 >= 1 demanded" in done.stdout
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["models"] == ["a", "b"]
    suite = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert suite.get("name") == "keras-distill judge"
    assert len(suite.findall(".//testcase")) == 2
    assert "<table" in (tmp_path / "r.html").read_text()
    failing = ("--gate", "b.NLL <= 0.0001", "--gate", "b.accuracy@noise 5 >= a.accuracy")
    done = judge("a.keras", "b.tflite", "--data", "rows.npz", "--conditions", "tables", *failing)
    assert done.exit_code == 1, done.output
    assert done.stdout.count("FAILED") == 2


def test_names_are_the_files_or_said(judge):
    done = judge("x=a.keras", "b.tflite", "--data", "rows.npz", "--baseline", "b")
    assert done.exit_code == 0, done.output
    assert "differences from b" in done.stdout
    shutil.copy("b.tflite", "a.tflite")
    done = judge("a.keras", "a.tflite", "--data", "rows.npz", "--gate", "a.tflite.accuracy >= 1")
    assert done.exit_code == 0, done.output


def test_a_crash_fails_the_gate_of_its_file(judge, monkeypatch):
    def crashed(*arguments, **options):
        raise litert.CrashError("LiteRT ran b.tflite and crashed (SIGSEGV)")

    monkeypatch.setattr(litert.TFLiteRunner, "predict", crashed)
    done = judge("a.keras", "b.tflite", "--data", "rows.npz", "--gate", "b.accuracy <= 1")
    assert done.exit_code == 1, done.output
    assert "FAILED  b runs: LiteRT ran b.tflite and crashed (SIGSEGV)" in done.stdout
    assert "FAILED  b.accuracy <= 1: b does not run" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--gate", "b.accuracy > 1"), "can't be read"),
        (("--gate", "c.accuracy >= 1"), "no MODEL.METRIC of a, b"),
        (("--metric", "acc"), "no metric 'acc'"),
        (("--conditions", "images"), "is for images"),
        (("--baseline", "c"), "none of the candidates"),
        (("--unseen", "other.npz"), "no data file"),
    ],
)
def test_bad_input_is_one_line_and_the_junit_file_says_so(judge, tmp_path, arguments, words):
    done = judge("a.keras", "b.tflite", "--data", "rows.npz", "--junit", "j.xml", *arguments)
    assert done.exit_code == 2, done.output
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert ElementTree.parse(tmp_path / "j.xml").find(".//error") is not None


def test_two_of_one_name(judge, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.keras").write_bytes((tmp_path / "a.keras").read_bytes())
    done = judge("a.keras", "sub/a.keras", "--data", "rows.npz")
    assert done.exit_code == 2
    assert "Name them: a=a.keras b=sub/a.keras" in done.stderr
