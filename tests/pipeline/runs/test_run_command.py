"""`keras-distill run`, `runs` and `recipe`, as a terminal calls them."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from keras_distill.cli import app
from keras_distill.pipeline.recipes import SHIPPED, load_recipe

RECIPE = """
name: little
data: {set: digits, rows: 64}
models:
  student: {build: mlp, arguments: {width: 8}}
stages:
  - {stage: train, epochs: 2, batch_size: 32}
  - {stage: train, name: on, epochs: 1}
"""


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "little.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(here):
    done = call("run", "little.yaml", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "2 x 2 batches" in done.output
    # 64 x 8 + 8, 8 x 8 + 8, 8 x 10 + 10.
    assert "682" in done.output
    assert [one.name for one in here.iterdir()] == ["little.yaml"]


def test_until_stops_and_the_next_call_goes_on(here):
    first = call("run", "little.yaml", "--until", "train-student")
    assert first.exit_code == 0, first.output
    record = json.loads(Path("runs/little/run.json").read_text())
    assert list(record["stages"]) == ["train-student"]
    assert record["command"] == "keras-distill run little.yaml --output runs/little"
    second = call("run", "little.yaml", "--until", "on")
    lines = second.output.splitlines()
    assert lines[0].startswith("train-student")
    assert lines[0].endswith("(finished earlier)")
    assert lines[1].startswith("on")
    assert "finished earlier" not in lines[1]
    # What the run wrote reads as the recipe that it ran.
    assert load_recipe("runs/little/recipe.yaml") == load_recipe("little.yaml")
    listed = call("runs")
    assert listed.exit_code == 0
    assert "little" in listed.output


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["run", "none.yaml"], "there is no recipe at none.yaml. Shipped ones"),
        (["run", "little.yaml", "--until", "train-studnet"], "Did you mean train-student?"),
        (["run", "little.yaml", "--data-folder", "x", "--until", "one"], "--until takes a stage"),
        (["runs", "nowhere"], "there is no run in nowhere"),
        (["recipe", "init", "tine"], "Did you mean tiny?"),
        (["recipe", "check", "little"], "there is no recipe at little"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_line(here, words, part):
    done = call(*words)
    assert done.exit_code == 2
    assert part in done.output
    assert done.output.count("\n") == 1
    assert not Path("runs").exists()


def test_init_check_and_show(here):
    assert all(name in call("recipe", "init").output for name in SHIPPED)
    begun = call("recipe", "init", "tiny", "--output", "mine.yaml")
    assert begun.exit_code == 0, begun.output
    assert load_recipe("mine.yaml") == load_recipe("tiny")
    again = call("recipe", "init", "tiny", "--output", "mine.yaml")
    assert (again.exit_code, "--overwrite" in again.output) == (2, True)
    checked = call("recipe", "check", "little.yaml")
    assert checked.exit_code == 0, checked.output
    assert "64 train, 32 validation, 32 test" in checked.output
    shown = yaml.safe_load(call("recipe", "show", "little.yaml").output)
    assert shown["stages"][0]["learning_rate"] == 1e-3


def test_a_module_runs_only_where_the_command_names_it(here, monkeypatch):
    monkeypatch.syspath_prepend(str(here))
    Path("of_mine.py").write_text(
        "import keras\nfrom pathlib import Path\nPath('ran').touch()\n"
        "def build(shape, units):\n"
        "    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(),"
        " keras.layers.Dense(units)])\n"
    )
    Path("own.yaml").write_text(
        RECIPE.replace("build: mlp, arguments: {width: 8}", "build: of_mine:build")
    )
    refused = call("recipe", "check", "own.yaml")
    assert refused.exit_code == 2
    assert "models.student.build: of_mine:build runs Python of yours" in refused.output
    assert not Path("ran").exists()
    assert call("recipe", "check", "own.yaml", "--import", "of_mine").exit_code == 0
    assert Path("ran").exists()
    Path("own.yaml").write_text(Path("own.yaml").read_text().replace(":build", ":biuld"))
    missing = call("recipe", "check", "own.yaml", "--import", "of_mine")
    assert (missing.exit_code, "of_mine has no function biuld" in missing.output) == (2, True)


@pytest.mark.parametrize(
    ("arrays", "augment", "words"),
    [
        ({"y": np.eye(3, dtype=int)[np.arange(60) % 3]}, "", "give y.argmax"),
        ({"y": np.arange(60) % 3 - 1}, "", "class numbers begin at 0"),
        ({"x": np.where(np.arange(240) == 9, np.nan, 1.0).reshape(60, 4)}, "", "is no number"),
        ({}, "flip: true", "are for images"),
        ({}, "mixup: 1.0", "is for classes under a teacher"),
        ({"x": np.ones((60, 4), int)}, "noise: 0.1", "inputs in a float type"),
    ],
)
def test_data_that_do_not_fit_are_refused_before_any_training(here, arrays, augment, words):
    np.savez("a.npz", **{"x": np.ones((60, 4)), "y": np.arange(60) % 3} | arrays)
    recipe = RECIPE.replace("{set: digits, rows: 64}", "{npz: a.npz}")
    Path("own.yaml").write_text(recipe.replace("epochs: 2,", f"epochs: 2, augment: {{{augment}}},"))
    done = call("run", "own.yaml")
    assert done.exit_code == 2
    assert words in done.output
    assert not Path("runs/own/train-student").exists()
