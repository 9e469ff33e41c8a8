"""LiteRT in a process of its own, one for all files: what crashes there costs an error here."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import signal
import subprocess
import tempfile
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from . import _child
from ._litert_server import receive, send
from ._litert_session import TensorInfo

__all__ = ["CrashError", "RemoteSession", "words_of_exit"]

_SCRIPT = Path(__file__).with_name("_litert_server.py")
# What the child may answer with; any other name is a RuntimeError.
_ERRORS = {kind.__name__: kind for kind in (ValueError, TypeError, MemoryError)}


class CrashError(RuntimeError):
    """A .tflite ended the process that ran it, or never came to an end."""


class RemoteSession:
    """A `Session` in the child, opened again in the next one where that has died."""

    def __init__(self, path: str, num_threads: int, signature: str | None, limit_s: float):
        self._path, self._options = path, [path, num_threads, signature]
        self._limit_s = limit_s
        self._process = _PROCESSES.current()
        self._number = next(_NUMBERS)
        answer = self._open()
        self.signatures = tuple(answer["signatures"])
        self.inputs = tuple(map(_info, answer["inputs"]))
        self.outputs = tuple(map(_info, answer["outputs"]))

    def predict(self, arrays: list[np.ndarray], batch_size: int | None = None) -> list[np.ndarray]:
        """As `Session.predict`.

        Raises:
          CrashError: the child died of it.
        """
        self._return()
        return self._ask({"batch_size": batch_size}, arrays)[1]

    def endings(self) -> dict[str, str | None]:
        """As `Session.endings`."""
        self._return()
        return self._ask({"endings": True}, [])[0]["endings"]

    def _return(self) -> None:
        if self._process is not _PROCESSES.current():
            self._process = _PROCESSES.current()
            self._open()

    def _open(self) -> dict[str, Any]:
        answer, _ = self._ask({"open": self._options}, [])
        weakref.finalize(self, self._process.close, self._number)
        return answer

    def _ask(
        self, request: dict[str, Any], arrays: list[np.ndarray]
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        asked = request | {"number": self._number, "limit_s": self._limit_s}
        try:
            answer, found = self._process.ask(asked, arrays)
        except EOFError as error:
            words = self._process.last_words()
            raise CrashError(f"LiteRT ran {self._path} and {words}") from error
        if "error" in answer:
            raise _ERRORS.get(answer["error"], RuntimeError)(answer["words"])
        return answer, found


def _info(entry: dict[str, Any]) -> TensorInfo:
    return TensorInfo(**entry | {"shape": tuple(entry["shape"])})


class _Process:
    """The child and the pipes to it; threads take turns."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._lock = threading.Lock()
        self._closed: list[int] = []
        # Open for as long as the child lives.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        # A thread that ends would take the child with it.
        main = threading.current_thread() is threading.main_thread()
        self._child = subprocess.Popen(
            _child.command(str(_SCRIPT), *(["killed"] if main else [])),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=_child.environment(CUDA_VISIBLE_DEVICES="-1"),
        )

    def alive(self) -> bool:
        return self._child.poll() is None and self.owner == os.getpid()

    def ask(
        self, request: dict[str, Any], arrays: list[np.ndarray]
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Sends a request and waits for its answer.

        Raises:
          EOFError: the child has ended.
        """
        with self._lock:
            close, self._closed = self._closed, []
            try:
                send(self._child.stdin, request | {"close": close}, arrays)  # type: ignore[arg-type]
                return receive(self._child.stdout)  # type: ignore[arg-type]
            except OSError as error:
                raise EOFError("the pipe is broken") from error
            except EOFError:
                raise
            except BaseException:
                # Half an answer may be under way: nobody could read the next one.
                self._child.kill()
                self._child.wait()
                raise

    def close(self, number: int) -> None:
        """Lets a file go, with the next request: rubbish is collected at any time."""
        self._closed.append(number)

    def last_words(self) -> str:
        code = self._child.wait()
        self._log.seek(0)
        return words_of_exit(code, self._log.read().decode(errors="replace"))

    def end(self) -> None:
        if self.owner == os.getpid():
            for pipe in (self._child.stdin, self._child.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
            self._child.wait()
            self._log.close()


def words_of_exit(code: int, log: str) -> str:
    """Why a process of LiteRT's ended: "crashed (SIGSEGV)", with what it said last."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"crashed ({name}): the file is damaged, or LiteRT has a fault. Export it again."
    if "Timeout (" in log:
        return "did not come to an end in time."
    return f"ended with exit code {code}: {_cause(log) or 'it said nothing'}"


def _cause(log: str) -> str:
    """The error under a traceback, of as many lines as it has; else the last line."""
    _, found, last = log.rpartition("Traceback (most recent call last):\n")
    said = [line.strip() for line in last.splitlines() if line.strip() and line[:1] != " "]
    return " ".join(said if found else said[-1:])


class _Processes:
    """The one child of this process, started at its first use and again after its death."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: _Process | None = None

    def current(self) -> _Process:
        with self._lock:
            if self._process is None or not self._process.alive():
                self.end()
                self._process = _Process()
            return self._process

    def end(self) -> None:
        if self._process is not None:
            self._process.end()


_NUMBERS = itertools.count()
_PROCESSES = _Processes()
atexit.register(_PROCESSES.end)
