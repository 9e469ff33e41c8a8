"""A teacher made physically narrower: one connected, dense model, faster everywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..graph.copying import weight_paths
from ..graph.replay import Step, Value
from . import selection
from .channels import Channels, analyse
from .importance import check_criterion, importance, normalised
from .narrow import narrow, positions, rows
from .profiling import Totals, price
from .recovery import Recovery
from .report import TransferReport

_BUDGETS = {
    "max_params": ("parameters", "parameters"),
    "max_flops": ("flops", "FLOPs"),
    "max_bytes_int8": ("bytes_int8", "bytes at int8"),
}
_HALVINGS = 30


def shrink(
    teacher: Any,
    width: float | None = None,
    *,
    criterion: str = "l2",
    data: Any = None,
    loss: Any = None,
    scope: str = "uniform",
    max_params: float | None = None,
    max_flops: float | None = None,
    max_bytes_int8: float | None = None,
    multiple_of: int = 1,
    skip: Any = (),
    treat_as: Mapping[Any, str] | None = None,
    iterative: Recovery | None = None,
) -> tuple[Any, TransferReport]:
    """A copy of `teacher` with fewer channels in every layer, the important ones, weights included.

    Which channels go together is read from the graph: through additions, concatenations,
    depthwise and grouped convolutions, normalisations, squeeze-excite products, flatten-to-dense.
    The model's inputs and outputs keep their widths. Its depth stays: see `submodel`.

    Args:
      teacher: a built Functional or Sequential model of Keras 3, nested models included. It is not
        changed.
      width: the share of channels to keep, in (0, 1]; 0.5 where neither it nor a budget is given.
        Half the channels make about a quarter of the FLOPs.
      criterion: how the channels to keep are chosen: see `importance`.
      data: for "activation" and "taylor": some hundred rows like those to come.
      loss: for "taylor": the loss; by default the compiled one, else cross-entropy.
      scope: `"uniform"`: the same share in every group; `"global"`: all channels ranked against
        each other, each by its score over the root mean square of its group's.
      max_params, max_flops, max_bytes_int8: budgets, as `profile` counts them, instead of `width`:
        the widest model within all of them is taken.
      multiple_of: numbers of channels are rounded to multiples of this; 8 suits most processors.
      skip: layers whose channels stay: names, paths, regular expressions, classes or layers.
      treat_as: operations whose channels are unknown: `"elementwise"` or `"fixed"`, by layer.
      iterative: a `Recovery`: several cuts, each followed by training under the teacher.

    Returns:
      The student, and a `TransferReport` whose `channels` name the teacher's channels that each
      layer kept.

    Raises:
      TypeError, ValueError: no model with a graph; an operation whose channels are unknown; a
        width that leaves a layer empty; a budget that can't be reached; a criterion without data.

    Example:
      student, report = shrink(teacher, max_flops=profile(teacher).flops / 4, multiple_of=8)
      print(report)
    """
    check_criterion(criterion, data)
    goal = _goal(width, (max_params, max_flops, max_bytes_int8), scope, multiple_of)
    first = analyse(teacher, skip=skip, treat_as=treat_as)
    goal.check(first)
    rounds = iterative.rounds if iterative else 1
    student, channels, origin = teacher, first, _origin(first)
    for number in range(1, rounds + 1):
        scores = importance(student, channels, criterion, data=data, loss=loss)
        kept = goal.choose(channels, first, scores, number / rounds)
        student = narrow(student, channels, kept)
        origin = {path: kept_of[kept[channels.roles[path].made]] for path, kept_of in origin.items()}
        if iterative:
            iterative.train(student, teacher)
        if number < rounds:
            channels = analyse(student, skip=skip, treat_as=treat_as)
    named = {path: tuple(places.tolist()) for path, places in origin.items()}
    before, after = _price(first, None), _price(first, _kept_at_first(first, origin))
    title = f"{teacher.name} made narrower: {_change(before, after)}"
    return student, TransferReport(title, tuple(rows(teacher, student, first)), named)


@dataclass(frozen=True)
class _Goal:
    """How small it must get."""

    width: float | None
    budgets: Mapping[str, float]
    scope: str
    multiple_of: int

    def check(self, channels: Channels) -> None:
        """Refuses what can't be reached, before anything is measured or trained.

        Raises:
          ValueError: a layer would be empty, or a budget is below the smallest model.
        """
        if self.width is not None and self.scope == "uniform":
            self._check_width(channels)
        least = [selection.smallest(group, self.multiple_of) for group in channels.groups]
        smallest = _price(channels, selection.select(channels, least, np.zeros(channels.count)))
        for name, budget in self.budgets.items():
            field, words = _BUDGETS[name]
            if getattr(smallest, field) > budget:
                raise ValueError(
                    f"{name}={budget:,.0f} can't be reached: with the fewest channels in every "
                    f"layer the model has {getattr(smallest, field):,} {words}. Raise the budget, "
                    f"or leave layers out with submodel first."
                )

    def _check_width(self, channels: Channels) -> None:
        for group in channels.groups:
            size, step = len(group.classes), selection.unit(group, 1)
            if group.free and int(size * self.width / step + 0.5) == 0:
                raise ValueError(
                    f"width={self.width} leaves {group.name!r} with none of its {size} channels; "
                    f"the smallest width for it is {step / 2 / size:.3g}. Raise the width, or "
                    f"leave the layer whole with skip=[{group.name!r}]."
                )

    def choose(
        self, channels: Channels, first: Channels, scores: np.ndarray, part: float
    ) -> np.ndarray:
        """Which classes stay when `part` of the way is to be gone, from 0 to 1."""
        scores = normalised(channels, scores) if self.scope == "global" else scores
        sizes = [len(group.classes) for group in first.groups]

        def kept(width: float) -> np.ndarray:
            if self.scope == "global":
                left = sum(len(group.classes) for group in channels.groups)
                share = min(1.0, width * sum(sizes) / left)
                chosen = selection.counts_by_rank(
                    channels.groups, scores, share, self.multiple_of
                )
            else:
                chosen = selection.counts(channels.groups, sizes, width, self.multiple_of)
            return selection.select(channels, chosen, scores)

        if self.width is not None:
            return kept(self.width**part)
        start = _price(first, None)
        limits = {
            field: getattr(start, field) * (budget / getattr(start, field)) ** part
            for field, budget in ((_BUDGETS[name][0], b) for name, b in self.budgets.items())
            if budget < getattr(start, field)
        }
        return kept(_widest(channels, kept, limits))


def _widest(
    channels: Channels, kept: Callable[[float], np.ndarray], limits: Mapping[str, float]
) -> float:
    """The largest width within every limit, by halving."""

    def fits(width: float) -> bool:
        totals = _price(channels, kept(width))
        return all(getattr(totals, name) <= limit for name, limit in limits.items())

    if fits(1.0):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _goal(
    width: float | None, budgets: Sequence[float | None], scope: str, multiple_of: int
) -> _Goal:
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
    return _Goal(width, named, scope, multiple_of)


def _origin(channels: Channels) -> dict[str, np.ndarray]:
    """For each layer that makes channels, the places of the ones that are left."""
    return {
        path: np.arange(len(role.made))
        for path, role in channels.roles.items()
        if role.made is not None
    }


def _kept_at_first(channels: Channels, origin: Mapping[str, np.ndarray]) -> np.ndarray:
    """The classes of the teacher that are left."""
    kept = np.ones(channels.count, bool)
    for path in origin:
        kept[channels.roles[path].made] = False
    for path, places in origin.items():
        kept[channels.roles[path].made[places]] = True
    return kept


def _price(channels: Channels, kept: np.ndarray | None) -> Totals:
    """What the model costs with the channels that are kept; None for all."""
    kept = np.ones(channels.count, bool) if kept is None else kept

    def shape_of(value: Value) -> tuple[int | None, ...]:
        if not value.shape or value.shape[-1] is None:
            return value.shape
        return (*value.shape[:-1], int(kept[channels.of(value)].sum()))

    def weight_shapes(step: Step) -> dict[str, tuple[int, ...]]:
        role = channels.roles[step.path]
        found = {}
        for path, weight in weight_paths(step.operation).items():
            shape = tuple(weight.shape)
            if path in role.axes:
                shape = tuple(len(p) for p in positions(role.axes[path], shape, kept))
                if role.grouped is not None and path == "kernel":
                    inputs = int(kept[role.grouped].sum()) // role.groups
                    shape = (*shape[:-2], inputs, shape[-1])
            found[path] = shape
        return found

    return price(channels.graph, shape_of, weight_shapes)


def _change(before: Totals, after: Totals) -> str:
    return (
        f"{before.parameters:,} to {after.parameters:,} parameters, "
        f"{before.flops:,} to {after.flops:,} FLOPs"
    )
