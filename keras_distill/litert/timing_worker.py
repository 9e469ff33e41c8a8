"""Times a .tflite in a process of its own: `timing_worker.py file runs warmup threads limit`.

Run as a file and not as a module, so that neither TensorFlow nor Keras is in memory: the peak is
the interpreter's. Prints one line of JSON.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import sys
import time
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def measure(
    path: str, runs: int, warmup: int, num_threads: int, run_limit_s: float
) -> dict[str, object]:
    """Seconds of each run, and how far memory rose above what it was before the file was read.

    The process ends with status 1 and "Timeout" on stderr where a run takes `run_limit_s`.
    """
    before = _reset_peak()
    interpreter = Interpreter(model_path=path, num_threads=num_threads)
    for entry in interpreter.get_input_details():
        shape = [1 if size < 0 else int(size) for size in entry["shape_signature"]]
        if shape != entry["shape"].tolist():
            interpreter.resize_tensor_input(entry["index"], shape)
    interpreter.allocate_tensors()
    generator = np.random.default_rng(0)
    for entry in interpreter.get_input_details():
        interpreter.set_tensor(entry["index"], _example(entry, generator))
    seconds = []
    for _ in range(warmup + runs):
        # A clock of C's: a run that never ends lets no Python in.
        faulthandler.dump_traceback_later(run_limit_s, exit=True)
        start = time.perf_counter()
        interpreter.invoke()
        seconds.append(time.perf_counter() - start)
    faulthandler.cancel_dump_traceback_later()
    return {"seconds": seconds[warmup:], "peak_memory_bytes": max(0, _peak() - before)}


def _example(entry: dict, generator: np.random.Generator) -> np.ndarray:
    if np.issubdtype(entry["dtype"], np.floating):
        return generator.random(entry["shape"]).astype(entry["dtype"])
    if entry["quantization"][0]:
        limits = np.iinfo(entry["dtype"])
        values = generator.integers(limits.min, limits.max, entry["shape"], endpoint=True)
        return values.astype(entry["dtype"])
    # Whole numbers may be indices into a table: only zero is always one.
    return np.zeros(entry["shape"], entry["dtype"])


def _reset_peak() -> int:
    # "5" sets this process' peak to what it uses now; without it, imports are in the peak.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    runs, warmup, threads, limit = sys.argv[2:6]
    sys.stdout.write(
        json.dumps(measure(sys.argv[1], int(runs), int(warmup), int(threads), float(limit))) + "\n"
    )
