"""What is noted while a graph's channels are followed: atoms, their ties, each layer's role."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_distill.data import qualified_name
from keras_distill.graph.replay import Step

Axes = tuple[np.ndarray | None, ...]


@dataclass(frozen=True)
class Role:
    """What channels run through an operation's weights.

    Attributes:
      operation: the layer, or the operator between layers.
      axes: by the weight's path in the layer, for each axis the channels along it, or None.
      made: the channels that the layer makes; None where it makes none.
      made_at: by the weight's path the axis along which it makes them.
      groups: of a grouped convolution, whose kernel holds a part of the input channels for each
        part of the output's; else 1.
      grouped: the input channels of a grouped convolution.
      exact: whether a channel that is zero can go without changing the others.
      out: the channels of its (first) output.
    """

    operation: Any
    axes: dict[str, Axes]
    out: np.ndarray
    made: np.ndarray | None = None
    made_at: Mapping[str, int] = dataclasses.field(default_factory=dict)
    groups: int = 1
    grouped: np.ndarray | None = None
    exact: bool = True

    def renumbered(self, numbers: np.ndarray) -> Role:
        """With `numbers[atom]` for each atom."""

        def new(atoms: np.ndarray | None) -> np.ndarray | None:
            return None if atoms is None else numbers[atoms]

        axes = {path: tuple(map(new, arrays)) for path, arrays in self.axes.items()}
        return dataclasses.replace(
            self,
            axes=axes,
            out=numbers[self.out],
            made=new(self.made),
            grouped=new(self.grouped),
        )


class Atoms:
    """Single channels, and which of them are tied: union and find."""

    def __init__(self) -> None:
        self._parents: list[int] = []

    def new(self, count: int) -> np.ndarray:
        """Fresh ones."""
        start = len(self._parents)
        self._parents.extend(range(start, start + count))
        return np.arange(start, start + count)

    def tie(self, first: np.ndarray, second: np.ndarray) -> None:
        """Ties what stands at the same places."""
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            one, other = self._find(one), self._find(other)
            self._parents[max(one, other)] = min(one, other)

    def roots(self) -> np.ndarray:
        """For each atom the one that stands for all that it is tied to."""
        return np.array([self._find(atom) for atom in range(len(self._parents))], int)

    def _find(self, atom: int) -> int:
        while self._parents[atom] != atom:
            self._parents[atom] = self._parents[self._parents[atom]]
            atom = self._parents[atom]
        return atom


class Survey:
    """What is known of a graph's channels while it is walked."""

    def __init__(self, treatments: Mapping[str, str], skipped: Collection[str]):
        self.atoms = Atoms()
        self.values: dict[int, np.ndarray] = {}
        self.roles: dict[str, Role] = {}
        self.pinned: list[np.ndarray] = []
        self.even: list[tuple[np.ndarray, int]] = []
        self.treatments = treatments
        self.skipped = skipped

    def pin(self, *arrays: np.ndarray) -> None:
        """These must stay."""
        self.pinned.extend(arrays)

    def fixed(self, width: int | None) -> np.ndarray:
        """Fresh ones that must stay; none for a tensor of unknown width."""
        atoms = self.atoms.new(width or 0)
        self.pin(atoms)
        return atoms


@dataclass
class Call:
    """One step, as a rule sees it."""

    survey: Survey
    step: Step

    @property
    def operation(self) -> Any:
        """The layer or operator."""
        return self.step.operation

    @property
    def inputs(self) -> list[np.ndarray]:
        """The channels of each tensor that comes in."""
        return [self.survey.values[id(value)] for value in self.step.inputs]

    @property
    def only(self) -> np.ndarray:
        """The channels of the one tensor that comes in."""
        return self.inputs[0]

    def make(self, width: int) -> np.ndarray:
        """The layer's own channels: the same ones at each call of a shared layer."""
        earlier = self.survey.roles.get(self.step.path)
        if earlier is not None and earlier.made is not None:
            return earlier.made
        return self.survey.atoms.new(width)

    def tie(self, arrays: Iterable[np.ndarray]) -> np.ndarray:
        """Ties several tensors' channels, place by place; returns the first's."""
        first, *others = arrays
        for other in others:
            self.survey.atoms.tie(first, other)
        return first

    def unknown(self, why: str = "what it does with channels is not known") -> ValueError:
        """The error that names the operation and the ways out."""
        path, kind = self.step.path, qualified_name(self.operation)
        return ValueError(
            f"{path!r} ({kind}): {why}. Say treat_as={{{path!r}: 'elementwise'}} if each of its "
            f"output channels comes from the input channel at the same place alone, or "
            f"skip=[{path!r}] to keep the widths around it."
        )
