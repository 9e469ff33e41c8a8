"""A graph cut where all its paths meet: the links of the chain that leads to the main output."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_distill.graph.replay import Graph, Step, Value
from keras_distill.graph.sizes import sizes_to_try
from keras_distill.graph.traits import does

_NORMALISING = (
    *("batch normalization", "row normalization", "group normalization"),
    *("learned activation", "scale"),
)
# Smaller ones are all the same to a layer that halves them.
_LEAST_SIZE = 64


def has_weights(operation: Any) -> bool:
    """Whether it holds weights; statistics of the input data (Normalization) do not count."""
    layer = isinstance(operation, keras.layers.Layer)
    return layer and not does(operation, "input normalization") and bool(operation.weights)


def normalises(operation: Any) -> bool:
    """Whether it scales what a layer before it made, channel by channel."""
    return does(operation, *_NORMALISING)


def transforms(operation: Any) -> bool:
    """Whether it has weights and does more than scale: convolutions, Dense, attention, ..."""
    return has_weights(operation) and not normalises(operation)


@dataclass(frozen=True)
class Unit:
    """A step; or a nested model's steps, where it counts as one.

    `steps` are places in `Graph.steps`; `makes` are the values that are read outside.
    """

    steps: tuple[int, ...]
    operations: tuple[Any, ...]
    reads: tuple[Value, ...]
    makes: tuple[Value, ...]


@dataclass(frozen=True)
class Link:
    """What lies between two neighbouring values that every path to the main output runs through.

    `entries` are several only at the start of a model of several inputs.
    """

    units: tuple[Unit, ...]
    entries: tuple[Value, ...]
    exit: Value

    @property
    def operations(self) -> tuple[Any, ...]:
        """All of them, in order."""
        return tuple(operation for unit in self.units for operation in unit.operations)

    @property
    def steps(self) -> tuple[int, ...]:
        """Their places in the graph."""
        return tuple(place for unit in self.units for place in unit.steps)

    @property
    def branches(self) -> bool:
        """Whether it is more than one operation: paths that part and meet, a nested model."""
        return len(self.operations) > 1

    @property
    def keeps_shape(self) -> bool:
        """Whether its output has its input's shape."""
        return len(self.entries) == 1 and self.entries[0].shape == self.exit.shape


@dataclass(frozen=True)
class Chain:
    """A model as a chain of links; steps beside it come before it or lead to other outputs."""

    links: tuple[Link, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]


def chain(graph: Graph) -> Chain:
    """The links that lead to the main output, the one with most transforming layers on its way.

    An input that no weights have touched and that joins a tensor which some have (an attention
    mask, handed to every layer) is no path of its own.

    Args:
      graph: from `trace`.
    """
    units = _units(graph)
    raw = _raw(graph, units)
    reads = {unit: _main_reads(unit, raw) for unit in units}
    goal = _main_output(graph, units, reads)
    needed, trunk = {id(goal)}, set()
    for unit in reversed(units):
        if any(id(value) in needed for value in unit.makes):
            trunk.add(unit)
            needed |= {id(value) for value in reads[unit]}
    links = _links([unit for unit in units if unit in trunk], reads, goal)
    beside = [unit for unit in units if unit not in trunk]
    before = [unit for unit in beside if all(id(value) in raw for value in unit.makes)]
    after = [unit for unit in beside if unit not in before]
    return Chain(tuple(links), _steps(before), _steps(after))


def _steps(units: Iterable[Unit]) -> tuple[int, ...]:
    return tuple(place for unit in units for place in unit.steps)


def _units(graph: Graph) -> list[Unit]:
    whole = _whole_models(graph.steps)
    keys = [_holder(step.path, whole) or place for place, step in enumerate(graph.steps)]
    read_at: defaultdict[int, list[Any]] = defaultdict(list)
    for key, step in zip(keys, graph.steps, strict=True):
        for value in step.inputs:
            read_at[id(value)].append(key)
    for value in graph.outputs:
        read_at[id(value)].append(None)
    units = []
    for key, group in itertools.groupby(enumerate(graph.steps), lambda pair: keys[pair[0]]):
        places, steps = zip(*group, strict=True)
        made = {id(value): value for step in steps for value in step.outputs}
        read = {id(value): value for step in steps for value in step.inputs}
        makes = [made[i] for i in made if any(reader != key for reader in read_at[i])]
        reads = [read[i] for i in read if i not in made]
        operations = tuple(step.operation for step in steps)
        units.append(Unit(places, operations, tuple(reads), tuple(makes)))
    return units


def _whole_models(steps: Sequence[Step]) -> set[str]:
    """Nested models that count as one: called once, and not most of the model themselves."""
    calls = Counter(step.path for step in steps)
    held: defaultdict[str, list[Step]] = defaultdict(list)
    for step in steps:
        for prefix in holders(step.path):
            held[prefix].append(step)
    count = _transforming(steps)
    return {
        prefix
        for prefix, inside in held.items()
        if all(calls[step.path] == 1 for step in inside) and 2 * _transforming(inside) <= count
    }


def _transforming(steps: Iterable[Step]) -> int:
    return sum(transforms(step.operation) for step in steps)


def holders(path: str) -> list[str]:
    """The paths of the nested models around a layer, the outermost first."""
    parts = path.split("/")
    return ["/".join(parts[:length]) for length in range(1, len(parts))]


def _holder(path: str, whole: set[str]) -> str | None:
    return next((prefix for prefix in holders(path) if prefix in whole), None)


def _raw(graph: Graph, units: Iterable[Unit]) -> set[int]:
    """The values (by identity) that come from the inputs through no weights."""
    raw = {id(value) for value in graph.inputs}
    for unit in units:
        weighted = any(map(has_weights, unit.operations))
        if not weighted and all(id(value) in raw for value in unit.reads):
            raw |= {id(value) for value in unit.makes}
    return raw


def _main_reads(unit: Unit, raw: set[int]) -> tuple[Value, ...]:
    return tuple(value for value in unit.reads if id(value) not in raw) or unit.reads


def _main_output(graph: Graph, units: Iterable[Unit], reads: dict) -> Value:
    depth: defaultdict[int, int] = defaultdict(int)
    for unit in units:
        own = sum(map(transforms, unit.operations))
        below = max((depth[id(value)] for value in reads[unit]), default=0)
        depth.update({id(value): below + own for value in unit.makes})
    return max(graph.outputs, key=lambda value: depth[id(value)])


def _links(trunk: Sequence[Unit], reads: dict, goal: Value) -> list[Link]:
    """The trunk, cut wherever a single value is all that what follows needs."""
    last_read = {id(value): place for place, unit in enumerate(trunk) for value in reads[unit]}
    last_read[id(goal)] = len(trunk)
    made = {id(value) for unit in trunk for value in unit.makes}
    read = {id(value): value for unit in trunk for value in reads[unit]}
    live = {i: value for i, value in read.items() if i not in made}
    links, since, entries = [], [], tuple(live.values())
    for place, unit in enumerate(trunk):
        since.append(unit)
        live.update({id(value): value for value in unit.makes})
        live = {i: value for i, value in live.items() if last_read.get(i, -1) > place}
        if len(live) == 1:
            (value,) = live.values()
            links.append(Link(tuple(since), entries, value))
            since, entries = [], (value,)
    return links


def keeps_shape(graph: Graph, links: Sequence[Link]) -> bool:
    """Whether what goes into the first link and what comes out of the last are of one shape.

    Sizes that are not known yet are tried out: both sides may say `(None, None, None, 64)`.
    """
    entries, shape = links[0].entries, links[-1].exit.shape
    if [value.shape for value in entries] != [shape]:
        return False
    if None not in shape[1:]:
        return True
    for size in sizes_to_try(len(shape), least=_LEAST_SIZE):
        try:
            made = _shape_at(size, graph, links)
        except (ValueError, TypeError):  # It is too small, or a layer wants it otherwise.
            continue
        return made == _filled(shape, size)
    return False


def _filled(shape: tuple[int | None, ...], size: int) -> tuple[int | None, ...]:
    return (*shape[:1], *(size if n is None else n for n in shape[1:]))


def _shape_at(size: int, graph: Graph, links: Sequence[Link]) -> tuple[int | None, ...]:
    """The shape behind the last link, where every open size before the first is this one."""
    tried: dict[int, Any] = {}

    def filled(value: Any) -> Any:
        if not isinstance(value, Value):
            return value
        made = keras.KerasTensor(_filled(value.shape, size), value.dtype)
        return tried.setdefault(id(value), made)

    for place in sorted(place for link in links for place in link.steps):
        step = graph.steps[place]
        args, kwargs = keras.tree.map_structure(filled, (step.args, step.kwargs))
        made = keras.tree.flatten(step.operation.compute_output_spec(*args, **kwargs))
        tried.update({id(x): y for x, y in zip(step.outputs, made, strict=True)})
    return tried[id(links[-1].exit)].shape
