"""Which layers are worth a look, where nobody says."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_distill.graph.replay import functional, trace
from keras_distill.graph.wrapping import unwrapped
from keras_distill.transfer.depth.grouping import HEAD, grouped

MOST_LAYERS = 12


def default_layers(model: Any) -> tuple[str, ...]:
    """The ends of a model's blocks, by path, spread over its depth; the head is left out.

    Of a model without a graph (subclassed, or of tf_keras) the layers with weights that it holds
    itself, the last left out.

    Args:
      model: of either Keras generation.

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, name="first")])
    >>> model.add(keras.layers.Dense(8, name="second"))
    >>> model.add(keras.layers.Dense(3, name="logits"))
    >>> default_layers(model)
    ('first', 'second')
    """
    found = _block_ends(model) if _has_graph(model) else _weighted_children(model)
    return tuple(_spread(found))


def _has_graph(model: Any) -> bool:
    try:
        functional(model)
    except (TypeError, ValueError):
        return False
    return True


def _block_ends(model: keras.Model) -> list[str]:
    graph = unwrapped(trace(model))
    paths = [step.path for step in graph.steps]
    ends = []
    for block in grouped(graph):
        # An operation (`x + y`) can't be tapped, the layers before it can.
        layers = [
            place
            for place in block.steps
            if isinstance(graph.steps[place].operation, keras.layers.Layer)
        ]
        if block.role != HEAD and layers:
            path, call = paths[layers[-1]], paths[: layers[-1]].count(paths[layers[-1]])
            ends.append(f"{path}:{call}" if call else path)
    return ends


def _weighted_children(model: Any) -> list[str]:
    return [layer.name for layer in model.layers if layer.weights][:-1]


def _spread(names: list[str]) -> list[str]:
    if len(names) <= MOST_LAYERS:
        return names
    places = np.linspace(0, len(names) - 1, MOST_LAYERS).round().astype(int)
    return [names[place] for place in places]
