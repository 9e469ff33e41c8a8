"""How many channels of each group stay, and which."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from keras_distill.transfer.width.channels import Channels, Group


def unit(group: Group, multiple_of: int) -> int:
    """The step in which a group's size can change."""
    parts = len(np.unique(group.blocks))
    whole = math.lcm(parts, multiple_of)
    return whole if len(group.classes) >= whole else parts


def smallest(group: Group, multiple_of: int) -> int:
    """The fewest channels that a group can keep."""
    step = unit(group, multiple_of)
    return len(group.classes) if not group.free else max(step, _fixed_size(group, step))


def counts(
    groups: Sequence[Group], sizes: Sequence[int], width: float, multiple_of: int
) -> list[int]:
    """For each group `width` times its size, rounded to its unit, at least the smallest.

    Args:
      groups: as they are now.
      sizes: what `width` is a share of; the groups' sizes when nothing had been cut.
      width: in (0, 1].
      multiple_of: see `shrink`.
    """
    found = []
    for group, size in zip(groups, sizes, strict=True):
        step = unit(group, multiple_of)
        # Half up: banker's rounding would make 0.5 of 5 and of 7 differ in direction.
        wanted = math.floor(size * width / step + 0.5) * step
        found.append(min(len(group.classes), max(wanted, smallest(group, multiple_of))))
    return found


def counts_by_rank(
    groups: Sequence[Group], scores: np.ndarray, share: float, multiple_of: int
) -> list[int]:
    """For each group how many of its channels are among the best `share` of all.

    Args:
      groups: as they are now.
      scores: for each class, comparable across groups.
      share: in (0, 1]: of all channels that can be chosen.
      multiple_of: see `shrink`.
    """
    choosable = [group.classes[~group.fixed] for group in groups]
    ranked = np.sort(np.concatenate([scores[classes] for classes in choosable]))[::-1]
    last = ranked[max(0, min(len(ranked), round(share * len(ranked))) - 1)]
    found = []
    for group, classes in zip(groups, choosable, strict=True):
        step = unit(group, multiple_of)
        above = int(np.sum(scores[classes] >= last)) + int(group.fixed.sum())
        wanted = math.floor(above / step + 0.5) * step
        found.append(min(len(group.classes), max(wanted, smallest(group, multiple_of))))
    return found


def select(channels: Channels, sizes: Sequence[int], scores: np.ndarray) -> np.ndarray:
    """The classes that stay: of each group as many as asked, the best by their scores.

    Channels that are fixed stay, and every block of a group keeps equally many.

    Args:
      channels: from `analyse`.
      sizes: for each group how many stay.
      scores: for each class; of equal scores the earlier stays.

    Returns:
      `(classes,)` bool.
    """
    kept = np.ones(channels.count, bool)
    for group, size in zip(channels.groups, sizes, strict=True):
        kept[group.classes] = False
        parts = np.unique(group.blocks)
        for part in parts:
            members = group.blocks == part
            classes, fixed = group.classes[members], group.fixed[members]
            order = np.lexsort((np.arange(len(classes)), -scores[classes], ~fixed))
            kept[classes[order[: max(size // len(parts), int(fixed.sum()))]]] = True
    return kept


def _fixed_size(group: Group, step: int) -> int:
    """Room for what must stay, in every block."""
    parts, numbers = np.unique(group.blocks, return_inverse=True)
    most = max(np.bincount(numbers[group.fixed], minlength=len(parts)), default=0)
    return math.ceil(most * len(parts) / step) * step
