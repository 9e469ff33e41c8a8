"""From a Keras model to a compressed one, and to a .tflite that is verified on its own answers."""

import importlib
from typing import TYPE_CHECKING, Any

from keras_distill.edge import registered  # noqa: F401

if TYPE_CHECKING:
    from keras_distill.edge.bridge import to_keras3, to_legacy, wrap_legacy
    from keras_distill.edge.compress.clustering import cluster
    from keras_distill.edge.compress.pruning import prune
    from keras_distill.edge.compress.sparsity import SparsityReport, sparsity_report
    from keras_distill.edge.compress.strip import strip
    from keras_distill.edge.debugging.debug import DebugReport, LayerError, debug
    from keras_distill.edge.export.tflite import export_tflite
    from keras_distill.edge.inspection import Inspection, inspect
    from keras_distill.edge.lookups import without_preprocessing
    from keras_distill.edge.quantize.aware import quantize_aware
    from keras_distill.edge.quantize.calibrate import calibrate
    from keras_distill.edge.records import TFLiteExport, VerificationReport
    from keras_distill.edge.repair.biases import correct_biases
    from keras_distill.edge.repair.equalize import equalize
    from keras_distill.edge.repair.reconstruct import reconstruct
    from keras_distill.edge.search.bits import BitSearch, search_bits
    from keras_distill.edge.search.sensitivity import Sensitivity, sensitivity
    from keras_distill.edge.verification.verify import VerificationError, benchmark, verify
    from keras_distill.litert.converter import ConversionError
    from keras_distill.litert.runner import load_tflite

# Each is imported when it is asked for: a user who only trains waits for none of them.
_HOMES = {
    "BitSearch": "keras_distill.edge.search.bits",
    "ConversionError": "keras_distill.litert.converter",
    "DebugReport": "keras_distill.edge.debugging.debug",
    "LayerError": "keras_distill.edge.debugging.debug",
    "Inspection": "keras_distill.edge.inspection",
    "Sensitivity": "keras_distill.edge.search.sensitivity",
    "SparsityReport": "keras_distill.edge.compress.sparsity",
    "TFLiteExport": "keras_distill.edge.records",
    "VerificationError": "keras_distill.edge.verification.verify",
    "VerificationReport": "keras_distill.edge.records",
    "benchmark": "keras_distill.edge.verification.verify",
    "calibrate": "keras_distill.edge.quantize.calibrate",
    "cluster": "keras_distill.edge.compress.clustering",
    "correct_biases": "keras_distill.edge.repair.biases",
    "debug": "keras_distill.edge.debugging.debug",
    "equalize": "keras_distill.edge.repair.equalize",
    "export_tflite": "keras_distill.edge.export.tflite",
    "inspect": "keras_distill.edge.inspection",
    "load_tflite": "keras_distill.litert",
    "prune": "keras_distill.edge.compress.pruning",
    "quantize_aware": "keras_distill.edge.quantize.aware",
    "reconstruct": "keras_distill.edge.repair.reconstruct",
    "search_bits": "keras_distill.edge.search.bits",
    "sensitivity": "keras_distill.edge.search.sensitivity",
    "sparsity_report": "keras_distill.edge.compress.sparsity",
    "strip": "keras_distill.edge.compress.strip",
    "to_keras3": "keras_distill.edge.bridge",
    "to_legacy": "keras_distill.edge.bridge",
    "verify": "keras_distill.edge.verification.verify",
    "without_preprocessing": "keras_distill.edge.lookups",
    "wrap_legacy": "keras_distill.edge.bridge",
}

__all__ = [
    "BitSearch",
    "ConversionError",
    "DebugReport",
    "Inspection",
    "LayerError",
    "Sensitivity",
    "SparsityReport",
    "TFLiteExport",
    "VerificationError",
    "VerificationReport",
    "benchmark",
    "calibrate",
    "cluster",
    "correct_biases",
    "debug",
    "equalize",
    "export_tflite",
    "inspect",
    "load_tflite",
    "prune",
    "quantize_aware",
    "reconstruct",
    "search_bits",
    "sensitivity",
    "sparsity_report",
    "strip",
    "to_keras3",
    "to_legacy",
    "verify",
    "without_preprocessing",
    "wrap_legacy",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'keras_distill.edge' has no attribute {name!r}")
    # No module here has the name of a function: importing it would put it in the function's place.
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
