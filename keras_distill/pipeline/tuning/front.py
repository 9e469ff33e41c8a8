"""Which trials no other beats, and which are within a budget."""

from collections.abc import Sequence
from dataclasses import dataclass

from keras_distill.pipeline.tuning.record import TunePoint

__all__ = ["Budget", "beats", "best", "on_front"]


def beats(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether costs are nowhere higher than others, and somewhere lower.

    >>> beats((1.0, 2.0), (1.0, 3.0)), beats((1.0, 2.0), (1.0, 2.0))
    (True, False)
    """
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def on_front(costs: Sequence[Sequence[float]]) -> list[bool]:
    """Of each whether none beats it."""
    return [not any(beats(other, one) for other in costs) for one in costs]


@dataclass(frozen=True)
class Budget:
    """What a file may take.

    Args:
      bytes, ms: at most; None for any.
    """

    bytes: int | None = None
    ms: float | None = None

    @property
    def asked(self) -> bool:
        """Whether there is one."""
        return self.bytes is not None or self.ms is not None

    def over(self, point: TunePoint) -> float:
        """How many times the budget a point takes, where it takes most of it."""
        found = [0.0]
        if self.bytes is not None:
            found.append(point.bytes / self.bytes)
        if self.ms is not None:
            found.append(point.latency_p50_ms / self.ms)
        return max(found)

    def __str__(self) -> str:
        parts = [] if self.bytes is None else [f"{self.bytes:,} bytes"]
        parts += [] if self.ms is None else [f"{self.ms:g} ms"]
        return " and ".join(parts)


def best(points: Sequence[TunePoint], budget: Budget) -> TunePoint | None:
    """The most accurate point within the budget; of several the smallest, then the fastest."""
    fitting = [point for point in points if budget.over(point) <= 1]
    return min(fitting, key=lambda point: point.costs, default=None)
