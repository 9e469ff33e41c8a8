"""A `.tflite`: converted, run, timed and read, what may crash in a process of its own."""

from keras_distill.litert.quiet import quiet_stderr
from keras_distill.litert.runner import (
    LABELS_FILE,
    CrashError,
    TFLiteRunner,
    load_tflite,
    read_labels,
    trust,
)

__all__ = [
    "LABELS_FILE",
    "CrashError",
    "TFLiteRunner",
    "load_tflite",
    "quiet_stderr",
    "read_labels",
    "trust",
]
