"""Every example runs, in its smoke mode, in a process of its own; its head says what it says."""

import ast
import os
import re
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


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs_and_prints_its_table(path, tmp_path, of_another):
    for name in CACHES:
        shutil.copytree(of_another, tmp_path / "out" / name)
    # Neither the checkout nor the working directory is on a user's path.
    done = subprocess.run(
        [sys.executable, str(path), "--smoke", "--output", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "KERAS_DISTILL_LOGS": ""},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.strip().splitlines()
    assert lines[0].startswith("| 1 seed")
    assert any("int8" in line for line in lines)
    kept = list((tmp_path / "out").iterdir())
    assert {".tflite", ".png"} <= {one.suffix for one in kept}
    # Another cache would be in the way of the next run with other settings.
    assert {one.name for one in kept if one.is_dir()} == set(CACHES)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_quietens_tensorflow_before_that_loads(path):
    imported = [
        getattr(node, "module", None) or node.names[0].name
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    (first, *_) = (one for one in imported if one.split(".")[0] not in sys.stdlib_module_names)
    assert first == "_shared"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
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
