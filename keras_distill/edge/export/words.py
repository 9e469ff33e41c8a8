"""What is said of a conversion in the words of its model."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_distill.edge.analysis import Analysis
from keras_distill.edge.compress.layer import exporting
from keras_distill.edge.export.sizes import open_sizes
from keras_distill.edge.interface import Interface
from keras_distill.edge.lookups import tables_of
from keras_distill.litert import converter
from keras_distill.litert.converter import ConversionError


def traced(
    model: Analysis, interface: Interface, specs: dict[str, tf.TensorSpec], folder: str
) -> converter.SavedModel:
    """The model as the converter reads it; of a failure, how sizes that are open are closed."""
    variables = [*model.model.variables, *tables_of(model.model)]
    try:
        with exporting():
            return converter.write_saved_model(interface.call, specs, folder, variables)
    except Exception as error:
        found = open_sizes(specs)
        if not found:
            raise
        said = [line.strip() for line in str(error).splitlines() if "xception enc" in line]
        raise ConversionError(
            f"The model can't be traced with the open sizes of its inputs, {found}: "
            f"{(said or [str(error).strip()])[0]} Give the Input its sizes, or say them for this "
            f"file: export_tflite(..., input_shape=)."
        ) from error


def convert(model: Analysis, *args: Any, **kwargs: Any) -> None:
    """`converter.convert`, and of a failure the layers that it is about."""
    try:
        converter.convert(*args, **kwargs)
    except ConversionError as error:
        layers = layers_named(model, error.nodes)
        if not layers:
            raise
        words = f"{error} It is about {', '.join(map(repr, layers))}."
        raise ConversionError(words, error.nodes) from error.__cause__


def layers_named(model: Analysis, tensors: Sequence[str]) -> tuple[str, ...]:
    """The model's layers whose names are in the names of a file's tensors, in the model's order."""
    parts = {part for name in tensors for part in re.split("[/;]", name)}
    # Keras numbers a layer's scopes call by call: conv, conv_1, conv_1_1.
    parts |= {re.sub(r"(_\d+)$", "", part) for part in parts}
    return tuple(path for path in model.paths if path.rpartition("/")[2] in parts)


def warn_of_coarse(model: Analysis, steps: dict[str, float]) -> None:
    """Warns of softmaxes that can't tell scores apart; `steps` by what they write."""
    where = layers_named(model, list(steps)) or tuple(steps)
    warnings.warn(
        f"In this file the softmax in {', '.join(map(repr, where))} reads scores in steps of "
        f"{max(steps.values()):.3g}, and takes for equal what lies closer: a few far numbers have "
        f"stretched their range. Clip the scores; mask them by keras.layers.Softmax()(scores, "
        f"mask), attention_mask= or keras.ops.where(mask, scores, -1e9).",
        UserWarning,
        stacklevel=3,
    )
