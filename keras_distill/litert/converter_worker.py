"""Requests for .tflite files, answered in the converter's own process.

It reads a SavedModel and calibration data as .npy, and writes the .tflite, where the parent named
them. A crash here costs the caller nothing.
"""

from __future__ import annotations

import functools
import os
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from ._interpreter import one_scale_a_dense_kernel
from .detours import straightened
from .four_bits import pack
from .mixed_types import of_one_type
from .rewriting import rewritten, short_names, unrecorded
from .saved_graph import respell
from .signature import restore

# Without work for so long, the process ends: it holds hundreds of megabytes.
IDLE_S = 300.0
# Beyond it the process ends after its work, and the system has all of its memory back.
_LIMIT_BYTES = 2 * 2**30


def answer(
    request: dict[str, Any], arrays: list[np.ndarray]
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Writes the .tflite to `request["output"]`; answers None, or why there is none."""
    global IDLE_S
    failure = None
    try:
        Path(request["output"]).write_bytes(convert(request))
    except Exception as error:
        failure = {"message": str(error), "traceback": traceback.format_exc()}
    if _resident_bytes() > _LIMIT_BYTES:
        IDLE_S = 0.0
    return {"failure": failure}, []


def convert(request: dict[str, Any]) -> bytes:
    """The .tflite of `request["saved_model"]`, as `converter.convert` describes it."""
    import tensorflow as tf

    calibrated = bool(request["calibration"])
    respell(request["saved_model"], request["precision"], calibrated=calibrated)
    converter = tf.lite.TFLiteConverter.from_saved_model(
        request["saved_model"], signature_keys=["serving_default"]
    )
    precision = request["precision"]
    ops = tf.lite.OpsSet
    supported = {
        "int8": [ops.TFLITE_BUILTINS_INT8],
        # What has no int16 kernel stays in float.
        "int16x8": [
            ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
            ops.TFLITE_BUILTINS,
        ],
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
    if request["dense_scales"] == "tensor":
        one_scale_a_dense_kernel(converter)
    if request["input_type"]:
        converter.inference_input_type = tf.dtypes.as_dtype(request["input_type"])
        converter.inference_output_type = tf.dtypes.as_dtype(request["input_type"])
    edits = [short_names, unrecorded, straightened]
    if precision == "int16x8":
        edits.append(of_one_type)
    if request["four_bits"]:
        edits.append(functools.partial(pack, sizes=request["four_bits"]))
    content = rewritten(converter.convert(), edits)
    return restore(content, request["inputs"], request["outputs"])


def calibration_batches(files: dict[str, str], batch_size: int):
    """Batches of exactly `batch_size` rows; the last one is filled up from the first rows."""
    arrays = {
        name: np.load(path, mmap_mode="r", allow_pickle=False) for name, path in files.items()
    }
    rows = len(next(iter(arrays.values())))
    for start in range(0, rows, batch_size):
        chosen = np.arange(start, start + batch_size) % rows
        yield {name: _fed(array[chosen]) for name, array in arrays.items()}


def _fed(rows: np.ndarray) -> np.ndarray:
    return rows.astype(object) if rows.dtype.kind == "S" else np.ascontiguousarray(rows)


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux
        return 0
