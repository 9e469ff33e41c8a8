"""Runs that begin with what others have finished: the engine itself says what stays."""

from pathlib import Path

import pytest

from keras_distill.pipeline.recipes import Recipe
from keras_distill.pipeline.runs.run import FRESH, Run
from keras_distill.pipeline.runs.workshop import Workshop
from keras_distill.pipeline.tuning.sharing import begin


def recipe(temperature=2.0, width=8, teacher=16):
    stages = [
        {"stage": "train", "model": "teacher", "labels": "all"},
        {"stage": "distil", "objectives": [{"objective": "SoftTargets"}]},
    ]
    stages[1]["objectives"][0]["temperature"] = temperature
    return Recipe.model_validate(
        {
            "name": "small",
            "data": {"set": "digits", "rows": 64},
            "models": {
                "teacher": {"build": "mlp", "arguments": {"width": teacher}},
                "student": {"build": "mlp", "arguments": {"width": width}},
            },
            "stages": [stage | {"epochs": 1, "batch_size": 32} for stage in stages],
        }
    )


def run_of(folder, of):
    return Run(Workshop(of, folder, Path.cwd()), "c")


def reasons_of(folder, of):
    with (run := run_of(folder, of)).read():
        return list(run.reasons().values())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder of runs, one of them whole."""
    folder = tmp_path_factory.mktemp("runs")
    with (run := run_of(folder / "first", recipe())).opened():
        list(run.go())
    return folder


def test_stages_that_other_values_do_not_reach_are_taken_over(finished, tmp_path):
    first = finished / "first"
    begin(tmp_path / "same", recipe(), [first])
    assert reasons_of(tmp_path / "same", recipe()) == [None, None]
    begin(tmp_path / "other", recipe(temperature=4.0), [first])
    assert reasons_of(tmp_path / "other", recipe(temperature=4.0)) == [None, FRESH]
    begin(tmp_path / "wide", recipe(width=9), [first])
    assert reasons_of(tmp_path / "wide", recipe(width=9)) == [None, FRESH]
    # Nothing is common where the teacher is another one.
    begin(tmp_path / "none", recipe(teacher=17), [first])
    assert not (tmp_path / "none").exists()


def test_each_stage_comes_from_whichever_run_has_it(finished, tmp_path):
    first, second = finished / "first", tmp_path / "second"
    other = recipe(temperature=4.0)
    begin(second, other, [first])
    with (run := run_of(second, other)).opened():
        ran = [done.step.title for done in run.go() if done.why is not None]
    assert ran == ["distil-student"]
    begin(tmp_path / "third", other, [first, second])
    assert reasons_of(tmp_path / "third", other) == [None, None]


def test_what_is_taken_over_is_not_changed_by_a_run_that_goes_on(finished, tmp_path):
    first = finished / "first"
    model = first / "train-teacher" / "model.keras"
    before = model.read_bytes(), (first / "run.json").read_bytes()
    wide = recipe(teacher=17)
    begin(tmp_path / "run", recipe(), [first])
    # The engine makes it again, in place of what it was given.
    with (run := run_of(tmp_path / "run", wide)).opened():
        assert all(done.why for done in run.go("train-teacher"))
    assert (model.read_bytes(), (first / "run.json").read_bytes()) == before


def test_what_is_damaged_is_done_again(finished, tmp_path):
    begin(tmp_path / "run", recipe(), [finished / "first", tmp_path / "no run"])
    model = tmp_path / "run" / "distil-student" / "model.keras"
    content = model.read_bytes()
    model.unlink()  # it is linked
    model.write_bytes(content[:-1])
    assert reasons_of(tmp_path / "run", recipe()) == [None, "its files are not as it left them"]
    begin(tmp_path / "run", recipe(), [finished / "first"])
    assert model.read_bytes() == content[:-1]
