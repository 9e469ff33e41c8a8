"""Damage to texts as token numbers, `(tokens,)`, at five severities."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from keras_distill.judging.conditions.base import Corruption, Row

__all__ = ["DroppedTokens", "SwappedTokens", "token_corruptions"]


class _Tokens(Corruption):
    """A corruption of token numbers.

    Args:
      severity, seed, input: see `Corruption`.
      padding: the number that stands for no token; it stays at the end.
    """

    def __init__(self, severity: int = 3, *, padding: int = 0, **options: Any):
        super().__init__(severity, **options)
        self._padding = padding

    def check(self, batch: np.ndarray) -> None:
        if batch.ndim != 2 or not np.issubdtype(batch.dtype, np.integer):
            raise ValueError(
                f"{self.label} is for token numbers, whole numbers of (rows, tokens); the data has "
                f"{batch.dtype} rows of {batch.shape[1:]}."
            )

    @property
    def share(self) -> float:
        """Of the tokens that are hit."""
        return (0.03, 0.06, 0.1, 0.2, 0.3)[self.level]


class DroppedTokens(_Tokens):
    """3 to 30 % of the tokens are missing, the rest moves up, padding fills the end."""

    name: ClassVar[str] = "dropped tokens"

    def damaged(self, row: Row) -> np.ndarray:
        real = row.values[row.values != self._padding]
        left = real[row.rng.random(len(real)) >= self.share]
        return np.pad(left, (0, len(row.values) - len(left)), constant_values=self._padding)


class SwappedTokens(_Tokens):
    """3 to 30 % of the tokens change places with the next one."""

    name: ClassVar[str] = "swapped tokens"

    def damaged(self, row: Row) -> np.ndarray:
        found = row.values.copy()
        count = int((found != self._padding).sum())
        place = 0
        while place < count - 1:
            if row.rng.random() < self.share:
                found[[place, place + 1]] = found[[place + 1, place]]
                place += 1
            place += 1
        return found


def token_corruptions(**options: Any) -> tuple[Corruption, ...]:
    """Both at all five severities."""
    return tuple(one for kind in (DroppedTokens, SwappedTokens) for one in kind.all(**options))
