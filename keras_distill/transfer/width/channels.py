"""Which channels of a model must be kept or cut together: read from its graph, never from names.

Every layer that makes channels makes one atom for each. Atoms flow along the last axis of the
graph's tensors; where two tensors are added, the atoms that meet are tied. What is tied together
is a class: one choice, in every weight that it runs through. The classes that the same layers make
are a group: they are ranked against each other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_distill.graph.float_only import check_float
from keras_distill.graph.naming import chosen
from keras_distill.graph.replay import Graph, Value, trace
from keras_distill.graph.wrapping import wrapped_layers
from keras_distill.transfer.width import rules
from keras_distill.transfer.width.survey import Role, Survey


@dataclass(frozen=True)
class Group:
    """Channels among which is chosen.

    Attributes:
      producers: the paths of the layers that make them, in the order of execution.
      classes: their class numbers, in the first producer's order.
      fixed: for each, whether it must stay: it reaches an input or an output of the model, or a
        layer that `skip` names.
      blocks: for each, the part of the group it is in; all parts keep equally many, as grouped
        convolutions need.
    """

    producers: tuple[str, ...]
    classes: np.ndarray
    fixed: np.ndarray
    blocks: np.ndarray

    @property
    def name(self) -> str:
        """The first producer's path."""
        return self.producers[0]

    @property
    def free(self) -> bool:
        """Whether there is anything to choose."""
        return not self.fixed.all()


@dataclass(frozen=True)
class Channels:
    """A model's channels.

    Attributes:
      graph: the model's.
      count: how many classes there are.
      roles: what each operation does with channels, by path; class numbers in its arrays.
      groups: in the order of execution, those with nothing to choose among them.
    """

    graph: Graph
    count: int
    roles: Mapping[str, Role]
    groups: tuple[Group, ...]
    _values: Mapping[int, np.ndarray] = field(repr=False)

    def of(self, value: Value) -> np.ndarray:
        """The class of each position along a tensor's last axis."""
        return self._values[id(value)]


def analyse(
    model: Any,
    *,
    skip: Any = (),
    treat_as: Mapping[Any, str] | None = None,
) -> Channels:
    """Finds the channels of a model that belong together.

    Args:
      model: a built Functional or Sequential model of Keras 3, nested models included.
      skip: layers whose channels stay as they are: names, paths, regular expressions, classes or
        layers.
      treat_as: what to think of operations whose channels are not known, by name, path, regular
        expression, class or layer: `"elementwise"` (each output channel is its input channel's
        alone; a weight whose last axis is as wide is cut along it) or `"fixed"` (widths stay).

    Returns:
      `Channels`.

    Raises:
      TypeError, ValueError: no model with a graph; a compressed one; `skip` or `treat_as` names
        nothing; an operation whose channels are not known.
    """
    graph = trace(model)
    _check_plain(model, graph)
    operations = {step.path: step.operation for step in graph.steps}
    skipped = chosen(operations, skip)
    survey = Survey(_treatments(operations, treat_as or {}), skipped)
    for value in graph.inputs:
        survey.values[id(value)] = survey.fixed(value.shape[-1])
    for step in graph.steps:
        rules.apply(survey, step)
        if step.path in skipped:
            survey.pin(*(survey.values[id(value)] for value in step.outputs))
    survey.pin(*(survey.values[id(value)] for value in graph.outputs))
    return _settled(graph, survey)


def _check_plain(model: Any, graph: Graph) -> None:
    check_float(model)
    compressed = wrapped_layers(graph)
    if compressed:
        raise ValueError(
            f"{model.name!r} is compressed ({next(iter(compressed))!r} and others are pruned, "
            f"clustered or quantised). Take its wrappers off first: kd.edge.strip(model)."
        )


def _treatments(operations: Mapping[str, Any], treat_as: Mapping[Any, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for asked, treatment in treat_as.items():
        if treatment not in rules.TREATMENTS:
            raise ValueError(
                f"treat_as says {treatment!r} of {asked!r}; it takes "
                f"{' or '.join(map(repr, rules.TREATMENTS))}."
            )
        found |= dict.fromkeys(chosen(operations, [asked]), treatment)
    return found


def _settled(graph: Graph, survey: Survey) -> Channels:
    """Atoms become numbered classes, classes groups."""
    _, numbers = np.unique(survey.atoms.roots(), return_inverse=True)
    roles = {path: role.renumbered(numbers) for path, role in survey.roles.items()}
    values = {key: numbers[atoms] for key, atoms in survey.values.items()}
    count = int(numbers.max()) + 1 if len(numbers) else 0
    fixed = np.zeros(count, bool)
    for atoms in survey.pinned:
        fixed[numbers[atoms]] = True
    blocks = _blocks(count, [(numbers[atoms], parts) for atoms, parts in survey.even])
    return Channels(graph, count, roles, _groups(roles, fixed, blocks), values)


def _blocks(count: int, even: Collection[tuple[np.ndarray, int]]) -> np.ndarray:
    """For each class the part it is in, fine enough for every demand of equal numbers."""
    labels = np.zeros(count, int)
    for classes, parts in even:
        part = np.zeros(count, int)
        part[classes] = np.arange(len(classes)) * parts // len(classes) + 1
        _, labels = np.unique(np.stack([labels, part]), axis=1, return_inverse=True)
        labels = labels.reshape(-1)
    return labels


def _groups(roles: Mapping[str, Role], fixed: np.ndarray, blocks: np.ndarray) -> tuple[Group, ...]:
    """Producers whose channels meet anywhere choose together."""
    merged: list[tuple[list[str], list[int]]] = []
    for path, role in roles.items():
        if role.made is None:
            continue
        paths, members = [path], list(dict.fromkeys(role.made.tolist()))
        met = [group for group in merged if not set(members).isdisjoint(group[1])]
        for group in met:
            merged.remove(group)
            paths = group[0] + paths
            members = list(dict.fromkeys(group[1] + members))
        merged.append((paths, members))
    order = list(roles)
    groups = []
    for paths, members in merged:
        classes = np.array(members)
        paths = sorted(paths, key=order.index)
        groups.append(Group(tuple(paths), classes, fixed[classes], blocks[classes]))
    return tuple(sorted(groups, key=lambda group: order.index(group.name)))
