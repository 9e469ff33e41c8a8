"""Bias correction: the mean that rounding adds to each layer's output, taken off again."""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill import _keras
from keras_distill.edge.analysis import Analysis
from keras_distill.edge.quantize import affine
from keras_distill.edge.quantize.calibrate import input_rows
from keras_distill.edge.quantize.layer import Quantized
from keras_distill.edge.repair.walk import Arguments, Walk, as_float
from keras_distill.graph.fusion import without_activation
from keras_distill.graph.replay import Graph, Step
from keras_distill.graph.traits import does
from keras_distill.graph.wrapping import inner
from keras_distill.litert.quiet import quiet_tensorflow

__all__ = ["correct_biases"]

layers = keras.layers
_KERNELS = ("dense", "convolution", "depthwise", "separable", "transposed")


def correct_biases(quantized: keras.Model, data: Any = None) -> keras.Model:
    """Takes off each layer's bias what rounding has added to the mean of its output.

    Rounded weights w + e on inputs x' give another mean than w on x, the same in each channel for
    every example, which a bias can take back:

        bias <- bias + E[w x + bias] - E[(w + e) x' + bias]

    Layer by layer in the order of the graph, before the activation, x' being what the layers before
    give once they are corrected; means over examples and places, the float model's on the float
    model's own tensors. A BatchNormalization's beta is corrected where one follows, or stands
    alone; a layer with neither bias nor beta keeps its shift, which the next one that has some
    takes off. So do layers that are called more than once.

    Args:
      quantized: from `quantize_aware`, calibrated. Changed in place: its biases and betas, nothing
        else. After training it need not be done, training has done it.
      data: inputs like those to come, some hundred; any data argument. All are held in memory with
        the tensors that are yet to be read. None for inputs made up to match the statistics of the
        model's BatchNormalizations, as `calibrate(model, None)` has them: worse than data.

    Returns:
      The model.

    Raises:
      TypeError, ValueError: no ranges in the model, data of another shape, none, NaN; no layer with
        a bias or beta; without data, a model that tells nothing of its inputs.

    Source: Nagel, van Baalen, Blankevoort, Welling 2019, "Data-Free Quantization Through Weight
    Equalization and Bias Correction", section 4.2 and, with data, its appendix D. Without data they
    compute E[x] from the clipped normal distribution behind a BatchNormalization and ReLU; ours are
    the means on made-up inputs, so that what comes behind additions, pooling and other activations
    is corrected, too.

    Example:
      small = quantize_aware(equalize(student), calibration_data=x_train[:500])
      correct_biases(small, x_train[:500])
    """
    rows = input_rows(quantized, data)
    graph = Analysis(quantized).wrapped
    corrected = _corrected(graph)
    if not corrected:
        raise ValueError(
            f"{quantized.name!r} has no bias to correct: no quantised layer of it has a bias or a "
            f"BatchNormalization's beta of its own."
        )
    with quiet_tensorflow():
        walk = Walk(graph, [_keras.standardized(quantized, x) for x in rows])
        for step in graph.steps:
            bias = corrected.get(step.path)
            shift = None if bias is None else _shift(step, *walk.arguments(step))
            # The float model's answer is that of the bias as it was.
            walk.advance_float(step)
            if bias is not None:
                bias.assign_sub(shift)
            walk.advance_rounded(step)
    return quantized


def _corrected(graph: Graph) -> dict[str, Any]:
    """By path of a layer, the variable that its shift is taken off."""
    calls = Counter(id(step.operation) for step in graph.steps)
    found = {}
    for step in graph.steps:
        if not isinstance(step.operation, Quantized) or calls[id(step.operation)] > 1:
            continue
        layer = step.operation.layer
        if _has_beta(inner(step.operation.behind)):
            found[step.path] = inner(step.operation.behind).beta
        elif _has_beta(layer):
            found[step.path] = layer.beta
        elif does(layer, *_KERNELS) and layer.use_bias and not _before_beta(graph, step, calls):
            found[step.path] = layer.bias
    return found


def _has_beta(layer: Any) -> bool:
    is_norm = isinstance(layer, layers.BatchNormalization)
    return is_norm and layer.center and affine.is_affine(layer)


def _before_beta(graph: Graph, step: Step, calls: Counter[int]) -> bool:
    """Whether a beta takes the step's shift off; not that of a layer which is called twice."""
    readers = [reader.operation for reader in graph.consumers(step.outputs[0])]
    if len(readers) != 1 or calls[id(readers[0])] > 1:
        return False
    return _has_beta(getattr(readers[0], "layer", None))


def _shift(step: Step, exact: list[Arguments], rounded: list[Arguments]) -> np.ndarray:
    """How far the quantised mean is above the float one, `(channels,)`, before activations."""
    with without_activation(step.operation.layer):
        with as_float():
            expected = _mean(step.operation, exact)
        return (_mean(step.operation, rounded) - expected).astype("float32")


def _mean(wrapper: Quantized, batches: list[Arguments]) -> np.ndarray:
    """Of the layer's own answers, past its wrapper's activation and ranges."""
    total, count = np.zeros(()), 0
    for args, kwargs in batches:
        training = {"training": False} if _keras.takes_training(wrapper) else {}
        x = tf.cast(wrapper.unrounded(*args, **{**training, **kwargs}), tf.float64)
        rows = tf.reshape(x, [-1, x.shape[-1]])
        total, count = total + tf.reduce_sum(rows, 0).numpy(), count + len(rows)
    return total / count
