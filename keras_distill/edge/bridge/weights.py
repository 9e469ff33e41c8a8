"""Weights from a layer to its twin, shape by shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_distill.data import qualified_name


def copy(source: Any, target: Any, path: str, *, variables: Sequence[Any] | None = None) -> None:
    """Sets `target`'s weights to `source`'s, by their names where those tell them apart.

    Args:
      source, target: built layers, of any Keras generation.
      path: the layer's path, for the error.
      variables: what to take for the source's weights, if not `source.weights`.

    Raises:
      ValueError: their number or their shapes differ.
    """
    found = list(source.weights if variables is None else variables)
    wanted = list(target.weights)
    for theirs, mine in zip(_in_order(found, wanted), wanted, strict=False):
        if len(found) != len(wanted) or tuple(theirs.shape) != tuple(mine.shape):
            raise ValueError(
                f"{path!r}: the weights of {qualified_name(source)} are {_shapes(found)} and those "
                f"of {qualified_name(target)} are {_shapes(wanted)}. Expected the same shapes in "
                f"the same order; a factory's layer must be built like the layer it stands for."
            )
    if len(found) != len(wanted):
        raise ValueError(
            f"{path!r}: {qualified_name(source)} has {len(found)} weights, {_shapes(found)}, and "
            f"{qualified_name(target)} has {len(wanted)}, {_shapes(wanted)}. Expected as many."
        )
    for theirs, mine in zip(_in_order(found, wanted), wanted, strict=True):
        mine.assign(np.asarray(theirs))
    _settle(source, target)


def _settle(source: Any, target: Any) -> None:
    if not hasattr(target, "adapt_mean") or len(target.weights) != 3:
        return
    # Keras' Normalization answers by a copy of its statistics, which set_weights on a whole model
    # leaves behind: what it answers with is what counts.
    for name in ("mean", "variance"):
        weight = getattr(target, f"adapt_{name}")
        weight.assign(np.reshape(np.asarray(getattr(source, name)), weight.shape))
    target.finalize_state()


def short_name(variable: Any) -> str:
    """`kernel` for both Kerases' names of it, `dense/kernel:0` and `kernel`."""
    return variable.name.partition(":")[0].rpartition("/")[2]


def _in_order(found: list, wanted: list) -> list:
    by_name = {short_name(variable): variable for variable in found}
    names = [short_name(variable) for variable in wanted]
    if len(by_name) == len(found) and sorted(names) == sorted(by_name):
        return [by_name[name] for name in names]
    return found


def _shapes(variables: list) -> str:
    return ", ".join(f"{short_name(v)} {tuple(v.shape)}" for v in variables) or "none"
