"""Layers that scale and shift, written into the weights of the layer behind them for a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_distill.edge.analysis import Analysis
from keras_distill.edge.compress.layer import Compressed
from keras_distill.edge.quantize import affine, forward
from keras_distill.edge.quantize.folded_plans import pays
from keras_distill.edge.quantize.forward import Folding
from keras_distill.edge.quantize.layer import handed_on
from keras_distill.graph import copying, fusion
from keras_distill.graph.copying import weight_at
from keras_distill.graph.remaking import from_own_config
from keras_distill.graph.replay import Step
from keras_distill.graph.traits import does, traits_of

__all__ = ["folded"]


def folded(model: Analysis, precision: str) -> Analysis:
    """The model without the layers that its file needs no operation for; itself if there are none.

    A quantised model says itself which those are, and its kernels are as it has rounded them. Of a
    float model they are all that float32 computes the same without, and int8 at no loss; kernels
    of float16, rows of dynamic ranges and int16 beside int8 would be rounded otherwise than before.
    """
    if model.has_ranges:
        found = _of_quantised(model)
    elif precision in ("float32", "int8"):
        found = _of_float(model, precision)
    else:
        found = []
    if not found:
        return model
    gone = {step.path for one in found for step in one.steps}
    readers = {one.reader.path: one for one in found}

    def substitute(path: str, layer: Any) -> Any:
        if path in gone:
            return handed_on
        return _taking_up(layer, readers[path]) if path in readers else layer

    try:
        return model.of(copying.rebuild(model.model, substitute))
    except ValueError:
        # A layer of a user's own that no config makes again; a quantised model has none.
        if model.has_ranges:
            raise
        return model


def _of_quantised(model: Analysis) -> list[Folding]:
    found = (forward.taken_up(model.wrapped, step) for step in model.wrapped.steps)
    return [one for one in found if one is not None]


def _of_float(model: Analysis, precision: str) -> list[Folding]:
    graph = model.graph

    def able(step: Step) -> bool:
        (value,) = step.inputs
        if id(value) in model.exact or id(value) in model.scores or value.dtype != "float32":
            return False
        # What folds back, the converter folds.
        maker = None if value.step is None else graph.steps[value.step].operation
        is_norm = isinstance(step.operation, keras.layers.BatchNormalization)
        return not (is_norm and fusion.takes_norm(maker) and fusion.is_linear(maker))

    def takes(one: Folding) -> bool:
        alone = does(one.reader.operation, "dense", "convolution", "transposed")
        return precision == "float32" or not alone or pays(one)

    return forward.foldings(graph, able, takes)


def _taking_up(layer: Any, one: Folding) -> Any:
    """A layer, or the wrapper of one, that answers on what is read in front of the others."""
    scale, shift = one.coefficients()
    wrapper = layer if isinstance(layer, Compressed) else None
    bare = layer if wrapper is None else wrapper.finished()
    make: Callable[..., Any] = _scaling if affine.is_affine(bare) else _computing
    made = make(bare, scale, shift, one.reader.path)
    return made if wrapper is None else wrapper.around(made)


def _scaling(layer: Any, scale: np.ndarray, shift: np.ndarray, _: str) -> Any:
    """What scales and shifts, as one layer does it with what is in front."""
    own, offset = affine.coefficients(layer, len(scale))
    return _Scaling(
        (scale * own).tolist(),
        (shift * own + offset).tolist(),
        name=layer.name,
        dtype=layer.dtype_policy,
    )


class _Scaling(keras.layers.Rescaling):
    """What it stands for may have been called with more, which says nothing in inference."""

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        return super().call(inputs)


def _computing(layer: Any, scale: np.ndarray, shift: np.ndarray, path: str) -> Any:
    """A layer with a kernel, which is multiplied, and a bias, if there is a shift."""
    traits = traits_of(layer)
    name = traits.depthwise or next(iter(traits.kernels))
    kernel = weight_at(layer, name)
    values = np.asarray(kernel, "float64")
    shape = [1, 1]
    shape[forward.input_axis(layer)] = len(scale)
    kernel.assign(values * scale.reshape(shape))
    if not np.any(shift):
        return layer
    layer = layer if layer.use_bias else _with_bias(layer, path)
    moved = values * shift.reshape(shape)
    sums = moved.sum(axis=tuple(range(values.ndim - 2)))
    # A kernel with filters of its own for each channel has the channels' outputs side by side.
    added = sums.reshape(-1) if traits.depthwise else sums.sum(axis=0)
    layer.bias.assign(np.asarray(layer.bias, "float64") + added)
    return layer


def _with_bias(layer: Any, path: str) -> Any:
    """A layer again, with a bias of zeros."""

    def change(config: dict[str, Any]) -> dict[str, Any]:
        return {**config, "config": {**config["config"], "use_bias": True}}

    copy = from_own_config(layer, path, change)
    for name in (traits_of(layer).depthwise, *traits_of(layer).kernels):
        if name:
            weight_at(copy, name).assign(weight_at(layer, name))
    copy.bias.assign(np.zeros(copy.bias.shape))
    return copy
