"""From a compressed model to a plain one: masks, clusters and grids written into the weights."""

from __future__ import annotations

from typing import Any

import keras

from keras_distill.edge.compress.layer import Compressed
from keras_distill.edge.interface import as_keras3
from keras_distill.graph.copying import rebuild


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
    return rebuild(as_keras3(model), _stripped)


def _stripped(_: str, layer: Any) -> Any:
    return layer.stripped() if isinstance(layer, Compressed) else layer
