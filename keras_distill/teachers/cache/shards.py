"""A shard's file: written whole, checked, read by row."""

import functools
import io
import itertools
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from keras_distill import _files
from keras_distill.teachers.cache.manifest import Manifest, Shard, digest_of

__all__ = [
    "Held",
    "OnDisk",
    "Sums",
    "check_replaceable",
    "damaged",
    "is_whole",
    "problem_of",
    "records_in",
    "write_shard",
]

# A view's records up to this many bytes are held in memory; larger ones are read as they come.
MEMORY_BYTES = 2**29
# Read in a call at most; and worth a call: where no more lie between two records, all is read.
_SPAN_BYTES, _CALL_BYTES = 2**20, 2**12


def write_shard(folder: Path, shard: Shard, records: np.ndarray) -> None:
    """Write the records as .npy, then their checksum in a file beside; both whole or not at all."""
    header, body = _header(records), records.view("u1").data
    _files.write(folder / shard.name, header, body, last=False)
    _files.write(_checksum_path(folder, shard), _checksum_line(shard, digest_of(header, body)))


def is_whole(folder: Path, shard: Shard) -> bool:
    """The shard was finished: its checksum, written last, is there. It may be damaged since."""
    return (folder / shard.name).is_file() and _checksum_path(folder, shard).is_file()


def check_replaceable(folder: Path, shard: Shard) -> None:
    """Nothing but a file of its own stands where a shard is to be written.

    Raises:
      FileExistsError: a folder, a link, a pipe; nothing of it is touched.
    """
    for path in (folder / shard.name, _checksum_path(folder, shard)):
        if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
            raise FileExistsError(
                f"{path} has to be written, and what stands there is no ordinary file. It was not "
                f"touched: move it away, then make the same call again."
            )


def records_in(folder: Path, shard: Shard, record: np.dtype) -> int:
    """How many records a shard's file holds.

    Raises:
      ValueError: it holds something else, is cut short, or has not as many as it should.
    """
    with open(folder / shard.name, "rb") as file:
        return _open_records(file, shard, record)[1]


def problem_of(folder: Path, shard: Shard, record: np.dtype) -> str | None:
    """What is wrong with a shard, every byte of it read; None for nothing."""
    path = folder / shard.name
    if not os.path.lexists(path):
        return "missing"
    if not path.is_file():
        return "it is no file"
    if not _checksum_path(folder, shard).is_file():
        return "its checksum is missing"
    try:
        with open(path, "rb") as file:
            _open_records(file, shard, record)
            file.seek(0)
            return _unlike(folder, shard, _digest_of_file(file))
    except (ValueError, OSError) as error:
        return str(error)


class Sums:
    """Which shards had the sum that was written, for as long as their files stay the same.

    So a shard is read in whole once more before its first record is used, not at each epoch.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._known: dict[str, tuple] = {}

    def check(self, shard: Shard, file: io.IOBase, digest: Callable[[], str]) -> None:
        """Compare the sum of an open shard with the one that was written.

        Args:
          digest: computes it.

        Raises:
          ValueError: it is another; the shard is named.
        """
        found = os.fstat(file.fileno())
        state = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        if self._known.get(shard.name) == state:
            return
        problem = _unlike(self.folder, shard, digest())
        if problem:
            raise damaged(self.folder, shard.name, problem)
        self._known[shard.name] = state


def damaged(folder: Path, name: str, problem: str) -> ValueError:
    """What to say of a shard that can't be trained on."""
    return ValueError(
        f"The shard {name} of the cache in {folder} is damaged: {problem}. Make it anew: call "
        f"cache.rebuild({name!r}, teacher=...), or build again as at first."
    )


class Held:
    """The records of one epoch's views after another, in memory."""

    def __init__(self, manifest: Manifest, sums: Sums):
        self._manifest, self._sums = manifest, sums
        self._lock = threading.Lock()
        self._epoch: int | None = None
        self._rows = np.empty((0, 0), "u1")

    def load(self, epoch: int) -> np.ndarray:
        """All records of an epoch's views as bytes, uint8 `(examples, bytes)`.

        Raises:
          ValueError: a shard is damaged; which, is named.
        """
        with self._lock:
            if epoch != self._epoch:
                # The former view's go before the next one's come.
                self._rows, self._epoch = np.empty((0, 0), "u1"), None
                self._rows, self._epoch = self._read(epoch), epoch
            return self._rows

    def _read(self, epoch: int) -> np.ndarray:
        record = self._manifest.layout.record
        rows = _aligned(self._manifest.examples or 0, record.itemsize)
        for shard in self._manifest.shards(epoch):
            with _opened(self._sums.folder, shard) as file:
                offset, _ = _checked_records(file, self._sums.folder, shard, record)
                file.seek(0)
                header, body = file.read(offset), rows[shard.start : shard.stop].data
                file.readinto(body)
                self._sums.check(shard, file, functools.partial(digest_of, header, body))
        return rows


class OnDisk:
    """The records of one epoch's views after another, each read from its file when asked for."""

    def __init__(self, manifest: Manifest, sums: Sums):
        self._manifest, self._sums = manifest, sums
        self._record = manifest.layout.record
        self._lock = threading.Lock()
        self._epoch: int | None = None
        self._files: list[Any] = []
        self._offset = 0

    def read(self, epoch: int, indices: np.ndarray) -> np.ndarray:
        """These examples' records as bytes, uint8 `(n, bytes)`.

        Raises:
          ValueError: a file was cut short since it was opened.
        """
        files, size = self.open(epoch), self._record.itemsize
        between = int(np.ptp(indices)) + 1 - len(indices) if len(indices) else 0
        if between * size > len(indices) * _CALL_BYTES:
            return self._one_by_one(files, indices)
        rows, order = _aligned(len(indices), size), np.argsort(indices)
        records = rows.view(f"V{size}")[:, 0]
        numbers, places = np.divmod(indices[order], self._manifest.shard_examples)
        spans = numbers * self._manifest.shard_examples + places // max(_SPAN_BYTES // size, 1)
        begins = np.flatnonzero(np.diff(spans, prepend=-1)).tolist()
        for begin, end in itertools.pairwise([*begins, len(order)]):
            within = places[begin:end] - places[begin]
            count, start = int(within[-1] + 1) * size, self._offset + int(places[begin]) * size
            found = self._whole(os.pread(files[numbers[begin]].fileno(), count, start), count)
            records[order[begin:end]] = np.frombuffer(found, records.dtype)[within]
        return rows

    def _one_by_one(self, files: list[Any], indices: np.ndarray) -> np.ndarray:
        size = self._record.itemsize
        numbers, places = np.divmod(indices, self._manifest.shard_examples)
        handles = [files[number].fileno() for number in numbers.tolist()]
        starts = (self._offset + places * size).tolist()
        found = b"".join(map(os.pread, handles, itertools.repeat(size), starts))
        return np.frombuffer(self._whole(found, len(indices) * size), "u1").reshape(-1, size)

    def _whole(self, found: bytes, expected: int) -> bytes:
        if len(found) == expected:
            return found
        where = self._sums.folder
        raise ValueError(f"A shard in {where} was cut short while it was read: see cache.verify().")

    def open(self, epoch: int) -> list[Any]:
        """The open files of an epoch's views.

        Raises:
          ValueError: a shard is damaged; which, is named.
        """
        with self._lock:
            if epoch != self._epoch:
                # The former files close when the last reader lets go of their list.
                self._files, self._epoch = self._open(epoch), epoch
            return self._files

    def _open(self, epoch: int) -> list[Any]:
        files = []
        for shard in self._manifest.shards(epoch):
            file = _opened(self._sums.folder, shard, buffering=0)
            self._offset, _ = _checked_records(file, self._sums.folder, shard, self._record)
            file.seek(0)
            self._sums.check(shard, file, functools.partial(_digest_of_file, file))
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            files.append(file)
        return files


def _aligned(rows: int, size: int) -> np.ndarray:
    """Bytes `(rows, size)` at an address that TensorFlow takes over without a copy."""
    memory = np.empty(rows * size + 64, "u1")
    start = -memory.ctypes.data % 64
    return memory[start : start + rows * size].reshape(rows, size)


def _header(records: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, np.lib.format.header_data_from_array_1_0(records))
    return buffer.getvalue()


def _opened(folder: Path, shard: Shard, **options: Any) -> Any:
    path = folder / shard.name
    if not path.is_file():
        raise damaged(folder, shard.name, problem="it is no file" if path.exists() else "missing")
    return open(path, "rb", **options)


def _checked_records(
    file: io.IOBase, folder: Path, shard: Shard, record: np.dtype
) -> tuple[int, int]:
    try:
        return _open_records(file, shard, record)
    except ValueError as error:
        raise damaged(folder, shard.name, str(error)) from error


def _open_records(file: io.IOBase, shard: Shard, record: np.dtype) -> tuple[int, int]:
    """Where the records of an open .npy file begin, and how many there are."""
    try:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"its .npy version is {version}")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception as error:  # NumPy parses the header's text, and a damaged one raises anything
        raise ValueError(f"its header can't be read: {error}") from error
    offset = file.tell()
    size = os.fstat(file.fileno()).st_size
    if dtype != record or len(shape) != 1:
        raise ValueError("its records are of another layout")
    if size != offset + shape[0] * record.itemsize:
        raise ValueError(
            f"it has {size} bytes, and {offset + shape[0] * record.itemsize} were expected"
        )
    if shard.stop is not None and shape[0] != shard.stop - shard.start:
        raise ValueError(f"it holds {shape[0]} records, not {shard.stop - shard.start}")
    return offset, shape[0]


def _checksum_path(folder: Path, shard: Shard) -> Path:
    return folder / f"{shard.name}.b2"


def _checksum_line(shard: Shard, digest: str) -> bytes:
    return f"{digest}  {shard.name}\n".encode()


def _unlike(folder: Path, shard: Shard, digest: str) -> str | None:
    """What is wrong where a shard's sum is not the one that was written; None for nothing."""
    expected = _checksum_line(shard, digest)
    with open(_checksum_path(folder, shard), "rb") as file:
        return None if file.read(len(expected) + 1) == expected else "its checksum does not fit"


def _digest_of_file(file: io.IOBase) -> str:
    return digest_of(*iter(lambda: file.read(2**22), b""))
