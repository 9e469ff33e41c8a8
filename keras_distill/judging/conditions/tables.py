"""Damage to rows of numbers, `(columns,)`, at five severities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from keras_distill.judging.conditions.base import Corruption, Row

__all__ = ["ColumnNoise", "MissingCells", "ShiftedColumns", "table_corruptions"]


class _Table(Corruption):
    """A corruption of tables, in units of each column's spread.

    Args:
      severity, seed, input: see `Corruption`.
      means, spreads: of the columns, of the training data; None for 0 and 1, those of
        standardised columns.
    """

    def __init__(
        self,
        severity: int = 3,
        *,
        means: Sequence[float] | float = 0.0,
        spreads: Sequence[float] | float = 1.0,
        **options: Any,
    ):
        super().__init__(severity, **options)
        self._means, self._spreads = (np.asarray(one, "float64") for one in (means, spreads))

    def check(self, batch: np.ndarray) -> None:
        if batch.ndim != 2 or not np.issubdtype(batch.dtype, np.floating):
            raise ValueError(
                f"{self.label} is for tables, floats of (rows, columns); the data has "
                f"{batch.dtype} rows of {batch.shape[1:]}."
            )
        for name, found in (("means", self._means), ("spreads", self._spreads)):
            if found.ndim and found.shape != batch.shape[1:]:
                raise ValueError(
                    f"{self.label}: {name} must be a number for each of the {batch.shape[1]} "
                    f"columns; got {found.shape}."
                )


class MissingCells(_Table):
    """5 to 40 % of the cells hold the column's mean, as where a sensor is silent."""

    name: ClassVar[str] = "missing cells"

    def damaged(self, row: Row) -> np.ndarray:
        gone = row.rng.random(row.values.shape) < (0.05, 0.1, 0.2, 0.3, 0.4)[self.level]
        return np.where(gone, self._means, row.values)


class ColumnNoise(_Table):
    """Gaussian noise of 10 to 100 % of each column's spread."""

    name: ClassVar[str] = "noise"

    def damaged(self, row: Row) -> np.ndarray:
        share = (0.1, 0.2, 0.4, 0.7, 1.0)[self.level]
        return row.values + row.rng.normal(size=row.values.shape) * share * self._spreads


class ShiftedColumns(_Table):
    """A third of the columns, the same in every row, are off by 0.25 to 2 spreads."""

    name: ClassVar[str] = "shifted columns"

    def damaged(self, row: Row) -> np.ndarray:
        # Of the seed alone: a sensor that is off is off in every row.
        rng = np.random.default_rng(self._seed)
        columns = rng.permutation(row.values.size)[: max(1, row.values.size // 3)]
        moved = np.zeros(row.values.shape)
        signs = rng.choice((-1.0, 1.0), size=len(columns))
        moved[columns] = signs * (0.25, 0.5, 1.0, 1.5, 2.0)[self.level]
        return row.values + moved * self._spreads


def table_corruptions(**options: Any) -> tuple[Corruption, ...]:
    """All three at all five severities; see `means` and `spreads`."""
    kinds = (MissingCells, ColumnNoise, ShiftedColumns)
    return tuple(one for kind in kinds for one in kind.all(**options))
