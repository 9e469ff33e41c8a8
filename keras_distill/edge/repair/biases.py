"""Bias correction: the mean that rounding adds to each layer's output, taken off again."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill import _keras
from keras_distill.edge.analysis import Analysis
from keras_distill.edge.compress.layer import Compressed
from keras_distill.edge.quantize import affine
from keras_distill.edge.quantize.calibrate import input_rows
from keras_distill.edge.quantize.layer import Quantized
from keras_distill.edge.quantize.ranges import observed
from keras_distill.graph.replay import Graph, Step
from keras_distill.graph.traits import does
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
        _Walk(graph, [_keras.standardized(quantized, x) for x in rows]).run(corrected)
    return quantized


def _corrected(graph: Graph) -> dict[str, Any]:
    """By path of a layer, the variable that its shift is taken off."""
    calls = Counter(id(step.operation) for step in graph.steps)
    found = {}
    for step in graph.steps:
        if not isinstance(step.operation, Quantized) or calls[id(step.operation)] > 1:
            continue
        layer = step.operation.layer
        if _has_beta(layer):
            found[step.path] = layer.beta
        elif does(layer, *_KERNELS) and layer.use_bias and not _before_beta(graph, step):
            found[step.path] = layer.bias
    return found


def _has_beta(layer: Any) -> bool:
    is_norm = isinstance(layer, layers.BatchNormalization)
    return is_norm and layer.center and affine.is_affine(layer)


def _before_beta(graph: Graph, step: Step) -> bool:
    readers = graph.consumers(step.outputs[0])
    return len(readers) == 1 and _has_beta(getattr(readers[0].operation, "layer", None))


class _Walk:
    """Every tensor that is still to be read, of the float model and of the quantised one."""

    def __init__(self, graph: Graph, batches: Sequence[Sequence[Any]]):
        self.graph = graph
        self.exact = [dict(zip(map(id, graph.inputs), x, strict=True)) for x in batches]
        self.rounded = [dict(found) for found in self.exact]
        self.last = {id(value): step for step in graph.steps for value in step.inputs}

    def run(self, corrected: dict[str, Any]) -> None:
        """Corrects the variables, by the paths of their layers, in the order of the graph."""
        for step in self.graph.steps:
            bias = corrected.get(step.path)
            # The shift first: the float model's answer is that of the bias as it was.
            shift = None if bias is None else self._shift(step)
            answers = [_float_answer(step, *step.filled(found)) for found in self.exact]
            if bias is not None:
                bias.assign_sub(shift)
            rounded = [_called(step.operation, *step.filled(found)) for found in self.rounded]
            for founds, made in ((self.exact, answers), (self.rounded, rounded)):
                for found, answer in zip(founds, made, strict=True):
                    self._keep(found, step, answer)

    def _keep(self, found: dict[int, Any], step: Step, answer: Any) -> None:
        tensors = keras.tree.flatten(answer)
        found.update({id(v): x for v, x in zip(step.outputs, tensors, strict=True)})
        for value in (*step.inputs, *step.outputs):
            # By identity: two steps are equal where all that they hold is.
            if self.last.get(id(value), step) is step:
                found.pop(id(value), None)

    def _shift(self, step: Step) -> np.ndarray:
        """How far the quantised mean is above the float one, `(channels,)`, before activations."""
        wrapper = step.operation
        with _without_activation(wrapper.layer):
            exact = _mean(_called(wrapper.layer, *step.filled(x)) for x in self.exact)
            # Compressed's, past the ranges on the output.
            rounded = _mean(Compressed.call(wrapper, *a, **k) for a, k in self._given(step))
        return (rounded - exact).astype("float32")

    def _given(self, step: Step) -> Iterator[tuple[tuple, dict[str, Any]]]:
        for found in self.rounded:
            args, kwargs = step.filled(found)
            yield args, _inference(step.operation, kwargs)


def _mean(tensors: Any) -> np.ndarray:
    total, count = np.zeros(()), 0
    for x in tensors:
        rows = tf.reshape(tf.cast(x, tf.float64), [-1, x.shape[-1]])
        total, count = total + tf.reduce_sum(rows, 0).numpy(), count + len(rows)
    return total / count


def _float_answer(step: Step, args: tuple, kwargs: dict[str, Any]) -> Any:
    """What a step answers with neither weights nor tensors rounded."""
    operation = step.operation
    with observed(lambda one, tensor: None):
        if not (isinstance(operation, Quantized) and operation.treatments):
            return _called(operation, args, kwargs)
        y = _called(operation.layer, args, kwargs)
    activation = operation.own_activation
    return y if activation is None else keras.activations.get(activation)(y)


def _called(operation: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    return operation(*args, **_inference(operation, kwargs))


def _inference(operation: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    return {"training": False, **kwargs} if _keras.takes_training(operation) else kwargs


@contextlib.contextmanager
def _without_activation(layer: Any) -> Iterator[None]:
    if not hasattr(layer, "activation"):
        yield
        return
    own, layer.activation = layer.activation, keras.activations.linear
    try:
        yield
    finally:
        layer.activation = own
