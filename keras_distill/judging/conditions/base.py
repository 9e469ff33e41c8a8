"""What may happen to data on its way to a model."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np

__all__ = ["SEVERITIES", "Condition", "Corruption", "Row"]

SEVERITIES = (1, 2, 3, 4, 5)


class Condition:
    """A way to see a data set: as it is, damaged, attacked, or another one in its place.

    Attributes:
      name: of its kind.
      severity: 1 to 5 of a corruption; None where there are no degrees.
    """

    name: ClassVar[str] = "condition"
    severity: int | None = None

    def batches(self, source: Iterator[tuple[Any, Any]], context: Any) -> Iterator[tuple[Any, Any]]:
        """`(x, y)` after `(x, y)`, arrays.

        Args:
          source: the data's own batches.
          context: the judge's: what models there are, and how answers are read.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no batches.")

    @property
    def label(self) -> str:
        """The name with the severity: "noise 3"."""
        return self.name if self.severity is None else f"{self.name} {self.severity}"


@dataclass(frozen=True)
class Row:
    """One example of a batch, and the randomness that belongs to it."""

    values: np.ndarray
    rng: np.random.Generator


class Corruption(Condition):
    """A condition that damages each example by itself, by a seed: the same in batches of any size.

    Args:
      severity: 1, hardly seen, to 5.
      seed: with the example's place it makes the randomness.
      input: the name or place of the input that is damaged, in models of several.

    Raises:
      ValueError: another severity.
    """

    def __init__(self, severity: int = 3, *, seed: int = 0, input: str | int | None = None):
        if severity not in SEVERITIES:
            raise ValueError(f"{type(self).__name__}: severity must be 1 to 5; got {severity!r}.")
        self.severity, self._seed, self._input = severity, seed, input

    @classmethod
    def all(cls, **options: Any) -> tuple[Corruption, ...]:
        """One of each severity."""
        return tuple(cls(severity, **options) for severity in SEVERITIES)

    def batches(self, source: Iterator[tuple[Any, Any]], context: Any) -> Iterator[tuple[Any, Any]]:
        begin = 0
        for x, y in source:
            leaf = _chosen(x, self._input, self.label)
            self.check(leaf)
            damaged = np.stack(
                [self.damaged(Row(v, self._rng(begin + n))) for n, v in enumerate(leaf)]
            )
            begin += len(leaf)
            yield _with(x, self._input, damaged.astype(leaf.dtype, copy=False)), y

    def check(self, batch: np.ndarray) -> None:
        """Refuse a batch that this can't happen to.

        Raises:
          ValueError: with what was expected.
        """

    def damaged(self, row: Row) -> np.ndarray:
        """The example as it arrives."""
        raise NotImplementedError(f"{type(self).__name__} defines no damaged.")

    @property
    def level(self) -> int:
        """The severity from 0 to 4, a place in a table of five."""
        assert self.severity is not None
        return self.severity - 1

    def _rng(self, place: int) -> np.random.Generator:
        # The name: else two corruptions would draw the same numbers.
        return np.random.default_rng((self._seed, zlib.crc32(self.name.encode()), place))


def _chosen(x: Any, which: str | int | None, label: str) -> np.ndarray:
    if which is not None:
        try:
            return np.asarray(x[which])
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"{label}: the data has no input {which!r}.") from error
    leaves = keras.tree.flatten(x)
    if len(leaves) != 1:
        names = list(x) if isinstance(x, dict) else list(range(len(leaves)))
        raise ValueError(f"{label}: the data has several inputs, {names}. Say which: input=.")
    return np.asarray(leaves[0])


def _with(x: Any, which: str | int | None, leaf: np.ndarray) -> Any:
    if which is None:
        return keras.tree.pack_sequence_as(x, [leaf])
    return (
        {**x, which: leaf}
        if isinstance(x, dict)
        else [leaf if place == which else one for place, one in enumerate(x)]
    )
