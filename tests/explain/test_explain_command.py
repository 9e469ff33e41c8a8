"""`keras-distill explain`: the record printed and written; bad input in one line."""

import json

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

import keras_distill as kd
from keras_distill.cli import app


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs the command in a folder with two models and twelve rows."""
    monkeypatch.chdir(tmp_path)
    for name, units in (("student", 3), ("teacher", 5)):
        keras.utils.set_random_seed(units)
        hidden = keras.layers.Dense(units, "relu", name="hidden")
        keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(3)]).save(f"{name}.keras")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 4)).astype("float32"), rng.integers(0, 3, 12)
    np.savez("rows.npz", x=x, y=y)

    def run(*arguments):
        return CliRunner().invoke(app, ["explain", *arguments])

    return run


def test_it_prints_and_writes_the_record(command, tmp_path):
    done = command("student.keras", "teacher.keras", "rows.npz", "--output", "seen")
    assert done.exit_code == 0, done.output
    rows = np.load("rows.npz")
    models = (keras.saving.load_model(f"{name}.keras") for name in ("student", "teacher"))
    record = kd.explain(*models, (rows["x"], rows["y"]), verbose=False)
    assert str(record) in done.stdout
    written = json.loads((tmp_path / "seen" / "explanation.json").read_text(encoding="utf-8"))
    assert written == json.loads(record.to_json())
    assert sorted(path.suffix for path in (tmp_path / "seen").iterdir())[-1] == ".png"


def test_classes_and_numbers_have_the_names_that_are_given(command, tmp_path):
    given = ("student.keras", "teacher.keras", "rows.npz", "--class-names", "oak,ash,elm")
    done = command(*given, "--output", "seen")
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "seen" / "explanation.json").read_text())["class_names"] == [
        "oak", "ash", "elm",
    ]  # fmt: skip
    rows = np.load("rows.npz")
    np.savez("rows.npz", x=rows["x"], y=rows["x"][:, :3])
    done = command(*given, "--task", "numbers", "--output", "seen")
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "seen" / "explanation.json").read_text())["names"][1] == "ash"
    done = command(*given[:-1], "oak,ash", "--output", "other")
    assert done.exit_code == 2
    assert "3 classes" in done.stderr


@pytest.mark.parametrize("output", ["rows.npz", "rows.npz/below", "own"])
def test_a_folder_that_cannot_be_is_refused_before_the_pass(command, tmp_path, monkeypatch, output):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "classes.png").write_text("mine")
    monkeypatch.setattr("keras_distill.explaining.explain", lambda *_: pytest.fail("it ran"))
    done = command("student.keras", "teacher.keras", "rows.npz", "--output", output)
    assert done.exit_code == 2, done.output
    assert ("classes.png" if output == "own" else "is a file") in done.stderr
    assert (tmp_path / "own" / "classes.png").read_text() == "mine"


@pytest.mark.parametrize(
    ("data", "words"), [("absent.npz", "no data file at absent.npz"), ("rows.csv", "got rows.csv")]
)
def test_bad_data_is_one_line_and_writes_nothing(command, tmp_path, data, words):
    done = command("student.keras", "teacher.keras", data, "--output", "seen")
    assert done.exit_code == 2
    assert words in done.stderr
    assert "Traceback" not in done.output
    assert not (tmp_path / "seen").exists()
