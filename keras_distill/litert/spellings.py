"""Operations of a SavedModel in those that LiteRT has, and computes right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .choices import as_truth, counted, weighed, without_negative_zeros, without_turn
from .masked_scores import closer_added, closer_masked, mask_last, nearer_number, within_range
from .nodes import (
    Nodes,
    constant,
    int32,
    is_real,
    maker_of,
    new_node,
    output_of,
    readers_of,
    renamed,
    value_of,
)

__all__ = ["Spelling", "rounds"]

# A node, and every node of its function by name: what computes the same, or None for the node.
Spelling = Callable[[Any, Nodes], "list[Any] | None"]


def _one_hot(node: Any, _: Nodes) -> list[Any] | None:
    """LiteRT's ONE_HOT at int8 writes a zero's byte for "off" whatever the zero point is.

    A comparison with 0, 1, 2 ... that selects between on and off is right in integers.
    """
    import tensorflow as tf

    # An attribute that is what it is by default isn't there.
    if "axis" in node.attr and node.attr["axis"].i != -1:
        return None
    indices, depth, on, off, *control = node.input
    kind = node.attr["TI"].type if "TI" in node.attr else tf.int64.as_datatype_enum
    whole = int32()
    last, first, step = (
        constant(node, name, value, whole)
        for value, name in ((-1, "last"), (0, "begin"), (1, "step"))
    )
    each = new_node(node, "each", "ExpandDims", [indices, output_of(last)], T=kind, Tdim=whole)
    count = new_node(node, "count", "Range", [output_of(first), depth, output_of(step)], Tidx=whole)
    numbers = new_node(node, "numbers", "Cast", [output_of(count)], SrcT=whole, DstT=kind)
    equal = new_node(node, "equal", "Equal", [output_of(each), output_of(numbers)], T=kind)
    chosen = [output_of(equal), on, off, *control]
    answer = renamed(node, "SelectV2", chosen, T=node.attr["T"].type)
    return [last, first, step, each, count, numbers, equal, answer]


def _negated(node: Any, makers: Nodes) -> list[Any] | None:
    """-x = -1 x: NEG has no kernel for integers, and the range of a constant zero no width."""
    kind = node.attr["T"].type
    readers = readers_of(node, makers)
    behind = {other.op for reader in readers for other in (reader, *readers_of(reader, makers))}
    # The converter knows GELU and PReLU by their negations.
    if not is_real(kind) or behind & {"Erfc", "Relu"}:
        return None
    return _minus(node, node.input[0], node.input[1:], kind)


def _squared_difference(node: Any, _: Nodes) -> list[Any] | None:
    """-(x - y) (y - x): SQUARED_DIFFERENCE is written for int16, and no kernel runs it.

    Of a square of a difference the converter makes it again.
    """
    x, y, *control = node.input
    kind = node.attr["T"].type
    if not is_real(kind):
        return None
    there = new_node(node, "there", "Sub", [x, y], T=kind)
    back = new_node(node, "back", "Sub", [y, x], T=kind)
    product = new_node(node, "product", "Mul", [output_of(there), output_of(back)], T=kind)
    return [there, back, product, *_minus(node, output_of(product), control, kind)]


def _squared(node: Any, _: Nodes) -> list[Any] | None:
    """-(x (-x)), as for a squared difference."""
    x, *control = node.input
    kind = node.attr["T"].type
    if not is_real(kind):
        return None
    minus = constant(node, "other", -1.0, kind)
    other = new_node(node, "negative", "Mul", [x, output_of(minus)], T=kind)
    product = new_node(node, "product", "Mul", [x, output_of(other)], T=kind)
    return [minus, other, product, *_minus(node, output_of(product), control, kind)]


def _from_zero(node: Any, _: Nodes) -> list[Any] | None:
    """x^2 = (x - 0)^2: SQUARE has no kernel for int8, and SQUARED_DIFFERENCE has one."""
    x, *control = node.input
    kind = node.attr["T"].type
    if not is_real(kind):
        return None
    zero = constant(node, "zero", 0.0, kind)
    inputs = [x, output_of(zero), *control]
    return [zero, renamed(node, "SquaredDifference", inputs, T=kind)]


def _without_guard(node: Any, makers: Nodes) -> list[Any] | None:
    """A minimum that guards from infinity, which integers have not; its constant is no range."""
    x, limit, *control = node.input
    value = value_of(maker_of(limit, makers))
    if value is None or not is_real(node.attr["T"].type) or not (value >= _ENDLESS).all():
        return None
    return [renamed(node, "Identity", [x, *control], T=node.attr["T"].type)]


def _minus(node: Any, read: str, control: Sequence[str], kind: int) -> list[Any]:
    minus = constant(node, "minus", -1.0, kind)
    return [minus, renamed(node, "Mul", [read, output_of(minus), *control], T=kind)]


def _padded(node: Any, _: Nodes) -> list[Any] | None:
    """pad(x - c) + c: PADV2 keeps its constant in float, and no kernel takes it with int16."""
    x, widths, constant, *control = node.input
    kind = node.attr["T"].type
    if not is_real(kind):
        return None
    places = node.attr["Tpaddings"].type if "Tpaddings" in node.attr else int32()
    shifted = new_node(node, "shifted", "Sub", [x, constant], T=kind)
    wide = new_node(node, "wide", "Pad", [output_of(shifted), widths], T=kind, Tpaddings=places)
    return [shifted, wide, renamed(node, "AddV2", [output_of(wide), constant, *control], T=kind)]


def _summed(node: Any, _: Nodes) -> list[Any] | None:
    """mean(x) * count: SUM at int16 has the range of what it adds, and saturates."""
    x, axes, *control = node.input
    kind = node.attr["T"].type
    if not is_real(kind):
        return None
    places = node.attr["Tidx"].type if "Tidx" in node.attr else int32()
    whole = {"out_type": int32()}
    mean = new_node(node, "mean", "Mean", [x, axes], T=kind, Tidx=places)
    if "keep_dims" in node.attr:
        mean.attr["keep_dims"].b = node.attr["keep_dims"].b
    all_of_them = new_node(node, "all", "Size", [x], T=kind, **whole)
    left = new_node(node, "left", "Size", [output_of(mean)], T=kind, **whole)
    sizes = [output_of(all_of_them), output_of(left)]
    ratio = new_node(node, "ratio", "FloorDiv", sizes, T=int32())
    count = new_node(node, "count", "Cast", [output_of(ratio)], SrcT=int32(), DstT=kind)
    answer = renamed(node, "Mul", [output_of(mean), output_of(count), *control], T=kind)
    return [mean, all_of_them, left, ratio, count, answer]


def _selu(node: Any, _: Nodes) -> list[Any] | None:
    """scale relu(x) + scale alpha (exp(min(x, 0)) - 1), which the converter makes a SELECT of."""
    x, *control = node.input
    kind = node.attr["T"].type
    scale, alpha = 1.0507009873554805, 1.6732632423543772
    one, above, below = (
        constant(node, name, value, kind)
        for name, value in (("one", 1.0), ("above", scale), ("below", scale * alpha))
    )
    negative = _negative_part(node, x, kind)
    power = new_node(node, "power", "Exp", [output_of(negative[-1])], T=kind)
    less = new_node(node, "less", "Sub", [output_of(power), output_of(one)], T=kind)
    second = new_node(node, "second", "Mul", [output_of(less), output_of(below)], T=kind)
    positive = new_node(node, "positive", "Relu", [x], T=kind)
    first = new_node(node, "first", "Mul", [output_of(positive), output_of(above)], T=kind)
    parts = [output_of(first), output_of(second), *control]
    answer = renamed(node, "AddV2", parts, T=kind)
    return [one, above, below, *negative, power, less, second, positive, first, answer]


def _negative_part(near: Any, x: str, kind: int) -> list[Any]:
    """min(x, 0) = -relu(-x)"""
    minus = constant(near, "minus", -1.0, kind)
    turned = new_node(near, "turned", "Mul", [x, output_of(minus)], T=kind)
    part = new_node(near, "part", "Relu", [output_of(turned)], T=kind)
    back = new_node(near, "negative", "Mul", [output_of(part), output_of(minus)], T=kind)
    return [minus, turned, part, back]


def _limited(node: Any, makers: Nodes) -> list[Any] | None:
    """min(x, y) = x - relu(x - y), and max likewise, of what others read, too.

    MINIMUM and MAXIMUM have one range for all, the answer's, and take it to their inputs.
    """
    x, y, *control = node.input
    kind = node.attr["T"].type
    read = [name for other in makers.values() for name in other.input]
    # An answer with a range in the graph, as of a quantised model, has that.
    ranged = any(reader.op.startswith("FakeQuant") for reader in readers_of(node, makers))
    if ranged or not is_real(kind) or max(read.count(x), read.count(y)) < 2:
        return None
    least = node.op == "Minimum"
    part = new_node(node, "difference", "Sub", [x, y] if least else [y, x], T=kind)
    over = new_node(node, "over", "Relu", [output_of(part)], T=kind)
    given = [x, output_of(over), *control]
    return [part, over, renamed(node, "Sub" if least else "AddV2", given, T=kind)]


# No range reaches it and tells small numbers apart.
_ENDLESS = 1e6
_ALWAYS: dict[str, Spelling] = {"SelectV2": without_negative_zeros}
_FAR_NUMBERS: dict[str, Spelling] = {"Const": nearer_number}
_MASK_LAST: dict[str, Spelling] = dict.fromkeys(("AddV2", "BiasAdd"), mask_last)
_MASKED: dict[str, Spelling] = {
    "SelectV2": closer_masked,
    **dict.fromkeys(("AddV2", "BiasAdd", "Sub"), closer_added),
}
_WITHIN: dict[str, Spelling] = dict.fromkeys(("SelectV2", "Mul"), within_range)
_CALIBRATED: dict[str, Spelling] = {
    "Selu": _selu,
    "SelectV2": weighed,
    "Cast": counted,
    "Minimum": lambda node, makers: _without_guard(node, makers) or _limited(node, makers),
    "Maximum": _limited,
}
_INTEGERS: dict[str, Spelling] = {"OneHot": _one_hot, "Neg": _negated}
_INT8: dict[str, Spelling] = {"Square": _from_zero}
_INT16: dict[str, Spelling] = {
    "SquaredDifference": _squared_difference,
    "Square": _squared,
    "PadV2": _padded,
    "Sum": _summed,
    "SelectV2": without_turn,
    **dict.fromkeys(("Equal", "NotEqual"), as_truth),
}


def rounds(precision: str, calibrated: bool) -> list[dict[str, Spelling]]:
    """What to look for, in turns: a turn reads what the one before it wrote."""
    integers = [_INTEGERS, _WITHIN] if precision in ("int8", "int16x8") else []
    # Where the graph has ranges of its own, they are those of the operations as they are.
    data = [_FAR_NUMBERS, _MASK_LAST, _MASKED, _CALIBRATED] if calibrated else []
    own = {"int8": [_INT8], "int16x8": [_INT16]}.get(precision, [])
    return [_ALWAYS, *data, *integers, *own]
