"""Whole files: what is at a path before, during and after a write, and after a kill."""

import contextlib
import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from keras_distill import _files

OLD, NEW = b"what was there before", b"the new content"


def whole(path):
    with _files.whole(path) as fresh:
        fresh.write_bytes(NEW)


def write(path):
    _files.write(path, NEW[:5], memoryview(NEW)[5:])


both = pytest.mark.parametrize("put", [whole, write])


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@contextlib.contextmanager
def umask(value):
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


@both
@pytest.mark.parametrize("kept", [0o600, 0o640, 0o755, 0o666])
def test_a_file_keeps_its_mode(put, kept, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(OLD)
    path.chmod(kept)
    put(path)
    assert (path.read_bytes(), mode(path)) == (NEW, kept)
    assert list(tmp_path.iterdir()) == [path]


@both
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_follows_the_umask(put, mask, tmp_path):
    with umask(mask):
        put(tmp_path / "file")
    assert mode(tmp_path / "file") == 0o666 & ~mask


@both
def test_a_link_stays_one_and_its_file_is_written(put, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    real, link, dangling = tmp_path / "a" / "real", tmp_path / "b" / "link", tmp_path / "b" / "new"
    real.write_bytes(OLD)
    real.chmod(0o600)
    link.symlink_to(real)
    dangling.symlink_to(tmp_path / "a" / "made")
    put(link)
    put(dangling)
    assert link.is_symlink()
    assert dangling.is_symlink()
    assert (real.read_bytes(), mode(real)) == (NEW, 0o600)
    assert (tmp_path / "a" / "made").read_bytes() == NEW
    assert [len(list(folder.iterdir())) for folder in tmp_path.iterdir()] == [2, 2]


@both
def test_a_pipe_is_written_to_and_stays_one(put, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    put(pipe)
    reader.join()
    assert read == [NEW]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    put(Path(os.devnull))
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


@both
def test_where_no_file_can_be_is_said_first(put, tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for kind, path in (
        (IsADirectoryError, tmp_path),
        (FileNotFoundError, tmp_path / "nowhere" / "file"),
        (OSError, tmp_path / "loop"),
    ):
        with pytest.raises(kind), _files.whole(path):
            pytest.fail("the block ran")
        with pytest.raises(kind):
            put(path)


@both
@pytest.mark.parametrize("name", ["x" * 255, "\N{SNOWMAN}" * 85, " .keras", "a\nb"])
def test_whatever_a_file_may_be_called(put, name, tmp_path):
    put(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OSError(errno.ENOSPC, "full")])
def test_a_block_that_fails_leaves_what_was_there(error, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(OLD)

    def put():
        with _files.whole(path) as fresh:
            fresh.write_bytes(NEW)
            raise error

    with pytest.raises(error if isinstance(error, type) else OSError):
        put()
    assert path.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [path]


@both
@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
def test_a_disk_that_fails_late_leaves_what_was_there(put, call, tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(OLD)
    path.chmod(0o600)

    def failing(*args):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, call, failing)
    with pytest.raises(OSError, match="broken"):
        put(path)
    monkeypatch.undo()
    assert path.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_block_puts_beside_its_file_comes_along(tmp_path):
    (tmp_path / "part").write_bytes(OLD)
    with _files.whole(tmp_path / "index") as fresh:
        fresh.with_name("part").write_bytes(NEW)
        fresh.write_bytes(NEW)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "index": NEW,
        "part": NEW,
    }


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    for error in (None, KeyboardInterrupt):
        with contextlib.suppress(KeyboardInterrupt), _files.whole_folder(tmp_path / "f") as fresh:
            fresh.mkdir()
            (fresh / "one").write_bytes(NEW)
            assert not (tmp_path / "f").exists()
            if error is None:
                raise KeyboardInterrupt
        assert (tmp_path / "f").exists() == (error is not None)
    with pytest.raises(FileExistsError, match="new or empty"), _files.whole_folder(tmp_path / "f"):
        pytest.fail("the block ran")
    assert [path.name for path in tmp_path.rglob("*")] == ["f", "one"]


KILLED = """
import sys, time
from keras_distill import _files
with _files.whole(sys.argv[1]) as fresh:
    fresh.write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path):
    """A process in the midst of writing `file`; killed at the end, if not before."""
    # The package's own import would take seconds.
    code = (
        "import sys, types; sys.modules['keras_distill'] = m = types.ModuleType('keras_distill')\n"
    )
    code += f"m.__path__ = [{str(Path(_files.__file__).parent)!r}]\n"
    command = [sys.executable, "-P", "-c", code + KILLED, str(tmp_path / "file")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


def test_what_a_kill_leaves_is_swept_and_a_living_writer_is_not(writer, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(OLD)
    foreign = [
        tmp_path / name for name in (".file.partial", ".file.12345678.partial", ".x.partial")
    ]
    for one in foreign:
        one.write_bytes(OLD)
    whole(path)
    (left,) = set(tmp_path.iterdir()) - {path, *foreign}
    assert (left / "file").read_bytes() == b"half"
    assert mode(left) == 0o700
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    whole(tmp_path / "another")
    assert left.exists()
    whole(path)
    assert set(tmp_path.iterdir()) == {path, tmp_path / "another", *foreign}
    assert {one.read_bytes() for one in foreign} == {OLD}
