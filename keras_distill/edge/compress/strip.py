"""From a compressed model to a plain one: masks, clusters and grids written into the weights."""

from __future__ import annotations

from typing import Any

import keras

from keras_distill._keras import Functional
from keras_distill.edge.compress.model import CompressedModel, without
from keras_distill.edge.interface import as_keras3


def strip(model: Any) -> keras.Model:
    """A plain copy of `model`: wrappers off, the weights as the layers saw them.

    Pruned weights are zero exactly, clustered ones have their few numbers, quantised ones lie on
    their grid; nothing holds them there if training goes on. Layer names, constraints and
    regularisers are the user's own, and the copy's `.keras` file needs no keras_distill.

    Args:
      model: what `prune`, `cluster` or `quantize_aware` returned; any other built Functional or
        Sequential model of Keras 3 is copied; TFMOT's wrappers come off a tf_keras one.

    Returns:
      A Functional model of Keras 3, not compiled.

    Raises:
      TypeError, ValueError: not a model, subclassed or not built.

    Example:
      strip(pruned).save("student.keras")
    """
    copy = without(as_keras3(model), lambda layer: layer.stripped())
    _make_plain(copy)
    return copy


def _make_plain(model: Any) -> None:
    # The graph is what it is to be; another pass of copying would only change the class.
    model.__class__ = Functional
    for layer in model.layers:
        if isinstance(layer, CompressedModel):
            _make_plain(layer)
