"""From a Keras model to a .tflite that is measured and verified on its own answers."""

from ..converter import ConversionError
from ..litert import load_tflite
from .export import export_tflite
from .records import TFLiteExport, VerificationReport
from .verify import VerificationError, benchmark, verify

__all__ = [
    "ConversionError",
    "TFLiteExport",
    "VerificationError",
    "VerificationReport",
    "benchmark",
    "export_tflite",
    "load_tflite",
    "verify",
]
