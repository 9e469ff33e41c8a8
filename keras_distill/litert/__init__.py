"""A `.tflite`: converted, run, timed and read, what may crash in a process of its own."""

from .runner import (
    LABELS_FILE,
    CrashError,
    LatencyReport,
    TensorInfo,
    TFLiteRunner,
    dequantize,
    load_tflite,
    quantize,
    quiet_stderr,
    read_labels,
    trust,
)

__all__ = [
    "LABELS_FILE",
    "CrashError",
    "LatencyReport",
    "TFLiteRunner",
    "TensorInfo",
    "dequantize",
    "load_tflite",
    "quantize",
    "quiet_stderr",
    "read_labels",
    "trust",
]
