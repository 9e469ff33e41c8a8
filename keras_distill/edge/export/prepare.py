"""A model as the converter should see it: wrappers off, or kept where they are its ranges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill import _keras
from keras_distill.edge.bridge.legacy_layer import LegacyLayer, has_wrappers
from keras_distill.edge.compress.layer import Compressed, inner
from keras_distill.edge.export.pooling import has_volumes, over_images
from keras_distill.edge.export.recurrent import has_recurrent, without_loops
from keras_distill.edge.export.sizes import closed_copy
from keras_distill.edge.export.unrounded import moved_as_bits
from keras_distill.edge.quantize import kinds
from keras_distill.edge.quantize.layer import Quantized
from keras_distill.edge.quantize.ranges import Range
from keras_distill.graph.replay import trace
from keras_distill.litert.converter import CALIBRATED


def prepared(
    model: keras.Model, precision: str, specs: Sequence[tf.TensorSpec] | None = None
) -> keras.Model:
    """The model to convert at `precision`.

    `specs` are those of its inputs, in order, where sizes that it leaves open are closed.

    Quantised models keep their ranges at int8 and lose them elsewhere; masks and clusters are
    written into the weights.

    Raises:
      ValueError: at int8, a quantised model in which some ranges were never set, or are NaN.
    """
    if has_ranges(model) and precision == "int8":
        check_ranges(model)
    elif any(isinstance(layer, Compressed) for layer in _layers(model)) or has_wrappers(model):
        from keras_distill.edge.compress.strip import strip

        model = strip(model)
    loops, volumes = precision in CALIBRATED and has_recurrent(model), has_volumes(model)
    if specs is not None and (loops or volumes):
        model = closed_copy(model, specs)
    if volumes:
        model = over_images(model)
    if loops:
        model = without_loops(model, fused=precision == "int8")
    if precision in CALIBRATED:
        model = moved_as_bits(model)
    return model


def has_ranges(model: Any) -> bool:
    """Whether the model came from `quantize_aware`, or from TFMOT through `wrap_legacy`."""
    return any(isinstance(layer, Quantized) or _by_tfmot(layer) for layer in _layers(model))


def _by_tfmot(layer: Any) -> bool:
    return isinstance(layer, LegacyLayer) and "Quantize" in type(layer.inner).__name__


def check_ranges(model: Any) -> None:
    """Refuses a quantised model whose ranges were never set, or that training has lost."""
    unset = [
        layer.name
        for layer in _layers(model)
        if isinstance(layer, Quantized) and not all(one.is_set for one in layer.ranges())
    ]
    lost = [
        layer.name
        for layer in _layers(model)
        if isinstance(layer, Quantized)
        and not all(np.isfinite(one.bounds()).all() for one in layer.ranges())
    ]
    if lost:
        raise ValueError(
            f"{model.name!r} has NaN or infinite ranges, first in {lost[0]!r}: its training went "
            f"astray. Train again from the calibrated model, at a smaller learning rate."
        )
    if unset:
        raise ValueError(
            f"{model.name!r} has {len(unset)} layers whose ranges were never set, first "
            f"{unset[0]!r}: a file of it would answer with noise. Call "
            f"kd.edge.calibrate(model, data), or fit() the model."
        )


def without_inner_ranges(model: Any) -> list[str]:
    """The layers of a quantised model whose insides only calibration data can settle."""
    steps = trace(model).steps
    return [step.path for step in steps if kinds.is_open_inside(inner(step.operation))]


def _layers(model: Any) -> list[Any]:
    return [layer for layer in _keras.layers_of(model) if not isinstance(layer, Range)]
