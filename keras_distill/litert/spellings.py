"""Operations of a SavedModel in those that LiteRT has, and computes right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["Spelling", "output_of", "rounds"]

# A node, and every node of its function by name: what computes the same, or None for the node.
Spelling = Callable[[Any, Mapping[str, Any]], "list[Any] | None"]


def _without_negative_zeros(node: Any, makers: Mapping[str, Any]) -> list[Any] | None:
    """Keras' argmax puts a negative zero below zero, by a test of bits that LiteRT has not."""
    condition, _, x, *control = node.input
    found = _maker(condition, makers)
    if found is None or found.op != "LogicalAnd":
        return None
    sides = {side.op: side for side in (_maker(read, makers) for read in found.input) if side}
    if set(sides) != {"Equal", "Less"} or x not in sides["Equal"].input:
        return None
    masked = _maker(sides["Less"].input[0], makers)
    if masked is None or masked.op != "BitwiseAnd":
        return None
    return [_renamed(node, "Identity", [x, *control], T=node.attr["T"].type)]


def _closer_masked(node: Any, makers: Mapping[str, Any]) -> list[Any] | None:
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
    answer = _renamed(node, "SelectV2", [condition, *chosen, *node.input[3:]], T=kind)
    return [*made, fill, answer]


def _closer_added(node: Any, makers: Mapping[str, Any]) -> list[Any] | None:
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
    one = _constant(node, "one", 1.0, kind)
    rest = _node(node, "rest", "Sub", [output_of(one), mark], T=kind)
    kept = _node(node, "kept", "Mul", [scores, output_of(rest)], T=kind)
    left = _node(node, "left", "Mul", [output_of(fill), mark], T=kind)
    parts = [output_of(kept), output_of(left), *control]
    return [*shaped, *made, fill, one, rest, kept, left, _renamed(node, "AddV2", parts, T=kind)]


def _below(node: Any, scores: str, kind: int) -> tuple[list[Any], Any]:
    """What lies below each row of the scores; and before it the nodes it is made of."""
    last = _constant(node, "last", -1, _int32())
    low = _node(node, "low", "Min", [scores, output_of(last)], T=kind, Tidx=_int32())
    low.attr["keep_dims"].b = True
    gap = _constant(node, "gap", 12.0, kind)
    return [last, low, gap], _node(node, "fill", "Sub", [output_of(low), output_of(gap)], T=kind)


def _mark(node: Any, added: str, makers: Mapping[str, Any], sign: int) -> tuple[list[Any], str]:
    """How to read m of `m * -1e9`, in its shape there, and the nodes that this takes; or ""."""
    found = _maker(added, makers)
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

    found = _maker(read, makers)
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
    readers = [
        one for one in makers.values() if any(read.split(":")[0] == node.name for read in one.input)
    ]
    passing = ("Identity", "Cast", "SelectV2")
    return bool(readers) and all(
        one.op == "Softmax" or (one.op in passing and _only_softmax_reads(one, makers))
        for one in readers
    )


def _one_hot(node: Any, _: Mapping[str, Any]) -> list[Any] | None:
    """LiteRT's ONE_HOT at int8 writes a zero's byte for "off" whatever the zero point is.

    A comparison with 0, 1, 2 ... that selects between on and off is right in integers.
    """
    import tensorflow as tf

    # An attribute that is what it is by default isn't there.
    if "axis" in node.attr and node.attr["axis"].i != -1:
        return None
    indices, depth, on, off, *control = node.input
    kind = node.attr["TI"].type if "TI" in node.attr else tf.int64.as_datatype_enum
    whole = tf.int32.as_datatype_enum
    last, first, step = (
        _constant(node, name, value, whole)
        for value, name in ((-1, "last"), (0, "begin"), (1, "step"))
    )
    each = _node(node, "each", "ExpandDims", [indices, output_of(last)], T=kind, Tdim=whole)
    count = _node(node, "count", "Range", [output_of(first), depth, output_of(step)], Tidx=whole)
    numbers = _node(node, "numbers", "Cast", [output_of(count)], SrcT=whole, DstT=kind)
    equal = _node(node, "equal", "Equal", [output_of(each), output_of(numbers)], T=kind)
    chosen = [output_of(equal), on, off, *control]
    answer = _renamed(node, "SelectV2", chosen, T=node.attr["T"].type)
    return [last, first, step, each, count, numbers, equal, answer]


def _negated(node: Any, makers: Mapping[str, Any]) -> list[Any] | None:
    """-x = -1 x: NEG has no kernel for integers, and the range of a constant zero no width."""
    kind = node.attr["T"].type
    readers = _readers(node, makers)
    behind = {other.op for reader in readers for other in (reader, *_readers(reader, makers))}
    # The converter knows GELU and PReLU by their negations.
    if not _is_real(kind) or behind & {"Erfc", "Relu"}:
        return None
    return _minus(node, node.input[0], node.input[1:], kind)


def _readers(node: Any, makers: Mapping[str, Any]) -> list[Any]:
    read = output_of(node)
    return [other for other in makers.values() if read in other.input]


def _squared_difference(node: Any, _: Mapping[str, Any]) -> list[Any] | None:
    """-(x - y) (y - x): SQUARED_DIFFERENCE is written for int16, and no kernel runs it.

    Of a square of a difference the converter makes it again.
    """
    x, y, *control = node.input
    kind = node.attr["T"].type
    if not _is_real(kind):
        return None
    there = _node(node, "there", "Sub", [x, y], T=kind)
    back = _node(node, "back", "Sub", [y, x], T=kind)
    product = _node(node, "product", "Mul", [output_of(there), output_of(back)], T=kind)
    return [there, back, product, *_minus(node, output_of(product), control, kind)]


def _squared(node: Any, _: Mapping[str, Any]) -> list[Any] | None:
    """-(x (-x)), as for a squared difference."""
    x, *control = node.input
    kind = node.attr["T"].type
    if not _is_real(kind):
        return None
    minus = _constant(node, "other", -1.0, kind)
    other = _node(node, "negative", "Mul", [x, output_of(minus)], T=kind)
    product = _node(node, "product", "Mul", [x, output_of(other)], T=kind)
    return [minus, other, product, *_minus(node, output_of(product), control, kind)]


def _from_zero(node: Any, _: Mapping[str, Any]) -> list[Any] | None:
    """x^2 = (x - 0)^2: SQUARE has no kernel for int8, and SQUARED_DIFFERENCE has one."""
    x, *control = node.input
    kind = node.attr["T"].type
    if not _is_real(kind):
        return None
    zero = _constant(node, "zero", 0.0, kind)
    inputs = [x, output_of(zero), *control]
    return [zero, _renamed(node, "SquaredDifference", inputs, T=kind)]


def _without_guard(node: Any, makers: Mapping[str, Any]) -> list[Any] | None:
    """A minimum that guards from infinity, which integers have not; its constant is no range."""
    import tensorflow as tf

    x, limit, *control = node.input
    found = _maker(limit, makers)
    if found is None or found.op != "Const" or not _is_real(node.attr["T"].type):
        return None
    if not (tf.make_ndarray(found.attr["value"].tensor) >= _ENDLESS).all():
        return None
    return [_renamed(node, "Identity", [x, *control], T=node.attr["T"].type)]


def _minus(node: Any, read: str, control: Sequence[str], kind: int) -> list[Any]:
    minus = _constant(node, "minus", -1.0, kind)
    return [minus, _renamed(node, "Mul", [read, output_of(minus), *control], T=kind)]


def _padded(node: Any, _: Mapping[str, Any]) -> list[Any] | None:
    """pad(x - c) + c: PADV2 keeps its constant in float, and no kernel takes it with int16."""
    x, widths, constant, *control = node.input
    kind = node.attr["T"].type
    if not _is_real(kind):
        return None
    places = node.attr["Tpaddings"].type if "Tpaddings" in node.attr else _int32()
    shifted = _node(node, "shifted", "Sub", [x, constant], T=kind)
    wide = _node(node, "wide", "Pad", [output_of(shifted), widths], T=kind, Tpaddings=places)
    return [shifted, wide, _renamed(node, "AddV2", [output_of(wide), constant, *control], T=kind)]


def _summed(node: Any, _: Mapping[str, Any]) -> list[Any] | None:
    """mean(x) * count: SUM at int16 has the range of what it adds, and saturates."""
    x, axes, *control = node.input
    kind = node.attr["T"].type
    if not _is_real(kind):
        return None
    places = node.attr["Tidx"].type if "Tidx" in node.attr else _int32()
    whole = {"out_type": _int32()}
    mean = _node(node, "mean", "Mean", [x, axes], T=kind, Tidx=places)
    if "keep_dims" in node.attr:
        mean.attr["keep_dims"].b = node.attr["keep_dims"].b
    all_of_them = _node(node, "all", "Size", [x], T=kind, **whole)
    left = _node(node, "left", "Size", [output_of(mean)], T=kind, **whole)
    sizes = [output_of(all_of_them), output_of(left)]
    ratio = _node(node, "ratio", "FloorDiv", sizes, T=_int32())
    count = _node(node, "count", "Cast", [output_of(ratio)], SrcT=_int32(), DstT=kind)
    answer = _renamed(node, "Mul", [output_of(mean), output_of(count), *control], T=kind)
    return [mean, all_of_them, left, ratio, count, answer]


def _weighed(node: Any, _: Mapping[str, Any]) -> list[Any] | None:
    """where(c, a, b) = c a + (1 - c) b: SELECT takes what has two ranges for of one."""
    condition, a, b, *control = node.input
    kind = node.attr["T"].type
    if not _is_real(kind):
        return None
    one, zero = _constant(node, "one", 1.0, kind), _constant(node, "zero", 0.0, kind)
    chosen = _node(node, "chosen", "SelectV2", [condition, output_of(one), output_of(zero)], T=kind)
    rest = _node(node, "rest", "SelectV2", [condition, output_of(zero), output_of(one)], T=kind)
    first = _node(node, "first", "Mul", [output_of(chosen), a], T=kind)
    second = _node(node, "second", "Mul", [output_of(rest), b], T=kind)
    parts = [output_of(first), output_of(second), *control]
    return [one, zero, chosen, rest, first, second, _renamed(node, "AddV2", parts, T=kind)]


def _selu(node: Any, _: Mapping[str, Any]) -> list[Any] | None:
    """scale relu(x) + scale alpha (exp(min(x, 0)) - 1), which the converter makes a SELECT of."""
    x, *control = node.input
    kind = node.attr["T"].type
    scale, alpha = 1.0507009873554805, 1.6732632423543772
    one, above, below = (
        _constant(node, name, value, kind)
        for name, value in (("one", 1.0), ("above", scale), ("below", scale * alpha))
    )
    negative = _negative_part(node, x, kind)
    power = _node(node, "power", "Exp", [output_of(negative[-1])], T=kind)
    less = _node(node, "less", "Sub", [output_of(power), output_of(one)], T=kind)
    second = _node(node, "second", "Mul", [output_of(less), output_of(below)], T=kind)
    positive = _node(node, "positive", "Relu", [x], T=kind)
    first = _node(node, "first", "Mul", [output_of(positive), output_of(above)], T=kind)
    parts = [output_of(first), output_of(second), *control]
    answer = _renamed(node, "AddV2", parts, T=kind)
    return [one, above, below, *negative, power, less, second, positive, first, answer]


def _negative_part(near: Any, x: str, kind: int) -> list[Any]:
    """min(x, 0) = -relu(-x)"""
    minus = _constant(near, "minus", -1.0, kind)
    turned = _node(near, "turned", "Mul", [x, output_of(minus)], T=kind)
    part = _node(near, "part", "Relu", [output_of(turned)], T=kind)
    back = _node(near, "negative", "Mul", [output_of(part), output_of(minus)], T=kind)
    return [minus, turned, part, back]


def _limited(node: Any, makers: Mapping[str, Any]) -> list[Any] | None:
    """min(x, y) = x - relu(x - y), and max likewise, of what others read, too.

    MINIMUM and MAXIMUM have one range for all, the answer's, and take it to their inputs.
    """
    x, y, *control = node.input
    kind = node.attr["T"].type
    read = [name for other in makers.values() for name in other.input]
    # An answer with a range in the graph, as of a quantised model, has that.
    ranged = any(reader.op.startswith("FakeQuant") for reader in _readers(node, makers))
    if ranged or not _is_real(kind) or max(read.count(x), read.count(y)) < 2:
        return None
    least = node.op == "Minimum"
    part = _node(node, "difference", "Sub", [x, y] if least else [y, x], T=kind)
    over = _node(node, "over", "Relu", [output_of(part)], T=kind)
    given = [x, output_of(over), *control]
    return [part, over, _renamed(node, "Sub" if least else "AddV2", given, T=kind)]


# No range reaches it and tells small numbers apart.
_ENDLESS = 1e6
# Beyond any score of attention.
_BEYOND = 1e4
# What TensorFlow calls the output of an operation, where it is not "output".
_OUTPUTS = {
    **dict.fromkeys(("Neg", "Square", "Cast", "Exp"), "y"),
    **dict.fromkeys(("Sub", "Mul", "AddV2", "Equal", "FloorDiv", "Minimum"), "z"),
    **dict.fromkeys(("SquaredDifference", "Maximum"), "z"),
    **dict.fromkeys(("Relu", "Selu"), "activations"),
}
_ALWAYS: dict[str, Spelling] = {"SelectV2": _without_negative_zeros}
_MASKED: dict[str, Spelling] = {
    "SelectV2": _closer_masked,
    **dict.fromkeys(("AddV2", "BiasAdd", "Sub"), _closer_added),
}
_CALIBRATED: dict[str, Spelling] = {
    "Selu": _selu,
    "SelectV2": _weighed,
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
}


def rounds(precision: str, calibrated: bool) -> list[dict[str, Spelling]]:
    """What to look for, in turns: a turn reads what the one before it wrote."""
    integers = [_INTEGERS] if precision in ("int8", "int16x8") else []
    # Where the graph has ranges of its own, they are those of the operations as they are.
    data = [_MASKED, _CALIBRATED] if calibrated else []
    own = {"int8": [_INT8], "int16x8": [_INT16]}.get(precision, [])
    return [_ALWAYS, *data, *integers, *own]


def _maker(read: str, makers: Mapping[str, Any]) -> Any:
    return makers.get(read.split(":")[0])


def output_of(node: Any) -> str:
    """How other nodes of its function read a node's first output."""
    return f"{node.name}:{_OUTPUTS.get(node.op, 'output')}:0"


def _int32() -> int:
    import tensorflow as tf

    return tf.int32.as_datatype_enum


def _is_real(kind: int) -> bool:
    import tensorflow as tf

    return tf.dtypes.as_dtype(kind).is_floating


def _constant(near: Any, name: str, value: float, kind: int) -> Any:
    import tensorflow as tf

    made = _node(near, name, "Const", [], dtype=kind)
    made.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value, tf.dtypes.as_dtype(kind)))
    return made


def _node(near: Any, name: str, operation: str, inputs: list[str], **kinds: int) -> Any:
    made = type(near)(name=f"{near.name}/{name}", op=operation, input=inputs)
    for attribute, kind in kinds.items():
        made.attr[attribute].type = kind
    return made


def _renamed(node: Any, operation: str, inputs: list[str], **kinds: int) -> Any:
    """A node that answers under the name of `node`."""
    made = _node(node, "", operation, inputs, **kinds)
    made.name = node.name
    return made
