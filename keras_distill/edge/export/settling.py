"""The conversion of a model with ranges: rows settle what they leave open, where that is right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill import litert
from keras_distill.edge.analysis import Analysis
from keras_distill.edge.export.rows import calibration_of
from keras_distill.edge.interface import Interface
from keras_distill.edge.tflite_file import read_content
from keras_distill.litert.converter import ConversionError
from keras_distill.measures.agreement import correlation

__all__ = ["converted"]

_Rows = dict[str, np.ndarray]
# As many rows are asked about.
_ASKED = 16
# So far from a correlation of 1 is more than rounding; and a file without the rows has to be this
# many times closer to be taken, float operations and all.
_FAR, _CLOSER = 0.02, 4.0


def converted(
    convert: Callable[..., None],
    path: Path,
    calibration: _Rows | None,
    seen: Any,
    model: Analysis,
    interface: Interface,
) -> _Rows | None:
    """Writes the file, with as many tensors in integers as the ranges at hand allow.

    Args:
      convert: writes the file, on the rows that it is given as `calibration`.
      calibration: rows that were given, or None.
      seen: what the model was calibrated on.

    Returns:
      The rows on which the converter settled what the model's own ranges leave open.
    """
    if not model.has_ranges:
        convert(calibration=calibration)
        return calibration
    if calibration is None:
        convert(calibration=None)
        # What is computed exactly, or skipped, has no range on purpose.
        on_purpose = (
            model.computed_exactly or model.normalized or model.left_in_float or model.lookups
        )
        left_open = not on_purpose and read_content(path).float_ops
        calibration = calibration_of(seen, interface) if left_open else None
    if calibration is None:
        return None
    try:
        convert(calibration=calibration)
    except ConversionError:
        # Rows give the inputs of float operations ranges, which may not fit the model's own.
        convert(calibration=None)
        return None
    return calibration if _better_settled(convert, path, calibration, interface) else None


def _better_settled(
    convert: Callable[..., None], path: Path, calibration: _Rows, interface: Interface
) -> bool:
    """Whether the file answers as the model does; if not, one of the model's own ranges may."""
    rows = {name: array[:_ASKED] for name, array in calibration.items()}
    answers = interface.call({name: tf.constant(array) for name, array in rows.items()})
    error = _error(path, rows, answers)
    if error <= _FAR:
        return True
    settled = path.read_bytes()
    try:
        convert(calibration=None)
    except ConversionError:
        path.write_bytes(settled)
        return True
    if _error(path, rows, answers) * _CLOSER < error:
        return False
    path.write_bytes(settled)
    return True


def _error(path: Path, rows: _Rows, answers: dict[str, Any]) -> float:
    """How far the farthest output is from correlating by 1; infinite where the file fails."""
    try:
        given = keras.tree.flatten(litert.load_tflite(path, isolated=True).predict(rows))
    except (ValueError, RuntimeError):
        return float("inf")
    right = map(np.asarray, keras.tree.flatten(answers))
    return max(1.0 - correlation(*pair) for pair in zip(given, right, strict=True))
