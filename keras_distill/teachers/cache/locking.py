"""One builder at a time on a folder."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # no advisory locks here: renames alone keep the shards whole
    fcntl = None  # type: ignore[assignment]

__all__ = ["NAME", "building"]

NAME = ".lock"


@contextlib.contextmanager
def building(folder: Path, shard: tuple[int, int]) -> Iterator[None]:
    """Hold the folder for a build of the whole cache, or for one part of several.

    The system lets go of the lock when its process ends, however it ends. Parts with different
    numbers may share a folder; a whole build shares it with none.

    Raises:
      RuntimeError: another process builds there.
    """
    part, parts = shard
    if fcntl is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        if parts > 1:
            stack.enter_context(_held(folder / NAME, fcntl.LOCK_SH, folder))
            stack.enter_context(_held(folder / f"{NAME}-{part}", fcntl.LOCK_EX, folder))
        else:
            stack.enter_context(_held(folder / NAME, fcntl.LOCK_EX, folder))
        yield


@contextlib.contextmanager
def _held(path: Path, kind: int, folder: Path) -> Iterator[None]:
    handle, taken = os.open(path, os.O_RDWR | os.O_CREAT, 0o644), False
    try:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            taken = True
        except BlockingIOError:
            raise RuntimeError(
                f"Another process{_owner(handle)} is building the cache in {folder}. Wait for it, "
                f"or end it; what it has finished stays."
            ) from None
        if kind == fcntl.LOCK_EX:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        if taken and kind == fcntl.LOCK_EX:
            os.ftruncate(handle, 0)
        os.close(handle)


def _owner(handle: int) -> str:
    text = os.pread(handle, 32, 0).decode(errors="replace").strip()
    return f" (pid {text})" if text.isdigit() else ""
