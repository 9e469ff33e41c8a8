"""How small a model must get: a share of its channels, or budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_distill.graph.cost.profiling import Pricer, Totals, settled_inputs
from keras_distill.graph.replay import Step, Value
from keras_distill.transfer.width import selection
from keras_distill.transfer.width.channels import Channels
from keras_distill.transfer.width.importance import normalised
from keras_distill.transfer.width.narrow import positions

_BUDGETS = {
    "max_params": ("parameters", "parameters"),
    "max_flops": ("flops", "FLOPs"),
    "max_bytes_int8": ("bytes_int8", "bytes at int8"),
}
_HALVINGS = 30


class Prices:
    """What a model costs with some of its channels.

    Args:
      model: the model.
      channels: its channels.
      input_shape: as `profile`'s, where a size of the model's inputs is open.

    Raises:
      ValueError: a size is open.
    """

    def __init__(self, model: Any, channels: Channels, input_shape: Any = None):
        self._channels = channels
        self._pricer = Pricer(channels.graph, settled_inputs(model, input_shape))

    def of(self, kept: np.ndarray) -> Totals:
        """With the classes that are kept."""
        channels = self._channels

        def shape_of(value: Value) -> tuple[int, ...]:
            shape = self._pricer.shape_of(value)
            classes = channels.of(value)
            if not shape or len(classes) != shape[-1]:
                return shape
            return (*shape[:-1], int(np.count_nonzero(kept[classes])))

        def weight_shapes(step: Step) -> dict[str, tuple[int, ...]]:
            return self._weight_shapes(step, kept)

        return self._pricer.totals(shape_of, weight_shapes)

    def _weight_shapes(self, step: Step, kept: np.ndarray) -> dict[str, tuple[int, ...]]:
        role = self._channels.roles[step.path]
        found = {}
        for path, shape in self._pricer.weight_shapes_of(step).items():
            if path in role.axes:
                shape = tuple(len(p) for p in positions(role.axes[path], shape, kept))
                if role.grouped is not None and path == "kernel":
                    inputs = np.count_nonzero(kept[role.grouped]) // role.groups
                    shape = (*shape[:-2], int(inputs), shape[-1])
            found[path] = shape
        return found


@dataclass(frozen=True)
class Goal:
    """How small it must get."""

    width: float | None
    budgets: Mapping[str, float]
    scope: str
    multiple_of: int

    def check(self, channels: Channels, prices: Prices | None) -> None:
        """Refuses what can't be reached, before anything is measured or trained.

        Raises:
          ValueError: a layer would be empty, or a budget is below the smallest model.
        """
        if self.width is not None and self.scope == "uniform":
            self._check_width(channels, self.width)
        least = [selection.smallest(group, self.multiple_of) for group in channels.groups]
        kept = selection.select(channels, least, np.zeros(channels.count))
        smallest = prices.of(kept) if prices else None
        for name, budget in self.budgets.items():
            field, words = _BUDGETS[name]
            if getattr(smallest, field) > budget:
                raise ValueError(
                    f"{name}={budget:,.0f} can't be reached: with the fewest channels in every "
                    f"layer the model has {getattr(smallest, field):,} {words}. Raise the budget, "
                    f"or leave layers out with submodel first."
                )

    def _check_width(self, channels: Channels, width: float) -> None:
        for group in channels.groups:
            size, step = len(group.classes), selection.unit(group, 1)
            if group.free and int(size * width / step + 0.5) == 0:
                raise ValueError(
                    f"width={width} leaves {group.name!r} with none of its {size} channels; "
                    f"the smallest width for it is {step / 2 / size:.3g}. Raise the width, or "
                    f"leave the layer whole with skip=[{group.name!r}]."
                )

    def choose(
        self,
        channels: Channels,
        sizes: Sequence[int],
        scores: np.ndarray,
        prices: Prices | None,
        limits: Mapping[str, float],
        part: float,
    ) -> np.ndarray:
        """Which classes stay.

        Args:
          channels: of the model as it is now.
          sizes: of its groups when nothing had been cut.
          scores: for each class.
          prices, limits: what the widest model is found by, where there are budgets.
          part: how much of the way is to be gone, from 0 to 1.
        """
        scores = normalised(channels, scores) if self.scope == "global" else scores

        def kept(width: float) -> np.ndarray:
            if self.scope == "global":
                left = sum(len(group.classes) for group in channels.groups)
                share = min(1.0, width * sum(sizes) / left)
                counts = selection.counts_by_rank(channels.groups, scores, share, self.multiple_of)
            else:
                counts = selection.counts(channels.groups, sizes, width, self.multiple_of)
            return selection.select(channels, counts, scores)

        if self.width is not None:
            return kept(self.width**part)
        return kept(_widest(prices, kept, limits))

    def limits(self, start: Totals, part: float) -> dict[str, float]:
        """The budgets for `part` of the way, each approached by equal factors."""
        named = {_BUDGETS[name][0]: budget for name, budget in self.budgets.items()}
        return {
            name: getattr(start, name) * (budget / getattr(start, name)) ** part
            for name, budget in named.items()
            if budget < getattr(start, name)
        }


def _widest(prices: Any, kept: Callable[[float], np.ndarray], limits: Mapping[str, float]) -> float:
    """The largest width within every limit, by halving."""

    def fits(width: float) -> bool:
        totals = prices.of(kept(width))
        # A part of a number is none: the limits of a half-gone way are rarely whole.
        return all(getattr(totals, name) <= limit * (1 + 1e-9) for name, limit in limits.items())

    if fits(1.0):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def goal_of(
    width: float | None, budgets: Sequence[float | None], scope: str, multiple_of: int
) -> Goal:
    """Checks what the caller asked for, and fills in the half that is meant by nothing.

    Raises:
      ValueError: a width outside (0, 1], both width and budgets, an unknown scope.
    """
    named = {n: b for n, b in zip(_BUDGETS, budgets, strict=True) if b is not None}
    if width is not None and named:
        raise ValueError(f"Give width or a budget, not both; got width={width} and {named}.")
    if width is not None and not 0 < width <= 1:
        raise ValueError(f"Expected width in (0, 1], a share of the channels; got {width}.")
    if scope not in ("uniform", "global"):
        raise ValueError(f"Expected scope as 'uniform' or 'global'; got {scope!r}.")
    if multiple_of < 1:
        raise ValueError(f"Expected multiple_of as 1 or more; got {multiple_of}.")
    if not named:
        width = 0.5 if width is None else width
    return Goal(width, named, scope, multiple_of)
