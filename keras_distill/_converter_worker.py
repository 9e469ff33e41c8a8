"""The converter's own process: `python -P -m keras_distill._converter_worker request.json`.

It reads options as JSON and calibration data as .npy, and writes the .tflite, or the reason why
there is none, into files that the parent named. A crash here costs the caller nothing.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from . import _child
from ._saved_graph import without_one_hot
from ._signature import restore


def convert(request: dict[str, Any]) -> bytes:
    """The .tflite of `request["saved_model"]`, as `converter.convert` describes it."""
    import tensorflow as tf

    if request["precision"] in ("int8", "int16x8"):
        without_one_hot(request["saved_model"])
    converter = tf.lite.TFLiteConverter.from_saved_model(
        request["saved_model"], signature_keys=["serving_default"]
    )
    precision = request["precision"]
    ops = tf.lite.OpsSet
    supported = {
        "int8": [ops.TFLITE_BUILTINS_INT8],
        "int16x8": [ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8],
    }.get(precision, [ops.TFLITE_BUILTINS])
    if precision == "int8" and not request["calibration"]:
        # The ranges are in the graph; the converter asks for data whenever INT8 ops are demanded.
        supported = [ops.TFLITE_BUILTINS]
    if request["allow_flex"]:
        supported = [*supported, ops.SELECT_TF_OPS]
    converter.target_spec.supported_ops = supported
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if request["calibration"]:
        converter.representative_dataset = lambda: calibration_batches(
            request["calibration"], request["batch_size"]
        )
    if request["input_type"]:
        converter.inference_input_type = tf.dtypes.as_dtype(request["input_type"])
        converter.inference_output_type = tf.dtypes.as_dtype(request["input_type"])
    content = converter.convert()
    return restore(content, request["inputs"], request["outputs"])


def calibration_batches(files: dict[str, str], batch_size: int):
    """Batches of exactly `batch_size` rows; the last one is filled up from the first rows."""
    arrays = {
        name: np.load(path, mmap_mode="r", allow_pickle=False) for name, path in files.items()
    }
    rows = len(next(iter(arrays.values())))
    for start in range(0, rows, batch_size):
        chosen = np.arange(start, start + batch_size) % rows
        yield {name: np.ascontiguousarray(array[chosen]) for name, array in arrays.items()}


def main(path: str) -> int:
    """Answers the request at `path`; 0 when the .tflite is written."""
    request = json.loads(Path(path).read_text(encoding="utf-8"))
    try:
        content = convert(request)
    except Exception as error:
        failure = {
            "type": type(error).__qualname__,
            "message": str(error),
            "traceback": traceback.format_exc(),
        }
        Path(request["failure"]).write_text(json.dumps(failure), encoding="utf-8")
        return 1
    Path(request["output"]).write_bytes(content)
    return 0


if __name__ == "__main__":
    _child.end_with_parent()
    sys.exit(main(sys.argv[1]))
