"""What a .tflite answers, against the model it came from and the teacher.

The converter is never taken at its word: every figure comes from running the file.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import math
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_distill._pages import see
from keras_distill.data import batches
from keras_distill.edge.joins import parts_of_outputs
from keras_distill.edge.records import Check, TFLiteExport, VerificationReport
from keras_distill.edge.tflite_file import precision_of
from keras_distill.edge.verification.answers import Answers
from keras_distill.edge.verification.heads import Head
from keras_distill.edge.verification.tolerances import Tolerances, checks_of
from keras_distill.litert.runner import (
    CrashError,
    LatencyReport,
    TFLiteRunner,
    file_sha256,
    load_tflite,
)
from keras_distill.measures.agreement import correlation

_PACKAGES = ("keras_distill", "tensorflow", "keras", "ai-edge-litert")


class VerificationError(AssertionError):
    """A file missed a tolerance. `report` is the whole `VerificationReport`."""

    def __init__(self, message: str, report: VerificationReport):
        super().__init__(message)
        self.report = report


def benchmark(
    export: TFLiteExport | TFLiteRunner | str | os.PathLike[str],
    *,
    runs: int = 50,
    warmup: int = 5,
    num_threads: int = 1,
) -> LatencyReport:
    """Times a .tflite; see `TFLiteRunner.benchmark`."""
    return _runner(export).benchmark(runs=runs, warmup=warmup, num_threads=num_threads)


def verify(
    export: TFLiteExport | TFLiteRunner | str | os.PathLike[str],
    reference: Any,
    data: Any,
    *,
    teacher: Any = None,
    quantized: Any = None,
    metrics: Sequence[Any] | None = None,
    max_drop: float = 0.01,
    min_agreement: float | None = None,
    max_bytes: int | None = None,
    max_latency_ms: float | None = None,
    max_error: float | None = None,
    min_correlation: float | None = None,
    min_quantized_correlation: float | None = None,
) -> VerificationReport:
    """Runs a .tflite on data and compares it with the Keras model and the teacher.

    Each output is judged by itself, with and without labels: a float file must give the model's
    numbers, a file of integers must follow them. So is each part of an output that is a
    concatenation, by its numbers. Nothing passes that was not judged.

    Args:
      export: what `export_tflite` returned, or a path.
      reference: the Keras model of either generation, or a callable.
      data: any data argument. Labels are class numbers, one-hot, or 0 and 1 for outputs that say
        yes or no; of several outputs a list of arrays or a dict by name, which may leave some out.
        Rows labelled -1 are left out of accuracy and metrics. Sample weights are not used.
      teacher: a Keras model or a callable that returns class scores.
      quantized: the fake-quantised model that the file was exported from, or a callable: what
        the file loses beyond it, the converter lost.
      metrics: Keras metrics, measured on the file's output; your objects stay untouched.
      max_drop: accuracy may fall by this much, 0.01 being one point, in each output that has
        labels of classes.
      min_agreement: smallest share of rows where file and reference choose the same class.
      max_bytes: largest file.
      max_latency_ms: longest median run on this host, one thread.
      max_error: largest difference from the model, as part of the range of an output's numbers.
        None: 1e-3 in a float32 file, 1e-2 in one of float16 (more where the model itself computes
        in half precision), not asked of integers.
      min_correlation: smallest correlation with the model in each output; of outputs that are
        class numbers Cohen's kappa. None: 0.9 in a file of integers, and 0.99 (float16: 0.98) for
        class numbers of float files.
      min_quantized_correlation: the same with the fake-quantised model. None: 0.98.

    Returns:
      A `VerificationReport` whose `passed` is True.

    Raises:
      VerificationError: a tolerance was missed, a number is NaN, or LiteRT crashed; it names each
        with its figures, the worst row, and where the loss came about.
      ValueError: shapes that do not belong together, labels outside the classes or for another
        output, metrics without labels, or a tolerance on something that this model does not have.

    Example:
      report = verify(export, model, (x, y), teacher=teacher, min_agreement=0.99)
    """
    try:
        runner = _runner(export)
        seen = Answers(runner, {"reference": reference, "teacher": teacher, "quantized": quantized})
        for x, y, _ in batches(data, batch_size=seen.batch_size):
            seen.add(x, y)
        latency = runner.benchmark().latency_p50_ms
    except CrashError as error:
        raise VerificationError(str(error), crashed(export, error)) from error
    answers, labels = seen.by_role(), seen.labels()
    file, model = answers["file"], answers["reference"]
    guide, rounded = answers.get("teacher"), answers.get("quantized")
    parts = parts_of_outputs(reference, [info.name for info in runner.outputs])
    heads = [
        dataclasses.replace(Head.of(info.name, ours, theirs, truth), parts=joined)
        for info, ours, theirs, truth, joined in zip(
            runner.outputs, file, model, labels, parts, strict=True
        )
    ]
    agreement = _mean(head.agreement(head.reference) for head in heads)
    if min_agreement is not None and agreement is None:
        raise ValueError("min_agreement needs outputs of two classes or more; these have one.")
    accuracy_file = _accuracy(heads, [head.file for head in heads])
    accuracy_reference = _accuracy(heads, [head.reference for head in heads])
    tolerances = Tolerances(
        max_drop, min_agreement, max_error, min_correlation, min_quantized_correlation
    )
    size = runner.path.stat().st_size
    checks = (
        Check("file runs", f"{runner.path} answered {seen.rows} rows", True),
        *checks_of(heads, rounded, precision_of(runner.path), reference, tolerances),
        *_limit("bytes", f"{size} bytes", size, "max_bytes", max_bytes),
        *_limit("p50 latency", f"{latency:.3f} ms", latency, "max_latency_ms", max_latency_ms),
    )
    report = VerificationReport(
        accuracy_file=accuracy_file,
        accuracy_reference=accuracy_reference,
        drop=_drop(accuracy_reference, accuracy_file),
        agreement=agreement,
        teacher_agreement=_agreement_with(heads, guide),
        correlation=correlation(_flat(file), _flat(model)),
        max_abs_error=max(float(head.errors().max()) for head in heads),
        metrics=_measured(metrics or (), file, [one for one in labels if one is not None]),
        bytes=size,
        latency_p50_ms=latency,
        passed=all(check.passed for check in checks),
        quantized_agreement=_agreement_with(heads, rounded),
        quantized_correlation=None if rounded is None else correlation(_flat(file), _flat(rounded)),
        checks=checks,
        rows=seen.rows,
        data_sha256=seen.sha256(),
        **_provenance(runner.path),
    )
    if not report.passed:
        missed = [f"{check.name}: {check.words}" for check in checks if not check.passed]
        words = f"{runner.path} is past its tolerances: {'; '.join(missed)}.{see('worse')}"
        raise VerificationError(words, report)
    return report


def crashed(export: Any, error: CrashError) -> VerificationReport:
    """The report on a file that ends the process which runs it."""
    path = Path(export.path if isinstance(export, TFLiteRunner) else export)
    return VerificationReport(
        accuracy_file=None,
        accuracy_reference=None,
        drop=None,
        agreement=None,
        teacher_agreement=None,
        correlation=math.nan,
        max_abs_error=math.nan,
        metrics={},
        bytes=path.stat().st_size,
        latency_p50_ms=math.nan,
        passed=False,
        checks=(Check("file runs", str(error), False),),
        **_provenance(path),
    )


def _provenance(path: Path) -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "path": path,
        "file_sha256": file_sha256(path),
        "versions": versions | {"python": platform.python_version()},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _runner(export: Any) -> TFLiteRunner:
    if isinstance(export, TFLiteRunner):
        return export
    return load_tflite(export.path if isinstance(export, TFLiteExport) else export)


def _accuracy(heads: list[Head], answers: list[np.ndarray]) -> float | None:
    hits = [head.hits(answer) for head, answer in zip(heads, answers, strict=True)]
    return _mean(None if found is None else float(found.mean()) for found in hits)


def _drop(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else before - after


def _agreement_with(heads: list[Head], other: list[np.ndarray] | None) -> float | None:
    if other is None:
        return None
    return _mean(head.agreement(one) for head, one in zip(heads, other, strict=True))


def _mean(found: Iterable[float | None]) -> float | None:
    """Over what there is."""
    known = [value for value in found if value is not None]
    return float(np.mean(known)) if known else None


def _flat(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([part.ravel() for part in arrays])


def _measured(
    metrics: Sequence[Any], file: list[np.ndarray], labels: list[np.ndarray]
) -> dict[str, float]:
    if not metrics:
        return {}
    if len(file) != 1 or len(labels) != 1:
        raise ValueError("metrics need labelled data and a file with one output.")
    (outputs,), (truth,) = file, labels
    known = np.ones(len(truth), bool)
    if truth.ndim == 1 and np.issubdtype(truth.dtype, np.integer):
        known = truth != -1
    found = {}
    for asked in metrics:
        metric = keras.metrics.get(asked)
        metric = metric.__class__.from_config(metric.get_config())
        metric.update_state(truth[known], outputs[known])
        found[metric.name] = float(metric.result())
    return found


def _limit(
    name: str, figure: str, value: float, tolerance: str, limit: float | None
) -> Iterator[Check]:
    if limit is not None:
        yield Check(name, f"{figure}, {limit:.6g} allowed ({tolerance})", value <= limit)
