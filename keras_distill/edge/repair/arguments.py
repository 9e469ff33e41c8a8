"""What `reconstruct` is given, checked before any work."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_distill import _keras
from keras_distill.data import qualified_name
from keras_distill.edge.quantize.calibrate import checked_rows, ranges_of
from keras_distill.edge.quantize.layer import Quantized
from keras_distill.edge.repair.blocks import Block, blocks_of
from keras_distill.edge.repair.kept import kept_on
from keras_distill.edge.repair.rounding import is_settled
from keras_distill.graph.replay import Graph, functional

__all__ = ["BATCH", "batches_of", "blocks_to_learn", "check", "check_counts", "warn_of_steps"]

BATCH = 32
# So many batches there are of few rows, too, that one of them can judge.
_LEAST_BATCHES = 5


def check(model: Any, data: Any) -> None:
    """Refuses what is no calibrated model, and no data.

    Raises:
      TypeError, ValueError: in its own words.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"Expected a model from quantize_aware(); got {qualified_name(model)}.")
    if not any(isinstance(layer, Quantized) for layer in _keras.layers_of(model)):
        raise ValueError(
            f"{model.name!r} is not quantised. Reconstruct what quantize_aware(model, "
            f"calibration_data=...) returns."
        )
    functional(model)  # Refuses one whose graph is hidden.
    ranges = ranges_of(model)
    unset = sum(not one.is_set for one in ranges)
    if unset:
        raise ValueError(
            f"{model.name!r} is not calibrated: {unset} of its {len(ranges)} ranges are not set. "
            f"Call kd.edge.calibrate(model, data) first."
        )
    if data is None:
        raise ValueError(
            "Expected data to reconstruct from, some hundred inputs like those to come; got none. "
            "Give it by name: reconstruct(quantized, data=x)."
        )


def check_counts(**counts: Any) -> None:
    """Refuses what is no number of 1 or more, by its name."""
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"Expected {name} as a number, 1 or more; got {value!r}.")


def blocks_to_learn(model: keras.Model, graph: Graph) -> list[Block]:
    """The blocks of a model; one without any is refused, with why."""
    found, left = blocks_of(graph)
    if not found:
        words = "; ".join(f"{path}: {why}" for path, why in left.items()) or "no weights on a grid"
        raise ValueError(f"{model.name!r} has no layer whose rounding can be learned ({words}).")
    return found


def warn_of_steps(model: keras.Model, blocks: Sequence[Block]) -> None:
    """Tells of layers which nothing is to be learned of, beside others."""
    fixed = [one.path for one in blocks if kept_on(one) is None and is_settled(one)]
    if fixed and len(fixed) < len(blocks):
        warnings.warn(
            f"{len(fixed)} of the {len(blocks)} layers of {model.name!r} lie on steps already, and "
            f"count as the float model's: {', '.join(fixed)}. If an earlier call has put them "
            f"there, begin again with the model from before it, and give folder= to go on later.",
            UserWarning,
            stacklevel=3,
        )


def batches_of(model: keras.Model, data: Any, rows: int) -> list[Any]:
    """The first rows of the data, in the model's structure, in at least two small batches."""
    parts, given = [], 0
    for x in checked_rows(model, data, "data to reconstruct from"):
        few = rows - given
        parts.append(keras.tree.map_structure(lambda a, s=few: np.asarray(a)[:s], x))
        given += len(keras.tree.flatten(parts[-1])[0])
        if given >= rows:
            break
    if given < 2:
        raise ValueError(
            f"Expected data to reconstruct from, some hundred rows and 2 at least, for some judge "
            f"and are not learned from; got {given}."
        )
    whole = keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)
    size = min(BATCH, math.ceil(given / _LEAST_BATCHES))
    return [
        keras.tree.map_structure(lambda a, s=slice(start, start + size): a[s], whole)
        for start in range(0, given, size)
    ]
