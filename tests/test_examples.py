"""Every example runs in its smoke mode, quietly; its head says what it says."""

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_distill as kd

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if path.name[0] != "_")


# Where examples have kept what a teacher answered.
CACHES = ("cache0", "forest00", "forest010", "ensemble00", "ensemble010")


@pytest.fixture(scope="module")
def of_another(tmp_path_factory):
    """The cache of another teacher, as a run with other settings leaves it."""
    folder = tmp_path_factory.mktemp("other") / "cache"
    teacher = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    kd.TeacherCache.build(teacher, (np.zeros((4, 3), "f"), np.zeros(4)), folder, verbose=False)
    return folder


by_name = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)


def assert_made(table, folder):
    """The table and the files of a run, and nothing that a later one would stumble over."""
    first, *lines = table.splitlines()
    assert first.startswith("| 1 seed |")
    assert any("int8" in line for line in lines)
    kept = list(folder.iterdir())
    assert {".tflite", ".png"} <= {one.suffix for one in kept}
    # Another cache would be in the way of the next run with other settings.
    assert {one.name for one in kept if one.is_dir()} <= set(CACHES)


@pytest.mark.slow
@by_name
def test_it_runs_and_prints_its_table(path, tmp_path, of_another, monkeypatch, capsys):
    for name in CACHES:
        shutil.copytree(of_another, tmp_path / "out" / name)
    # In this process, which has TensorFlow loaded: twelve more would take minutes to load it.
    monkeypatch.setenv("KERAS_DISTILL_LOGS", "1")
    monkeypatch.syspath_prepend(path.parent)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [path.name, "--smoke", "--output", "out"])
    runpy.run_path(str(path), run_name="__main__")
    assert_made(capsys.readouterr().out, tmp_path / "out")


@pytest.mark.slow
def test_a_user_sees_the_table_alone(tmp_path):
    # Neither the checkout nor the working directory is on a user's path.
    (path,) = (path for path in EXAMPLES if path.stem == "breast_cancer")
    done = subprocess.run(
        [sys.executable, str(path), "--smoke", "--output", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "KERAS_DISTILL_LOGS": "", "TF_CPP_MIN_LOG_LEVEL": "0"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert_made(done.stdout, tmp_path / "out")


def test_neighbours_of_one_number_are_one_thing(monkeypatch):
    # As at int8, where a hill has a plateau.
    monkeypatch.setenv("KERAS_DISTILL_LOGS", "1")
    monkeypatch.syspath_prepend(ROOT / "examples")
    found = runpy.run_path(str(ROOT / "examples" / "driving.py"))["found"]
    heat = np.full((1, 12, 12, 4), -9.0, "float32")
    heat[0, 3:7, 5, 2] = (-3.0, 0.0, 0.0, -1.0)
    (best, second, *_) = found(heat, np.full((1, 12, 12, 4), 4 / 48, "float32"))
    # The cell in row 5: four pixels each way from its middle, which is at 5.5 cells of 4 pixels.
    assert (best["category_id"], best["bbox"]) == (2, pytest.approx([18, 18, 8, 8]))
    assert second["score"] < 0.01


@by_name
def test_it_quietens_tensorflow_before_that_loads(path):
    imported = [
        getattr(node, "module", None) or node.names[0].name
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    (first, *_) = (one for one in imported if one.split(".")[0] not in sys.stdlib_module_names)
    assert first == "_shared"


@by_name
def test_its_head_says_what_it_shows_needs_and_takes(path):
    text = path.read_text(encoding="utf-8")
    for word in ("Shows:", "Needs:", "Takes:", f"python examples/{path.name}"):
        assert word in text
    assert len(text.splitlines()) <= 160
    assert f"examples/{path.name}" in (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")


def test_the_page_names_no_example_that_is_not_there():
    page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\(\.\./examples/(\w+\.py)\)", page))
    assert named == {path.name for path in EXAMPLES}


def test_the_pages_summary_has_the_figures_of_the_tables_below():
    summary, *sections = (ROOT / "docs" / "examples.md").read_text("utf-8").split("\n## [")
    below = {section.split(".py]")[0]: section for section in sections}
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in summary.splitlines()
        if "±" in line
    ]
    assert {row[0] for row in rows} == {path.stem for path in EXAMPLES}
    for name, _, measure, twin, distilled, difference, file in rows:
        lines = below[name].splitlines()
        assert any(line.startswith("| ") and f" seeds | {measure} |" in line for line in lines)
        assert any(f"| {twin} |" in line for line in lines)
        assert any(f"| {distilled} ({difference}) |" in line for line in lines)
        assert any("int8" in line and f"| {file} (" in line for line in lines)
    gains = sum("gain" in row[5] for row in rows)
    assert (gains, len(rows)) == (11, 12)
    assert "Eleven of the twelve gain" in summary
