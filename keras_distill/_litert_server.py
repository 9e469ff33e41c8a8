"""Requests about .tflite files, answered in a child that may crash in its parent's place.

Run as a file and not as a module, so that it starts without TensorFlow and Keras.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib.util
import json
import signal
import struct
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

__all__ = ["receive", "send"]

_LENGTH = struct.Struct("<Q")


def send(pipe: BinaryIO, message: dict[str, Any], arrays: list[np.ndarray]) -> None:
    """Writes a message and arrays: JSON with their dtypes and shapes, then their bytes."""
    plain = [np.asarray(a, "S") if a.dtype == object else np.asarray(a) for a in arrays]
    kinds = [(array.dtype.str, array.shape) for array in plain]
    head = json.dumps(message | {"arrays": kinds}).encode()
    pipe.write(_LENGTH.pack(len(head)) + head)
    for array in plain:
        pipe.write(np.ascontiguousarray(array).reshape(-1).view("uint8").data)
    pipe.flush()


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


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answers until the parent closes its end: opens files by number, runs them, lets them go."""
    sessions: dict[int, Any] = {}
    open_session = _beside("_litert_session").Session
    while True:
        try:
            request, arrays = receive(requests)
        except EOFError:
            return
        for number in request["close"]:
            sessions.pop(number, None)
        try:
            answer, found = _answer(open_session, sessions, request, arrays)
        except Exception as error:
            answer, found = {"error": type(error).__name__, "words": str(error)}, []
        faulthandler.cancel_dump_traceback_later()
        send(answers, answer, found)


def _answer(
    open_session: Any,
    sessions: dict[int, Any],
    request: dict[str, Any],
    arrays: list[np.ndarray],
) -> tuple[dict[str, Any], list[np.ndarray]]:
    def within_limit() -> None:
        # A clock of C's: a run that never ends lets no Python in.
        faulthandler.dump_traceback_later(request["limit_s"], exit=True)

    within_limit()
    number = request["number"]
    if "endings" in request:
        return {"endings": sessions[number].endings()}, []
    if "open" not in request:
        sessions[number].before_run = within_limit
        return {}, sessions[number].predict(arrays, request["batch_size"])
    session = sessions[number] = open_session(*request["open"])
    ends = {side: list(map(asdict, getattr(session, side))) for side in ("inputs", "outputs")}
    return {"signatures": session.signatures, **ends}, []


def _beside(name: str) -> Any:
    """A module that lies beside this file, without the package around it."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    # A dataclass looks for its module there.
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    if sys.argv[1:] == ["killed"]:
        _beside("_child").killed_with_parent()
    # Ctrl-C is the parent's to answer; where memory runs out, the system shall end us and not it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    faulthandler.enable()
    _serve(sys.stdin.buffer, sys.stdout.buffer)
