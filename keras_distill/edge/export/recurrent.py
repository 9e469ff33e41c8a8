"""Recurrent layers in the form that the converter can quantise.

A recurrent layer of Keras 3 is a loop to the converter, and a loop crashes it at int8. A tf_keras
LSTM with tanh, sigmoid and a bias becomes LiteRT's own fused operation; the others, ConvLSTM and
cells of one's own among them, are unrolled over their fixed number of steps.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.edge.quantize.affine import by_one
from keras_distill.edge.quantize.loops import becomes_fused_lstm, ways_of
from keras_distill.graph.copying import copy_of, copy_variables

__all__ = ["Unlooped"]


class Unlooped(keras.layers.Layer):
    """A recurrent layer's computation, called as the layer was, for one export.

    Args:
      layer: the user's own.
      shape: of its sequences, batch included.
      fused: whether LiteRT's own LSTM serves, which computes in int8 or float.
    """

    def __init__(self, layer: Any, shape: tuple, fused: bool = True):
        super().__init__(name=layer.name)
        self.supports_masking = True
        self.layer = layer
        self.ways = [_Way(one, shape, fused) for one in ways_of(layer)]
        self.built = True

    def call(
        self, sequences: Any, initial_state: Any = None, mask: Any = None, training: Any = None
    ) -> Any:
        states = keras.tree.flatten(initial_state) if initial_state is not None else []
        if len(self.ways) == 1:
            output, last = self.ways[0].run(sequences, states, mask)
            return [output, *last] if self.layer.return_state else output
        half = len(states) // 2
        forward, ahead = self.ways[0].run(sequences, states[:half], mask)
        backward, behind = self.ways[1].run(sequences, states[half:], mask)
        merged = _merged(self.layer, forward, backward)
        if not self.layer.return_state:
            return merged
        return [*(merged if isinstance(merged, list) else [merged]), *ahead, *behind]

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        return self.layer.compute_mask(inputs, previous_mask)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_spec(*args, **kwargs)


class _Way(keras.layers.Layer):
    """One direction of a recurrent layer; it holds what it calls, for the export to find."""

    def __init__(self, layer: Any, shape: tuple, fused: bool):
        super().__init__(name=layer.name)
        self.layer = layer
        self.unrolled = None if type(layer) is keras.layers.GRU else _unrolled(layer)
        fused = fused and becomes_fused_lstm(layer)
        self.fused = _fused(layer, shape) if fused else None
        self.built = True

    def run(self, x: Any, states: list, mask: Any) -> tuple[Any, Sequence[Any]]:
        """Outputs and last states, from the states to begin with, or none, and a mask or None."""
        if self.unrolled is None:
            return _gru(self.layer, x, states, mask)
        # LiteRT's own LSTM takes no mask, which may come with the tensor alone, and no states.
        if self.fused is not None and mask is None and not states:
            return self.fused(x), ()
        output, *last = self.unrolled(x, initial_state=states or None, mask=mask)
        return _zeroed(self.layer, output, mask), last


def _zeroed(layer: Any, output: Any, mask: Any) -> Any:
    """The output, zero where the mask is not set if the layer wants it so."""
    if mask is None or not layer.zero_output_for_mask:
        return output
    marks = tf.cast(tf.reverse(mask, [1]) if layer.go_backwards else mask, output.dtype)
    return output * (marks[..., None] if layer.return_sequences else marks[:, -1:])


def _fused(layer: Any, shape: tuple) -> Callable[[Any], Any]:
    """The tf_keras twin, from which the converter makes LiteRT's own operation."""
    from keras_distill.edge.bridge import to_legacy
    from keras_distill.edge.bridge.legacy_layer import LegacyLayer

    # tf_keras' own is fused only without these, which the file has no use for.
    plain = {"recurrent_dropout": 0.0, "unroll": False, "stateful": False}
    alone = type(layer).from_config({**layer.get_config(), **plain})
    model = keras.Sequential([keras.Input(batch_shape=shape), alone])
    copy_variables(layer, alone, layer.name)
    with warnings.catch_warnings():
        # tf_keras' of seeds: the weights are copied over whatever it draws.
        warnings.simplefilter("ignore")
        return LegacyLayer(to_legacy(model).layers[-1])


def _unrolled(layer: Any) -> Callable[..., Any]:
    """Keras' own layer without its loop, which returns its states as well."""
    copy = copy_of(layer, layer.name)
    copy.unroll, copy.return_state, copy.zero_output_for_mask = True, True, False
    return copy


def _gru(layer: Any, sequences: Any, states: list, mask: Any) -> tuple[Any, Sequence[Any]]:
    """A GRU step by step, each gate with weights of its own.

    z, r = sigmoid(x W + h U + b); candidate = tanh(x W_h + r * (h U_h + b_h)) where `reset_after`,
    else tanh(x W_h + (r * h) U_h);
    h <- z * h + (1 - z) * candidate = candidate + z * (h - candidate).
    """
    cell = layer.cell
    inputs, recurrent, bias, inner_bias = _gru_weights(cell)
    steps = tf.unstack(sequences, axis=1)
    marks = [None] * len(steps) if mask is None else tf.unstack(mask, axis=1)
    if layer.go_backwards:
        steps, marks = steps[::-1], marks[::-1]
    h, output, outputs = states[0] if states else None, None, []
    for x, mark in zip(steps, marks, strict=True):
        parts = [tf.matmul(x, w) + b for w, b in zip(inputs, bias, strict=True)]
        new = _gru_step(cell, parts, h, recurrent, inner_bias)
        output = _kept(mark, new, output)
        h = _kept(mark, new, h) if states else output
        outputs.append(output)
    if layer.return_sequences:
        output = tf.stack(outputs, axis=1)
    # The steps read each state in its own range, and the layer's output may have another.
    return _zeroed(layer, by_one(output), mask), [by_one(h)]


def _kept(mark: Any, new: Any, old: Any) -> Any:
    """`new` where the mask's step is set, else `old`; zero where there is none yet."""
    if mark is None:
        return new
    if old is None:
        # Selected from, a constant zero would be read in the other's range.
        return new * tf.cast(mark[:, None], new.dtype)
    return tf.where(mark[:, None], new, old)


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
