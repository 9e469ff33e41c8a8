"""The demo, which is the recipe tiny, as a user runs it: in a process, interrupted, run again."""

import json
import os
import re
import signal
import subprocess
import sysconfig
import time
from pathlib import Path

import pytest

from keras_distill.pipeline.recipes import load_recipe
from keras_distill.pipeline.reports.record import RunReport

pytestmark = pytest.mark.slow

SCRIPT = str(Path(sysconfig.get_path("scripts")) / "keras-distill")
STAGES = [stage.title for stage in load_recipe("tiny").stages]
REPORTS = {"report.html", "report.md", "report.json"}


def call(folder):
    return [SCRIPT, "demo", "--epochs", "2", "--seed", "0", "--output", str(folder)]


def demo(folder):
    return subprocess.run(
        call(folder), capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )


def finished(folder):
    record = folder / "run.json"
    return list(json.loads(record.read_text())["stages"]) if record.exists() else []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo") / "out"


@pytest.fixture(scope="module")
def interrupted(folder):
    """A run that gets Ctrl-C, as a terminal sends it, once the teacher is there."""
    process = subprocess.Popen(
        call(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while "train-teacher" not in finished(folder) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    model = folder / "train-teacher" / "model.keras"
    return process.returncode, stderr, model.stat().st_mtime_ns


@pytest.fixture(scope="module")
def resumed(interrupted, folder):
    return demo(folder)


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(interrupted, folder):
    status, stderr, _ = interrupted
    assert status == 130
    command = f"keras-distill demo --seed 0 --epochs 2 --output {folder}"
    said = f"What is finished stays. Go on with: {command}"
    assert stderr.split("\n") == ["", said, "", "Interrupted.", ""]


def test_the_next_run_goes_on(interrupted, resumed, folder):
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.splitlines()[0].endswith("(finished earlier)")
    assert (folder / "train-teacher" / "model.keras").stat().st_mtime_ns == interrupted[2]
    assert finished(folder) == STAGES


def test_only_our_own_words_reach_the_terminal(resumed):
    assert resumed.stderr == ""
    lines = resumed.stdout.splitlines()
    assert [line.split()[0] for line in lines[: len(STAGES)]] == STAGES
    assert not re.search(r"\b[IWE]0000\b|tensorflow/|INFO|WARNING", resumed.stdout)


def test_the_folder_holds_everything_and_nothing_else(resumed, folder):
    left = {path.name for path in folder.iterdir()}
    assert left == {*STAGES, *REPORTS, "run.json", "recipe.yaml", "logs"}
    report = RunReport.load(folder / "report.json")
    assert [row.name for row in report.rows] == [
        title for title in STAGES if not title.startswith("verify")
    ]
    for row in report.rows:
        files = [*(folder / row.name).glob("*.keras"), *(folder / row.name).glob("*.tflite")]
        assert [file.stat().st_size for file in files] == [row.bytes]
        assert row.litert_p50_ms > 0.0
        assert f"{100 * row.value:.1f} %" in resumed.stdout


def test_a_finished_demo_measures_nothing_again(resumed, folder):
    before = {name: (folder / name).stat().st_mtime_ns for name in REPORTS}
    again = demo(folder)
    assert again.returncode == 0
    assert {name: (folder / name).stat().st_mtime_ns for name in REPORTS} == before
    assert again.stdout.splitlines()[-8:] == resumed.stdout.splitlines()[-8:]


def test_an_unwritable_folder_is_found_before_any_training(tmp_path):
    (tmp_path / "file").write_text("mine")
    done = demo(tmp_path / "file" / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: the output folder")
    assert done.stdout == ""
    assert (tmp_path / "file").read_text() == "mine"
