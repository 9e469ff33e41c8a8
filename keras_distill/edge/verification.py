"""What a .tflite answers, against the model it came from and the teacher.

The converter is never taken at its word: every figure comes from running the file.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from ..data import batches, qualified_name
from ..litert import LatencyReport, TFLiteRunner, load_tflite
from .interface import interface_of
from .records import TFLiteExport, VerificationReport


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
) -> VerificationReport:
    """Runs a .tflite on data and compares it with the Keras model and the teacher.

    Args:
      export: what `export_tflite` returned, or a path.
      reference: the Keras model of either generation, or a callable.
      data: any data argument. Labels are class numbers or one-hot; rows labelled -1 are left out
        of accuracy and metrics. Sample weights are not used.
      teacher: a Keras model or a callable that returns class scores.
      quantized: the fake-quantised model that the file was exported from, or a callable: what
        the file loses beyond it, the converter lost.
      metrics: Keras metrics, measured on the file's output; your objects stay untouched.
      max_drop: accuracy may fall by this much, 0.01 being one point. Without labels it says
        nothing.
      min_agreement: smallest share of rows where file and reference choose the same class.
      max_bytes: largest file.
      max_latency_ms: longest median run on this host, one thread.

    Returns:
      A `VerificationReport` whose `passed` is True.

    Raises:
      VerificationError: a tolerance was missed; it names each with its figures.
      ValueError: shapes that do not belong together, metrics without labels, or a tolerance on
        something that this model does not have.

    Example:
      report = verify(export, model, (x, y), teacher=teacher, min_agreement=0.99)
    """
    runner = _runner(export)
    others = {"reference": reference, "teacher": teacher, "quantized": quantized}
    answers, labels = _answers(runner, others, data)
    file, model = answers["file"], answers["reference"]
    guide, rounded = answers.get("teacher"), answers.get("quantized")
    accuracy_file, accuracy_reference = _accuracy(file, labels), _accuracy(model, labels)
    report = VerificationReport(
        accuracy_file=accuracy_file,
        accuracy_reference=accuracy_reference,
        drop=_drop(accuracy_reference, accuracy_file),
        agreement=_agreement(file, model),
        teacher_agreement=None if guide is None else _agreement(file, guide),
        correlation=_correlation(file, model),
        max_abs_error=max(_largest(a, b) for a, b in zip(file, model, strict=True)),
        metrics=_measured(metrics or (), file, labels),
        bytes=runner.path.stat().st_size,
        latency_p50_ms=runner.benchmark().latency_p50_ms,
        passed=True,
        quantized_agreement=None if rounded is None else _agreement(file, rounded),
        quantized_correlation=None if rounded is None else _correlation(file, rounded),
    )
    if min_agreement is not None and report.agreement is None:
        raise ValueError("min_agreement needs outputs of two classes or more; these have one.")
    missed = [
        *_above("drop", report.drop, "max_drop", max_drop),
        *_above("-agreement", report.agreement, "min_agreement", min_agreement),
        *_above("bytes", report.bytes, "max_bytes", max_bytes),
        *_above("latency_p50_ms", report.latency_p50_ms, "max_latency_ms", max_latency_ms),
    ]
    if missed:
        report = dataclasses.replace(report, passed=False)
        words = f"{runner.path} is past its tolerances: {'; '.join(missed)}."
        raise VerificationError(words, report)
    return report


def _runner(export: Any) -> TFLiteRunner:
    if isinstance(export, TFLiteRunner):
        return export
    return load_tflite(export.path if isinstance(export, TFLiteExport) else export)


def _answers(
    runner: TFLiteRunner, models: dict[str, Any], data: Any
) -> tuple[dict[str, list[np.ndarray]], list[np.ndarray] | None]:
    """Flat lists of outputs of the file and of each model that there is, and the labels."""
    models = {role: model for role, model in models.items() if model is not None}
    columns: dict[str, list[Any]] = {role: [] for role in ("file", *models, "labels")}
    names = [info.name for info in runner.outputs]
    for x, y, _ in batches(data, batch_size=64):
        inputs = _for_file(runner, models["reference"], x)
        columns["file"].append(_leaves(runner.predict(inputs), names))
        for role, model in models.items():
            columns[role].append(_leaves(_call(model, x), names))
        if y is not None:
            columns["labels"].append(_ordered(y, names))
    found = {
        role: [np.concatenate(parts) for parts in zip(*column, strict=True)]
        for role, column in columns.items()
    }
    labels = found.pop("labels")
    for role, model in models.items():
        _check_alike(role, model, found["file"], found[role])
    return found, labels or None


def _for_file(runner: TFLiteRunner, reference: Any, x: Any) -> Any:
    if len(runner.inputs) == 1:
        return keras.tree.flatten(x)[0]
    if isinstance(x, dict) and set(x) == {info.name for info in runner.inputs}:
        return x
    # The file's names may be others than the model's; the order is the same.
    return interface_of(reference).flat_inputs(x) if isinstance(reference, keras.Model) else x


def _call(model: Any, x: Any) -> Any:
    legacy = sys.modules.get("tf_keras")
    if isinstance(model, keras.Layer) or (legacy and isinstance(model, legacy.layers.Layer)):
        return model(x, training=False)
    outputs = model(x)
    return getattr(outputs, "logits", outputs)


def _ordered(values: Any, names: list[str]) -> list[Any]:
    """A structure's leaves in the file's order; Keras flattens a dict by its sorted keys."""
    if isinstance(values, dict):
        return [values[name] for name in (names if set(values) == set(names) else values)]
    return keras.tree.flatten(values)


def _leaves(outputs: Any, names: list[str]) -> list[np.ndarray]:
    return [
        np.asarray(keras.ops.convert_to_numpy(value), "float32")
        for value in _ordered(outputs, names)
    ]


def _check_alike(role: str, model: Any, file: Any, other: Any) -> None:
    ours, theirs = [a.shape for a in file], [a.shape for a in other]
    if ours != theirs:
        raise ValueError(
            f"The file answers with arrays of {ours} and the {role} {qualified_name(model)} with "
            f"{theirs}. Both must have the same outputs."
        )


def _drop(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else before - after


def _accuracy(outputs: list[np.ndarray], labels: list[np.ndarray] | None) -> float | None:
    if labels is None or len(labels) != len(outputs):
        return None
    hits = [_hits(a, y) for a, y in zip(outputs, labels, strict=True)]
    if any(found is None or not found.size for found in hits):
        return None
    return float(np.mean([found.mean() for found in hits if found is not None]))


def _hits(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    """Right or wrong for each labelled row; None where the labels are no classes."""
    if outputs.shape[-1] < 2:
        return None
    if labels.shape == outputs.shape:
        one_hot = np.isin(labels, (0, 1)).all() and (labels.sum(-1) == 1).all()
        return labels.argmax(-1) == outputs.argmax(-1) if one_hot else None
    if labels.shape == (*outputs.shape[:-1], 1):
        labels = labels[..., 0]
    if labels.shape != outputs.shape[:-1]:
        raise ValueError(
            f"Expected labels of {outputs.shape[:-1]} or one-hot {outputs.shape}; "
            f"got {labels.shape}."
        )
    if (labels != np.rint(labels)).any():
        return None
    known = labels != -1
    return (labels == outputs.argmax(-1))[known]


def _agreement(file: list[np.ndarray], other: list[np.ndarray]) -> float | None:
    if any(a.shape[-1] < 2 for a in (*file, *other)):
        return None
    same = [np.mean(a.argmax(-1) == b.argmax(-1)) for a, b in zip(file, other, strict=True)]
    return float(np.mean(same))


def _correlation(file: list[np.ndarray], other: list[np.ndarray]) -> float:
    a = np.concatenate([part.ravel() for part in file]).astype("float64")
    b = np.concatenate([part.ravel() for part in other]).astype("float64")
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    # Without spread there is nothing to correlate: alike counts as 1, unlike as 0.
    return float(a @ b / scale) if scale else float(np.allclose(a, b))


def _largest(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype("float64") - b).max())


def _measured(
    metrics: Sequence[Any], file: list[np.ndarray], labels: list[np.ndarray] | None
) -> dict[str, float]:
    if not metrics:
        return {}
    if labels is None or len(file) != 1 or len(labels) != 1:
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


def _above(figure: str, value: float | None, tolerance: str, limit: float | None) -> list[str]:
    """The words for a missed tolerance, or none. A leading minus: smaller is worse."""
    if value is None or limit is None:
        return []
    smaller_is_worse = figure.startswith("-")
    # 0.97 - 0.96 is a little more than 0.01 in binary, and just met is met.
    missed = value < limit - 1e-9 if smaller_is_worse else value > limit + 1e-9
    return [f"{figure.lstrip('-')} is {value:.6g}, {tolerance} is {limit:.6g}"] if missed else []
