"""Whole files: written in a folder beside, then renamed; what a kill leaves is swept later."""

import contextlib
import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # no advisory locks here: nothing proves a folder's owner dead
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "HeldError",
    "held",
    "place",
    "scratch",
    "sweep",
    "sync",
    "whole",
    "whole_folder",
    "write",
]

_END = ".partial"
# Eight characters are what mkdtemp puts between prefix and suffix.
_SCRATCH = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.partial", re.DOTALL)
# With what is around it no longer than a name may be, at four bytes a character.
_STEM_LENGTH = 56
_STREAMS = re.compile("/dev/(stdout|stderr|fd/)|/proc/")


class HeldError(RuntimeError):
    """Somebody else holds the folder."""


def write(path: str | os.PathLike[str], *parts: Any, last: bool = True) -> None:
    """Write bytes that appear at `path` whole or not at all, and outlive a power cut.

    Args:
      path: see `whole`.
      *parts: bytes or buffers, one after the other.
      last: no other file follows that will sync the folder for this one too.
    """
    with _beside(Path(path), last) as fresh, open(fresh, "wb") as file:
        file.writelines(parts)


@contextlib.contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write a file at; it takes its place at `path` when the block ends well.

    A block that fails, or is interrupted, leaves what was at `path`. A file there keeps its mode
    and owner, a link goes on pointing at its file, a device or a pipe is written to. Files that
    the block puts beside its own come along, each whole, before it.

    Raises:
      IsADirectoryError, FileNotFoundError, PermissionError: no file can be written at `path`;
        found before the block runs.
    """
    path = Path(path)
    if not _is_stream(path):
        sweep(_target(path).parent, [path.name])
    with _beside(path) as fresh:
        yield fresh


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """As `whole` for a folder, which the block makes.

    Raises:
      FileExistsError: something is at `path`, and no empty folder.
    """
    path = Path(path).absolute()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"Expected a new or empty folder to write to; {path} is none.")
    sweep(path.parent, [path.name])
    with scratch(path.parent, path.name) as beside:
        fresh = beside / path.name
        yield fresh
        for one in fresh.rglob("*"):
            sync(one)
        os.replace(fresh, path)
    _sync_folder(path.parent)


def place(source: Path, target: Path) -> None:
    """Rename a finished file to `target`, in the same file system, with the mode of what it was.

    The file is synced; its folder is not.
    """
    sync(source)
    with contextlib.suppress(FileNotFoundError):
        there = os.stat(target)
        # First the owner: to change it takes bits off the mode.
        with contextlib.suppress(OSError, AttributeError):
            os.chown(source, there.st_uid, there.st_gid)
        if source.stat().st_mode != there.st_mode:
            os.chmod(source, stat.S_IMODE(there.st_mode))
    os.replace(source, target)


@contextlib.contextmanager
def scratch(parent: Path, stem: str) -> Iterator[Path]:
    """An empty folder in `parent`, that nobody else can read, gone when the block ends.

    It is locked for as long as the process lives, by which `sweep` knows one that was killed.
    """
    try:
        folder, lock = _locked_folder(parent, stem)
    except OSError as error:
        # A file system that makes no files, as /proc, says that there is none.
        code = errno.EACCES if error.errno == errno.ENOENT else error.errno
        words = f"Expected a folder to write into; {parent}: {error.strerror}"
        raise OSError(code, words) from error
    try:
        yield folder
    finally:
        # What can't be removed must not hide what went wrong; a sweep comes back to it.
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep a folder for this process: the system lets go of it when that ends, however it ends.

    Where there are no locks on folders (another system, some network's file systems) it is not
    kept.

    Raises:
      HeldError: somebody holds it, in this process or in another.
    """
    try:
        lock = _lock(folder)
    except BlockingIOError as error:
        raise HeldError(f"Somebody else holds {folder}.") from error
    try:
        yield
    finally:
        if lock is not None:
            # Not by closing alone: processes forked meanwhile have the handle, too.
            fcntl.flock(lock, fcntl.LOCK_UN)
            os.close(lock)


def sweep(parent: Path, stems: Collection[str] | None = None) -> None:
    """Remove the scratch folders, of these stems or of all, whose process has ended.

    What another user owns, and what is not provably dead, stays.
    """
    wanted = None if stems is None else {stem[:_STEM_LENGTH] for stem in stems}
    with contextlib.suppress(OSError):
        for name in os.listdir(parent):
            found = _SCRATCH.fullmatch(name)
            path = Path(parent, name)
            if found and (wanted is None or found[1] in wanted) and not path.is_symlink():
                _remove_dead(path)


@contextlib.contextmanager
def _beside(path: Path, last: bool = True) -> Iterator[Path]:
    if _is_stream(path):
        with tempfile.TemporaryDirectory() as elsewhere:
            yield (fresh := Path(elsewhere, path.name))
            with open(fresh, "rb") as file, open(path, "wb") as stream:
                shutil.copyfileobj(file, stream)
        return
    target = _target(path)
    with scratch(target.parent, path.name) as folder:
        yield (fresh := folder / path.name)
        for other in sorted(set(folder.iterdir()) - {fresh}):
            place(other, path.absolute().parent / other.name)
        place(fresh, target)
    if last:
        _sync_folder(target.parent)


def _is_stream(path: Path) -> bool:
    """Whether it is to be written into, as a device or a pipe, and nothing to be replaced."""
    if path.is_file():
        return bool(_STREAMS.match(os.fspath(path.absolute())))
    return path.exists() and not path.is_dir()


def _target(path: Path) -> Path:
    """Where `path` leads, once every reason why nothing can be written there is excluded."""
    with contextlib.suppress(FileNotFoundError):
        os.stat(path)  # raises for a loop of links
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"Expected a file to write; {path} is a folder.")
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"Expected an existing folder for {path}; create {target.parent} first."
        )
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(f"{path} is there, and may not be written to.")
    return target


def _locked_folder(parent: Path, stem: str) -> tuple[Path, int | None]:
    while True:
        prefix = f".{stem[:_STEM_LENGTH]}."
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix, suffix=_END))
        try:
            lock = _lock(folder)
            # A sweep may have come between.
            if folder.exists():
                return folder, lock
            if lock is not None:
                os.close(lock)
        except BlockingIOError:
            continue


def _lock(folder: Path) -> int | None:
    """A handle that holds the folder's lock; None where there are no such locks.

    Raises:
      BlockingIOError: somebody holds it.
    """
    if fcntl is None:
        return None
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise
        return None  # a network's file system may know no locks on folders
    return handle


def _remove_dead(folder: Path) -> None:
    with contextlib.suppress(OSError):
        lock = _lock(folder)
        if lock is not None:
            if os.fstat(lock).st_uid == os.geteuid():
                shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def sync(path: Path) -> None:
    if path.is_file():
        handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            # The file is in its place; some network's file systems can say no more.
            with contextlib.suppress(OSError):
                os.fsync(handle)
        finally:
            os.close(handle)
