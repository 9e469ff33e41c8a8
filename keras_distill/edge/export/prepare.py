"""A model as the converter should see it: wrappers off, or kept where they are its ranges."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.edge.analysis import Analysis
from keras_distill.edge.compress.layer import Compressed
from keras_distill.edge.compress.strip import strip
from keras_distill.edge.export.folded import folded
from keras_distill.edge.export.recurrent import Unlooped
from keras_distill.edge.quantize.layer import Quantized
from keras_distill.edge.quantize.loops import check_loops, is_recurrent
from keras_distill.graph import copying
from keras_distill.graph.remaking import by_keras
from keras_distill.graph.replay import Step
from keras_distill.graph.traits import MOVED, gives
from keras_distill.graph.wrapping import inner
from keras_distill.litert.converter import CALIBRATED

__all__ = ["prepared"]

_POOLS = {
    keras.layers.MaxPooling3D: tf.nn.max_pool2d,
    # At a border it counts what lies inside, and so does a mean of such means.
    keras.layers.AveragePooling3D: tf.nn.avg_pool2d,
}


def prepared(
    model: Analysis, precision: str, specs: Sequence[tf.TensorSpec] | None = None
) -> Analysis:
    """The model to convert at `precision`.

    `specs` are those of its inputs, in order, where sizes that it leaves open are closed.

    Quantised models keep their ranges at int8 and lose them elsewhere; masks and clusters are
    written into the weights; what LiteRT computes only in another form is in that form.

    Raises:
      ValueError: at int8, a quantised model in which some ranges were never set, or are NaN; a
        recurrent layer that is stateful, or to be unrolled while its number of steps is open.
    """
    if model.has_ranges and precision == "int8":
        _check_ranges(model)
    elif model.is_compressed:
        model = model.of(strip(model.model))
    calibrated = precision in CALIBRATED
    if specs is not None and any(
        _reads_sizes(step.operation, calibrated) for step in model.graph.steps
    ):
        shapes = [tuple(spec.shape) for spec in specs]
        model = model.of(copying.rebuild(model.model, lambda _, layer: layer, shapes=shapes))
    if calibrated:
        check_loops(model.graph)
    # What takes others up has lost its grid: its weights are as it rounded them.
    left = frozenset(model.left_in_float) if precision == "int8" else frozenset()
    model = folded(model, precision)
    forms = {step.path: _form(model, step, precision, left) for step in model.graph.steps}
    return _in_form(model, {path: form for path, form in forms.items() if form is not None})


def _check_ranges(model: Analysis) -> None:
    """Refuses a quantised model whose ranges were never set, or that training has lost."""
    ranges = {one.name: list(one.ranges()) for one in model.layers if isinstance(one, Quantized)}
    lost = [
        name for name, own in ranges.items() if not np.isfinite([r.bounds() for r in own]).all()
    ]
    unset = [name for name, own in ranges.items() if not all(one.is_set for one in own)]
    if lost:
        raise ValueError(
            f"{model.model.name!r} has NaN or infinite ranges, first in {lost[0]!r}: its training "
            f"went astray. Train again from the calibrated model, at a smaller learning rate."
        )
    if unset:
        raise ValueError(
            f"{model.model.name!r} has {len(unset)} layers whose ranges were never set, first "
            f"{unset[0]!r}: a file of it would answer with noise. Call "
            f"kd.edge.calibrate(model, data), or fit() the model."
        )


def _reads_sizes(operation: Any, calibrated: bool) -> bool:
    """Whether the form that a layer gets depends on the sizes of its input."""
    return _pools_volumes(operation) or (calibrated and is_recurrent(operation))


def _form(
    model: Analysis, step: Step, precision: str, left: frozenset[str]
) -> Callable[[Any], Any] | None:
    """What makes another form of a step's layer for the file, or None; of those `left` in float."""
    if _pools_volumes(step.operation):
        return _OverImages
    if precision not in CALIBRATED:
        return None
    if step.path in left:
        return _reading_float
    if is_recurrent(step.operation):
        fused = precision == "int8"
        return functools.partial(Unlooped, shape=step.inputs[0].shape, fused=fused)
    moved = gives(step.operation) == MOVED and by_keras(step.operation)
    is_exact = any(id(value) in model.exact for value in step.inputs)
    real = all(value.dtype == "float32" for value in (*step.inputs, *step.outputs))
    return _AsBits if moved and is_exact and real else None


def _in_form(model: Analysis, forms: dict[str, Callable[[Any], Any]]) -> Analysis:
    """A copy with these layers in another form, by path; the model itself where there are none."""

    def substitute(path: str, layer: Any) -> Any:
        if path not in forms:
            return layer
        if forms[path] is _reading_float:
            return _reading_float(layer)
        made = forms[path](inner(layer))
        return made if inner(layer) is layer else layer.around(made)

    return model.of(copying.rebuild(model.model, substitute)) if forms else model


def _pools_volumes(layer: Any) -> bool:
    return type(layer) in _POOLS and layer.data_format == "channels_last"


class _OverImages(keras.layers.Layer):
    """Pooling over volumes as LiteRT computes it: over images, then over their depth."""

    def __init__(self, layer: Any):
        super().__init__(name=layer.name)
        self.layer = layer
        self.built = True

    def call(self, x: Any) -> Any:
        _, depth, height, width, channels = x.shape
        if None in (depth, height, width):
            return self.layer(x)
        pool, padding = _POOLS[type(self.layer)], self.layer.padding.upper()
        (deep, *size), (step, *steps) = self.layer.pool_size, self.layer.strides
        images = tf.reshape(x, [-1, height, width, channels])
        images = pool(images, size, steps, padding)
        height, width = images.shape[1:3]
        columns = tf.reshape(images, [-1, depth, height * width, channels])
        columns = pool(columns, [deep, 1], [step, 1], padding)
        return tf.reshape(columns, [-1, columns.shape[1], height, width, channels])

    def compute_output_spec(self, x: Any) -> Any:
        return self.layer.compute_output_spec(x)


def _reading_float(layer: Any) -> Compressed:
    """A layer that is left in float, whatever ranges lie around it.

    The converter makes integers of a kernel between two ranges, but not behind complex numbers.
    `litert.detours` takes these out of the file again.
    """
    made = layer if isinstance(layer, Compressed) else Compressed(layer)
    made.detour = _by_complex
    return made


def _by_complex(value: Any) -> Any:
    is_real = tf.is_tensor(value) and value.dtype == tf.float32
    return tf.math.real(tf.cast(value, tf.complex64)) if is_real else value


class _AsBits(Compressed):
    """An operation that moves exact values about as the whole numbers that their bits spell.

    Integers have no range: the converter, which gives one to all else, rounds nothing of them.
    """

    def call(self, *args: Any, **kwargs: Any) -> Any:
        bits = keras.tree.map_structure(_bits, args)
        moved = super().call(*bits, **kwargs)
        return keras.tree.map_structure(lambda x: tf.bitcast(x, tf.float32), moved)


def _bits(value: Any) -> Any:
    is_real = tf.is_tensor(value) and value.dtype == tf.float32
    return tf.bitcast(value, tf.int32) if is_real else value
