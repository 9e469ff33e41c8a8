"""The command itself: killed, gone on with, and its recipes run."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import optuna
import pytest
from typer.testing import CliRunner

from keras_distill.cli import app
from keras_distill.litert.runner import load_tflite
from keras_distill.pipeline.recipes.reading import load_recipe
from keras_distill.pipeline.runs.examples import load_examples

TEXT = """\
name: small
data: {set: digits}
models:
  teacher: {build: mlp, arguments: {width: 16}}
  student: {build: mlp, arguments: {width: 8, depth: 1}}
stages:
  - {stage: train, model: teacher, labels: all, epochs: 9}
  - {stage: train, name: twin, into: twin, epochs: 9}
  - {stage: distil, epochs: 9}
  - {stage: export}
  - {stage: verify}
smoke: {rows: 128, epochs: 3}
"""
COMMAND = [sys.executable, "-c", "import keras_distill_cli; keras_distill_cli.main()"]


def tune(*options):
    return [*COMMAND, "tune", "small.yaml", "--output", "found", "--smoke", *options]


def trials(folder):
    storage = f"sqlite:///{folder / 'found' / 'study.db'}"
    return optuna.load_study(storage=storage, study_name="small").trials


def states(folder):
    try:
        return [trial.state.name for trial in trials(folder)]
    except Exception:  # not there yet, or half made
        return []


@pytest.mark.slow
def test_killed_it_goes_on_and_its_recipes_give_its_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(TEXT)
    process = subprocess.Popen(tune("--trials", "3"), stdout=subprocess.DEVNULL)
    while states(tmp_path) != ["COMPLETE", "RUNNING"] and process.poll() is None:
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    first, second = trials(tmp_path)
    assert second.state.name == "RUNNING"
    done = subprocess.run(tune("--trials", "3"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 unfinished trial(s) of an earlier call begin again." in done.stdout
    found = trials(tmp_path)
    assert [one.state.name for one in found] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    # The finished trial is as it was; the killed one's values are tried once, not lost.
    assert found[0].datetime_complete == first.datetime_complete
    assert found[2].params == second.params
    assert len({json.dumps(one.params) for one in found if one.values}) == 3
    record = json.loads((tmp_path / "found" / "tune.json").read_text())
    assert [point["trial"] for point in record["points"]] == [0, 2, 3]

    # The teacher was trained once: all trials have the same file.
    teachers = list((tmp_path / "found").glob("trials/*/train-teacher/model.keras"))
    assert len(teachers) == 3
    assert len({teacher.stat().st_ino for teacher in teachers}) == 1
    assert not list((tmp_path / "found").glob("trials/*/twin"))

    on_front = [point for point in record["points"] if point["on_front"]]
    number = on_front[0]["trial"]
    head = (tmp_path / "found" / "pareto" / f"{number}.yaml").read_text().splitlines()[1]
    assert head == f"# keras-distill run found/pareto/{number}.yaml --data-folder . --smoke"
    again = [*COMMAND, *head.split()[2:], "--until", "export-student-int8", "--output", "again"]
    assert subprocess.run(again, capture_output=True).returncode == 0
    (file,) = (tmp_path / "again").rglob("*.tflite")
    content = file.read_bytes()
    assert content in [one.read_bytes() for one in (tmp_path / "found").rglob("*.tflite")]
    assert len(content) == on_front[0]["bytes"]
    recipe = load_recipe(tmp_path / "small.yaml").for_smoke()
    examples = load_examples(recipe.data, 0, tmp_path)
    for part, key in ((examples.validation, "validation"), (examples.test, "test")):
        answers = load_tflite(file).predict(part.x)
        accuracy = np.mean(answers.argmax(-1) == part.y)
        assert on_front[0][f"quality_{key}"] == pytest.approx(accuracy)

    # What is finished is only looked at.
    least = min(point["bytes"] for point in record["points"])
    for budget, status in ((least, 0), (least - 1, 1)):
        options = ("--trials", "3", "--budget-bytes", str(budget))
        assert subprocess.run(tune(*options), capture_output=True).returncode == status
        assert (tmp_path / "found" / "best.yaml").exists() == (status == 0)
    assert len(trials(tmp_path)) == 4


def test_a_second_search_in_the_folder_is_refused(tmp_path, monkeypatch):
    from keras_distill import _files

    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(TEXT)
    (tmp_path / "found").mkdir()
    with _files.held(tmp_path / "found"):
        done = CliRunner().invoke(app, ["tune", "small.yaml", "--output", "found"])
    assert done.exit_code == 2
    assert "another tune is at work in found: wait for it" in done.output
    assert "same --storage" in done.output


def test_ctrl_c_ends_in_words_and_the_trial_is_asked_for_again(tmp_path, monkeypatch):
    from keras_distill.pipeline.tuning.trial import Trials

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Trials, "file", interrupted)
    (tmp_path / "small.yaml").write_text(TEXT)
    options = ["--output", "found", "--trials", "2", "--smoke"]
    options += ["--storage", "sqlite:///found/of us.db"]
    done = CliRunner().invoke(app, ["tune", "small.yaml", *options])
    assert done.exit_code == 130
    words = "Finished trials stay. Go on with: keras-distill tune small.yaml --smoke --output found"
    assert f"{words} --trials 2 --storage 'sqlite:///found/of us.db' --seed 0" in done.output
    study = optuna.load_study(storage="sqlite:///found/of us.db", study_name="small")
    assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]


def test_a_recipe_that_does_not_run_ends_the_search(tmp_path, monkeypatch):
    from keras_distill.pipeline.tuning.trial import Trials
    from keras_distill.training.stages import UsageError

    def failed(*arguments):
        raise UsageError("it does not run")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Trials, "file", failed)
    (tmp_path / "small.yaml").write_text(TEXT)
    done = CliRunner().invoke(app, ["tune", "small.yaml", "--output", "found", "--smoke"])
    assert done.exit_code == 2
    assert "Error: it does not run" in done.output
