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
        for value, name in ((-1, "last"), (0, "first"), (1, "step"))
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
    if not _is_real(kind) or max(read.count(x), read.count(y)) < 2:
        return None
    least = node.op == "Minimum"
    part = _node(node, "difference", "Sub", [x, y] if least else [y, x], T=kind)
    over = _node(node, "over", "Relu", [output_of(part)], T=kind)
    given = [x, output_of(over), *control]
    return [part, over, _renamed(node, "Sub" if least else "AddV2", given, T=kind)]


# No range reaches it and tells small numbers apart.
_ENDLESS = 1e6
# What TensorFlow calls the output of an operation, where it is not "output".
_OUTPUTS = {
    **dict.fromkeys(("Neg", "Square", "Cast", "Exp"), "y"),
    **dict.fromkeys(("Sub", "Mul", "AddV2", "Equal", "FloorDiv", "Minimum"), "z"),
    **dict.fromkeys(("SquaredDifference", "Maximum"), "z"),
    **dict.fromkeys(("Relu", "Selu"), "activations"),
}
_ALWAYS: dict[str, Spelling] = {"SelectV2": _without_negative_zeros}
_CALIBRATED: dict[str, Spelling] = {
    "Selu": _selu,
    "SelectV2": _weighed,
    "Minimum": lambda node, makers: _without_guard(node, makers) or _limited(node, makers),
    "Maximum": _limited,
}
_INTEGERS: dict[str, Spelling] = {"OneHot": _one_hot, "Neg": _negated}
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
    data = [_CALIBRATED] if calibrated else []
    return [_ALWAYS, *data, *integers, *([_INT16] if precision == "int16x8" else [])]


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
