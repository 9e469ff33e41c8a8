"""What both benchmarks share: a quiet TensorFlow, the host's name, JSON files, markdown tables."""

import argparse
import json
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

RESULTS = Path(__file__).parent / "results"
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx_vnni", "amx_tile", "amx_bf16")


def set_threads(threads: int) -> None:
    """TensorFlow's threads inside an operation, and across operations the same number."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


def host() -> dict[str, Any]:
    """The processor, its flags that matter here, and the versions of what runs on it."""
    import keras
    import tensorflow as tf

    info = _cpuinfo()
    flags = set(info.get("flags", "").split())
    return {
        "processor": info.get("model name", platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        "flags": [flag for flag in _FLAGS if flag in flags],
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }


def host_line(facts: dict[str, Any]) -> str:
    """The host in one line."""
    return (
        f"{facts['processor']}, {facts['cores']} cores ({' '.join(facts['flags'])}); "
        f"TensorFlow {facts['tensorflow']}, Keras {facts['keras']}, Python {facts['python']}"
    )


def peak_mib() -> float:
    """The largest resident set of this process so far.

    Not `ru_maxrss` where the kernel tells: a child begins with its parent's.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        import resource  # Not on Windows.

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = next(
        line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) / 1024


def networks_run(
    stem: str, args: argparse.Namespace, networks: Iterable[str], run: Callable[..., None]
) -> dict[str, Any]:
    """What is stored of a benchmark's networks; first those asked for go on where they stopped.

    Args:
      stem: of the JSON.
      args: with `work`, `smoke`, `table` and `only`.
      networks: all of them.
      run: `run(name, args, stored, save)`, which calls `save()` after each row.
    """
    folder = args.work if args.smoke else RESULTS
    output = folder / (f"{stem}_smoke.json" if args.smoke else f"{stem}.json")
    if not args.table:
        stored = read_json(output) | {"host": host()}
        for name in args.only or networks:
            run(name, args, stored, lambda: write_json(output, stored))
    return read_json(output)


def read_json(path: Path) -> dict[str, Any]:
    """What an earlier run wrote, or an empty dict."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write beside, then rename: an interrupted write leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, path)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table; the first column to the left, figures to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in first)
    return {key.strip(): value.strip() for key, _, value in pairs}
