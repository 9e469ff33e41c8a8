"""Installing beside a TensorFlow keeps it: setup.py holds its minor version."""

import configparser
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SETUP = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")


def environment(folder, version):
    """A folder in which importlib.metadata finds that TensorFlow."""
    info = folder / f"tensorflow-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tensorflow\nVersion: {version}\n")
    return [str(folder)]


def names(lines):
    return {line.split(">")[0].split("=")[0] for line in lines}


@pytest.mark.parametrize(("version", "minor"), [("2.19.1", "2.19"), ("2.20.0", "2.20")])
def test_the_installed_minor_is_held(tmp_path, version, minor):
    found = SETUP["installed_tensorflow"](environment(tmp_path, version))
    lines = SETUP["requirements"](found)
    assert [f"tensorflow=={minor}.*", f"tf_keras=={minor}.*"] == lines[:2]
    assert not any(line.startswith(("tensorflow>", "tf_keras>")) for line in lines)
    assert names(lines) == names(SETUP["requirements"](None))
    assert len(lines) == len(SETUP["requirements"](None))


def test_without_a_tensorflow_the_range_stands(tmp_path):
    assert SETUP["installed_tensorflow"]([str(tmp_path)]) is None
    assert any(line.startswith("tensorflow>=") for line in SETUP["requirements"](None))


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
