"""The same answers on parts of the rows: how much of a figure is the choice of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_distill.measures.metric import CLASSES, YES_OR_NO, Answered

__all__ = ["Groups", "KFold", "Resamples", "Sizes", "Skewed", "Split"]


class Split:
    """Names parts of the rows, by weights."""

    name: str

    def weights(self, answered: Answered) -> dict[str, np.ndarray]:
        """By part the rows' weights, `(rows,)`."""
        raise NotImplementedError(f"{type(self).__name__} defines no weights.")


class KFold(Split):
    """The rows in `folds` parts of equal size, at random.

    Args:
      folds: 2 or more.
      seed: of the draw.
    """

    def __init__(self, folds: int = 5, *, seed: int = 0):
        if folds < 2:
            raise ValueError(f"KFold: folds must be 2 or more; got {folds}.")
        self.name, self._folds, self._seed = f"{folds} folds", folds, seed

    def weights(self, answered: Answered) -> dict[str, np.ndarray]:
        _enough(self.name, answered.rows, self._folds)
        order = np.random.default_rng(self._seed).permutation(answered.rows)
        parts = np.array_split(order, self._folds)
        return {f"fold {n}": _marked(answered.rows, part) for n, part in enumerate(parts, 1)}


class Resamples(Split):
    """Random parts of the rows, each drawn without putting back.

    Args:
      count: how many parts.
      share: of the rows in each, between 0 and 1.
      seed: of the draws.
    """

    def __init__(self, count: int = 20, *, share: float = 0.5, seed: int = 0):
        if count < 2 or not 0 < share < 1:
            raise ValueError(
                f"Resamples: count must be 2 or more, and share between 0 and 1; got {count} and "
                f"{share}."
            )
        self.name, self._count, self._share = f"{count} resamples of {share:.0%}", count, share
        self._seed = seed

    def weights(self, answered: Answered) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(self._seed)
        size = max(1, round(self._share * answered.rows))
        drawn = (rng.permutation(answered.rows)[:size] for _ in range(self._count))
        return {f"resample {n}": _marked(answered.rows, part) for n, part in enumerate(drawn, 1)}


class Sizes(Split):
    """Parts of different size, each within the next: how soon a figure settles.

    Args:
      shares: of the rows, between 0 and 1.
      seed: of the draw.
    """

    def __init__(self, shares: Sequence[float] = (0.05, 0.1, 0.25, 0.5, 1.0), *, seed: int = 0):
        if not shares or not all(0 < share <= 1 for share in shares):
            raise ValueError(f"Sizes: shares must lie above 0 and up to 1; got {list(shares)}.")
        self.name, self._shares, self._seed = "sizes", tuple(shares), seed

    def weights(self, answered: Answered) -> dict[str, np.ndarray]:
        order = np.random.default_rng(self._seed).permutation(answered.rows)
        return {
            f"{share:.0%}": _marked(answered.rows, order[: max(1, round(share * answered.rows))])
            for share in self._shares
        }


class Skewed(Split):
    """Classes in other proportions: each in turn makes up `share` of the rows, by weight.

    Args:
      share: between 0 and 1; the other classes keep their proportions.
    """

    name = "one class prevails"

    def __init__(self, share: float = 0.5):
        if not 0 < share < 1:
            raise ValueError(f"Skewed: share must lie between 0 and 1; got {share}.")
        self._share = share

    def weights(self, answered: Answered) -> dict[str, np.ndarray]:
        if answered.task not in (CLASSES, YES_OR_NO) or answered.labels.ndim > 1:
            raise ValueError("Skewed is for data with one class, or one yes or no, an example.")
        known = answered.known
        found = {}
        for one in np.unique(answered.labels[known]).tolist():
            of_it = known & (answered.labels == one)
            others = known & ~of_it
            if others.any():
                weights = of_it * (self._share / of_it.sum())
                weights = weights + others * ((1 - self._share) / others.sum())
                found[f"class {one:g}"] = weights * known.sum()
        return found


class Groups(Split):
    """The rows by what they belong to: speakers, stations, days.

    Args:
      of: the group of each row, `(rows,)`, in the data's order.
      name: of the split.
    """

    def __init__(self, of: Any, name: str = "groups"):
        self.name, self._of = name, np.asarray(of)

    def weights(self, answered: Answered) -> dict[str, np.ndarray]:
        if self._of.shape != (answered.rows,):
            raise ValueError(
                f"Groups {self.name!r}: expected a group for each of {answered.rows} rows; got "
                f"{self._of.shape}."
            )
        return {str(one): (self._of == one).astype("float64") for one in np.unique(self._of)}


def _enough(name: str, rows: int, wanted: int) -> None:
    if rows < wanted:
        raise ValueError(f"{name} need {wanted} rows; the data has {rows}.")


def _marked(rows: int, part: np.ndarray) -> np.ndarray:
    weights = np.zeros(rows)
    weights[part] = 1.0
    return weights
