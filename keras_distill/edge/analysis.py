"""What a model's graph and layers say to those who make a file of it, each answer found once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras

from keras_distill import _keras
from keras_distill._keras import Functional
from keras_distill.edge import lookups
from keras_distill.edge.bridge.legacy_layer import LegacyLayer, has_wrappers
from keras_distill.edge.compress.layer import Compressed
from keras_distill.edge.quantize import exact, kinds, scores
from keras_distill.edge.quantize.layer import Quantized
from keras_distill.edge.quantize.ranges import Range
from keras_distill.edge.quantize.weights import Grid
from keras_distill.graph.replay import Graph, Value, functional, trace
from keras_distill.graph.wrapping import inner, unwrapped

__all__ = ["Analysis"]


@dataclass(frozen=True, eq=False)
class Analysis:
    """A model and what is known of it; a rewritten model has an analysis of its own.

    Attributes:
      model: a Keras 3 model. The graph of a subclassed one is hidden, and empty here.

    >>> words = keras.Input((4,), name="words")
    >>> Analysis(keras.Model(words, keras.layers.Embedding(9, 2)(words))).exact_inputs
    ('words',)
    """

    model: Any

    def of(self, model: Any) -> Analysis:
        """The analysis of what this model has become: this one where nothing was rewritten."""
        return self if model is self.model else Analysis(model)

    @cached_property
    def wrapped(self) -> Graph:
        """The model's graph, the wrappers of compressed layers in it."""
        replayable = isinstance(self.model, (keras.Sequential, Functional))
        return trace(self.model) if replayable else Graph((), (), ())

    @cached_property
    def graph(self) -> Graph:
        """The graph of the user's own layers."""
        return unwrapped(self.wrapped)

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """The layers and operations by their paths; a subclassed model's layers by their names."""
        if self.wrapped.steps:
            return tuple(dict.fromkeys(step.path for step in self.wrapped.steps))
        found = _keras.layers_of(self.model, itself=False)
        return tuple(dict.fromkeys(layer.name for layer in found))

    @cached_property
    def exact(self) -> frozenset[int]:
        """The tensors of the graph, by `id`, that are ids, categories or marks."""
        return exact.exact_values(self.graph)

    @cached_property
    def exact_inputs(self) -> tuple[str, ...]:
        """The names of the real-valued inputs that are ids, categories or marks."""
        return tuple(name for name, x in self._inputs.items() if id(x) in self.exact)

    @cached_property
    def computed_exactly(self) -> tuple[str, ...]:
        """The paths of the operations that compute such values from real numbers."""
        return tuple(step.path for step in self.graph.steps if exact.computes(step, self.exact))

    @cached_property
    def normalized(self) -> tuple[str, ...]:
        """The paths of the layers that bring an input's columns of unlike units to one."""
        return tuple(step.path for step in self.graph.steps if exact.normalizes(step, self.exact))

    @cached_property
    def scores(self) -> dict[int, str]:
        """The tensors of the graph that may be masked scores, by `id`: see `scores.kinds_of`."""
        return scores.kinds_of(self.graph)

    @cached_property
    def score_inputs(self) -> dict[str, str]:
        """The kinds of the inputs that may be masked scores, by name."""
        named = self._inputs.items()
        return {name: self.scores[id(x)] for name, x in named if id(x) in self.scores}

    @cached_property
    def _inputs(self) -> dict[str, Value]:
        if not self.graph.inputs:
            return {}
        names = [_keras.history(x).operation.name for x in functional(self.model).inputs]
        return dict(zip(names, self.graph.inputs, strict=True))

    @cached_property
    def layers(self) -> tuple[Any, ...]:
        """The model and all layers in it, however deep, but for ranges."""
        found = _keras.layers_of(self.model)
        return tuple(layer for layer in found if not isinstance(layer, Range))

    @cached_property
    def is_compressed(self) -> bool:
        """Whether `strip` has something to take off, or TFMOT's wrappers are on it."""
        ours = any(isinstance(layer, Compressed) for layer in self.layers)
        return ours or has_wrappers(self.model)

    @cached_property
    def has_ranges(self) -> bool:
        """Whether the model came from `quantize_aware`, or from TFMOT through `wrap_legacy`."""
        return any(isinstance(layer, Quantized) or _by_tfmot(layer) for layer in self.layers)

    @cached_property
    def left_in_float(self) -> tuple[str, ...]:
        """The paths of the layers that a quantised model leaves out, with no weight on a grid.

        None where another layer's inside needs rows, which the converter spreads over all layers.
        """
        ours = any(isinstance(layer, Quantized) for layer in self.layers)
        if not ours or not self.wrapped.steps or self.open_inside:
            return ()
        return tuple(
            step.path
            for step in self.wrapped.steps
            if kinds.weights_of(inner(step.operation)) and not _on_grid(step.operation)
        )

    @cached_property
    def open_inside(self) -> tuple[str, ...]:
        """The paths of the layers whose insides only calibration data can settle.

        Raises:
          ValueError: the model is subclassed.
        """
        functional(self.model)  # Refuses one whose graph is hidden.
        steps = self.graph.steps
        return tuple(step.path for step in steps if kinds.is_open_inside(step.operation))

    @cached_property
    def lookups(self) -> tuple[Any, ...]:
        """The layers that look things up in tables of their own."""
        return tuple(lookups.lookups_of(self.model))


def _on_grid(operation: Any) -> bool:
    chains = operation.treatments.values() if isinstance(operation, Compressed) else ()
    return any(isinstance(one, Grid) for chain in chains for one in chain)


def _by_tfmot(layer: Any) -> bool:
    return isinstance(layer, LegacyLayer) and "Quantize" in type(layer.inner).__name__
