"""Parts of a cache built as tasks of a local Ray of two workers."""

import functools
import json
import logging
import os
import re
import signal
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_distill as kd
from keras_distill.teachers.cache import cluster
from keras_distill.teachers.cache.cluster import build_on_ray

pytestmark = pytest.mark.slow

SMALL = {"batch_size": 8, "shard_examples": 16, "top_k": 2}


@pytest.fixture(scope="module")
def ray():
    found = pytest.importorskip("ray", reason="the extra [ray] is not installed")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # The workers import this file, for the data set below.
        patched.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        found.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        yield found
        found.shutdown()


@pytest.fixture
def files(teacher, data, tmp_path):
    """The teacher and the data as files."""
    teacher.save(tmp_path / "teacher.keras")
    np.savez(tmp_path / "data.npz", x=data[0], y=data[1], sample_weight=data[2])
    return tmp_path / "teacher.keras", tmp_path / "data.npz"


class Deadly(keras.utils.PyDataset):
    """Batches of 8; the process that first asks for batch 7 dies of it, with notes left behind."""

    def __init__(self, x, folder, notes):
        super().__init__()
        self.x, self.folder, self.notes = x, folder, notes

    def __len__(self):
        return -(-len(self.x) // 8)

    def __getitem__(self, index):
        if index == 7 and not self.notes.exists():
            # Batches are read ahead of the teacher: wait for the first shard.
            while not (finished := list(self.folder.glob("*.b2"))):
                time.sleep(0.01)
            self.notes.write_text(json.dumps({p.name: p.stat().st_mtime_ns for p in finished}))
            os.kill(os.getpid(), signal.SIGKILL)
        return (self.x[8 * index : 8 * index + 8],)


def test_two_workers_leave_the_bytes_that_one_process_leaves(
    ray, files, data, tmp_path, content, capsys
):
    model = keras.saving.load_model(files[0], compile=False)
    kd.TeacherCache.build(model, data, tmp_path / "one", verbose=False, **SMALL)
    report = build_on_ray(*files, tmp_path / "many", parts=2, **SMALL)
    assert report.passed
    assert capsys.readouterr().out.count("finished") == 2
    assert content(tmp_path / "many") == content(tmp_path / "one")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("data.npz", "many", "one", "teacher.keras")
    ]
    # Once more, over a damaged shard: it alone is made anew.
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "many").glob("*.npy")}
    victim = sorted(before)[3]
    victim.write_bytes(victim.read_bytes()[:-1])
    assert build_on_ray(*files, tmp_path / "many", parts=2, verbose=False, **SMALL).passed
    assert content(tmp_path / "many") == content(tmp_path / "one")
    assert [p for p in before if before[p] != p.stat().st_mtime_ns] == [victim]


def test_the_page_on_clusters_runs(ray, digits, small_cnn, tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[3] / "docs" / "cache.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(import ray\n.*?)^```", text, re.M | re.S)
    small_cnn(2).save(tmp_path / "teacher.keras")
    np.savez(tmp_path / "data.npz", x=digits.x_train[:512], y=digits.y_train[:512])
    monkeypatch.setattr(ray, "init", lambda address: None)  # there is one
    exec(block.replace("/shared", str(tmp_path)), {})
    assert "part 1 of 2: finished" in capsys.readouterr().out
    assert kd.TeacherCache.open(tmp_path / "cache").info().complete


def test_a_refusal_on_a_worker_comes_through(ray, files, tmp_path):
    options = {**SMALL, "top_k": 5, "verbose": False}
    with pytest.raises(ValueError, match=r"part . of 2 failed .* number of classes, 4; got 5"):
        build_on_ray(*files, tmp_path / "c", parts=2, **options)
    assert not (tmp_path / "c").exists()


def test_a_part_whose_worker_died_goes_on_from_its_last_whole_shard(
    ray, files, data, tmp_path, content, monkeypatch
):
    # Shards of two batches: part 1 of 2 has the batches 4 to 8, and dies in its second shard.
    notes, place = tmp_path / "notes.json", tmp_path / "c.parts" / "1-of-2"
    dataset = functools.partial(Deadly, data[0], place, notes)
    monkeypatch.setattr(cluster, "_discard", lambda *arguments: None)
    report = build_on_ray(files[0], dataset, tmp_path / "c", parts=2, verbose=False, **SMALL)
    assert report.passed
    before = json.loads(notes.read_text())
    assert len(before) == 1
    assert {name: (place / name).stat().st_mtime_ns for name in before} == before
    model = keras.saving.load_model(files[0], compile=False)
    kd.TeacherCache.build(model, data[0], tmp_path / "one", verbose=False, **SMALL)
    assert content(tmp_path / "c") == content(tmp_path / "one")


def test_what_can_be_known_before_is_refused_before_a_task_starts(files, data, tmp_path, teacher):
    (tmp_path / "c.parts" / "0-of-3").mkdir(parents=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    refused = [
        (ValueError, "as many parts as it was begun with", files, "c", {}),
        (FileExistsError, "something else", files, "full", {}),
        (TypeError, "no option topk", files, "d", {"topk": 1}),
        (TypeError, "models and data are not sent", (teacher, files[1]), "d", {}),
        (TypeError, "models and data are not sent", (files[0], data), "d", {}),
        (TypeError, "given by name", files, "d", {"layers": teacher.layers[:1]}),
        (ValueError, "parts must be", files, "d", {"parts": 0}),
        (ValueError, "dtype must be one of", files, "d", {"dtype": "int8"}),
        (ValueError, r"a \.keras file", (files[1], files[1]), "d", {}),
        (FileNotFoundError, "no file at", (files[0], tmp_path / "no.npz"), "d", {}),
    ]
    for kind, words, given, name, options in refused:
        with pytest.raises(kind, match=words):
            build_on_ray(*given, tmp_path / name, **{"parts": 2, **options})
    assert not (tmp_path / "d").exists()
    assert not (tmp_path / "d.parts").exists()


def test_a_function_that_reads_otherwise_on_the_worker_is_refused(tmp_path):
    def augment(x, seed):
        return x

    functions = {"augment": augment, "preprocess": None}
    job = cluster._job(lambda: None, lambda: None, functions, {})
    job.digests["augment"] = "another"
    with pytest.raises(ValueError, match="augment: this worker reads another code"):
        cluster._build_part(job, tmp_path / "c", (0, 2))


def test_without_ray_the_extra_is_named(files, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'pip install "ray\[data\]'):
        build_on_ray(*files, tmp_path / "c", parts=2)
    assert not (tmp_path / "c.parts").exists()
