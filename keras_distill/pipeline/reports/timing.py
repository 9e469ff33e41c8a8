"""Times of one example: files and models alike in LiteRT, models in Keras as well."""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from keras_distill import edge
from keras_distill.edge.analysis import Analysis
from keras_distill.litert.runner import load_tflite
from keras_distill.pipeline.inputs import one_line
from keras_distill.training.architecture import architecture_digest

__all__ = ["Clock", "InLiteRT", "median_ms"]

RUNS = 50
_WARM_UP = 10


@dataclass(frozen=True)
class InLiteRT:
    """What a file takes; without figures, why."""

    p50_ms: float | None = None
    bytes: int | None = None
    why: str = ""


class Clock:
    """Takes times; models that differ in their weights alone share one.

    Args:
      example: inputs of one row.

    Attributes:
      host: the machine, once a file was timed.
    """

    def __init__(self, example: Any) -> None:
        self._example = example
        self._known: dict[str, InLiteRT] = {}
        self.host = ""

    def of_file(self, path: Path) -> InLiteRT:
        """A `.tflite` in a process of its own, with one thread."""
        try:
            measured = load_tflite(path).benchmark(runs=RUNS, num_threads=1)
        except RuntimeError as error:
            return InLiteRT(why=f"not timed: {one_line(error)}")
        self.host = measured.host
        return InLiteRT(measured.latency_p50_ms, path.stat().st_size)

    def of_model(self, model: keras.Model) -> InLiteRT:
        """A Keras model by its float32 file, which is made for this alone."""
        digest = architecture_digest(model)
        if digest not in self._known:
            self._known[digest] = self._converted(model)
        return self._known[digest]

    def in_keras(self, model: keras.Model) -> float:
        """`predict_on_batch` of one row, in milliseconds."""
        return median_ms(lambda: model.predict_on_batch(self._example))

    def _converted(self, model: keras.Model) -> InLiteRT:
        if Analysis(model).has_ranges:
            return InLiteRT(why="made for integers; see its file for LiteRT")
        with tempfile.TemporaryDirectory() as folder:
            try:
                made = edge.export_tflite(model, Path(folder, "model.tflite"), precision="float32")
                return self.of_file(Path(made.path))
            except (TypeError, ValueError, RuntimeError) as error:
                return InLiteRT(why=f"no LiteRT file: {one_line(error)}")


def median_ms(call: Callable[[], Any], calls: int = RUNS) -> float:
    """The median time of a call in milliseconds, after ten that do not count."""
    seconds = []
    for _ in range(calls + _WARM_UP):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return 1000.0 * statistics.median(seconds[_WARM_UP:])
