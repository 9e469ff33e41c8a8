"""The demo as a user runs it: in a process, interrupted, resumed, run again."""

import json
import os
import re
import signal
import subprocess
import sysconfig
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = str(Path(sysconfig.get_path("scripts")) / "keras-distill")
STAGES = ["teacher", "baseline", "distilled", "float32 file", "int8 file", "report"]
FILES = {
    "teacher.keras",
    "baseline.keras",
    "distilled.keras",
    "distilled_float32.tflite",
    "distilled_int8.tflite",
    "report.json",
    "training_curves.png",
    "accuracy_against_size.png",
}


def demo(folder, *arguments):
    return subprocess.run(
        [SCRIPT, "demo", "--epochs", "2", "--output", str(folder), *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def finished(folder):
    record = folder / "stages.json"
    return list(json.loads(record.read_text())["finished"]) if record.exists() else []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo") / "out"


@pytest.fixture(scope="module")
def interrupted(folder):
    """A run that gets Ctrl-C, as a terminal sends it, once the teacher is there."""
    process = subprocess.Popen(
        [SCRIPT, "demo", "--epochs", "2", "--output", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while "teacher" not in finished(folder) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, stderr, (folder / "teacher.keras").stat().st_mtime_ns


@pytest.fixture(scope="module")
def resumed(interrupted, folder):
    return demo(folder)


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(interrupted, folder):
    status, stdout, stderr, _ = interrupted
    assert (status, stderr) == (130, "")
    assert f"Finished and kept in {folder}: teacher" in stdout
    command = "keras-distill demo --dataset digits --seed 0 --epochs 2 --labels 0.1"
    assert f"Go on with: {command} --output {folder}\n" in stdout


def test_the_next_run_goes_on(interrupted, resumed, folder):
    assert resumed.returncode == 0, resumed.stderr
    assert "(finished earlier)" in resumed.stdout.splitlines()[0]
    assert (folder / "teacher.keras").stat().st_mtime_ns == interrupted[3]
    assert finished(folder) == STAGES


def test_only_our_own_words_reach_the_terminal(resumed):
    assert resumed.stderr == ""
    lines = resumed.stdout.splitlines()
    assert [line[:12].strip() for line in lines[:6]] == STAGES
    assert not re.search(r"\b[IWE]0000\b|tensorflow/|INFO|WARNING", resumed.stdout)


def test_the_folder_holds_everything(resumed, folder):
    assert {path.name for path in folder.iterdir()} >= FILES
    report = json.loads((folder / "report.json").read_text())
    assert [result["name"] for result in report["results"]] == [
        "teacher",
        "baseline",
        "distilled",
        "float32 file",
        "int8 file",
    ]
    for result in report["results"]:
        assert result["bytes"] == (folder / result["file"]).stat().st_size
        assert 0.0 <= result["accuracy"] <= 1.0
        assert result["latency_p50_ms"] > 0.0
        assert f"{result['accuracy']:.1%}" in resumed.stdout


def test_another_seed_needs_another_folder(resumed, folder):
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    done = demo(folder, "--seed", "1")
    assert done.returncode == 2
    assert "seed 0 there, 1 now" in done.stderr
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_an_unwritable_folder_is_found_before_any_training(tmp_path):
    (tmp_path / "file").write_text("mine")
    done = demo(tmp_path / "file" / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: the output folder")
    assert done.stdout == ""
    assert (tmp_path / "file").read_text() == "mine"
