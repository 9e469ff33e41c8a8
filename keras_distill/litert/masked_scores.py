"""Masked scores of attention, brought near the others: a billion below, they take the range."""

from __future__ import annotations

from typing import Any

from .nodes import (
    Nodes,
    constant,
    copied,
    int32,
    maker_of,
    new_node,
    output_of,
    readers_of,
    remembered,
    renamed,
    value_of,
)

__all__ = [
    "BEYOND",
    "GAP",
    "closer_added",
    "closer_masked",
    "mask_last",
    "nearer_number",
    "within_range",
]

# Beyond any score of attention.
BEYOND = 1e4
# So far below the others, a thousand scores are no step of a softmax.
GAP = 12.0
# They hand numbers on, or one of two sides.
_MOVING = frozenset(
    (
        *("Identity", "Cast", "Squeeze", "Reshape", "ExpandDims", "Transpose", "StridedSlice"),
        *("BroadcastTo", "Tile", "MatrixBandPart", "Neg", "OnesLike"),
    )
)
_COMPARING = frozenset(("Softmax", "Max", "ArgMax", "TopKV2"))
_ADDING = ("AddV2", "BiasAdd")
_FAKE = "FakeQuantWithMinMaxVars"


def closer_masked(node: Any, makers: Nodes) -> list[Any] | None:
    """where(c, x, -1e9) before a softmax = where(c, x, min(x) - 12): no range holds both sides.

    Beside a billion every score rounds to one step. A thousand times e**-12 are no step of a
    softmax.
    """
    condition, *sides = node.input[:3]
    masked = [_is_masked(side, makers) for side in sides]
    if masked[0] == masked[1] or not _is_compared(node, makers):
        return None
    kind = node.attr["T"].type
    made, fill = _below(node, sides[masked.index(False)], kind)
    chosen = [output_of(fill) if far else side for far, side in zip(masked, sides, strict=True)]
    answer = renamed(node, "SelectV2", [condition, *chosen, *node.input[3:]], T=kind)
    return [*made, fill, answer]


def closer_added(node: Any, makers: Nodes) -> list[Any] | None:
    """x + m * -1e9 before a softmax = x (1 - m) + (min(x) - 12) m, as for a mask that selects."""
    scores, added, sign = _scores_and_mask(node, makers)
    if not added or not _is_compared(node, makers):
        return None
    kind = node.attr["T"].type
    shaped, mark = _mark(node, added, makers, sign)
    made, fill = _below(node, scores, kind)
    one = constant(node, "one", 1.0, kind)
    rest = new_node(node, "rest", "Sub", [output_of(one), mark], T=kind)
    kept = new_node(node, "kept", "Mul", [scores, output_of(rest)], T=kind)
    left = new_node(node, "left", "Mul", [output_of(fill), mark], T=kind)
    parts = [output_of(kept), output_of(left), *node.input[2:]]
    return [*shaped, *made, fill, one, rest, kept, left, renamed(node, "AddV2", parts, T=kind)]


def nearer_number(node: Any, makers: Nodes) -> list[Any] | None:
    """A mask's number no farther than is enough: 1 / 1e9, to read the mask by, has no steps."""
    value = value_of(node)
    if value is None or value.dtype.kind != "f" or not (abs(value) > BEYOND).any():
        return None
    if not _only_masks(node, makers):
        return None
    made = constant(node, "", value.clip(-BEYOND, BEYOND), node.attr["dtype"].type)
    made.name = node.name
    return [made]


@remembered
def _only_masks(node: Any, makers: Nodes) -> bool:
    """Whether a number comes, as a part of sums and choices, before nothing but comparisons."""
    readers = readers_of(node, makers)
    passing = {*_MOVING, *_ADDING, "Sub", "Mul", "SelectV2", "Fill"}
    return bool(readers) and all(
        one.op in _COMPARING or (one.op in passing and _only_masks(one, makers)) for one in readers
    )


def mask_last(node: Any, makers: Nodes) -> list[Any] | None:
    """x + (bias + mask) = (x + bias) + mask, where a mask is to be told from the rest."""
    for x, other in (node.input[:2], node.input[1::-1]):
        found = maker_of(other, makers)
        if found is None or found.op not in _ADDING or _far(x, makers):
            continue
        bias, mask = next((one for one in _pairs(found.input) if _far(one[1], makers)), ("", ""))
        if mask:
            kind = node.attr["T"].type
            both = new_node(node, "both", "AddV2", [x, bias], T=kind)
            return [both, renamed(node, "AddV2", [output_of(both), mask, *node.input[2:]], T=kind)]
    return None


def within_range(node: Any, makers: Nodes) -> list[Any] | None:
    """Numbers beyond the range that an answer is rounded to, at its end: LiteRT has none there."""
    ends = [_ends(reader, makers) for reader in readers_of(node, makers)]
    known = [one for one in ends if one is not None]
    if not known or len(known) < len(ends):
        return None
    low, high = min(low for low, _ in known), max(high for _, high in known)
    # What multiplies may do so with a part of one.
    if node.op == "Mul" and BEYOND not in (-low, high):
        return None
    kind, made, inputs = node.attr["T"].type, [], list(node.input)
    for place, read in enumerate(node.input):
        value = value_of(maker_of(read, makers))
        if value is None or value.dtype.kind != "f":
            continue
        if node.op == "Mul":
            if (abs(value) <= BEYOND).all():
                continue
            made.append(constant(node, f"near_{place}", value.clip(-BEYOND, BEYOND), kind))
        else:
            made += _rounded(node, f"within_{place}", value, low, high)
        inputs[place] = output_of(made[-1])
    return [*made, renamed(node, node.op, inputs, T=kind)] if made else None


def _rounded(node: Any, name: str, value: Any, low: float, high: float) -> list[Any]:
    """A number with a range of its own."""
    ends = [constant(node, f"{name}_{number}", at, 1) for number, at in enumerate((low, high))]
    plain = constant(node, name, value, node.attr["T"].type)
    fake = new_node(node, f"{name}_rounded", _FAKE, [output_of(one) for one in (plain, *ends)])
    return [plain, *ends, fake]


def _ends(reader: Any, makers: Nodes) -> tuple[float, float] | None:
    """The range that a node rounds to; None for one that does not round."""
    bounds = [value_of(maker_of(read, makers)) for read in reader.input[1:3]]
    if reader.op != _FAKE or any(bound is None for bound in bounds):
        return None
    low, high = bounds
    return float(low), float(high)


def _below(node: Any, scores: str, kind: int) -> tuple[list[Any], Any]:
    """What lies below each row of the scores; and before it the nodes it is made of."""
    last = constant(node, "last", -1, int32())
    low = new_node(node, "low", "Min", [scores, output_of(last)], T=kind, Tidx=int32())
    low.attr["keep_dims"].b = True
    gap = constant(node, "gap", GAP, kind)
    return [last, low, gap], new_node(node, "fill", "Sub", [output_of(low), output_of(gap)], T=kind)


def _scores_and_mask(node: Any, makers: Nodes) -> tuple[str, str, int]:
    """What a sum adds: scores, to which only a far mask is added, and its sign; "" for no mask."""
    if node.op not in (*_ADDING, "Sub"):
        return "", "", 0
    x, other, *_ = node.input
    sign = -1 if node.op == "Sub" else 1
    for scores, added in ((x, other),) if sign < 0 else ((x, other), (other, x)):
        far = _far(added, makers)
        alone = far and max(sign * one for one in far) < 0 and not _is_mixed(added, makers)
        if alone and (not _far(scores, makers) or _is_mixed(scores, makers)):
            return scores, added, sign
    return "", "", 0


@remembered
def _is_mixed(read: str, makers: Nodes) -> bool:
    """Whether scores are in it, beside a mask's numbers."""
    found = maker_of(read, makers)
    if found is None:
        return False
    if found.op in _MOVING:
        return _is_mixed(found.input[0], makers)
    if found.op == "SelectV2":
        sides = [one for one in found.input[1:3] if not _far(one, makers)]
        return any(value_of(maker_of(one, makers)) is None for one in sides)
    if found.op in ("Mul", "RealDiv"):
        return any(_is_mixed(read, makers) for read in found.input)
    scores, mask, _ = _scores_and_mask(found, makers)
    value = value_of(maker_of(scores, makers))
    return bool(mask) and (value is None or bool(value.any()))


def _mark(node: Any, added: str, makers: Nodes, sign: int) -> tuple[list[Any], str]:
    """How to read 1 where a mask is on and 0 elsewhere, and the nodes that this takes."""
    found, kind = maker_of(added, makers), node.attr["T"].type
    if found is not None and found.op in ("Squeeze", "Reshape", "ExpandDims"):
        made, read = _mark(node, found.input[0], makers, sign)
        shaped = copied(found)
        shaped.name, shaped.input[0] = f"{node.name}/mark_{len(made)}", read
        return [*made, shaped], output_of(shaped)
    if found is not None and found.op == "Mul":
        for far, other in _pairs(found.input):
            if _is_masked(far, makers, sign):
                return [], other
            if _is_masked(far, makers, -sign):
                minus = constant(node, "minus", -1.0, kind)
                mark = new_node(node, "mark", "Mul", [other, output_of(minus)], T=kind)
                return [minus, mark], output_of(mark)
    value = value_of(found)
    if value is not None:
        made = constant(node, "mark", (sign * value <= -BEYOND).astype("float32"), kind)
        return [made], output_of(made)
    if found is not None and found.op == "SelectV2":
        chosen = [1.0 if _far(one, makers) else 0.0 for one in found.input[1:3]]
        sides = [constant(node, f"side_{place}", one, kind) for place, one in enumerate(chosen)]
        choice = [found.input[0], *map(output_of, sides)]
        mark = new_node(node, "mark", "SelectV2", choice, T=kind)
        return [*sides, mark], output_of(mark)
    part = constant(node, "part", 1.0 / min(_far(added, makers), key=abs), kind)
    mark = new_node(node, "mark", "Mul", [added, output_of(part)], T=kind)
    return [part, mark], output_of(mark)


@remembered
def _far(read: str, makers: Nodes) -> set[float]:
    """The far numbers in a tensor, of a mask that is 0 or 1; empty without any."""
    found = maker_of(read, makers)
    value = value_of(found)
    if value is not None:
        known = value.dtype.kind == "f"
        return {float(one) for one in value[abs(value) >= BEYOND].ravel()} if known else set()
    if found is None:
        return set()
    if found.op == "Mul":
        return {
            -one if _is_less_than_zero(other, makers) else one
            for far, other in _pairs(found.input)
            for one in _far(far, makers)
        }
    if found.op in _MOVING:
        far = _far(found.input[0], makers)
        return {-one for one in far} if found.op == "Neg" else far
    if found.op in ("Fill", "SelectV2"):
        return set().union(*(_far(one, makers) for one in found.input[1:3]))
    if found.op not in (*_ADDING, "Sub"):
        return set()
    turned = -1 if found.op == "Sub" else 1
    return _far(found.input[0], makers) | {turned * one for one in _far(found.input[1], makers)}


def _pairs(inputs: Any) -> list[tuple[str, str]]:
    return [(inputs[0], inputs[1]), (inputs[1], inputs[0])]


@remembered
def _is_less_than_zero(read: str, makers: Nodes) -> bool:
    """Whether it is m - 1, or -m."""
    found = maker_of(read, makers)
    if found is not None and found.op in _MOVING - {"Neg"}:
        return _is_less_than_zero(found.input[0], makers)
    if found is None or found.op not in ("Sub", "Neg"):
        return False
    value = None if found.op == "Neg" else value_of(maker_of(found.input[1], makers))
    return found.op == "Neg" or (value is not None and bool((value == 1.0).all()))


@remembered
def _is_masked(read: str, makers: Nodes, sign: int = 1) -> bool:
    """Whether it is a number below all scores, or some with such a number added."""
    found = maker_of(read, makers)
    value = value_of(found)
    if value is not None:
        return value.dtype.kind == "f" and bool((sign * value <= -BEYOND).all())
    if found is None:
        return False
    if found.op in ("Identity", "Cast", "BroadcastTo", "Tile", "Reshape", "ExpandDims", _FAKE):
        return _is_masked(found.input[0], makers, sign)
    if found.op in ("AddV2", "Sub", "Fill"):
        return _is_masked(found.input[1], makers, -1 if found.op == "Sub" else sign)
    return False


@remembered
def _is_compared(node: Any, makers: Nodes) -> bool:
    """Whether all that reads a node asks only which of its numbers are the larger."""
    readers = readers_of(node, makers)
    return bool(readers) and all(
        one.op in _COMPARING or (_hands_on(one, node, makers) and _is_compared(one, makers))
        for one in readers
    )


def _hands_on(reader: Any, node: Any, makers: Nodes) -> bool:
    if reader.op in (*_ADDING, "Sub"):
        return _scores_and_mask(reader, makers)[0] == output_of(node)
    return reader.op in ("Identity", "Cast", "SelectV2", "Reshape", _FAKE)
