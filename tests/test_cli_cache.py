"""The commands `keras-distill cache`: whole builds from files, exit statuses, what is refused."""

import json
import os
import pickle
import re
import shlex
from pathlib import Path

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

import keras_distill as kd
from keras_distill.cli import app
from keras_distill.teachers.cache import building

SMALL = ("--batch-size", 8, "--shard-examples", 16)
VICTIM = "epoch0000-shard000002.npy"


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return rng.standard_normal((70, 5)).astype("float32"), rng.integers(0, 4, 70)


@pytest.fixture(scope="module")
def files(arrays, tmp_path_factory):
    """A teacher, another one, data, and data that is none."""
    folder = tmp_path_factory.mktemp("files")
    keras.utils.set_random_seed(7)
    for name in ("teacher", "other"):
        hidden = keras.layers.Dense(6, activation="tanh", name="hidden")
        model = keras.Sequential([keras.Input((5,)), hidden, keras.layers.Dense(4)])
        model.save(folder / f"{name}.keras")
    x, y = arrays
    np.savez(folder / "data.npz", x=x, y=y)
    np.savez(folder / "objects.npz", x=np.array([{"a": 1}], dtype=object))
    (folder / "pickled.npz").write_bytes(pickle.dumps({"x": 1}))
    (folder / "notes.txt").write_text("no data")
    return folder


@pytest.fixture
def command(files, tmp_path, monkeypatch):
    """Runs `cache ...` in this process, in a folder of its own that holds the files."""
    for path in files.iterdir():
        os.symlink(path, tmp_path / path.name)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        return CliRunner().invoke(app, ["cache", *map(str, arguments)])

    return run


@pytest.fixture
def build(command):
    def run(directory, *arguments):
        return command("build", "teacher.keras", "data.npz", directory, *SMALL, *arguments)

    return run


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_it_builds_what_the_function_builds(build, arrays, tmp_path):
    stored = ("--top-k", 2, "--dtype", "float32", "--layer", "hidden", "--layer-dtype", "int8")
    done = build("c", *stored)
    assert done.exit_code == 0, done.output
    model = keras.saving.load_model("teacher.keras", compile=False)
    kd.TeacherCache.build(
        *(model, arrays, "expected"),
        **{"batch_size": 8, "shard_examples": 16, "top_k": 2, "dtype": "float32"},
        **{"layers": ["hidden"], "layer_dtype": "int8", "verbose": False},
    )
    assert content(tmp_path / "c") == content(tmp_path / "expected")
    assert "the 2 largest logits, float32" in done.stdout


def test_info_says_what_is_there(command, build, tmp_path):
    build("c", "--top-k", 2)
    done = command("info", "c")
    assert done.exit_code == 0
    rows = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    rows = {name: value.strip() for name, value in rows.items()}
    size = sum(path.stat().st_size for path in (tmp_path / "c").iterdir())
    assert rows["examples"] == "70"
    assert rows["shards"] == "5 of 5"
    assert rows["bytes an example"] == f"{size / 70:.2f}"
    assert len(rows["teacher weights"]) == 32
    (tmp_path / "c" / VICTIM).unlink()
    assert json.loads(command("info", "c", "--json").stdout)["shards_whole"] == 4


def test_verify_names_damage_and_repair_makes_that_shard_alone(command, build, tmp_path):
    build("c")
    assert command("verify", "c").exit_code == 0
    whole, path = content(tmp_path / "c"), tmp_path / "c" / VICTIM
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    done = command("verify", "c")
    assert done.exit_code == 1
    assert f"damaged: {VICTIM}" in done.stdout
    again = ("verify", "c", "--repair", "--data", "data.npz", "--teacher")
    refused = command(*again, "other.keras")
    assert refused.exit_code == 2
    assert "teacher weights" in refused.stderr
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "c").glob("*.npy")}
    assert command(*again, "teacher.keras").exit_code == 0
    assert content(tmp_path / "c") == whole
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "c").glob("*.npy")}
    assert [name for name in before if before[name] != after[name]] == [VICTIM]


def test_what_is_missing_fails_and_is_not_called_damaged(command, build, tmp_path):
    build("c")
    (tmp_path / "c" / VICTIM).unlink()
    done = command("verify", "c", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["missing"] == [VICTIM]
    assert json.loads(done.stdout)["damaged"] == {}


def test_parts_are_merged_to_the_same_bytes(command, build, tmp_path):
    build("whole")
    for part in range(2):
        done = build(f"part{part}", "--shard", f"{part}/2")
        assert done.exit_code == 0, done.output
    done = command("merge", "c", "part0")
    assert done.exit_code == 2
    assert "in none of the parts" in done.stderr
    assert not (tmp_path / "c").exists()
    assert command("merge", "c", "part0", "part1").exit_code == 0
    assert content(tmp_path / "c") == content(tmp_path / "whole")


def test_ctrl_c_keeps_what_is_whole_and_says_the_command_that_goes_on(
    build, command, tmp_path, monkeypatch
):
    build("whole", "--layer", "hidden", "--store-inputs")
    real, seen = building.Builder._check_input, []

    def interrupted(self, epoch, at, found):
        seen.append(at)
        if len(seen) == 6:
            raise KeyboardInterrupt
        real(self, epoch, at, found)

    with monkeypatch.context() as patched:
        patched.setattr(building.Builder, "_check_input", interrupted)
        done = build("c", "--layer", "hidden", "--store-inputs")
    assert done.exit_code == 130
    assert "2 of 5 shards are whole in c." in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Go on with: ")]
    words = shlex.split(line.removeprefix("Go on with: "))
    assert words[1:3] == ["cache", "build"]
    assert command(*words[2:]).exit_code == 0
    assert content(tmp_path / "c") == content(tmp_path / "whole")


def test_bad_input_is_refused_and_nothing_is_overwritten(command, build, tmp_path):
    build("c")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    before = content(tmp_path / "c")
    start = ("build", "teacher.keras", "data.npz")
    refused = {
        "top_k: null in the cache, 2 now": (*start, "c", *SMALL, "--top-k", 2),
        "teacher weights:": ("build", "other.keras", "data.npz", "c", *SMALL),
        "holds something else (thesis.tex)": (*start, "thesis"),
        "number of classes, 4; got 5": (*start, "d", "--top-k", 5),
        "--shard takes i/n": (*start, "d", "--shard", "2/2"),
        "dtype must be one of": (*start, "d", "--dtype", "int4"),
        "no model at nowhere.keras": ("build", "nowhere.keras", "data.npz", "d"),
        "must be a .npz": ("build", "teacher.keras", "notes.txt", "d"),
        "is no .npz of plain arrays": ("build", "teacher.keras", "objects.npz", "d"),
        "pickled.npz is no .npz": ("build", "teacher.keras", "pickled.npz", "d"),
        "holds no teacher cache": ("info", "thesis"),
        "has no manifest.json": ("verify", "thesis"),
        "asks the teacher again": ("verify", "c", "--repair"),
        "are for --repair": ("verify", "c", "--data", "data.npz"),
    }
    for words, arguments in refused.items():
        done = command(*arguments)
        assert done.exit_code == 2, (arguments, done.output)
        assert words in done.stderr, done.stderr
    assert content(tmp_path / "c") == before
    assert content(tmp_path / "thesis") == {"thesis.tex": b"years of work"}
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"epochs": -1}', "{}"], ids=["deep", "forged", "empty"]
)
def test_a_hostile_manifest_is_bad_input(build, command, tmp_path, content):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "manifest.json").write_text(content)
    for done in (
        build("c"),
        command("info", "c"),
        command("verify", "c"),
        command("merge", "m", "c"),
    ):
        assert done.exit_code == 2, done.output
        assert "no manifest of a teacher cache" in " ".join(done.output.split())


DOCS = Path(__file__).parent.parent / "docs" / "cache.md"


@pytest.fixture
def reader(digits, small_cnn, tmp_path, monkeypatch):
    """A folder, and the names that the page takes as given."""
    monkeypatch.chdir(tmp_path)
    teacher, student = small_cnn(8, seed=0), small_cnn(4, seed=1)
    teacher.save("TEACHER.keras")
    x, y = digits.x_train[:512], digits.y_train[:512]
    np.savez("DATA.npz", x=x, y=y)
    return {"teacher": teacher, "student": student, "x": x, "y": y}


@pytest.mark.slow
def test_the_page_runs_from_top_to_bottom(reader):
    blocks = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.M | re.S)
    run = [block for block in blocks if "import ray" not in block]
    assert len(run) == len(blocks) - 1 > 5
    # One file, as a reader would have it: augment's source is read for its fingerprint.
    page = Path("page.py")
    page.write_text("\n\n".join(run))
    exec(compile(page.read_text(), str(page.absolute()), "exec"), reader)
    assert reader["report"].passed


def test_the_commands_of_the_page_run(reader):
    text = DOCS.read_text(encoding="utf-8")
    lines = [line.split() for line in re.findall(r"^    keras-distill (.*)$", text, re.M)]
    assert [line[1] for line in lines] == [
        *("build", "info", "verify", "verify", "build", "build", "merge")
    ]
    # The page's data are of many shards; these of two.
    small = ["--batch-size", "64", "--shard-examples", "256"]
    for line in lines:
        done = CliRunner().invoke(app, line + (small if line[1] == "build" else []))
        assert done.exit_code == 0, (line, done.output)
