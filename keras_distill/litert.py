"""Running a .tflite: in real units, in batches, with its speed and memory measured."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import _child, _keras
from ._records import Record, Table, pairs

LABELS_FILE = "labels.txt"
MAX_LABELS_BYTES = 16 * 1024 * 1024
_BENCHMARK_WORKER = Path(__file__).with_name("_litert_worker.py")
RUN_LIMIT_S = 60.0
# Operators that leave a number's meaning as it is.
_PASSING = frozenset(
    ("CAST", "DEQUANTIZE", "EXPAND_DIMS", "QUANTIZE", "RESHAPE", "RESIZE_BILINEAR", "SQUEEZE")
)
_STDERR_LOCK = threading.RLock()


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a .tflite. `shape` has None where a size is open.

    real value = scale x (stored value - zero_point); scale is 0.0 where nothing is quantised.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float
    zero_point: int


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


def load_tflite(path: str | os.PathLike[str], *, num_threads: int = 1) -> TFLiteRunner:
    """Opens a .tflite with LiteRT.

    Args:
      path: any .tflite; one of another tool's making may have neither labels nor signature.
      num_threads: threads that `predict` may use.

    Returns:
      A `TFLiteRunner`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no .tflite, is cut short or damaged.
    """
    return TFLiteRunner(path, num_threads=num_threads)


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
      labels: the class names stored in the file, or None.
    """

    def __init__(self, path: str | os.PathLike[str], *, num_threads: int = 1):
        if num_threads < 1:
            raise ValueError(f"Expected num_threads of 1 or more; got {num_threads}.")
        self.path = Path(path)
        _check_identifier(self.path)
        self._lock = threading.Lock()
        self._shapes: list[tuple[int, ...]] | None = None
        with quiet_stderr():
            self._interpreter = _new_interpreter(self.path, num_threads)
            self._read_interface()
        self.labels = read_labels(self.path)

    def _read_interface(self) -> None:
        try:
            names = _signature_names(self._interpreter)
            self._inputs = self._interpreter.get_input_details()
            self._outputs = self._interpreter.get_output_details()
            self.inputs = tuple(_tensor_info(entry, names["inputs"]) for entry in self._inputs)
            self.outputs = tuple(_tensor_info(entry, names["outputs"]) for entry in self._outputs)
        # LiteRT checks no index of a signature before it is followed.
        except (TypeError, ValueError, IndexError, KeyError, RuntimeError) as error:
            raise ValueError(
                f"LiteRT opens {self.path}, but its inputs and outputs can't be read: the file is "
                f"damaged. Export it again."
            ) from error

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

        Returns:
          The float32 output `(rows, ...)`, or a dict by name if there are several. Whole-number
          outputs that are not quantised keep their dtype.

        Raises:
          ValueError: shapes, names or batch size are not the file's; NaN in a quantised input.
        """
        arrays = self._matched(x)
        fixed = self.inputs[0].shape[0]
        if fixed is not None and batch_size not in (None, fixed):
            raise ValueError(
                f"{self.path} runs {fixed} row(s) at once, not {batch_size}; leave batch_size "
                f"out, or export with batch_size=None for an open batch."
            )
        step = fixed or batch_size or 32
        with self._lock:
            parts = [
                self._run([array[start : start + step] for array in arrays], fixed)
                for start in range(0, len(arrays[0]), step)
            ]
        joined = [np.concatenate(column) for column in zip(*parts, strict=True)]
        if len(joined) == 1:
            return joined[0]
        return {info.name: value for info, value in zip(self.outputs, joined, strict=True)}

    def endings(self) -> dict[str, str | None]:
        """The operator that made each output's numbers, by the output's name.

        What only moves or rescales them is passed over; None where an input is handed on.
        """
        makers = _keras.makers_in_tflite(self._interpreter)
        found = {}
        for info, entry in zip(self.outputs, self._outputs, strict=True):
            maker = makers.get(entry["index"])
            while maker is not None and maker[0] in _PASSING:
                maker = makers.get(maker[1])
            found[info.name] = maker and maker[0]
        return found

    def benchmark(
        self,
        runs: int = 50,
        warmup: int = 5,
        num_threads: int = 1,
        *,
        run_limit_s: float = RUN_LIMIT_S,
    ) -> LatencyReport:
        """Times the file in a fresh process that holds nothing else.

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
            _child.command(str(_BENCHMARK_WORKER), *options),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=_child.environment(),
        )
        if answer.returncode != 0 and "Timeout (" in answer.stderr:
            raise RuntimeError(
                f"{self.path} did not finish a run within {run_limit_s:g} seconds. If it is only "
                f"slow, give it more: run_limit_s= (--run-limit on the command line)."
            )
        if answer.returncode != 0:
            raise RuntimeError(
                f"Timing {self.path} failed with exit code {answer.returncode}: "
                f"{answer.stderr.strip()[-500:]}"
            )
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
        for array, info in zip(arrays, self.inputs, strict=True):
            _check_input(array, info)
        if len({len(array) for array in arrays}) != 1 or not len(arrays[0]):
            raise ValueError(f"Expected inputs of one length >= 1; got {[len(a) for a in arrays]}.")
        return arrays

    def _run(self, arrays: list[np.ndarray], fixed: int | None) -> list[np.ndarray]:
        rows = len(arrays[0])
        if fixed:
            arrays = [array[np.minimum(np.arange(fixed), rows - 1)] for array in arrays]
        self._allocate([array.shape for array in arrays])
        for array, entry, info in zip(arrays, self._inputs, self.inputs, strict=True):
            self._interpreter.set_tensor(entry["index"], quantize(array, info))
        # LiteRT's fused LSTM keeps its last state, and the next rows have nothing to do with it.
        self._interpreter.reset_all_variables()
        self._interpreter.invoke()
        return [
            dequantize(self._interpreter.get_tensor(entry["index"]), info)[:rows]
            for entry, info in zip(self._outputs, self.outputs, strict=True)
        ]

    def _allocate(self, shapes: list[tuple[int, ...]]) -> None:
        if self._shapes == shapes:
            return
        with quiet_stderr():
            try:
                for shape, entry, info in zip(shapes, self._inputs, self.inputs, strict=True):
                    if None in info.shape:
                        self._interpreter.resize_tensor_input(entry["index"], shape)
                self._interpreter.allocate_tensors()
            except RuntimeError as error:
                raise ValueError(f"LiteRT cannot run {self.path}: {_mend(error)}") from error
        self._shapes = shapes


def quantize(values: np.ndarray, info: TensorInfo) -> np.ndarray:
    """Real values as the file stores them: rounded to the nearest step and clipped.

    >>> quantize(np.array([0.0, 0.26, 99.0]), TensorInfo("x", (3,), "int8", 0.5, -1))
    array([ -1,   0, 127], dtype=int8)
    """
    dtype = np.dtype(info.dtype)
    if not info.scale:
        return values.astype(dtype, copy=False)
    if np.isnan(values).any():
        raise ValueError(f"Expected real values for the quantised input {info.name!r}; got NaN.")
    limits = np.iinfo(dtype)
    steps = np.rint(values / np.float32(info.scale)) + info.zero_point
    return np.clip(steps, limits.min, limits.max).astype(dtype)


def dequantize(values: np.ndarray, info: TensorInfo) -> np.ndarray:
    """What the file stores as real float32 values; unquantised whole numbers stay as they are."""
    if info.scale:
        return (values.astype("float32") - info.zero_point) * np.float32(info.scale)
    return values.astype("float32") if values.dtype == np.float16 else values


def _check_input(array: np.ndarray, info: TensorInfo) -> None:
    rest = info.shape[1:]
    fits = array.ndim == len(info.shape) and all(
        want in (None, got) for want, got in zip(rest, array.shape[1:], strict=True)
    )
    if not fits:
        raise ValueError(
            f"The input {info.name!r} expects rows of shape {rest}; got an array of {array.shape}."
        )
    whole = np.issubdtype(np.dtype(info.dtype), np.integer) and not info.scale
    if whole and np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"The input {info.name!r} expects {info.dtype}; got {array.dtype}.")


def _check_identifier(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"Expected a .tflite file at {path}; there is none.")
    with path.open("rb") as file:
        head = file.read(8)
    if head[4:8] != b"TFL3":
        raise ValueError(
            f"Expected a .tflite (identifier TFL3 at byte 4); {path} begins with {head!r}."
        )


def _new_interpreter(path: Path, num_threads: int) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    try:
        return Interpreter(model_path=os.fspath(path), num_threads=num_threads)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"LiteRT cannot open {path}: {_mend(error)} The file may be cut short; export it again."
        ) from error


def _mend(error: Exception) -> str:
    if "Flex delegate" in str(error):
        return (
            "it uses Select TF ops, and neither LiteRT nor TensorFlow ships the Flex delegate "
            "for Python. It runs on a device that links it; here, export without allow_flex."
        )
    return f"{error}."


def _signature_names(interpreter: Any) -> dict[str, dict[int, list[str]]]:
    """Names by tensor index; a tensor that is two outputs has two."""
    found: dict[str, dict[int, list[str]]] = {"inputs": {}, "outputs": {}}
    if interpreter.get_signature_list():
        runner = interpreter.get_signature_runner(next(iter(interpreter.get_signature_list())))
        for name, entry in runner.get_input_details().items():
            found["inputs"].setdefault(entry["index"], []).append(name)
        for name, entry in runner.get_output_details().items():
            found["outputs"].setdefault(entry["index"], []).append(name)
    return found


def _tensor_info(entry: dict[str, Any], names: dict[int, list[str]]) -> TensorInfo:
    signature = entry["shape_signature"]
    shape = tuple(None if size < 0 else int(size) for size in signature)
    scale, zero_point = entry["quantization"]
    known = names.get(entry["index"])
    name = known.pop(0) if known else entry["name"]
    dtype = np.dtype(entry["dtype"]).name
    return TensorInfo(name, shape, dtype, float(scale), int(zero_point))


def _host() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        processor = platform.processor() or "unknown processor"
    return f"{processor}, {os.cpu_count()} CPUs, {platform.system()} {platform.machine()}"


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keeps LiteRT's INFO lines, which it writes to file descriptor 2, from the terminal.

    Everything else written meanwhile comes out afterwards. Harmless where descriptor 2 is closed.
    """
    with _STDERR_LOCK, contextlib.ExitStack() as stack:
        try:
            saved = os.dup(2)
        except OSError:
            yield
            return
        stack.callback(os.close, saved)
        sink = stack.enter_context(tempfile.TemporaryFile())
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            sink.seek(0)
            kept = [line for line in sink if not line.startswith((b"INFO: ", b"ERROR: "))]
            os.write(2, b"".join(kept)) if kept else None
