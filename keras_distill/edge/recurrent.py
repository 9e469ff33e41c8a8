"""Recurrent layers in the form that the converter can quantise.

A Keras 3 LSTM, GRU or SimpleRNN is a loop to the converter, and a loop crashes it at int8. A
tf_keras LSTM becomes LiteRT's own fused operation; the others are unrolled over their fixed number
of steps.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ..graph.copying import copy_variables
from ..graph.replay import Functional, Step, trace
from .compress.layer import inner
from .compress.model import rebuild
from .quantize.affine import by_one

layers = keras.layers


def has_recurrent(model: Any) -> bool:
    """Whether a replayable model has recurrent layers."""
    if not isinstance(model, (keras.Sequential, Functional)):
        return False
    return any(_is_recurrent(step.operation) for step in trace(model).steps)


def _is_recurrent(operation: Any) -> bool:
    layer = inner(operation)
    if isinstance(layer, layers.Bidirectional):
        layer = layer.forward_layer
    return isinstance(layer, (layers.LSTM, layers.GRU, layers.SimpleRNN))


def without_loops(model: Any) -> Any:
    """A copy of `model` whose recurrent layers are no loops.

    Raises:
      ValueError: a layer to be unrolled whose number of steps is open.
    """
    steps = {step.path: step for step in trace(model).steps if _is_recurrent(step.operation)}

    def substitute(path: str, layer: Any) -> Any:
        if path not in steps:
            return layer
        bare = inner(layer)
        made = _Unlooped(bare, _flat(bare, steps[path]))
        return made if bare is layer else layer.around(made)

    return rebuild(model, substitute)


class _Unlooped(keras.layers.Layer):
    """A recurrent layer's computation, called as the layer was, for one export."""

    def __init__(self, layer: Any, ways: list[Callable[[Any], Any]]):
        super().__init__(name=layer.name)
        self.layer = layer
        self.ways = ways
        self.built = True

    def call(self, sequences: Any, training: Any = None, mask: Any = None, **states: Any) -> Any:
        answers = [way(sequences) for way in self.ways]
        return answers[0] if len(answers) == 1 else _merged(self.layer, *answers)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_spec(*args, **kwargs)


def _flat(layer: Any, step: Step) -> list[Callable[[Any], Any]]:
    """The layer as functions of its sequences without a loop: one, or forward and backward."""
    _check(layer, step)
    both = isinstance(layer, layers.Bidirectional)
    ways = [layer.forward_layer, layer.backward_layer] if both else [layer]
    return [_one_way(one, step.inputs[0].shape) for one in ways]


def _check(layer: Any, step: Step) -> None:
    open_steps = step.inputs[0].shape[1] is None and not isinstance(layer, layers.LSTM)
    given = len(step.inputs) > 1 or step.kwargs.get("mask") is not None
    if open_steps:
        raise ValueError(
            f"The layer {step.path!r} has an open number of steps, and int8 needs a fixed one: a "
            f"loop crashes the converter. Give the model's Input its number of steps, as in "
            f"keras.Input((49, 40)), or export with precision='dynamic_int8'."
        )
    if given or getattr(layer, "return_state", False) or getattr(layer, "stateful", False):
        raise ValueError(
            f"The layer {step.path!r} takes a mask or states or returns them, which the int8 form "
            f"of recurrent layers has no place for. Export with precision='dynamic_int8', or "
            f"leave masks and states out of the deployed model."
        )


def _one_way(layer: Any, shape: tuple) -> Callable[[Any], Any]:
    if isinstance(layer, layers.LSTM):
        return _fused(layer, shape)
    if isinstance(layer, layers.GRU):
        return lambda x: _gru(layer, x)
    return _unrolled(layer, shape)


def _fused(layer: Any, shape: tuple) -> Callable[[Any], Any]:
    """The tf_keras twin, from which the converter makes LiteRT's own operation."""
    from .bridge import to_legacy
    from .bridge.legacy_layer import LegacyLayer

    config = layer.get_config()
    alone = type(layer).from_config(config)
    model = keras.Sequential([keras.Input(batch_shape=shape), alone])
    copy_variables(layer, alone, layer.name)
    with warnings.catch_warnings():
        # tf_keras' of seeds: the weights are copied over whatever it draws.
        warnings.simplefilter("ignore")
        return LegacyLayer(to_legacy(model).layers[-1])


def _unrolled(layer: Any, shape: tuple) -> Callable[[Any], Any]:
    copy = type(layer).from_config({**layer.get_config(), "unroll": True})
    copy.build(shape)
    copy_variables(layer, copy, layer.name)
    return copy


def _gru(layer: Any, sequences: Any) -> Any:
    """A GRU step by step, each gate with weights of its own.

    z, r = sigmoid(x W + h U + b); candidate = tanh(x W_h + r * (h U_h + b_h)) where `reset_after`,
    else tanh(x W_h + (r * h) U_h);
    h <- z * h + (1 - z) * candidate = candidate + z * (h - candidate).
    """
    cell = layer.cell
    inputs, recurrent, bias, inner_bias = _gru_weights(cell)
    steps = tf.unstack(sequences, axis=1)
    if layer.go_backwards:
        steps = steps[::-1]
    h, outputs = None, []
    for x in steps:
        parts = [tf.matmul(x, w) + b for w, b in zip(inputs, bias, strict=True)]
        h = _gru_step(cell, parts, h, recurrent, inner_bias)
        outputs.append(h)
    if not layer.return_sequences:
        return h
    # The steps read each state in its own range, and the layer's output may have another.
    return by_one(tf.stack(outputs, axis=1))


def _gru_step(cell: Any, parts: list, h: Any, recurrent: list, bias: list) -> Any:
    """One step; `h` is None where it is zero, and `bias` is empty but for `reset_after`."""

    def from_state(gate: int, state: Any) -> Any:
        product = None if state is None else tf.matmul(state, recurrent[gate])
        terms = [term for term in (product, *bias[gate : gate + 1]) if term is not None]
        return sum(terms[1:], terms[0]) if terms else None

    def with_state(gate: int) -> Any:
        found = from_state(gate, h)
        return parts[gate] if found is None else parts[gate] + found

    z = cell.recurrent_activation(with_state(0))
    r = cell.recurrent_activation(with_state(1))
    if cell.reset_after:
        held = from_state(2, h)
        candidate = cell.activation(parts[2] if held is None else parts[2] + r * held)
    else:
        held = None if h is None else tf.matmul(r * h, recurrent[2])
        candidate = cell.activation(parts[2] if held is None else parts[2] + held)
    return candidate + z * (h - candidate) if h is not None else candidate - z * candidate


def _gru_weights(cell: Any) -> tuple[Any, ...]:
    """Kernels, recurrent kernels, biases and inner biases, by gate: update, reset, candidate."""
    with tf.init_scope():
        bias, inner_bias = np.zeros(3 * cell.units, "float32"), None
        if cell.use_bias:
            bias, inner_bias = np.asarray(cell.bias) if cell.reset_after else (cell.bias, None)
        whole = [np.asarray(part) for part in (cell.kernel, cell.recurrent_kernel, bias)]
    gates = [np.split(part, 3, axis=-1) for part in whole]
    return *gates, [] if inner_bias is None else np.split(inner_bias, 3, axis=-1)


def _merged(layer: Any, forward: Any, backward: Any) -> Any:
    # The two have ranges of their own, each to be brought to the range of both.
    forward, backward = by_one(forward), by_one(backward)
    if layer.return_sequences:
        backward = tf.reverse(backward, [1])
    if layer.merge_mode == "concat":
        return tf.concat([forward, backward], axis=-1)
    if layer.merge_mode == "mul":
        return forward * backward
    if layer.merge_mode in ("sum", "ave"):
        return (forward + backward) * (0.5 if layer.merge_mode == "ave" else 1.0)
    return [forward, backward]
