"""One builder at a time on a folder."""

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # no advisory locks here: renames alone keep the shards whole
    fcntl = None  # type: ignore[assignment]

__all__ = ["building", "is_lock"]

_NAME = ".lock"
# What a builder writes into its lock: its process, or nothing once it has ended.
_OWNER = re.compile(rb"(\d{1,19}\n)?")
# Locks of this process. A child that it forks is no builder, and would keep them as long as it
# lives.
_handles: set[int] = set()


@contextlib.contextmanager
def building(folder: Path, shard: tuple[int, int]) -> Iterator[None]:
    """Hold the folder for a build of the whole cache, or for one part of several.

    The system lets go of the lock when its process ends, however it ends. Parts with different
    numbers may share a folder; a whole build shares it with none.

    Raises:
      RuntimeError: another process builds there.
      FileExistsError: what stands in the lock's place is somebody else's. It is not touched.
    """
    part, parts = shard
    if fcntl is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        if parts > 1:
            stack.enter_context(_held(folder / _NAME, fcntl.LOCK_SH, folder))
            stack.enter_context(_held(folder / f"{_NAME}-{part}", fcntl.LOCK_EX, folder))
        else:
            stack.enter_context(_held(folder / _NAME, fcntl.LOCK_EX, folder))
        yield


def is_lock(name: str) -> bool:
    """Whether a builder's lock has such a name.

    >>> is_lock(".lock"), is_lock(".lock-3"), is_lock(".lockfile")
    (True, True, False)
    """
    return re.fullmatch(rf"{re.escape(_NAME)}(-\d+)?", name) is not None


@contextlib.contextmanager
def _held(path: Path, kind: int, folder: Path) -> Iterator[None]:
    handle, owner, taken = _opened(path), os.getpid(), False
    _handles.add(handle)
    try:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            taken = True
        except BlockingIOError:
            raise RuntimeError(
                f"Another process{_words(handle)} is building the cache in {folder}. Wait for it, "
                f"or end it; what it has finished stays."
            ) from None
        if kind == fcntl.LOCK_EX:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{owner}\n".encode(), 0)
        yield
    finally:
        # A child forked meanwhile has closed its handle already.
        if os.getpid() == owner:
            if taken and kind == fcntl.LOCK_EX:
                os.ftruncate(handle, 0)
            # Not by closing alone: a process forked just now still has the handle, too.
            fcntl.flock(handle, fcntl.LOCK_UN)
            _handles.discard(handle)
            os.close(handle)


def _opened(path: Path) -> int:
    """A handle of the lock's file, which no other file is mistaken for.

    Raises:
      FileExistsError: a link, a folder, a pipe, or a file with a content of its own.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    foreign = FileExistsError(
        f"{path} is no lock of a cache, and nothing was changed. Move it away, or give the cache "
        f"a folder of its own."
    )
    try:
        handle = os.open(path, flags, 0o644)
    except OSError as error:
        if path.is_symlink() or path.is_dir():
            raise foreign from error
        raise
    if stat.S_ISREG(os.fstat(handle).st_mode) and _OWNER.fullmatch(os.pread(handle, 64, 0)):
        return handle
    os.close(handle)
    raise foreign


def _words(handle: int) -> str:
    text = os.pread(handle, 32, 0).decode(errors="replace").strip()
    return f" (pid {text})" if text.isdigit() else ""


def _forget_handles() -> None:
    for handle in _handles:
        with contextlib.suppress(OSError):
            os.close(handle)
    _handles.clear()


if fcntl is not None:
    os.register_at_fork(after_in_child=_forget_handles)
