"""What the demo measured: a frozen record, its table, its words and its JSON."""

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from keras_distill import _files, _json

LATENCY_CALLS = 100


@dataclass(frozen=True)
class ModelResult:
    """One model, or one file, measured on the test images.

    `accuracy` and `agreement` (with the teacher's answers) are parts of one;
    `latency_p50_ms` is the median for one image in `runtime`; `passed` is None where nothing was
    verified.
    """

    name: str
    file: str
    parameters: int
    bytes: int
    accuracy: float
    agreement: float
    latency_p50_ms: float
    runtime: str
    passed: bool | None = None

    @classmethod
    def of_file(cls, name: str, export: Any, parameters: int, checked: Any) -> "ModelResult":
        """From a `TFLiteExport` and the `VerificationReport` on it."""
        return cls(
            name=name,
            file=Path(export.path).name,
            parameters=parameters,
            bytes=export.bytes,
            accuracy=float(checked.accuracy_file),
            agreement=float(checked.teacher_agreement),
            latency_p50_ms=float(checked.latency_p50_ms),
            runtime="LiteRT, one thread",
            passed=bool(checked.passed),
        )


@dataclass(frozen=True)
class DemoReport:
    """Everything that one run of the demo measured."""

    settings: dict[str, Any]
    test_images: int
    results: tuple[ModelResult, ...]
    seconds: dict[str, float]
    versions: dict[str, str]
    host: str

    def __getitem__(self, name: str) -> ModelResult:
        """The result called `name`."""
        return next(result for result in self.results if result.name == name)

    def passed(self) -> bool:
        """Whether every verified file passed."""
        return all(result.passed is not False for result in self.results)

    def table(self) -> Table:
        """One row a model: what it is, and how it stands against teacher and baseline."""
        # So tight because a terminal is 80 wide.
        table = Table(
            title=f"{self.settings['dataset']}, {self.test_images} test images",
            box=box.SIMPLE_HEAD,
            padding=0,
            pad_edge=False,
        )
        table.add_column("model")
        for heading in ("para-\nmeters", "bytes", "accuracy", "agree-\nment", "p50\nms"):
            table.add_column(heading, justify="right")
        for heading in ("against\nteacher", "against\nbaseline"):
            table.add_column(heading, justify="right")
        for result in self.results:
            table.add_row(
                result.name,
                f"{result.parameters:,}",
                f"{result.bytes:,}",
                f"{result.accuracy:.1%}",
                f"{result.agreement:.1%}",
                f"{result.latency_p50_ms:.3f}",
                _against(result, self["teacher"]),
                _against(result, self["baseline"]),
                end_section=True,
            )
        return table

    def words(self) -> list[str]:
        """What the numbers say, gains and losses alike, in sentences."""
        file = self["int8 file"]
        sentences = [
            self._regime(),
            self._compare("distilled", "baseline", "The distilled student", "the labels-only twin"),
            self._compare("int8 file", "distilled", "The int8 file", "the model it was made from"),
            f"The int8 file has {file.bytes:,} bytes, the teacher "
            f"{self['teacher'].bytes:,}: {self['teacher'].bytes / file.bytes:.0f} times as many.",
            "Agreement is with the teacher's answers; pts are points of accuracy.",
            "p50 is the median time of one image: a model's in Keras, its overhead included, a "
            "file's in LiteRT. A file is so much faster than teacher and baseline are in Keras.",
            "One run with one seed: try --seed 1 and 2 before you trust a small difference.",
        ]
        for result in self.results:
            if result.passed is False:
                sentences.append(
                    f"NOT VERIFIED: the {result.name} lost more accuracy against its Keras "
                    f"model than the tolerance allows; {result.file} holds the details."
                )
        return sentences

    def _regime(self) -> str:
        known = self.settings["labels"]
        if known == 1.0:
            return "Teacher, baseline and student knew the labels of all training images."
        return (
            f"The teacher learned from all labels. Baseline and student know {known:.0%} of them; "
            f"the student sees the other images, too, without labels. --labels 1.0 tells all."
        )

    def _compare(self, name: str, other: str, subject: str, reference: str) -> str:
        ours, theirs = self[name].accuracy, self[other].accuracy
        images = round(abs(ours - theirs) * self.test_images)
        verb = "gains" if ours > theirs else "LOSES"
        if not images:
            return f"{subject} is right as often as {reference}: {ours:.1%}."
        return (
            f"{subject} {verb} {100 * abs(ours - theirs):.1f} points on {reference}: "
            f"{ours:.1%} against {theirs:.1%}, {images} of {self.test_images} images."
        )

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        _files.write(path, (json.dumps(asdict(self), indent=2) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> "DemoReport":
        """Read what `save` wrote."""
        values = _json.read(path)
        values["results"] = tuple(ModelResult(**result) for result in values["results"])
        return cls(**values)


def _against(result: ModelResult, other: ModelResult) -> str:
    if result.name == other.name:
        return ""
    return (
        f"{_times(result.bytes / other.bytes, 'smaller', 'larger')}\n"
        f"{100 * (result.accuracy - other.accuracy):+.1f} pts\n"
        f"{_times(result.latency_p50_ms / other.latency_p50_ms, 'faster', 'slower')}"
    )


def _times(ratio: float, below: str, above: str) -> str:
    """A ratio in words; under a twentieth more or less is the same.

    >>> _times(3.41, "faster", "slower"), _times(0.04, "faster", "slower")
    ('3.4x slower', '25x faster')
    >>> _times(1.03, "smaller", "larger")
    'the same'
    """
    if abs(ratio - 1) < 0.05:
        return "the same"
    times, word = (ratio, above) if ratio > 1 else (1 / ratio, below)
    return f"{times:.1f}x {word}" if times < 10 else f"{times:.0f}x {word}"


def measure_keras(
    name: str, file: Path, model: Any, x: np.ndarray, y: np.ndarray, teacher_answers: np.ndarray
) -> ModelResult:
    """Accuracy, agreement and the latency of `predict_on_batch` on one image."""
    answers = model.predict(x, batch_size=256, verbose=0).argmax(axis=-1)
    return ModelResult(
        name=name,
        file=file.name,
        parameters=model.count_params(),
        bytes=file.stat().st_size,
        accuracy=float(np.mean(answers == y)),
        agreement=float(np.mean(answers == teacher_answers)),
        latency_p50_ms=median_ms(lambda: model.predict_on_batch(x[:1])),
        runtime="Keras, predict_on_batch",
    )


def median_ms(call: Any, calls: int = LATENCY_CALLS) -> float:
    """The median time of a call in milliseconds, after ten that do not count."""
    times: Sequence[float] = [_timed(call) for _ in range(calls + 10)]
    return 1000.0 * statistics.median(times[10:])


def _timed(call: Any) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
