"""A process that answers requests, one for the whole of this one, and what is left of it."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from keras_distill.litert import launch
from keras_distill.litert.serve import receive, send

__all__ = ["EndedError", "Process", "Processes", "signal_name"]

_SCRIPT = Path(__file__).with_name("serve.py")


class EndedError(RuntimeError):
    """The child ended in place of an answer.

    Attributes:
      code: its exit code; negative, the number of the signal that killed it.
      log: what it printed since the request.
    """

    def __init__(self, code: int, log: str) -> None:
        super().__init__(f"ended with {code}")
        self.code, self.log = code, log


class Process:
    """The child and the pipes to it; threads take turns.

    Args:
      module: of this package, as `serve` describes it.
      environment: of the child.
    """

    def __init__(self, module: str, environment: dict[str, str]) -> None:
        self.owner = os.getpid()
        self._lock = threading.Lock()
        # Open for as long as the child lives.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        # A thread that ends would take the child with it.
        main = threading.current_thread() is threading.main_thread()
        self._child = subprocess.Popen(
            launch.command(str(_SCRIPT), module, *(["killed"] if main else [])),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
        )

    def alive(self) -> bool:
        return self._child.poll() is None and self.owner == os.getpid()

    def ask(
        self, request: dict[str, Any], arrays: list[np.ndarray]
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Sends a request and waits for its answer. Interrupted, it ends the child.

        Raises:
          EndedError: the child has ended.
        """
        with self._lock:
            logged = os.fstat(self._log.fileno()).st_size
            try:
                send(self._child.stdin, request, arrays)  # type: ignore[arg-type]
                return receive(self._child.stdout)  # type: ignore[arg-type]
            except (OSError, EOFError) as error:
                raise EndedError(self._child.wait(), self._printed(logged)) from error
            except BaseException:
                # Half an answer may be under way: nobody could read the next one.
                self._child.kill()
                self._child.wait()
                raise

    def _printed(self, start: int) -> str:
        self._log.seek(start)
        return self._log.read().decode(errors="replace")

    def end(self) -> None:
        """Kills the child. A process that was forked from this one leaves it alone."""
        if self.owner == os.getpid():
            self._child.kill()
            for pipe in (self._child.stdin, self._child.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
            self._child.wait()
            self._log.close()


class Processes:
    """The one child of this process, started at its first use and again after its death.

    Args:
      module: of this package, as `serve` describes it.
      environment: says a child's environment when it starts.
    """

    def __init__(self, module: str, environment: Callable[[], dict[str, str]]) -> None:
        self._module, self._environment = module, environment
        self._lock = threading.Lock()
        self._process: Process | None = None
        atexit.register(self.end)

    def current(self) -> Process:
        with self._lock:
            if self._process is None or not self._process.alive():
                self.end()
                self._process = Process(self._module, self._environment())
            return self._process

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer of the current child, or of the next where that had nothing to do and left.

        Raises:
          EndedError: the child has ended.
        """
        try:
            return self.current().ask(request, [])[0]
        except EndedError as error:
            if error.code != 0:
                raise
        return self.current().ask(request, [])[0]

    def end(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process = None


def signal_name(code: int) -> str:
    """The signal that ended a process of this (negative) exit code: "SIGSEGV"."""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
