"""Models that Keras' own `quantize()` made, which nothing here can take further."""

from __future__ import annotations

from typing import Any

import keras

from keras_distill import _keras

__all__ = ["check_float"]


def check_float(model: Any) -> None:
    """Refuses a model with layers that Keras has quantised.

    Raises:
      ValueError: it has.
    """
    modes = {
        layer.name: layer.dtype_policy.quantization_mode
        for layer in (_keras.layers_of(model) if isinstance(model, keras.layers.Layer) else ())
        if layer.dtype_policy.quantization_mode is not None
    }
    if modes:
        first, mode = next(iter(modes.items()))
        raise ValueError(
            f"{model.name!r} was quantised by Keras: {len(modes)} layer(s), first {first!r}, hold "
            f"{mode} weights (model.quantize({mode!r})), and those can't be compressed, cut, "
            f"converted or copied. Give the float model, as it was before quantize(); "
            f"kd.edge.quantize_aware and kd.edge.export_tflite quantise it for a .tflite file."
        )
