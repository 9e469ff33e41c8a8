"""A shard's file: written whole, checked, read by row."""

import io
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from ... import _files
from .manifest import Manifest, Shard, digest_of

__all__ = ["Held", "OnDisk", "is_whole", "problem_of", "records_in", "write_shard"]

# A view's records up to this many bytes are held in memory; larger ones are read row by row.
MEMORY_BYTES = 2**29


def write_shard(folder: Path, shard: Shard, records: np.ndarray) -> None:
    """Write the records as .npy, then their checksum in a file beside; both whole or not at all."""
    header, body = _header(records), records.view("u1").data
    _files.write(folder / shard.name, header, body, last=False)
    _files.write(_checksum_path(folder, shard), _checksum_line(shard, digest_of(header, body)))


def is_whole(folder: Path, shard: Shard) -> bool:
    """The shard was finished: its checksum, written last, is there. It may be damaged since."""
    return (folder / shard.name).is_file() and _checksum_path(folder, shard).is_file()


def records_in(path: Path, record: np.dtype) -> int:
    """How many records a .npy file holds.

    Raises:
      ValueError: it holds something else, or is cut short.
    """
    with open(path, "rb") as file:
        return _open_records(file, path, record)[1]


def problem_of(folder: Path, shard: Shard, record: np.dtype) -> str | None:
    """What is wrong with a shard, every byte of it read; None for nothing."""
    path, beside = folder / shard.name, _checksum_path(folder, shard)
    if not path.is_file():
        return "missing"
    if not beside.is_file():
        return "its checksum is missing"
    try:
        found = records_in(path, record)
    except (ValueError, OSError) as error:
        return str(error)
    if shard.stop is not None and found != shard.stop - shard.start:
        return f"it holds {found} records, not {shard.stop - shard.start}"
    if beside.read_bytes() != _checksum_line(shard, _digest_of_file(path)):
        return "its checksum does not fit"
    return None


class Held:
    """The records of one epoch's views after another, in memory."""

    def __init__(self, folder: Path, manifest: Manifest):
        self._folder, self._manifest = folder, manifest
        self._lock = threading.Lock()
        self._epoch: int | None = None
        self._rows = np.empty((0, 0), "u1")

    def load(self, epoch: int) -> np.ndarray:
        """All records of an epoch's views as bytes, uint8 `(examples, bytes)`."""
        with self._lock:
            if epoch != self._epoch:
                # The former view's go before the next one's come.
                self._rows, self._epoch = np.empty((0, 0), "u1"), None
                self._rows, self._epoch = self._read(epoch), epoch
            return self._rows

    def _read(self, epoch: int) -> np.ndarray:
        record = self._manifest.layout.record
        rows = _aligned(self._manifest.examples or 0, record.itemsize)
        for shard in self._manifest.shards():
            if shard.epoch == epoch:
                path = self._folder / shard.name
                with open(path, "rb") as file:
                    offset, count = _open_records(file, path, record)
                    file.seek(offset)
                    file.readinto(rows[shard.start : shard.start + count].data)
        return rows


class OnDisk:
    """The records of one epoch's views after another, each read from its file when asked for."""

    def __init__(self, folder: Path, manifest: Manifest):
        self._folder, self._manifest = folder, manifest
        self._record = manifest.layout.record
        self._lock = threading.Lock()
        self._epoch: int | None = None
        self._files: list[Any] = []
        self._offset = 0

    def read(self, epoch: int, indices: np.ndarray) -> np.ndarray:
        """These examples' records as bytes, uint8 `(n, bytes)`."""
        files = self._opened(epoch)
        size, pread = self._record.itemsize, os.pread
        shards, rows = np.divmod(indices, self._manifest.shard_examples)
        places = (self._offset + rows * size).tolist()
        handles = [files[i].fileno() for i in shards.tolist()]
        read = [pread(handle, size, at) for handle, at in zip(handles, places, strict=True)]
        return np.frombuffer(b"".join(read), "u1").reshape(len(read), size)

    def _opened(self, epoch: int) -> list[Any]:
        with self._lock:
            if epoch != self._epoch:
                # The former files close when the last reader lets go of their list.
                self._files, self._epoch = self._open(epoch), epoch
            return self._files

    def _open(self, epoch: int) -> list[Any]:
        files = []
        for shard in self._manifest.shards():
            if shard.epoch == epoch:
                path = self._folder / shard.name
                file = open(path, "rb", buffering=0)  # noqa: SIM115
                self._offset, _ = _open_records(file, path, self._record)
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


def _open_records(file: io.IOBase, path: Path, record: np.dtype) -> tuple[int, int]:
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
    return offset, shape[0]


def _checksum_path(folder: Path, shard: Shard) -> Path:
    return folder / f"{shard.name}.b2"


def _checksum_line(shard: Shard, digest: str) -> bytes:
    return f"{digest}  {shard.name}\n".encode()


def _digest_of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return digest_of(*iter(lambda: file.read(2**22), b""))
