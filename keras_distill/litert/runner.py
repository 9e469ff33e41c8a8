"""Running a .tflite: in real units, in batches, with its speed and memory measured."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import threading
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_distill._records import Record, Table, pairs
from keras_distill.litert import launch
from keras_distill.litert.child import CrashError, RemoteKeptRun, RemoteSession, words_of_exit
from keras_distill.litert.kept_run import KeptRun
from keras_distill.litert.quiet import quiet_stderr
from keras_distill.litert.serve import in_bytes
from keras_distill.litert.session import Session, TensorInfo, dequantize, has_rows, quantize

__all__ = [
    "LABELS_FILE",
    "CrashError",
    "LatencyReport",
    "TFLiteRunner",
    "TensorInfo",
    "dequantize",
    "load_tflite",
    "quantize",
    "read_labels",
    "trust",
]

LABELS_FILE = "labels.txt"
MAX_LABELS_BYTES = 16 * 1024 * 1024
_BENCHMARK_WORKER = Path(__file__).with_name("timing_worker.py")
RUN_LIMIT_S = 60.0
# Of one run in the child, which may have to do with a large batch.
_PREDICT_LIMIT_S = 600.0
# SHA-256 of the files that this process has converted itself.
_OURS: set[str] = set()


@dataclass(frozen=True)
class LatencyReport(Record):
    """How fast a .tflite runs on `host`, one row at a time unless its batch is fixed otherwise.

    `peak_memory_bytes` is how far a fresh process grew: weights, activations and kernels.
    """

    latency_p50_ms: float
    latency_p90_ms: float
    peak_memory_bytes: int
    runs: int
    num_threads: int
    host: str

    def parts(self) -> Iterator[str | Table]:
        """A line a measure."""
        rows = {
            "p50 latency": f"{self.latency_p50_ms:.3f} ms",
            "p90 latency": f"{self.latency_p90_ms:.3f} ms",
            "peak memory": f"{self.peak_memory_bytes / 1e6:.2f} MB",
            "runs": f"{self.runs} on {self.num_threads} thread(s)",
            "host": self.host,
        }
        yield pairs(rows)


def load_tflite(
    path: str | os.PathLike[str],
    *,
    num_threads: int = 1,
    signature: str | None = None,
    isolated: bool | None = None,
) -> TFLiteRunner:
    """Opens a .tflite with LiteRT.

    Some valid files crash LiteRT. What this process did not convert itself therefore runs in a
    child, one for all such files: a crash there is an error here.

    Args:
      path: any .tflite; one of another tool's making may have neither labels nor signature.
      num_threads: threads that `predict` may use.
      signature: which of the file's `signatures` to run; by default its first graph.
      isolated: True to run it in the child, False in this process, whoever made it.

    Returns:
      A `TFLiteRunner`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no .tflite, is cut short or damaged, or has no such signature.
      CrashError: LiteRT crashed when it opened the file.
    """
    return TFLiteRunner(path, num_threads=num_threads, signature=signature, isolated=isolated)


def trust(path: str | os.PathLike[str]) -> None:
    """Has this process run the file at `path`, as it is now, by itself: it has just made it."""
    _OURS.add(file_sha256(path))


def file_sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_labels(path: str | os.PathLike[str]) -> tuple[str, ...] | None:
    """The class names stored in a .tflite (`labels.txt` of its zip appendix), or None.

    Raises:
      ValueError: there is such an appendix, and it is damaged.
    """
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            if LABELS_FILE not in archive.namelist():
                return None
            # A few kilobytes of a zip can unpack to gigabytes, whatever size it claims.
            with archive.open(LABELS_FILE) as file:
                content = file.read(MAX_LABELS_BYTES + 1)
            if len(content) > MAX_LABELS_BYTES:
                raise ValueError(f"they are longer than {MAX_LABELS_BYTES:,} bytes")
            text = content.decode("utf-8")
    # zipfile raises the last two for a password and a compression that it does not know.
    except (
        *(zipfile.BadZipFile, zlib.error, EOFError, ValueError),
        *(RuntimeError, NotImplementedError),
    ) as error:
        raise ValueError(
            f"The labels stored in {path} are damaged: {error}. Export it again."
        ) from error
    return tuple(text.removesuffix("\n").replace("\r\n", "\n").split("\n"))


class TFLiteRunner:
    """A .tflite ready to run; see `load_tflite`. Threads may share it: they take turns.

    Attributes:
      path: the file.
      inputs, outputs: tuples of `TensorInfo`, in the file's order.
      signatures: the names of its signatures; `load_tflite(path, signature=)` chooses one.
      labels: the class names stored in the file, or None.
      isolated: whether it runs in a child process.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        num_threads: int = 1,
        signature: str | None = None,
        isolated: bool | None = None,
    ):
        if num_threads < 1:
            raise ValueError(f"Expected num_threads of 1 or more; got {num_threads}.")
        self.path = Path(path)
        _check_identifier(self.path)
        self._lock = threading.Lock()
        self.isolated = file_sha256(path) not in _OURS if isolated is None else isolated
        options = (os.fspath(self.path), num_threads, signature)
        self._session: Session | RemoteSession
        if self.isolated:
            self._session = RemoteSession(*options, _PREDICT_LIMIT_S)
        else:
            self._session = Session(*options, quiet_stderr)
        self.inputs, self.outputs = self._session.inputs, self._session.outputs
        self.signatures = self._session.signatures
        self.labels = read_labels(self.path)

    def __repr__(self) -> str:
        return f"TFLiteRunner({str(self.path)!r}, inputs={self.inputs}, outputs={self.outputs})"

    def __call__(self, x: Any) -> Any:
        """`predict`, so that a runner serves wherever a callable model does."""
        return self.predict(x)

    def predict(self, x: Any, batch_size: int | None = None) -> Any:
        """Runs the file on real values, whatever it stores them as.

        Args:
          x: an array `(rows, ...)`; for several inputs a dict by name or a list in the file's
            order. Values are real: quantised inputs are rounded and clipped into range here.
          batch_size: rows at once, for files with an open batch (default 32). A file with a
            fixed batch runs at that; a short last batch is filled up, and the filling dropped.

        A file whose inputs differ in their first size, or have none, has no rows: it runs once,
        on arrays of just its shapes.

        Returns:
          The float32 output `(rows, ...)`, or a dict by name if there are several. Whole-number
          outputs that are not quantised keep their dtype. An output of another first size than
          the rows that ran is given whole.

        Raises:
          ValueError: shapes, names or batch size are not the file's; NaN in a quantised input;
            more rows than run at once, and an output of which no part belongs to one row.
          CrashError: LiteRT crashed, in its child.
        """
        arrays = self._matched(x)
        by_rows = has_rows(self.inputs)
        fixed = self.inputs[0].shape[0] if by_rows else None
        if batch_size is not None and not (by_rows and fixed in (None, batch_size)):
            runs = f"{fixed} row(s)" if fixed else "whole arrays"
            raise ValueError(
                f"{self.path} runs {runs} at once, not {batch_size}; leave batch_size "
                f"out, or export with batch_size=None for an open batch."
            )
        with self._lock:
            found = self._session.predict(arrays, batch_size)
        if len(found) == 1:
            return found[0]
        return {info.name: value for info, value in zip(self.outputs, found, strict=True)}

    def kept_run(self) -> KeptRun | RemoteKeptRun:
        """The file opened anew, to be run with all its tensors kept, where `predict` runs it."""
        path = os.fspath(self.path)
        if self.isolated:
            return RemoteKeptRun(path, _PREDICT_LIMIT_S)
        return KeptRun(path, quiet_stderr)

    def endings(self) -> dict[str, str | None]:
        """The operator that made each output's numbers, by the output's name.

        What only moves or rescales them is passed over; None where an input is handed on.
        """
        with self._lock:
            return self._session.endings()

    def benchmark(
        self,
        runs: int = 50,
        warmup: int = 5,
        num_threads: int = 1,
        *,
        run_limit_s: float = RUN_LIMIT_S,
    ) -> LatencyReport:
        """Times the file in a fresh process that holds nothing else.

        It says how fast the file is on this processor. Integers pay on phones; on x86 without VNNI
        a float file may be the faster one (docs/edge.md has both, network by network).

        Args:
          runs: timed runs, after `warmup` untimed ones.
          warmup: untimed runs.
          num_threads: threads of the interpreter.
          run_limit_s: seconds that one run may take; a damaged file may never end.

        Raises:
          ValueError: `runs` or `num_threads` below 1, `warmup` below 0, no positive limit.
          RuntimeError: the process died, or a run took longer than the limit.

        >>> LatencyReport(0.5, 0.75, 2_000_000, 50, 1, "a phone").to_json()[:24]
        '{"latency_p50_ms": 0.5, '
        """
        if runs < 1 or warmup < 0 or num_threads < 1 or not 0 < run_limit_s < threading.TIMEOUT_MAX:
            raise ValueError(
                f"Expected runs >= 1, warmup >= 0, num_threads >= 1, run_limit_s > 0; got {runs}, "
                f"{warmup}, {num_threads}, {run_limit_s}."
            )
        options = (str(self.path), str(runs), str(warmup), str(num_threads), str(run_limit_s))
        answer = subprocess.run(
            launch.command(str(_BENCHMARK_WORKER), *options),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=launch.environment(),
        )
        if answer.returncode != 0 and "Timeout (" in answer.stderr:
            raise RuntimeError(
                f"{self.path} did not finish a run within {run_limit_s:g} seconds. If it is only "
                f"slow, give it more: run_limit_s= (--run-limit on the command line)."
            )
        if answer.returncode != 0:
            words = words_of_exit(answer.returncode, answer.stderr)
            kind = CrashError if answer.returncode < 0 else RuntimeError
            raise kind(f"The process that timed {self.path} {words}")
        measured = json.loads(answer.stdout.splitlines()[-1])
        p50, p90 = np.percentile(measured["seconds"], [50, 90]) * 1000
        memory = measured["peak_memory_bytes"]
        return LatencyReport(float(p50), float(p90), memory, runs, num_threads, _host())

    def _matched(self, x: Any) -> list[np.ndarray]:
        names = [info.name for info in self.inputs]
        if isinstance(x, dict):
            if set(x) != set(names):
                raise ValueError(f"{self.path} has the inputs {names}; got {list(x)}.")
            values = [x[name] for name in names]
        else:
            values = list(x) if isinstance(x, (list, tuple)) and len(names) > 1 else [x]
        if len(values) != len(names):
            raise ValueError(f"{self.path} has the inputs {names}; got {len(values)} array(s).")
        arrays = [np.asarray(value) for value in values]
        arrays = [in_bytes(array) if array.dtype.kind in "OU" else array for array in arrays]
        by_rows = has_rows(self.inputs)
        for array, info in zip(arrays, self.inputs, strict=True):
            _check_input(array, info, by_rows)
        if by_rows and (len({len(a) for a in arrays}) != 1 or not len(arrays[0])):
            raise ValueError(f"Expected inputs of one length >= 1; got {[len(a) for a in arrays]}.")
        return arrays


def _check_input(array: np.ndarray, info: TensorInfo, by_rows: bool) -> None:
    skipped = 1 if by_rows else 0
    rest = info.shape[skipped:]
    fits = array.ndim == len(info.shape) and all(
        want in (None, got) for want, got in zip(rest, array.shape[skipped:], strict=True)
    )
    if not fits:
        kind = "rows of shape" if by_rows else "an array of shape"
        raise ValueError(
            f"The input {info.name!r} expects {kind} {rest}; got an array of {array.shape}."
        )
    whole = np.issubdtype(np.dtype(info.dtype), np.integer) and not info.scale
    if whole and np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"The input {info.name!r} expects {info.dtype}; got {array.dtype}. Whole numbers go in "
            f"as x.astype({info.dtype!r})."
        )


def _check_identifier(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"Expected a .tflite file at {path}; there is none.")
    with path.open("rb") as file:
        head = file.read(8)
    if head[4:8] != b"TFL3":
        raise ValueError(
            f"Expected a .tflite (identifier TFL3 at byte 4); {path} begins with {head!r}."
        )


def _host() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        processor = platform.processor() or "unknown processor"
    return f"{processor}, {os.cpu_count()} CPUs, {platform.system()} {platform.machine()}"
