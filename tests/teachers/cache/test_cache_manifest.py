"""The manifest: what may stand in one, and caches that an earlier version wrote."""

import json
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from saved import make
from stored import is_newer

import keras_distill as kd
from keras_distill.teachers import cache as package
from keras_distill.teachers.cache.manifest import digest_of

SMALL = {"batch_size": 8, "shard_examples": 8, "dtype": "float32", "verbose": False}


def doubled(x):
    return 2.0 * x


@pytest.fixture(scope="module")
def pairs():
    return np.arange(20, dtype="float32").reshape(10, 2), np.arange(10, dtype="int32") % 2


@pytest.fixture
def folder(tmp_path, pairs):
    kd.TeacherCache.build(doubled, pairs, tmp_path / "c", **SMALL)
    return tmp_path / "c"


def forge(folder, change):
    """A manifest that says something else, its checksum right."""
    body = json.loads((folder / "manifest.json").read_bytes())
    del body["checksum"]
    change(body)
    checksum = digest_of(json.dumps(body, sort_keys=True).encode())
    text = json.dumps({**body, "checksum": checksum}, indent=1, sort_keys=True)
    (folder / "manifest.json").write_text(f"{text}\n")


def head(**changes):
    return lambda body: body["layout"]["heads"][0].update(changes)


def layout(**changes):
    return lambda body: body["layout"].update(changes)


STORED = {"name": "y", "shape": [], "from_probabilities": False, "from_sigmoid": False}
FORGED = {
    "epochs -3": lambda body: body.update(epochs=-3),
    "epochs 0": lambda body: body.update(epochs=0),
    "epochs true": lambda body: body.update(epochs=True),
    "examples -10": lambda body: body.update(examples=-10),
    "examples 10.5": lambda body: body.update(examples=10.5),
    "shard_examples 0": lambda body: body.update(shard_examples=0),
    "shard_examples text": lambda body: body.update(shard_examples="8"),
    "batch_size -1": lambda body: body.update(batch_size=-1),
    "seed none": lambda body: body.update(seed=None),
    "ten million shards": lambda body: body.update(examples=10**7, shard_examples=1),
    "a billion views": lambda body: body.update(epochs=10**9),
    "version 99": lambda body: body.update(version=99),
    "no layout": lambda body: body.pop("layout"),
    "a list": lambda body: body.update(fingerprints=["a"]),
    "negative shape": head(shape=[-2]),
    "huge shape": head(shape=[2**40, 2**40]),
    "no shape": head(shape=None),
    "pointers": layout(inputs=[{**STORED, "dtype": "object"}]),
    "several": layout(inputs=[{**STORED, "dtype": "f4,f4"}]),
    "twice": layout(inputs=[{**STORED, "dtype": "int32"}] * 2),
    "top_k 3 of 2": layout(top_k=3),
    "top_k -1": layout(top_k=-1),
    "float99": layout(dtype="float99"),
    "no heads": layout(heads=[]),
    "unknown": layout(surprise=1),
}


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED.keys())
def test_a_forged_manifest_is_refused(folder, pairs, change):
    forge(folder, change)
    for use in (
        lambda: package.info(folder),
        lambda: package.verify(folder),
        lambda: kd.TeacherCache.open(folder, pairs),
        lambda: kd.TeacherCache.build(doubled, pairs, folder, **SMALL),
        lambda: kd.TeacherCache.merge([folder], folder.with_name("m")),
    ):
        with pytest.raises(ValueError, match=r"manifest\.json is no manifest of a teacher cache"):
            use()
    assert not folder.with_name("m").exists()


@pytest.mark.parametrize(
    "content",
    [b'{"a":' * 100_000, b"[" * 10**6, b'"' + b"a" * 2**23 + b'"', b"\xff\xfe", b"", b"[]", b"1"],
    ids=["deep", "deeper", "long", "binary", "empty", "list", "number"],
)
def test_what_is_no_manifest_is_refused(tmp_path, pairs, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ValueError, match="no manifest of a teacher cache"):
        kd.TeacherCache.open(tmp_path, pairs)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_no_manifest(tmp_path, pairs, make):
    make(tmp_path / "manifest.json")
    for use in (package.info, lambda f: kd.TeacherCache.build(doubled, pairs, f, **SMALL)):
        with pytest.raises(ValueError, match="it is no file"):
            use(tmp_path)


def test_as_many_shards_as_there_may_be_are_looked_through(folder):
    # Of a quarter of a million promised two are there: only those may cost anything.
    forge(folder, lambda body: body.update(examples=8 * 2**18))
    info, report = package.info(folder), package.verify(folder)
    assert (info.shards, info.shards_whole) == (2**18, 1)
    assert (len(report.missing), len(report.whole), report.passed) == (2**18 - 2, 1, False)
    assert list(report.damaged.values()) == ["it holds 2 records, not 8"]


def test_too_many_shards_are_refused_before_anything_is_written(tmp_path, pairs):
    views = {"augment": lambda x, seed: x, "epochs": 2**20}
    with pytest.raises(ValueError, match="larger shard_examples="):
        kd.TeacherCache.build(doubled, pairs, tmp_path / "c", **SMALL, **views)
    assert not (tmp_path / "c").exists()


def test_a_cache_of_version_1_is_read_and_not_built_on(tmp_path):
    folder, data = tmp_path / "c", (make.X, make.Y)
    shutil.copytree(Path(make.__file__).parent / "cache", folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    cache = kd.TeacherCache.open(folder, data)
    assert len(list(cache.dataset(12))) == 2
    assert cache.verify(inputs=True).passed
    assert kd.TeacherCache.merge([folder], tmp_path / "m").passed
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    file = Path(make.__file__).with_name("teacher.keras")
    if is_newer(file):
        pytest.skip("an earlier Keras does not load files of a later one")
    teacher = keras.saving.load_model(file)
    for use in (
        lambda: kd.TeacherCache.build(
            teacher, data, folder, top_k=2, layers=["pool"], verbose=False
        ),
        lambda: cache.rebuild(0, teacher=teacher),
    ):
        with pytest.raises(ValueError, match=r"earlier keras_distill .*TeacherCache\.open"):
            use()
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
