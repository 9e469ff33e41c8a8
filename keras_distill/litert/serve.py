"""The child's side of a process that answers requests: `python -P serve.py MODULE [killed]`.

Run as a file, so that it starts without the package around this folder, which imports TensorFlow
and Keras: MODULE, of this folder, imports what it needs. Its `answer` takes a request (a dict) and
arrays and returns an answer and arrays; what it raises is the answer, too.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import queue
import signal
import struct
import sys
import threading
import types
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

__all__ = ["in_bytes", "receive", "send"]

_LENGTH = struct.Struct("<Q")


def send(pipe: BinaryIO, message: dict[str, Any], arrays: list[np.ndarray]) -> None:
    """Writes a message and arrays: JSON with their dtypes and shapes, then their bytes."""
    plain = [in_bytes(a) if a.dtype == object else np.asarray(a) for a in arrays]
    kinds = [(array.dtype.str, array.shape) for array in plain]
    head = json.dumps(message | {"arrays": kinds}).encode()
    pipe.write(_LENGTH.pack(len(head)) + head)
    for array in plain:
        pipe.write(np.ascontiguousarray(array).reshape(-1).view("uint8").data)
    pipe.flush()


def in_bytes(words: np.ndarray) -> np.ndarray:
    """An array of text, in UTF-8."""
    flat = [word if isinstance(word, bytes) else str(word).encode() for word in words.ravel()]
    return np.array(flat, "S").reshape(words.shape)


def receive(pipe: BinaryIO) -> tuple[dict[str, Any], list[np.ndarray]]:
    """What `send` wrote. Nothing in it can run: the other side may be at a hostile file's mercy.

    Raises:
      EOFError: the other side has ended.
    """
    message = json.loads(_read(pipe, _LENGTH.unpack(_read(pipe, _LENGTH.size))[0]))
    arrays = []
    for kind, shape in message.pop("arrays"):
        dtype = np.dtype(str(kind))
        size = dtype.itemsize * int(np.prod(shape, dtype="int64"))
        arrays.append(np.frombuffer(_read(pipe, size), dtype).reshape(shape))
    return message, arrays


def _read(pipe: BinaryIO, size: int) -> bytearray:
    content = bytearray(size)
    view, done = memoryview(content), 0
    while done < size:
        got = pipe.readinto(view[done:])  # type: ignore[attr-defined]
        if not got:
            raise EOFError("the pipe ended")
        done += got
    return content


def _serve(name: str, answers: BinaryIO) -> None:
    """Answers one request after the other, until the parent closes its end or has waited enough."""
    requests: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    module = _module(name)
    while True:
        try:
            request, arrays = requests.get(timeout=module.IDLE_S)
        except queue.Empty:
            return
        try:
            answer, found = module.answer(request, arrays)
        except Exception as error:
            answer, found = {"error": type(error).__name__, "words": str(error)}, []
        send(answers, answer, found)


def _listen(requests: queue.SimpleQueue) -> None:
    # A thread, so that we end with our parent in the middle of work, too.
    with contextlib.suppress(EOFError):
        while True:
            requests.put(receive(sys.stdin.buffer))
    os._exit(0)


def _module(name: str) -> Any:
    folder = sys.modules["litert"] = types.ModuleType("litert")
    folder.__path__ = [str(Path(__file__).parent)]
    return importlib.import_module(f"litert.{name}")


def _own_output() -> BinaryIO:
    """The pipe to the parent; what C++ prints to the standard output goes to the log."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


if __name__ == "__main__":
    # Ctrl-C is the parent's to answer; where memory runs out, the system shall end us and not it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    faulthandler.enable()
    if sys.argv[2:] == ["killed"]:
        _module("launch").killed_with_parent()
    _serve(sys.argv[1], _own_output())
    # Not through Python's end, which waits for the thread that reads.
    os._exit(0)
