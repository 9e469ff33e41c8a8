"""Processes of our own import nothing from the current folder, and end when their parent does."""

import ast
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import pytest

from keras_distill import _files, edge
from keras_distill.litert import converter, launch

ROOT = Path(__file__).parent.parent.parent
SOURCES = [*sorted((ROOT / "keras_distill").rglob("*.py")), ROOT / "keras_distill_cli.py"]
SHADOWS = ("json", "types", "numpy", "tensorflow", "keras", "sitecustomize", "runpy")


@pytest.fixture
def booby_trapped(tmp_path, monkeypatch):
    """The current folder, with modules of Python's and of the libraries' names."""
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text("open('imported', 'a').write(__name__ + ' ')\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("place", ["", ".", "absolute"])
def test_a_child_imports_nothing_from_the_current_folder(place, booby_trapped, monkeypatch):
    monkeypatch.syspath_prepend(str(booby_trapped) if place == "absolute" else place)
    monkeypatch.setenv("PYTHONPATH", place if place == "." else "")
    code = "import json, types, numpy, runpy, keras_distill_cli; print(json.__file__)"
    command = launch.command("-c", code)
    done = subprocess.run(command, env=launch.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (booby_trapped / "imported").exists()


@pytest.mark.slow
def test_an_export_imports_nothing_from_the_current_folder(booby_trapped):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    edge.export_tflite(model, booby_trapped / "small.tflite").path.stat()
    assert not (booby_trapped / "imported").exists()


def starts(source):
    """The lines that start a process, with whether they do it safely."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            if "multiprocessing" in names or getattr(node, "module", None) == "subprocess":
                yield node.lineno, False
        if isinstance(node, ast.Call):
            name, words = ast.unparse(node.func), ast.unparse(node)
            if name.startswith("subprocess."):
                safe = ("launch.command(", "sys.executable, '-I'")
                yield node.lineno, any(word in words for word in safe)
            if name.startswith(("os.exec", "os.spawn", "os.posix_spawn", "os.system", "os.popen")):
                yield node.lineno, False


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_process_is_started_by_the_one_command(path):
    assert all(safe for _, safe in starts(path.read_text("utf-8")))


def test_an_unsafe_start_is_noticed():
    for source in ("subprocess.run([sys.executable, 'x.py'])", "from subprocess import Popen"):
        assert [safe for _, safe in starts(source)] == [False]
    assert "-P" in launch.command("x")


PARENT = """
import sys, threading
from keras_distill.litert import converter
request = {"saved_model": sys.argv[1], "output": "/dev/null", "precision": "int8"}
request["calibration"] = {}
thread = threading.Thread(target=converter.WORKER.ask, args=(request,))
(thread.start if sys.argv[2] == "thread" else thread.run)()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a pipe with a name, and SIGKILL")
@pytest.mark.parametrize("place", ["main", "thread"])
def test_the_converter_ends_with_its_parent(tmp_path, place):
    saved = tmp_path / "saved_model.pb"
    os.mkfifo(saved)
    parent = subprocess.Popen(
        launch.command("-c", PARENT, str(tmp_path), place),
        env=launch.environment(TF_CPP_MIN_LOG_LEVEL="3"),
    )
    # The worker opens the model, and waits for ever to read it.
    with os.fdopen(opened_when_read(saved), "wb") as pipe:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        readers = select.poll()
        readers.register(pipe, 0)
        assert [event for _, event in readers.poll(60_000)] == [select.POLLERR]


def opened_when_read(pipe):
    for _ in range(1200):
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # Nobody reads it yet.
            time.sleep(0.1)
    raise TimeoutError(f"Nobody has read {pipe}.")


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no locks there")
def test_what_killed_conversions_left_is_swept(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead = tmp_path / ".keras_distill_convert.abcdefgh.partial"
    others = [tmp_path / ".keras_distill_convert", tmp_path / ".somebody.abcdefgh.partial"]
    for folder in (dead, *others):
        (folder / "saved").mkdir(parents=True)
    with _files.scratch(tmp_path, "keras_distill_convert") as alive:
        with converter.temporary_folder() as folder:
            assert Path(folder).is_dir()
            assert alive.is_dir()
            assert not dead.exists()
        assert not Path(folder).exists()
    assert all(folder.is_dir() for folder in others)
