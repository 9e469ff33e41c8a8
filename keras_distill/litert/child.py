"""LiteRT in a process of its own, one for all files: what crashes there costs an error here."""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_distill.litert import launch
from keras_distill.litert.kept_run import WrittenTensor
from keras_distill.litert.process import EndedError, Processes, signal_name
from keras_distill.litert.session import TensorInfo

__all__ = ["CrashError", "RemoteKeptRun", "RemoteSession", "words_of_exit"]

# What the child may answer with; any other name is a RuntimeError.
_ERRORS = {kind.__name__: kind for kind in (ValueError, TypeError, MemoryError)}


class CrashError(RuntimeError):
    """A .tflite ended the process that ran it, or never came to an end."""


class _Remote:
    """A file in the child, opened again in the next one where that has died."""

    def __init__(self, path: str, opening: dict[str, Any], limit_s: float):
        self._path, self._opening = path, opening
        self._limit_s = limit_s
        self._process = _PROCESSES.current()
        self._number = next(_NUMBERS)

    def _return(self) -> None:
        if self._process is not _PROCESSES.current():
            self._process = _PROCESSES.current()
            self._open()

    def _open(self) -> dict[str, Any]:
        answer, _ = self._ask(self._opening, [])
        # It goes with the next request: rubbish is collected at any time.
        weakref.finalize(self, _CLOSED.append, self._number)
        return answer

    def _ask(
        self, request: dict[str, Any], arrays: list[np.ndarray]
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        closed = []
        with contextlib.suppress(IndexError):
            while True:
                closed.append(_CLOSED.popleft())
        asked = {"number": self._number, "limit_s": self._limit_s, "close": closed}
        try:
            answer, found = self._process.ask(request | asked, arrays)
        except EndedError as error:
            words = words_of_exit(error.code, error.log)
            raise CrashError(f"LiteRT ran {self._path} and {words}") from error
        if "error" in answer:
            raise _ERRORS.get(answer["error"], RuntimeError)(answer["words"])
        return answer, found


class RemoteSession(_Remote):
    """A `Session` in the child."""

    def __init__(self, path: str, num_threads: int, signature: str | None, limit_s: float):
        super().__init__(path, {"open": [path, num_threads, signature]}, limit_s)
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


class RemoteKeptRun(_Remote):
    """A `KeptRun` in the child."""

    def __init__(self, path: str, limit_s: float):
        super().__init__(path, {"keep": path}, limit_s)
        self.tensors = tuple(
            WrittenTensor(**one | {"info": _info(one["info"])}) for one in self._open()["tensors"]
        )

    def run(self, arrays: list[np.ndarray], wanted: Sequence[int]) -> list[np.ndarray]:
        """As `KeptRun.run`.

        Raises:
          CrashError: the child died of it.
        """
        self._return()
        return self._ask({"wanted": list(wanted)}, arrays)[1]


def _info(entry: dict[str, Any]) -> TensorInfo:
    return TensorInfo(**entry | {"shape": tuple(entry["shape"])})


def words_of_exit(code: int, log: str) -> str:
    """Why a process of LiteRT's ended: "crashed (SIGSEGV)", with what it said last."""
    if code < 0:
        words = f"crashed ({signal_name(code)})"
        return f"{words}: the file is damaged, or LiteRT has a fault. Export it again."
    if "Timeout (" in log:
        return "did not come to an end in time."
    return f"ended with exit code {code}: {_cause(log) or 'it said nothing'}"


def _cause(log: str) -> str:
    """The error under a traceback, of as many lines as it has; else the last line."""
    _, found, last = log.rpartition("Traceback (most recent call last):\n")
    said = [line.strip() for line in last.splitlines() if line.strip() and line[:1] != " "]
    return " ".join(said if found else said[-1:])


_NUMBERS = itertools.count()
# Numbers of files that nobody holds any more.
_CLOSED: deque[int] = deque()
_PROCESSES = Processes("server", lambda: launch.environment(CUDA_VISIBLE_DEVICES="-1"))
