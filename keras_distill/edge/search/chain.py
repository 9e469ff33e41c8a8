"""Choices for many layers, from the cheapest to the best."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Option", "chain"]


@dataclass(frozen=True)
class Option:
    """What one layer may have.

    Attributes:
      bits: of its weights.
      cost: in the currency of the budget.
      divergence: that it adds.
    """

    bits: int
    cost: float
    divergence: float


def chain(options: Mapping[str, Sequence[Option]]) -> list[dict[str, int]]:
    """Bits by layer, from the cheapest choice on: each entry buys one layer the next better option.

    The step that saves most divergence for its cost comes first, and of each layer only what lies
    on the lower convex hull of divergence over cost: so each entry has the least sum of divergences
    at its cost, as far as layers add up.

    Args:
      options: by layer, at least one each.

    Source: Shoham and Gersho 1988, "Efficient bit allocation for an arbitrary set of quantizers".

    >>> a = [Option(4, 1.0, 9.0), Option(8, 2.0, 1.0), Option(32, 8.0, 0.0)]
    >>> b = [Option(4, 1.0, 2.0), Option(8, 2.0, 0.0)]
    >>> for bits in chain({"a": a, "b": b}): print(bits)
    {'a': 4, 'b': 4}
    {'a': 8, 'b': 4}
    {'a': 8, 'b': 8}
    {'a': 32, 'b': 8}
    """
    hulls = {name: _hull(some) for name, some in options.items()}
    steps = [
        (_slope(before, after), name, after.bits)
        for name, hull in hulls.items()
        for before, after in itertools.pairwise(hull)
    ]
    found = [{name: hull[0].bits for name, hull in hulls.items()}]
    # Sorting keeps a layer's own steps in order: along a hull they get less and less steep.
    for _, name, bits in sorted(steps, key=lambda step: step[0]):
        found.append({**found[-1], name: bits})
    return found


def _hull(options: Sequence[Option]) -> list[Option]:
    """From the cheapest to the best, without what others beat together."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda one: (one.cost, one.divergence)):
        if hull and option.divergence >= hull[-1].divergence:
            continue
        while len(hull) > 1 and _slope(hull[-1], option) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        # Better at no higher cost.
        if hull and option.cost <= hull[-1].cost:
            hull.pop()
        hull.append(option)
    return hull


def _slope(before: Option, after: Option) -> float:
    """Divergence that a unit of cost adds: below zero."""
    return (after.divergence - before.divergence) / (after.cost - before.cost)
