"""Recurrent layers to a file of integers: how it holds them, and which it cannot hold."""

from __future__ import annotations

from typing import Any

import keras

from keras_distill.edge.quantize import activations
from keras_distill.graph.replay import Graph, Step

layers = keras.layers

RECURRENT = ("recurrent", "convolutional recurrent", "bidirectional")
__all__ = [
    "RECURRENT",
    "becomes_fused_lstm",
    "check_loops",
    "has_bounded_gates",
    "is_recurrent",
    "refusal",
    "ways_of",
]


def is_recurrent(layer: Any) -> bool:
    """Whether a layer would be a loop in the file."""
    return isinstance(ways_of(layer)[0], layers.RNN)


def ways_of(layer: Any) -> list[Any]:
    """The layer itself, or the forward and the backward one in it."""
    both = isinstance(layer, layers.Bidirectional)
    return [layer.forward_layer, layer.backward_layer] if both else [layer]


def becomes_fused_lstm(operation: Any) -> bool:
    """Whether an int8 file holds the layer as LiteRT's own LSTM, which has these gates alone."""
    if type(operation) is not layers.LSTM or not operation.use_bias or operation.return_state:
        return False
    gates = (operation.activation, operation.recurrent_activation)
    return tuple(map(activations.name_of, gates)) == ("tanh", "sigmoid")


def has_bounded_gates(operation: Any) -> bool:
    """Whether a recurrent layer's states lie where its activation does."""
    gate = getattr(operation, "recurrent_activation", None)
    return gate is None or activations.name_of(gate) in ("sigmoid", "hard_sigmoid")


def refusal(step: Step, *, open_sizes: bool = False) -> str:
    """Why no file of integers can hold a step; empty where one can, or it is not recurrent.

    Args:
      step: of the user's own layer, from `graph.wrapping.unwrapped`.
      open_sizes: let pass what only a size lacks that is open yet.
    """
    layer = step.operation
    if not is_recurrent(layer):
        return ""
    if any(one.stateful for one in ways_of(layer)):
        return (
            "is stateful, and an int8 file keeps no state between two runs. Make the state an "
            "input and an output of the model (initial_state=, return_state=True)"
        )
    if step.inputs[0].shape[1] is None and not open_sizes and not _is_fused(step):
        return (
            "has an open number of steps, and int8 needs a fixed one: a loop crashes the "
            "converter. Give the model's Input its number of steps, as in keras.Input((49, 40)), "
            "or this file: export_tflite(..., input_shape=(49, 40))"
        )
    return ""


def _is_fused(step: Step) -> bool:
    """Whether the file holds it as LiteRT's own LSTM, whose number of steps may be open."""
    more = len(step.inputs) > 1 or step.kwargs.get("mask") is not None
    return becomes_fused_lstm(step.operation) and not more


def check_loops(graph: Graph, *, open_sizes: bool = False) -> None:
    """Refuses a model with a layer that no file of integers can hold.

    Args:
      graph, open_sizes: as `refusal` has them.

    Raises:
      ValueError: there is one, with what to do.
    """
    for step in graph.steps:
        if reason := refusal(step, open_sizes=open_sizes):
            raise ValueError(
                f"The layer {step.path!r} {reason}, or export with precision='dynamic_int8'."
            )
