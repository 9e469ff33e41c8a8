"""How far two models' answers agree: Pearson's correlation at once and in parts, Cohen's kappa."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["Moments", "correlation", "kappa"]

# Two constants that differ by less, as part of their size, are alike to eight bits.
_ALIKE = 0.02


def correlation(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Pearson's, over all values; NaN where one is NaN, or infinite in one alone.

    Without spread there is nothing to correlate: alike counts as 1, unlike as 0.

    >>> round(correlation(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 2.0])), 4)
    -0.866
    """
    a, b = (values.ravel().astype("float64") for values in (ours, theirs))
    kept = ~((a == b) & np.isinf(a))
    a, b = a[kept], b[kept]
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.nan
    if not a.size:
        return 1.0
    centred_a, centred_b = a - a.mean(), b - b.mean()
    scale = np.sqrt((centred_a @ centred_a) * (centred_b @ centred_b))
    if not scale:
        return float(np.allclose(a, b, rtol=_ALIKE, atol=1e-6))
    return float(centred_a @ centred_b / scale)


def kappa(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Cohen's: how much more often two choose the same class than by chance.

    Source: Cohen, "A Coefficient of Agreement for Nominal Scales", 1960.

    >>> kappa(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]))
    0.5
    """
    classes = np.union1d(ours, theirs)
    chance = sum(float(np.mean(ours == one) * np.mean(theirs == one)) for one in classes)
    same = float(np.mean(ours == theirs))
    return 1.0 if same == 1 else (same - chance) / (1 - chance)


class Moments:
    """Means and centred products of two numbers, column by column, merged batch by batch.

    Source: Chan, Golub, LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample
    Variances", 1979.
    """

    def __init__(self, columns: int):
        self.count = np.zeros(columns)
        self._means = np.zeros((2, columns))
        # Of first and first, second and second, first and second.
        self._products = np.zeros((3, columns))

    def add(self, first: np.ndarray, second: np.ndarray) -> None:
        """Take in `(rows, columns)` of each; a row with NaN in a column does not count there."""
        both = np.stack([first, second])
        known = ~np.isnan(both).any(axis=0)
        count = known.sum(axis=0)
        both = np.where(known, both, 0.0)
        means = both.sum(axis=1) / np.maximum(count, 1)
        centred = np.where(known, both - means[:, None], 0.0)
        total = np.maximum(self.count + count, 1)
        apart = means - self._means
        weight = self.count * count / total
        for place, (a, b) in enumerate(((0, 0), (1, 1), (0, 1))):
            self._products[place] += (centred[a] * centred[b]).sum(axis=0)
            self._products[place] += apart[a] * apart[b] * weight
        self._means += apart * count / total
        self.count += count

    @property
    def squares(self) -> np.ndarray:
        """`sum (x - mean)^2` of the first, by column."""
        return self._products[0]

    @property
    def correlation(self) -> np.ndarray:
        """Pearson's, by column; NaN where one of both never changes."""
        scale = np.sqrt(self._products[0] * self._products[1])
        nothing = np.full_like(scale, np.nan)
        return np.divide(self._products[2], scale, out=nothing, where=scale > 0)
