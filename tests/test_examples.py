"""Every example runs, in its smoke mode, in a process of its own; its head says what it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if path.name[0] != "_")


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs_and_prints_its_table(path, tmp_path):
    # Neither the checkout nor the working directory is on a user's path.
    done = subprocess.run(
        [sys.executable, str(path), "--smoke", "--output", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert lines[0].startswith("| 1 seed")
    assert any("int8" in line for line in lines)
    files = {file.suffix for file in (tmp_path / "out").iterdir()}
    assert {".tflite", ".png"} <= files


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
