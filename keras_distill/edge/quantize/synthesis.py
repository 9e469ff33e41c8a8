"""Inputs made up from a model's own BatchNormalizations, where there is no data."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill import _keras
from keras_distill.edge.quantize.adam import Adam
from keras_distill.edge.quantize.ranges import observed
from keras_distill.graph.replay import Graph, Step, functional, trace
from keras_distill.graph.wrapping import inner

__all__ = ["synthesized"]

ROWS, STEPS = 64, 300
_RATE = 0.1
# What a pass through the model may hold; a few inputs are made in any case.
_BYTES, _LEAST = 2**30, 8


def synthesized(model: Any, seed: int = 0) -> Any:
    """Up to 64 inputs on which each BatchNormalization reads what it read in training, on average.

    From noise, by gradients through the model with nothing rounded between layers:

        min over x of sum over BatchNormalizations of the mean over channels of log(1 + d),
        d = ((mean - moving_mean)^2 + (deviation - moving_deviation)^2) / moving_variance

    with mean and deviation of what the layer reads on x. The logarithm keeps a channel that was
    dead in training, which any noise wakes, from outweighing all others. One scale and one shift an
    input are found beside the values, for a model may want pixels of 0 to 255 or of -1 to 1.

    Args:
      model: a Functional or Sequential model, plain or quantised. It is not changed.
      seed: of the noise.

    Returns:
      Float32 arrays in the structure of the model's inputs; fewer than 64 where a pass through the
      model, and back, would hold more than a gigabyte.

    Raises:
      ValueError: nothing is known of its inputs: no BatchNormalization, or none that was trained;
        inputs that are no real numbers or have open sizes.

    Source: Cai, Yao, Dong, Gholami, Mahoney, Keutzer 2020, "ZeroQ: A Novel Zero Shot Quantization
    Framework", section 3.1, here relative to the variance, in a logarithm, with scale and shift.
    """
    graph = trace(model)
    norms = {step.path: inner(step.operation) for step in graph.steps if _tells(step)}
    _check(model, norms)
    generator = np.random.default_rng(seed)
    rows = _rows(graph)
    made = [
        _Input(generator.standard_normal((rows, *x.shape[1:])).astype("float32"))
        for x in model.inputs
    ]
    variables = [variable for one in made for variable in one.variables]
    optimizer = Adam(variables)

    @tf.function(jit_compile=False)
    def improve(update: Any) -> None:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            loss = _distance(graph, [one.now() for one in made], norms)
        # The rate falls by a cosine.
        rate = _RATE * (1.0 + tf.cos(np.pi * update / STEPS)) / 2.0
        optimizer.apply(tape.gradient(loss, variables), rate, update + 1.0)

    with observed(lambda one, tensor: None):
        for update in range(STEPS):
            improve(tf.constant(float(update)))
    arrays = [one.now().numpy() for one in made]
    return keras.tree.pack_sequence_as(_keras.input_structure(functional(model)), arrays)


class _Input:
    """Values, a scale and a shift in its units: `scale (values + shift)`."""

    def __init__(self, values: np.ndarray):
        self.values, self.log_scale = tf.Variable(values), tf.Variable(0.0)
        self.shift = tf.Variable(0.0)
        self.variables = [self.values, self.log_scale, self.shift]

    def now(self) -> Any:
        """The input as it is by now."""
        return tf.exp(self.log_scale) * (self.values + self.shift)


def _rows(graph: Graph) -> int:
    """How many inputs: a pass holds every step's outputs, and on its way back their gradients."""
    values = [value for step in graph.steps for value in step.outputs]
    numbers = sum(math.prod(size or 1 for size in value.shape[1:]) for value in values)
    return max(_LEAST, min(ROWS, _BYTES // (2 * 4 * max(1, numbers))))


def _tells(step: Step) -> bool:
    """Whether a step is a BatchNormalization whose statistics training has moved."""
    layer = inner(step.operation)
    if not isinstance(layer, keras.layers.BatchNormalization):
        return False
    return bool(
        np.any(layer.moving_mean.numpy() != 0) or np.any(layer.moving_variance.numpy() != 1)
    )


def _check(model: Any, norms: dict[str, Any]) -> None:
    said = ""
    if not norms:
        said = (
            "it has no BatchNormalization whose statistics training has moved, and so nothing in "
            "it tells what its tensors hold"
        )
    for x in model.inputs:
        if "float" not in x.dtype:
            said = f"its input {x.name!r} is {x.dtype}: ids and categories can't be made up"
        elif None in x.shape[1:]:
            said = f"its input {x.name!r} has open sizes, {tuple(x.shape[1:])}"
    if said:
        raise ValueError(f"{model.name!r} needs data: {said}. Give some hundred of its inputs.")


def _distance(graph: Graph, inputs: list[Any], norms: dict[str, Any]) -> Any:
    found = dict(zip(map(id, graph.inputs), inputs, strict=True))
    total = tf.constant(0.0)
    for step in graph.steps:
        args, kwargs = step.filled(found)
        if step.path in norms:
            total += _mismatch(norms[step.path], args[0])
        if _keras.takes_training(step.operation):
            kwargs = {"training": False, **kwargs}
        answers = keras.tree.flatten(step.operation(*args, **kwargs))
        found.update({id(v): x for v, x in zip(step.outputs, answers, strict=True)})
    return total


def _mismatch(norm: Any, x: Any) -> Any:
    x = tf.cast(x, tf.float32)
    others = [axis for axis in range(len(x.shape)) if axis != norm.axis % len(x.shape)]
    mean, variance = tf.nn.moments(x, others)
    held = tf.convert_to_tensor(norm.moving_variance.value) + norm.epsilon
    apart = tf.math.squared_difference(mean, norm.moving_mean.value)
    wider = tf.math.squared_difference(tf.sqrt(variance + norm.epsilon), tf.sqrt(held))
    return tf.reduce_mean(tf.math.log1p((apart + wider) / held))
