"""What export and verification found, as frozen records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keras_distill._records import Record, Table, pairs
from keras_distill.litert.runner import TensorInfo


@dataclass(frozen=True)
class TFLiteExport(Record):
    """A .tflite that was written, opened again and looked through.

    Attributes:
      path: the file.
      precision: as asked: float32, float16, dynamic_int8, int8 or int16x8.
      bytes: its size.
      bytes_zipped: its size deflated at level 9, as in a phone's package.
      sparsity: share of zeros among the weight constants, 0 to 1.
      ops: how often each operation occurs.
      dtypes: how many tensors of each dtype its operations read and write.
      float_ops: the operations that compute in floating point, by name. QUANTIZE and DEQUANTIZE
        are not counted, but for a DEQUANTIZE that only leads from integers to integers. Empty
        means: integers from one end to the other.
      inputs, outputs: a `TensorInfo` each, in order.
      labels: the class names stored in the file, or None.
      float_layers: at int8 and int16x8, the model's layers that float operations belong to, as far
        as the file's names tell.
    """

    path: Path
    precision: str
    bytes: int
    bytes_zipped: int
    sparsity: float
    ops: dict[str, int]
    dtypes: dict[str, int]
    float_ops: dict[str, int]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    labels: tuple[str, ...] | None
    float_layers: tuple[str, ...] = ()

    def __fspath__(self) -> str:
        return str(self.path)

    def parts(self) -> Iterator[str | Table]:
        """A line a fact."""
        yield pairs(
            {
                "path": self.path,
                "precision": self.precision,
                "bytes": f"{self.bytes:,} ({self.bytes_zipped:,} zipped)",
                "sparsity": f"{self.sparsity:.1%}",
                "ops": _counts(self.ops),
                "dtypes": _counts(self.dtypes),
                "float ops": self._float_words(),
                "inputs": ", ".join(map(_tensor, self.inputs)),
                "outputs": ", ".join(map(_tensor, self.outputs)),
                "labels": "none" if self.labels is None else f"{len(self.labels)} names",
            }
        )

    def _float_words(self) -> str:
        layers = f" (in {', '.join(self.float_layers)})" if self.float_layers else ""
        return f"{_counts(self.float_ops)}{layers}" if self.float_ops else "none"


@dataclass(frozen=True)
class Check:
    """One thing that was demanded, its figures in words, and whether it holds."""

    name: str
    words: str
    passed: bool


@dataclass(frozen=True)
class VerificationReport(Record):
    """What a .tflite answers, beside the Keras model it came from and the teacher.

    Attributes:
      accuracy_file, accuracy_reference: share of right labels, 0 to 1, mean of the outputs that
        have labels of classes; None without any.
      drop: accuracy_reference - accuracy_file.
      agreement: share of rows where file and reference choose the same class; None where there
        are no classes to choose from.
      teacher_agreement: the same of file and teacher; None without a teacher.
      correlation: Pearson's, over all outputs of all rows; NaN where an answer is.
      max_abs_error: the largest difference of any output; NaN where an answer is.
      metrics: the Keras metrics asked for, measured on the file's outputs.
      bytes: the file's size.
      latency_p50_ms: median run on this host, one thread.
      passed: every one of `checks` holds.
      quantized_agreement, quantized_correlation: agreement and correlation of the file and the
        fake-quantised model; None without one.
      checks: what was demanded, output by output, each with its figures in words.
      path, file_sha256: the file, and its digest.
      rows, data_sha256: how many examples, and the digest of inputs and labels in their order.
      versions: of Python and the packages that took part.
      date: when, in UTC.
    """

    accuracy_file: float | None
    accuracy_reference: float | None
    drop: float | None
    agreement: float | None
    teacher_agreement: float | None
    correlation: float
    max_abs_error: float
    metrics: dict[str, float]
    bytes: int
    latency_p50_ms: float
    passed: bool
    quantized_agreement: float | None = None
    quantized_correlation: float | None = None
    checks: tuple[Check, ...] = ()
    path: Path | None = None
    file_sha256: str | None = None
    rows: int | None = None
    data_sha256: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    date: str | None = None

    def parts(self) -> Iterator[str | Table]:
        """A line a measure."""
        rows: dict[str, Any] = {
            "accuracy of the file": _share(self.accuracy_file),
            "accuracy of the reference": _share(self.accuracy_reference),
            "drop": "-" if self.drop is None else f"{100 * self.drop:+.2f} points",
            "agreement": _share(self.agreement),
            "agreement with the teacher": _share(self.teacher_agreement),
            "correlation": f"{self.correlation:.6f}",
            "largest error": f"{self.max_abs_error:.3g}",
        }
        if self.quantized_correlation is not None:
            rows["agreement with the quantised model"] = _share(self.quantized_agreement)
            rows["correlation with the quantised model"] = f"{self.quantized_correlation:.6f}"
        rows |= {name: f"{value:.4g}" for name, value in self.metrics.items()}
        rows["bytes"] = f"{self.bytes:,}"
        rows["p50 latency"] = f"{self.latency_p50_ms:.3f} ms"
        if self.path is not None:
            rows["rows"] = self.rows or 0
            rows["file"] = f"{self.path} ({(self.file_sha256 or '')[:12]})"
            rows["data"] = (self.data_sha256 or "-")[:12]
            rows["date"] = self.date
        rows["passed"] = "yes" if self.passed else "NO"
        yield pairs(rows)


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in found.items())


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _tensor(info: TensorInfo) -> str:
    sizes = ", ".join("?" if size is None else str(size) for size in info.shape)
    return f"{info.name} ({sizes}) {info.dtype}"
