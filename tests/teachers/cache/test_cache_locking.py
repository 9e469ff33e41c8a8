"""What stands in a cache's folder and is somebody else's stays as it is; who holds the lock."""

import multiprocessing
import os

import pytest
import tensorflow as tf

import keras_distill as kd
from keras_distill.teachers.cache import locking

SMALL = {"batch_size": 8, "shard_examples": 16, "verbose": False}


def doubled(x):
    return 2.0 * x


@pytest.fixture
def victim(tmp_path):
    path = tmp_path / "thesis.tex"
    path.write_text("years of work")
    return path


@pytest.mark.parametrize(
    ("name", "make"),
    [
        (".lock", lambda path, victim: path.symlink_to(victim)),
        (".lock", lambda path, victim: path.symlink_to(victim.with_name("new"))),
        (".lock", lambda path, victim: os.link(victim, path)),
        (".lock", lambda path, victim: path.write_text("pid: 12, locked by an editor")),
        (".lock", lambda path, victim: path.mkdir()),
        (".lock", lambda path, victim: os.mkfifo(path)),
        (".lockfile", lambda path, victim: path.write_text("")),
        (".notes.0123456789abcdef.partial", lambda path, victim: path.write_text("a download")),
        (".film.abcd1234.partial", lambda path, victim: path.mkdir()),
    ],
    ids=["link", "dangling", "hard", "foreign", "folder", "pipe", "name", "partial", "parts"],
)
def test_what_is_somebody_elses_is_not_touched(data, tmp_path, victim, name, make):
    folder = tmp_path / "c"
    folder.mkdir()
    make(folder / name, victim)
    before = identity(folder / name)
    with pytest.raises(FileExistsError, match=rf"{name}.*(no lock of a cache|nothing there was)"):
        kd.TeacherCache.build(doubled, data, folder, **SMALL)
    assert identity(folder / name) == before
    assert victim.read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "thesis.tex"]


def identity(path):
    """Which file it is and when it was changed; when it was read is nobody's harm."""
    found = os.lstat(path)
    return found.st_ino, found.st_mode, found.st_nlink, found.st_size, found.st_mtime_ns


@pytest.mark.parametrize("name", [".lock", ".film.abcd1234.partial"])
def test_it_is_not_touched_beside_a_cache_either(data, tmp_path, name):
    folder = tmp_path / "c"
    kd.TeacherCache.build(doubled, data, folder, **SMALL)
    (folder / name).write_text("somebody's")
    if name == ".lock":
        with pytest.raises(FileExistsError, match="no lock of a cache"):
            kd.TeacherCache.build(doubled, data, folder, **SMALL)
    else:
        kd.TeacherCache.build(doubled, data, folder, **SMALL)
    assert (folder / name).read_text() == "somebody's"


@pytest.mark.parametrize(
    "make",
    [
        lambda path, victim: path.mkdir(),
        lambda path, victim: os.mkfifo(path),
        lambda path, victim: path.symlink_to(victim),
    ],
    ids=["folder", "pipe", "link"],
)
@pytest.mark.parametrize("name", ["epoch0000-shard000002.npy", "epoch0000-shard000002.npy.b2"])
def test_a_shard_is_not_written_over_what_is_no_file(data, tmp_path, victim, name, make):
    folder = tmp_path / "c"
    cache = kd.TeacherCache.build(doubled, data, folder, **SMALL)
    (folder / name).unlink()
    make(folder / name, victim)
    report = cache.verify()
    assert not report.passed
    assert {*report.missing, *report.damaged} == {"epoch0000-shard000002.npy"}
    with pytest.raises((ValueError, tf.errors.OpError), match=r"not complete|damaged"):
        list(cache.dataset(8))
    for mend in (
        lambda: kd.TeacherCache.build(doubled, data, folder, **SMALL),
        lambda: cache.rebuild(2),
    ):
        with pytest.raises(FileExistsError, match="no ordinary file"):
            mend()
    assert victim.read_text() == "years of work"


def test_a_process_forked_inside_a_build_holds_no_lock(tmp_path):
    context = multiprocessing.get_context("fork")
    done = context.Event()
    child = context.Process(target=done.wait, args=(60,))
    with locking.building(tmp_path, (0, 1)):
        child.start()
    try:
        assert child.is_alive()
        with locking.building(tmp_path, (0, 1)):
            assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"
    finally:
        done.set()
        child.join()


def test_what_a_process_forked_meanwhile_has_not_closed_yet_holds_no_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "_handles", set())  # the child closes none
    context = multiprocessing.get_context("fork")
    done = context.Event()
    child = context.Process(target=done.wait, args=(60,))
    with locking.building(tmp_path, (0, 1)):
        locking._handles.clear()
        child.start()
    try:
        with locking.building(tmp_path, (0, 1)):
            assert child.is_alive()
    finally:
        done.set()
        child.join()


def _leave(building):
    building.__exit__(None, None, None)


def test_a_child_that_leaves_the_block_does_not_open_it(tmp_path):
    context = multiprocessing.get_context("fork")
    building = locking.building(tmp_path, (0, 1))
    with building:
        child = context.Process(target=_leave, args=(building,))
        child.start()
        child.join()
        assert child.exitcode == 0
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"
        with (
            pytest.raises(RuntimeError, match="is building"),
            locking.building(tmp_path, (0, 1)),
        ):
            pass
