"""What a trial's file is worth: accuracy on held-out examples, bytes, latency."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_distill.judging import judge
from keras_distill.litert.runner import load_tflite
from keras_distill.pipeline.inputs import usage_errors
from keras_distill.pipeline.runs.examples import Examples, Part

__all__ = ["Measured", "measure", "quality_of", "score"]

# Each repeat is a process of its own; one alone may meet a busy machine.
REPEATS, RUNS = 5, 100


@dataclass(frozen=True)
class Measured:
    """A file's figures.

    Args:
      quality: `score` on the validation data.
      bytes: of the file.
      latency_ms: the median of the repeats' medians; one thread, one example.
      latency_low_ms, latency_high_ms: the least and the greatest of these.
      host: the machine.
    """

    quality: float
    bytes: int
    latency_ms: float
    latency_low_ms: float
    latency_high_ms: float
    host: str


def measure(file: Path, examples: Examples) -> Measured:
    """Measure a file here and now.

    Raises:
      UsageError: it can't be run.
    """
    with usage_errors():
        runner = load_tflite(file)
        reports = [runner.benchmark(runs=RUNS) for _ in range(REPEATS)]
    times = [one.latency_p50_ms for one in reports]
    quality = score(file, examples.validation, quality_of(examples))
    size, host = file.stat().st_size, reports[0].host
    return Measured(quality, size, float(np.median(times)), min(times), max(times), host)


def quality_of(examples: Examples) -> str:
    """The metric: "accuracy" for classes, "MAE" for numbers."""
    return "accuracy" if examples.classes else "MAE"


def score(file: Path, part: Part, metric: str) -> float:
    """A metric of a file's answers.

    Raises:
      UsageError: the file can't answer, or not so that the metric applies.
    """
    with usage_errors():
        # Nobody reads the interval.
        data = (part.x, part.y)
        found = judge({"file": file}, data, metrics=[metric], resamples=10, verbose=False)
    return found.figures[0].value
