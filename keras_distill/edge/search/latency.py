"""How fast trial files run, one in turns with another."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from keras_distill.litert.runner import load_tflite

__all__ = ["InTurns", "median_ms"]

_RUNS, _ROUNDS = 30, 5


def median_ms(path: Path) -> float:
    """The median of some runs in a fresh process, one row at a time on one thread."""
    return load_tflite(path).benchmark(runs=_RUNS).latency_p50_ms


class InTurns:
    """Times files, each in turns with the same other one: what slows a machine slows both.

    Args:
      beside: the file that all others are timed with.
      measure: milliseconds of a file.
    """

    def __init__(self, beside: Path, measure: Callable[[Path], float] | None = None):
        self._beside, self._measure = beside, measure or median_ms
        self._times: dict[Path, list[float]] = defaultdict(list)

    def milliseconds(self, path: Path) -> float:
        """The median over the rounds of a file; of the file beside over all of its rounds."""
        if path not in self._times:
            for _ in range(_ROUNDS):
                # No file twice in one round.
                for one in dict.fromkeys((self._beside, path)):
                    self._times[one].append(self._measure(one))
        return statistics.median(self._times[path])
