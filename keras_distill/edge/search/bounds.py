"""What a search for bits is to keep, and out of which bits it may choose."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from keras_distill.edge.quantize.weights import FLOAT

__all__ = ["Bounds", "check_bits"]

_KNOWN = (4, 8, FLOAT)


@dataclass(frozen=True)
class Bounds:
    """The bounds of `search_bits`, None for those that were not given.

    Raises:
      ValueError: none is given, or one of no sense.
    """

    max_bytes: int | None = None
    max_drop: float | None = None
    max_milliseconds: float | None = None

    def __post_init__(self) -> None:
        size, drop, time = self.max_bytes, self.max_drop, self.max_milliseconds
        if size is None and drop is None and time is None:
            raise ValueError(
                "Expected max_bytes or max_drop or max_milliseconds, or several of them: how "
                "small, how right, how fast."
            )
        if size is not None and not (_is(numbers.Integral, size) and size >= 1):
            raise ValueError(f"Expected max_bytes as a whole number, 1 or more; got {size!r}.")
        if drop is not None and not (_is(numbers.Real, drop) and 0 <= drop <= 1):
            raise ValueError(f"Expected max_drop from 0 to 1, 0.01 being one point; got {drop!r}.")
        if time is not None and not (_is(numbers.Real, time) and 0 < time < math.inf):
            raise ValueError(
                f"Expected max_milliseconds as a time above 0, a run's median; got {time!r}."
            )


def check_bits(bits: Any) -> tuple[int, ...]:
    """The bits that a kernel may have, from the fewest on.

    Raises:
      ValueError: no such bits, or 8 is not among them.
    """
    found = tuple(bits) if isinstance(bits, Iterable) and not isinstance(bits, str) else (bits,)
    if 16 in found:
        raise ValueError(
            f"bits has 16, and no file has activations of int16 for single layers: LiteRT computes "
            f"wrong where the converter joins int16 with int8. Take bits=(4, 8, {FLOAT}), where "
            f"{FLOAT} leaves a layer in float, or 16 bits for the activations of the whole file: "
            f"export_tflite(model, path, precision='int16x8', representative_data=x)."
        )
    if 8 not in found or any(one not in _KNOWN or type(one) is not int for one in found):
        raise ValueError(
            f"Expected bits as 8 with 4 or {FLOAT} or both, {FLOAT} for float: (4, 8), for "
            f"instance; got {bits!r}."
        )
    return tuple(sorted(set(found)))


def _is(kind: type, value: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
