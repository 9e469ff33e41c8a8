"""A run that is stopped anywhere ends as one that was not, and what changes runs again alone."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from keras_distill import _files
from keras_distill.pipeline.recipes import Recipe
from keras_distill.pipeline.runs.run import Run
from keras_distill.pipeline.runs.workshop import Workshop
from keras_distill.training.stages import UsageError

EPOCHS = 3
BATCHES = 4  # of 32 among 128 rows


class StopError(Exception):
    """What ends a run in a test."""


def recipe(**changes):
    """Dropout in the teacher, a cosine, an optimiser with momenta, a projection in the student."""
    values = {
        "name": "small",
        "data": {"set": "digits", "rows": 128, "labels": 0.5},
        "models": {
            "teacher": {"build": "mlp", "arguments": {"width": 16, "dropout": 0.3}},
            "student": {"build": "mlp", "arguments": {"width": 8, "depth": 1}},
        },
        "stages": [
            {"stage": "train", "model": "teacher", "labels": "all"},
            {"stage": "train", "name": "twin", "into": "twin"},
            {
                "stage": "distil",
                "objectives": [
                    "SoftTargets",
                    {"objective": "FeatureHint", "student": "dense0", "teacher": "dense1"},
                ],
                "label_weight": {"schedule": "Linear", "start": 0.5, "end": 0.1, "steps": 8},
                "augment": {"noise": 0.1},
            },
            {"stage": "prune", "name": "sparse", "sparsity": 0.5},
        ],
    }
    for stage in values["stages"]:
        stage |= {"epochs": EPOCHS, "batch_size": 32, "learning_rate": 0.01}
    for place, value in changes.items():
        *parts, last = place.split("__")
        found = values
        for part in parts:
            found = found[int(part) if part.isdigit() else part]
        found[last] = value
    return Recipe.model_validate(values)


def go(folder, of=None, heard=None, until=None):
    """Run, and say why each stage ran."""
    run = Run(Workshop(of or recipe(), folder, Path.cwd()), "keras-distill run small.yaml")
    with run.opened():
        return {done.step.title: done.why for done in run.go(until, heard)}


def models(folder):
    """Every file that stages left, by its digest."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for stage in STAGES
        for file in sorted((folder / stage).iterdir())
    }


STAGES = ("train-teacher", "twin", "distil-student", "sparse")


def left(folder):
    return {file.name for file in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert list(go(folder)) == list(STAGES)
    return folder


@pytest.mark.slow
def test_a_run_stopped_again_and_again_ends_with_the_same_bytes(whole, tmp_path):
    begun = []
    # Within the first epoch, at an epoch's last batch, in the midst of each stage, at the very end.
    for batches in (2, BATCHES, BATCHES + 1, 9, 9, 2 * EPOCHS * BATCHES, None):
        heard = []

        def stop(done, total, last, heard=heard, batches=batches):
            heard.append(done)
            if len(heard) == batches:
                raise StopError

        if batches is None:
            go(tmp_path / "run", heard=stop)
        else:
            with pytest.raises(StopError):
                go(tmp_path / "run", heard=stop)
        begun.append(heard[0])
    # Each went on from the last whole epoch.
    assert begun == [1, 1, 1, 5, 1, 9, 5]
    assert models(tmp_path / "run") == models(whole)
    assert left(tmp_path / "run") == {*STAGES, "run.json", "recipe.yaml", "logs"}


def test_the_log_has_a_line_an_epoch_though_one_was_stopped(tmp_path):
    def stop(done, total, last):
        if done == BATCHES + 1:
            raise StopError

    with pytest.raises(StopError):
        go(tmp_path, heard=stop)
    go(tmp_path, until="train-teacher")
    lines = (tmp_path / "logs" / "train-teacher.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
    history = json.loads((tmp_path / "train-teacher" / "history.json").read_text())
    assert [json.loads(line)["val_loss"] for line in lines] == history["val_loss"]


def test_a_second_call_runs_nothing(whole):
    before = models(whole)
    assert set(go(whole).values()) == {None}
    assert models(whole) == before


@pytest.mark.slow
def test_a_changed_stage_and_what_stands_downstream_run_again_and_say_why(whole, tmp_path):
    folder, changed = copied(whole, tmp_path), recipe(stages__2__augment={"noise": 0.2})
    again = go(folder, changed)
    assert again == {
        **dict.fromkeys(STAGES),
        "distil-student": "augment.noise was 0.1 and is 0.2",
        "sparse": "distil-student has run again",
    }
    go(tmp_path / "fresh", changed)
    assert models(folder) == models(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"stages__3__sparsity": 0.25}, {"sparse": "sparsity was 0.5 and is 0.25"}),
        (
            {"models__teacher__arguments": {"width": 12}},
            {
                "train-teacher": "models.teacher.arguments.width was 16 and is 12",
                "distil-student": "train-teacher runs again",
                "sparse": "distil-student runs again",
            },
        ),
        ({"seed": 1}, dict.fromkeys(STAGES, "seed was 0 and is 1")),
        ({"data": {"set": "digits", "rows": 96}}, dict.fromkeys(STAGES, "the data are others")),
        ({"data__labels": 0.25}, dict.fromkeys(STAGES, "the data are others")),
    ],
)
def test_what_would_run_is_foreseen(whole, change, again):
    run = Run(Workshop(recipe(**change), whole, Path.cwd()), "")
    with run.read():
        found = {title: why for title, why in run.reasons().items() if why}
    assert found == again


def test_a_file_that_was_changed_is_made_again(whole, tmp_path):
    folder = copied(whole, tmp_path)
    (folder / "twin" / "model.keras").write_bytes(b"nothing")
    found = go(folder)
    assert found == {**dict.fromkeys(STAGES), "twin": "its files are not as it left them"}
    assert models(folder) == models(whole)


def test_twin_and_student_begin_with_the_same_weights(tmp_path):
    shop = Workshop(recipe(), tmp_path, Path.cwd())
    first, second = (shop.begun("student").get_weights() for _ in range(2))
    other = Workshop(recipe(seed=1), tmp_path, Path.cwd()).begun("student").get_weights()
    assert all(map(np.array_equal, first, second))
    assert not np.array_equal(first[0], other[0])


def test_two_runs_in_one_folder_are_refused_by_name(tmp_path):
    tmp_path.joinpath("run").mkdir()
    with _files.held(tmp_path / "run"), pytest.raises(UsageError, match="another run is at work"):
        go(tmp_path / "run")


@pytest.mark.parametrize("name", ["recipe.yaml", "twin", "logs"])
def test_what_no_run_wrote_stays(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match="stays untouched"):
        go(tmp_path)
    assert left(tmp_path) == {name}


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2}', '{"format": 1, "stages": {"a": 1}}'])
def test_a_damaged_record_is_refused_in_a_line(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UsageError, match=r"run\.json must be the record of a run"):
        go(tmp_path)
    assert (tmp_path / "run.json").read_text() == text


def copied(source, target):
    """A run's folder of its own, by hard links but for what is written into."""
    folder = target / "copy"
    for file in source.rglob("*"):
        place = folder / file.relative_to(source)
        if file.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read_bytes())
    assert os.listdir(folder)
    return folder
