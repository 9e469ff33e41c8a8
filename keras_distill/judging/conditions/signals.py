"""Damage to recordings, `(samples,)` or `(samples, channels)`, at five severities."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from keras_distill.judging.conditions.base import Corruption, Row

__all__ = ["Gain", "Shift", "SignalNoise", "signal_corruptions"]


class _Signal(Corruption):
    def check(self, batch: np.ndarray) -> None:
        if batch.ndim not in (2, 3) or not np.issubdtype(batch.dtype, np.floating):
            raise ValueError(
                f"{self.label} is for recordings, floats of (rows, samples) or (rows, samples, "
                f"channels); the data has {batch.dtype} rows of {batch.shape[1:]}."
            )


class SignalNoise(_Signal):
    """White noise, 25 to 5 dB below the recording's own power."""

    name: ClassVar[str] = "noise"

    def damaged(self, row: Row) -> np.ndarray:
        ratio = (25, 20, 15, 10, 5)[self.level]
        power = np.mean(np.square(row.values, dtype="float64"))
        scale = np.sqrt(power / 10 ** (ratio / 10))
        return row.values + row.rng.normal(size=row.values.shape) * scale


class Gain(_Signal):
    """Louder or softer, by the example's draw: by 3 to 15 dB; nothing is clipped."""

    name: ClassVar[str] = "gain"

    def damaged(self, row: Row) -> np.ndarray:
        by = (3, 6, 9, 12, 15)[self.level] * (1 if row.rng.random() < 0.5 else -1)
        return row.values * 10 ** (by / 20)


class Shift(_Signal):
    """Earlier or later by up to 3 to 25 % of the length; what is left open is silent."""

    name: ClassVar[str] = "shift"

    def damaged(self, row: Row) -> np.ndarray:
        length = len(row.values)
        most = max(1, round(length * (0.03, 0.06, 0.1, 0.17, 0.25)[self.level]))
        by = int(row.rng.integers(-most, most + 1))
        found = np.zeros_like(row.values)
        found[max(by, 0) : length + min(by, 0)] = row.values[max(-by, 0) : length - max(by, 0)]
        return found


def signal_corruptions(**options: Any) -> tuple[Corruption, ...]:
    """All three at all five severities.

    Args:
      **options: see `Corruption`.
    """
    return tuple(one for kind in (SignalNoise, Gain, Shift) for one in kind.all(**options))
