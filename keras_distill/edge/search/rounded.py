"""One model under any bits for each layer, in one trace."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.edge.analysis import Analysis
from keras_distill.edge.compress.layer import Compressed
from keras_distill.edge.quantize import kinds
from keras_distill.edge.quantize.aware import quantize_aware
from keras_distill.edge.quantize.layer import Quantized
from keras_distill.edge.quantize.ranges import Range, observed
from keras_distill.edge.quantize.scores import MaskedRange
from keras_distill.edge.quantize.weights import FLOAT, grids_of
from keras_distill.graph.copying import weight_at
from keras_distill.graph.wrapping import inner
from keras_distill.litert.quiet import quiet_tensorflow

__all__ = ["Bits", "Rounded"]

# By a layer's path: the bits of its weights and those of what it puts out.
Bits = Mapping[str, tuple[int, int]]


class Rounded:
    """A float model, and what it would answer with each layer at bits of its own.

    Args:
      model: a float model that `quantize_aware` takes.
      data: what its ranges are found on.

    Attributes:
      paths: the layers that have something to round, in the model's order.
      kernels: the numbers in each kernel that has a grid, by the layer's path.
      narrow, wide: the paths of the layers that a file can hold at 4 bits, and in float.
    """

    def __init__(self, model: keras.Model, data: Any):
        self._model = quantize_aware(model, calibration_data=data)
        found: dict[int, tuple[str, Compressed]] = {}
        quantized = Analysis(self._model)
        for step in quantized.wrapped.steps:
            if isinstance(step.operation, Compressed):
                # A layer that is called in several places has one path, the first.
                found.setdefault(id(step.operation), (step.path, step.operation))
        layers = dict(found.values())
        self._grids = {path: grids_of(layer) for path, layer in layers.items()}
        self._ranges = {
            id(one): path
            for path, layer in layers.items()
            if isinstance(layer, Quantized)
            for one in layer.ranges()
        }
        known = {*self._ranges.values(), *(path for path in layers if self._grids[path])}
        self.paths = tuple(path for path in layers if path in known)
        self.kernels = {
            path: tuple(
                int(np.prod(weight_at(layers[path].layer, key).shape)) for key in self._grids[path]
            )
            for path in self.paths
        }
        self.narrow = tuple(p for p in self.paths if kinds.takes_four_bits(inner(layers[p])))
        open_inside = bool(quantized.open_inside)
        self.wide = tuple(
            p for p in self.paths if not open_inside and kinds.stays_float(inner(layers[p]))
        )
        self._run = tf.function(self._traced, reduce_retracing=True)

    def __call__(self, x: Any, bits: Bits) -> Any:
        """The model's outputs as it returns them; what `bits` leaves out is not rounded."""
        pairs = [bits.get(path, (FLOAT, FLOAT)) for path in self.paths]
        with quiet_tensorflow():
            answers = self._run(x, tf.constant(pairs, "float32"))
        return keras.tree.map_structure(np.asarray, answers)

    def _traced(self, x: Any, bits: Any) -> Any:
        rows = {path: number for number, path in enumerate(self.paths)}

        def rounding(one: Range, tensor: Any) -> Any:
            # A mask's numbers lie outside of its range.
            if id(one) not in self._ranges or isinstance(one, MaskedRange) or not one.is_set:
                return None
            return _rounded(tensor, *one.bounds(), bits[rows[self._ranges[id(one)]], 1])

        with self._at({path: bits[row, 0] for path, row in rows.items()}), observed(rounding):
            return self._model(x, training=False)

    @contextlib.contextmanager
    def _at(self, bits: Mapping[str, Any]) -> Iterator[None]:
        grids = [(grid, bits[p]) for p in self.paths for grid in self._grids[p].values()]
        before = [grid.bits for grid, _ in grids]
        for grid, number in grids:
            grid.bits = number
        try:
            yield
        finally:
            for (grid, _), number in zip(grids, before, strict=True):
                grid.bits = number


def _rounded(x: Any, low: float, high: float, bits: Any) -> Any:
    """`x` on 2^bits steps from `low` to `high`, zero among them."""
    steps = 2.0**bits - 1.0
    scale = (high - low) / steps
    zero = tf.round(tf.math.divide_no_nan(-low, scale))
    found = tf.clip_by_value(tf.round(tf.math.divide_no_nan(x, scale)) + zero, 0.0, steps)
    # A float32 tells no more steps apart than 2^24.
    return tf.where(bits > 24.0, x, tf.cast((found - zero) * scale, x.dtype))
