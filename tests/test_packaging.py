"""Installing beside a TensorFlow keeps it: setup.py holds its minor version."""

import configparser
import importlib
import importlib.metadata
import os
import re
import runpy
from pathlib import Path

import pytest
import tensorflow as tf
from packaging.requirements import Requirement

import keras_distill
from keras_distill._extras import install_hint
from keras_distill.edge import legacy

ROOT = Path(__file__).parent.parent
SETUP = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")


def environment(folder, version):
    """A folder in which importlib.metadata finds that TensorFlow."""
    info = folder / f"tensorflow-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tensorflow\nVersion: {version}\n")
    return [str(folder)]


def names(lines):
    return {Requirement(line).name for line in lines}


@pytest.mark.parametrize(("version", "minor"), [("2.19.1", "2.19"), ("2.20.0", "2.20")])
def test_the_installed_minor_is_held(tmp_path, version, minor):
    found = SETUP["installed_tensorflow"](environment(tmp_path, version))
    lines, extras = SETUP["requirements"](found)
    assert f"tensorflow=={minor}.*" in lines
    assert f"tf_keras=={minor}.*" in extras["test"]
    static, static_extras = SETUP["requirements"](None)
    for ours, theirs in ((lines, static), *((extras[e], static_extras[e]) for e in static_extras)):
        assert names(ours) == names(theirs)
        assert not any(line.startswith(("tensorflow>", "tf_keras>")) for line in ours)
    assert extras.keys() == static_extras.keys()


def test_without_a_tensorflow_the_range_stands(tmp_path):
    assert SETUP["installed_tensorflow"]([str(tmp_path)]) is None
    assert any(line.startswith("tensorflow>=") for line in SETUP["requirements"](None)[0])


def test_a_wheel_requires_nothing_that_pins_tensorflow():
    # tf_keras 2.x requires tensorflow 2.x: pip takes the newest, and TensorFlow with it.
    lines, extras = SETUP["requirements"](None)
    assert "tf_keras" not in names(lines)
    assert [e for e in extras if "tf_keras" in names(extras[e])] == ["test"]


def test_who_needs_tf_keras_is_told_the_one_that_leaves_tensorflow_alone(monkeypatch):
    there = importlib.import_module

    def missing(name, package=None):
        if name != "tensorflow_model_optimization":
            return there(name, package)
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    monkeypatch.setattr(tf, "__version__", "2.19.1")
    with pytest.raises(
        ModuleNotFoundError, match=r'pip install "tf_keras==2\.19\.\*" "tensorflow-mo'
    ):
        legacy.tfmot.__wrapped__()


def test_a_tensorflow_out_of_range_is_not_replaced(tmp_path):
    found = SETUP["installed_tensorflow"](environment(tmp_path, "2.16.2"))
    with pytest.raises(SystemExit, match=r"TensorFlow 2\.16\.2 is installed here"):
        SETUP["requirements"](found)


def test_both_files_know_the_same_range():
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    oldest, newest = (tuple(map(int, SETUP["SUPPORTED"][i].split("."))) for i in (0, -1))
    line = f"tensorflow>={oldest[0]}.{oldest[1]},<{newest[0]}.{newest[1] + 1}"
    assert line in config["options"]["install_requires"].split("\n")


def test_the_readme_prints_the_two_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in (
        'pip install -e ".[demo]" && keras-distill demo',
        'pip install -e ".[test]" && pytest -n auto --dist loadfile',
    ):
        assert text.count(f"\n    {command}\n") == 1


def test_one_version_everywhere():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["metadata"]["version"] == "attr: keras_distill.__version__"
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {keras_distill.__version__}\n" in cited
    assert importlib.metadata.version("keras_distill") == keras_distill.__version__


def test_what_the_workflow_runs_is_there():
    text = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    runs = re.findall(r"run: ((?:\.ci|scripts)/\S+)(?: (\S.*))?", text)
    scripts = [".ci/run", "scripts/test_range.sh", "scripts/test_wheel.sh"]
    assert [script for script, _ in runs] == scripts
    assert all(os.access(ROOT / script, os.X_OK) for script, _ in runs)
    minors = set(re.findall(r'tensorflow: "([\d.]+)"', text))
    assert minors == {SETUP["SUPPORTED"][0], SETUP["SUPPORTED"][-1]}


@pytest.mark.parametrize("extra", ["demo", "notebooks", "ray"])
def test_a_hint_names_what_the_index_has(extra):
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    asked = config["options.extras_require"][extra].split()
    told = install_hint(extra).removeprefix("pip install ").split()
    assert {str(Requirement(word.strip('"'))) for word in told} == {
        str(Requirement(line)) for line in asked
    }


def test_the_hint_of_a_checkout_that_is_not_installed(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    assert install_hint("demo").startswith('pip install -e ".[demo]"')


def test_nothing_asks_the_index_for_this_package():
    files = [ROOT / "README.md", ROOT / "keras_distill_cli.py"]
    for folder in ("keras_distill", "docs", "notebooks", "benchmarks"):
        files += [
            path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", ".ipynb")
        ]
    for path in files:
        text = path.read_text(encoding="utf-8").replace("\\", "")
        for quote in ('"', "'", "`", " "):
            assert f"install {quote}keras_distill[" not in text, path
            assert f"install {quote}keras-distill" not in text, path
