"""Every notebook runs from top to bottom in smoke mode, and is committed without outputs."""

import importlib.util
import re
import runpy
import shlex
from pathlib import Path

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
RUN = runpy.run_path(str(ROOT / "notebooks" / "run.py"), run_name="run")
by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def test_they_are_numbered_without_a_gap():
    assert NOTEBOOKS
    numbers = [int(path.name[:2]) for path in NOTEBOOKS]
    assert numbers == list(range(1, len(NOTEBOOKS) + 1))


@by_name
def test_it_is_valid_and_without_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@by_name
def test_its_first_cell_says_what_to_expect(path):
    (first, *_) = read(path).cells
    for word in ("**You learn**", "**Takes**", "**Data**"):
        assert word in first.source


def test_the_page_lists_them_all():
    page = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    assert re.findall(r"\(\.\./notebooks/(\w+\.ipynb)\)", page) == [path.name for path in NOTEBOOKS]


@by_name
def test_what_it_points_to_is_there(path):
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    links = [path.parent / link for link in re.findall(r"\]\((?!https?:)([^)#]+)", text)]
    named = [ROOT / name for name in re.findall(r"(?:docs|benchmarks)/\w+\.(?:md|py)", text)]
    assert [place for place in (*links, *named) if not place.exists()] == []


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
    # The cell sets it.
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    return shell, asked


@pytest.mark.parametrize("source", ["git+https://host/owner/repository.git@v1", "file:///a/b.whl"])
def test_the_first_cell_installs_from_where_it_is_told(fresh_machine, source):
    shell, asked = fresh_machine
    (line,) = [one for one in install_cell().splitlines() if one.startswith("REPOSITORY")]
    shell.run_cell(install_cell().replace(line, f"REPOSITORY = {source!r}")).raise_error()
    (wanted,) = shlex.split(asked[0])[2:]
    requirement = Requirement(wanted)
    assert (requirement.name, requirement.extras) == ("keras_distill", {"demo"})
    assert requirement.url == source


def test_the_first_cell_asks_where_nobody_has_said(fresh_machine):
    shell, asked = fresh_machine
    with pytest.raises(ValueError, match="REPOSITORY"):
        shell.run_cell(install_cell()).raise_error()
    assert not asked


@pytest.mark.slow
@by_name
def test_it_runs(path):
    shown = [
        output
        for cell in RUN["executed"](path, smoke=True).cells
        for output in cell.get("outputs", ())
    ]
    for output in shown:
        text = output.get("text", "") + str(output.get("data", ""))
        assert "\x1b" not in text, "escape codes are for terminals"
        # A cell prints text, draws, or ends in a record: rich has shown nothing itself.
        assert output.output_type in ("stream", "execute_result") or "image/png" in output.data
    assert any("image/png" in output.get("data", ()) for output in shown)


def cell_of(source, folder, name="01_cell.ipynb"):
    path = folder / name
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), path)
    return path


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    """The command's `main`, on notebooks that a test puts into this folder."""
    monkeypatch.setitem(RUN["notebooks"].__globals__, "HERE", tmp_path)
    return RUN["main"]


def test_the_command_keeps_what_was_run(in_folder, tmp_path):
    # The folder that a cell runs in is no one's business.
    names = "os.environ['KERAS_DISTILL_SMOKE'], os.listdir(), os.path.abspath('cache')"
    path = cell_of(f"import os\nprint({names})", tmp_path)
    before = path.read_bytes()
    assert in_folder(["01", "--smoke", "--output", str(tmp_path / "out")]) == 0
    (file,) = (tmp_path / "out").iterdir()
    (cell,) = read(file).cells
    assert (cell.outputs[0].text, cell.metadata) == ("1 [] cache\n", {})
    assert path.read_bytes() == before


def test_a_notebook_that_fails_leaves_its_last_outputs_and_the_others(in_folder, tmp_path, capsys):
    cell_of("raise RuntimeError('no more')", tmp_path)
    cell_of("1", tmp_path, "02_other.ipynb")
    kept = tmp_path / "out" / "01_cell.ipynb"
    kept.parent.mkdir()
    kept.write_text("as it was", encoding="utf-8")
    assert in_folder(["--output", str(kept.parent)]) == 1
    assert "no more" in capsys.readouterr().err
    assert kept.read_text(encoding="utf-8") == "as it was"
    assert [file.name for file in sorted(kept.parent.iterdir())] == [kept.name, "02_other.ipynb"]


def test_a_name_that_is_none_is_refused(in_folder, tmp_path):
    cell_of("1", tmp_path)
    with pytest.raises(SystemExit, match="01_cell"):
        in_folder(["03"])


def test_an_output_names_no_folder_of_the_machine():
    said = "/opt/env/lib/python3.11/site-packages/keras/layer.py:7: UserWarning: in /tmp/run/cache"
    output = nbformat.from_dict({"output_type": "stream", "name": "stderr", "text": said})
    kept = RUN["without_folder"](output, "/tmp/run")
    assert kept.text == "keras/layer.py:7: UserWarning: in cache"
    # What stands in the line before is no part of the path, and a picture has none.
    data = {"text/plain": f"first\n{said}", "image/png": "iV/site-packages/Bo"}
    kept = RUN["without_folder"](nbformat.from_dict({"data": data, "count": 1}), "/tmp/run")
    assert kept.data["text/plain"] == "first\nkeras/layer.py:7: UserWarning: in cache"
    assert (kept.data["image/png"], kept["count"]) == ("iV/site-packages/Bo", 1)


def test_tensorflows_start_is_no_output():
    stream = {"output_type": "stream", "name": "stderr"}
    ours = "UserWarning: I am one of ours"
    lines = [
        "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
        "I0000 00:00:1796097062.140733   30969 port.cc:153] oneDNN custom operations are on.",
        "2025-07-01 10:00:00.000000: I tensorflow/core/util/port.cc:153] oneDNN",
        "To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow",
        ours,
    ]
    strip = RUN["without_start_up"]
    assert strip(nbformat.from_dict({**stream, "text": "\n".join(lines)})).text == ours
    assert strip(nbformat.from_dict({**stream, "text": "\n".join(lines[:-1])})) is None
    said = nbformat.from_dict({**stream, "name": "stdout", "text": lines[1]})
    assert strip(said).text == lines[1]
