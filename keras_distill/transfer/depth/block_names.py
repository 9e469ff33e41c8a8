"""What a block is called: by what its layers' names share."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from keras_distill.graph.replay import Graph, Step
from keras_distill.transfer.depth.segments import Link, has_weights, holders


def block_names(graph: Graph, groups: Sequence[Sequence[Link]]) -> list[str]:
    """A name for each group of links, no two alike.

    Where the calls of shared layers make up several blocks, `":n"` counts them, from 0 unsaid.
    """
    held = [[graph.steps[place] for link in group for place in link.steps] for group in groups]
    branching = [any(link.branches for link in group) for group in groups]
    common = [
        _common(steps, branches, _elsewhere(graph, steps))
        for steps, branches in zip(held, branching, strict=True)
    ]
    owners: defaultdict[str | None, set] = defaultdict(set)
    for name, steps in zip(common, held, strict=True):
        owners[name].add(tuple(step.path for step in steps))
    names = [
        name if name and len(owners[name]) == 1 else _last((_weighted(steps) or steps)[0].path)
        for name, steps in zip(common, held, strict=True)
    ]
    calls: Counter[str] = Counter()
    unique = []
    for name in names:
        unique.append(f"{name}:{calls[name]}" if calls[name] else name)
        calls[name] += 1
    return unique


def _common(steps: Sequence[Step], branches: bool, elsewhere: set[str]) -> str | None:
    """The nested model that holds all of `steps` and nothing else, or a common prefix."""
    weighted = _weighted(steps) or steps
    for shared in (steps, weighted) if branches else (weighted,):
        paths = [step.path for step in shared]
        around = [_last(holder) for holder in _shared_holders(paths) if holder not in elsewhere]
        for name in (*around, _prefix(map(_last, paths))):
            if name and name not in elsewhere:
                return name
    return None


def _elsewhere(graph: Graph, steps: Iterable[Step]) -> set[str]:
    """The names of the layers outside, and the paths of the nested models that hold them."""
    own = {step.path for step in steps}
    others = {step.path for step in graph.steps} - own
    return {_last(path) for path in others} | {held for path in others for held in holders(path)}


def _shared_holders(paths: Sequence[str]) -> list[str]:
    return [one for one in holders(paths[0]) if all(path.startswith(f"{one}/") for path in paths)]


def _prefix(names: Iterable[str]) -> str:
    """What the names begin with, in whole words: `block_3` for `block_3_expand`, `block_3_add`."""
    words = zip(*(name.split("_") for name in names), strict=False)
    shared = itertools.takewhile(lambda column: len(set(column)) == 1, words)
    return "_".join(column[0] for column in shared)


def _weighted(steps: Iterable[Step]) -> list[Step]:
    return [step for step in steps if has_weights(step.operation)]


def _last(path: str) -> str:
    return path.rpartition("/")[2]
