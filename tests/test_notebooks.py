"""Every notebook runs from top to bottom in smoke mode, and is committed without outputs."""

import importlib.util
import shlex
from pathlib import Path

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient
from packaging.requirements import Requirement

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def read(path):
    return nbformat.read(path, as_version=4)


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_valid_and_without_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def install_cell():
    (source,) = {read(path).cells[1].source for path in NOTEBOOKS}
    return source


@pytest.fixture
def fresh_machine(monkeypatch):
    """A notebook where keras_distill is not installed, and what it asks pip for."""
    asked = []
    shell = InteractiveShell()
    shell.register_magic_function(asked.append, magic_name="pip")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    return shell, asked


@pytest.mark.parametrize("source", ["git+https://host/owner/repository.git@v1", "file:///a/b.whl"])
def test_the_first_cell_installs_from_where_it_is_told(fresh_machine, source):
    shell, asked = fresh_machine
    (line,) = [one for one in install_cell().splitlines() if one.startswith("SOURCE")]
    shell.run_cell(install_cell().replace(line, f"SOURCE = {source!r}")).raise_error()
    (wanted,) = shlex.split(asked[0])[2:]
    requirement = Requirement(wanted)
    assert (requirement.name, requirement.extras) == ("keras_distill", {"demo"})
    assert requirement.url == source


def test_the_first_cell_asks_where_nobody_has_said(fresh_machine):
    shell, asked = fresh_machine
    with pytest.raises(ValueError, match="SOURCE"):
        shell.run_cell(install_cell()).raise_error()
    assert not asked


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_DISTILL_SMOKE", "1")
    client = NotebookClient(
        read(path),
        timeout=240,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    for cell in client.execute().cells:
        for output in cell.get("outputs", ()):
            shown = output.get("text", "") + str(output.get("data", ""))
            assert "\x1b" not in shown, "escape codes are for terminals"
            # A cell prints text, or ends in a record or a string: rich has shown nothing itself.
            assert output.output_type in ("stream", "execute_result")
