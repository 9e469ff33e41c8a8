"""The rows on which a file's ranges are settled."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_distill import _keras
from keras_distill._pages import see
from keras_distill.data import batches
from keras_distill.edge.analysis import Analysis
from keras_distill.edge.compress.model import CompressedModel
from keras_distill.edge.interface import Interface
from keras_distill.litert.converter import CALIBRATED


def rows_seen(model: Any) -> Any:
    """The first rows that the model was calibrated on, in the structure of its input, or None."""
    kept = model.calibration_rows if isinstance(model, CompressedModel) else None
    if not kept:
        return None
    columns = [kept[_keras.history(tensor).operation.name] for tensor in model.inputs]
    structure = _keras.input_structure(model)
    # As a data argument a tuple would be inputs and labels.
    by_key = isinstance(structure, dict)
    return keras.tree.pack_sequence_as(structure, columns) if by_key else columns


def data_for(model: Analysis, precision: str, given: Any, seen: Any) -> Any:
    """The data to calibrate on: what was given, or what the model has seen where it needs some."""
    if given is not None or precision not in CALIBRATED:
        return given
    if not model.has_ranges:
        if seen is not None:
            return seen
        raise ValueError(
            f"precision={precision!r} needs representative_data: some hundred inputs like those "
            f"to come, from which the ranges of the activations are read; or a model from "
            f"quantize_aware(), which has ranges.{see('calibration')}"
        )
    if not model.open_inside:
        return None
    if seen is None:
        raise ValueError(
            f"The layers {list(model.open_inside)} of {model.model.name!r} have no ranges "
            f"inside, and the model holds no rows that it was calibrated on: give "
            f"representative_data."
        )
    return seen


def calibration_of(data: Any, interface: Interface) -> dict[str, np.ndarray] | None:
    """The rows by input name, in the inputs' dtypes.

    Raises:
      ValueError: rows of another shape, NaN or infinite values.
    """
    if data is None:
        return None
    rows = [interface.flat_inputs(x) for x, _, _ in batches(data)]
    columns = {}
    for (name, spec), parts in zip(interface.specs.items(), zip(*rows, strict=True), strict=True):
        array = np.concatenate(parts).astype(spec.dtype.as_numpy_dtype)
        if not spec.shape.is_compatible_with(array.shape):
            raise ValueError(
                f"representative_data: the input {name!r} expects rows of shape "
                f"{tuple(spec.shape[1:])}; got an array of {array.shape}."
            )
        if array.dtype != object and not np.isfinite(array).all():
            raise ValueError(f"representative_data: the input {name!r} has NaN or infinite values.")
        columns[name] = array
    return columns
