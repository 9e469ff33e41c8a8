"""Sizes to try where a model leaves its own open."""

from __future__ import annotations

__all__ = ["sizes_to_try"]

_SIZES = (32, 8, 64, 96, 224, 4, 2, 1, 128, 256, 512, 1024)
# Chains of dilated convolutions that pad nothing need thousands of time steps.
_LENGTHS = (2048, 4096, 8192, 16384, 65536)


def sizes_to_try(rank: int, *, least: int = 1) -> tuple[int, ...]:
    """The sizes in the order in which they are likely to fit.

    Args:
      rank: of the largest tensor whose sizes are open, batch included: images stay small.
      least: smaller ones come last, where all sizes look alike.

    >>> sizes_to_try(4, least=64)[:3], sizes_to_try(3)[-1]
    ((64, 96, 224), 65536)
    """
    found = _SIZES + (_LENGTHS if rank <= 3 else ())
    return tuple(sorted(found, key=lambda size: size < least))
