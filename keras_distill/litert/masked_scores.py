"""Masked scores of attention, brought near the others: a billion below, they take the range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .nodes import constant, int32, maker_of, new_node, output_of, readers_of, renamed

__all__ = ["closer_added", "closer_masked"]

# Beyond any score of attention.
_BEYOND = 1e4


def closer_masked(node: Any, makers: Mapping[str, Any]) -> list[Any] | None:
    """where(c, x, -1e9) before a softmax = where(c, x, min(x) - 12): no range holds both sides.

    Beside a billion every score rounds to one step. A thousand times e**-12 are no step of a
    softmax.
    """
    condition, *sides = node.input[:3]
    masked = [_is_masked(side, makers) for side in sides]
    if masked[0] == masked[1] or not _only_softmax_reads(node, makers):
        return None
    kind = node.attr["T"].type
    made, fill = _below(node, sides[masked.index(False)], kind)
    chosen = [output_of(fill) if far else side for far, side in zip(masked, sides, strict=True)]
    answer = renamed(node, "SelectV2", [condition, *chosen, *node.input[3:]], T=kind)
    return [*made, fill, answer]


def closer_added(node: Any, makers: Mapping[str, Any]) -> list[Any] | None:
    """x + m * -1e9 before a softmax = x (1 - m) + (min(x) - 12) m, as for a mask that selects."""
    x, other, *control = node.input
    minus = node.op == "Sub"
    pairs = ((x, other),) if minus else ((x, other), (other, x))
    found = ((scores, _mark(node, added, makers, -1 if minus else 1)) for scores, added in pairs)
    scores, (shaped, mark) = next((one for one in found if one[1][1]), ("", ([], "")))
    if not mark or not _only_softmax_reads(node, makers):
        return None
    kind = node.attr["T"].type
    made, fill = _below(node, scores, kind)
    one = constant(node, "one", 1.0, kind)
    rest = new_node(node, "rest", "Sub", [output_of(one), mark], T=kind)
    kept = new_node(node, "kept", "Mul", [scores, output_of(rest)], T=kind)
    left = new_node(node, "left", "Mul", [output_of(fill), mark], T=kind)
    parts = [output_of(kept), output_of(left), *control]
    return [*shaped, *made, fill, one, rest, kept, left, renamed(node, "AddV2", parts, T=kind)]


def _below(node: Any, scores: str, kind: int) -> tuple[list[Any], Any]:
    """What lies below each row of the scores; and before it the nodes it is made of."""
    last = constant(node, "last", -1, int32())
    low = new_node(node, "low", "Min", [scores, output_of(last)], T=kind, Tidx=int32())
    low.attr["keep_dims"].b = True
    gap = constant(node, "gap", 12.0, kind)
    return [last, low, gap], new_node(node, "fill", "Sub", [output_of(low), output_of(gap)], T=kind)


def _mark(node: Any, added: str, makers: Mapping[str, Any], sign: int) -> tuple[list[Any], str]:
    """How to read m of `m * -1e9`, in its shape there, and the nodes that this takes; or ""."""
    found = maker_of(added, makers)
    if found is not None and found.op in ("Squeeze", "Reshape", "ExpandDims"):
        made, read = _mark(node, found.input[0], makers, sign)
        shaped = type(found).FromString(found.SerializeToString())
        shaped.name, shaped.input[0] = f"{node.name}/mark_{len(made)}", read
        return [*made, shaped], output_of(shaped) if read else ""
    if found is None or found.op != "Mul":
        return [], ""
    far = [_is_masked(read, makers, sign) for read in found.input[:2]]
    return [], found.input[far.index(False)] if far[0] != far[1] else ""


def _is_masked(read: str, makers: Mapping[str, Any], sign: int = 1) -> bool:
    """Whether it is a number below all scores, or some with such a number added."""
    import numpy as np
    import tensorflow as tf

    found = maker_of(read, makers)
    if found is None:
        return False
    if found.op == "Const":
        value = tf.make_ndarray(found.attr["value"].tensor)
        return value.dtype.kind == "f" and bool(np.all(sign * value <= -_BEYOND))
    if found.op in ("Identity", "Cast"):
        return _is_masked(found.input[0], makers, sign)
    if found.op in ("AddV2", "Sub"):
        return _is_masked(found.input[1], makers, -1 if found.op == "Sub" else 1)
    return False


def _only_softmax_reads(node: Any, makers: Mapping[str, Any]) -> bool:
    readers = readers_of(node, makers)
    passing = ("Identity", "Cast", "SelectV2")
    return bool(readers) and all(
        one.op == "Softmax" or (one.op in passing and _only_softmax_reads(one, makers))
        for one in readers
    )
