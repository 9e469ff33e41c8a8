"""Choices between two tensors, and truths as numbers, in what LiteRT computes right."""

from __future__ import annotations

from typing import Any

from .nodes import (
    Nodes,
    constant,
    is_real,
    maker_of,
    new_node,
    output_of,
    renamed,
    value_of,
)

__all__ = ["as_truth", "counted", "weighed", "without_negative_zeros", "without_turn"]


def without_negative_zeros(node: Any, makers: Nodes) -> list[Any] | None:
    """Keras' argmax puts a negative zero below zero, by a test of bits that LiteRT has not."""
    condition, _, x, *control = node.input
    found = maker_of(condition, makers)
    if found is None or found.op != "LogicalAnd":
        return None
    sides = {side.op: side for side in (maker_of(read, makers) for read in found.input) if side}
    if set(sides) != {"Equal", "Less"} or x not in sides["Equal"].input:
        return None
    masked = maker_of(sides["Less"].input[0], makers)
    if masked is None or masked.op != "BitwiseAnd":
        return None
    return [renamed(node, "Identity", [x, *control], T=node.attr["T"].type)]


def weighed(node: Any, makers: Nodes) -> list[Any] | None:
    """where(c, a, b) = c a + (1 - c) b: SELECT takes what has two ranges for of one."""
    condition, a, b, *control = node.input
    kind = node.attr["T"].type
    if not is_real(kind) or all(_is_number(side, makers) for side in (a, b)):
        return None
    one, zero = constant(node, "one", 1.0, kind), constant(node, "zero", 0.0, kind)
    chosen = new_node(
        node, "chosen", "SelectV2", [condition, output_of(one), output_of(zero)], T=kind
    )
    rest = new_node(node, "rest", "SelectV2", [condition, output_of(zero), output_of(one)], T=kind)
    first = new_node(node, "first", "Mul", [output_of(chosen), a], T=kind)
    second = new_node(node, "second", "Mul", [output_of(rest), b], T=kind)
    parts = [output_of(first), output_of(second), *control]
    return [one, zero, chosen, rest, first, second, renamed(node, "AddV2", parts, T=kind)]


def counted(node: Any, _: Nodes) -> list[Any] | None:
    """1 where yes and 0 where no, chosen: CAST makes real numbers in float alone."""
    import tensorflow as tf

    condition, *control = node.input
    kind = node.attr["DstT"].type
    if node.attr["SrcT"].type != tf.bool.as_datatype_enum or not is_real(kind):
        return None
    one, zero = constant(node, "one", 1.0, kind), constant(node, "zero", 0.0, kind)
    chosen = [condition, output_of(one), output_of(zero), *control]
    return [one, zero, renamed(node, "SelectV2", chosen, T=kind)]


def without_turn(node: Any, makers: Nodes) -> list[Any] | None:
    """Keras counts ids below zero from the end, in whole numbers that no int16 file computes."""
    condition, turned, x, *control = node.input
    found, added = maker_of(condition, makers), maker_of(turned, makers)
    kind = node.attr["T"].type
    if is_real(kind) or found is None or found.op != "Less" or added is None:
        return None
    if added.op != "AddV2" or x not in added.input or found.input[0] != x:
        return None
    return [renamed(node, "Identity", [x, *control], T=kind)]


def as_truth(node: Any, makers: Nodes) -> list[Any] | None:
    """Whether a whole number is 0, as a cast: the converter looks for the range of a comparison."""
    import tensorflow as tf

    x, other, *control = node.input
    value = value_of(maker_of(other, makers))
    kind, truth = node.attr["T"].type, tf.bool.as_datatype_enum
    if value is None or value.any() or not tf.dtypes.as_dtype(kind).is_integer:
        return None
    if node.op == "NotEqual":
        return [renamed(node, "Cast", [x, *control], SrcT=kind, DstT=truth)]
    cast = new_node(node, "there", "Cast", [x], SrcT=kind, DstT=truth)
    return [cast, renamed(node, "LogicalNot", [output_of(cast), *control])]


def _is_number(read: str, makers: Nodes) -> bool:
    """Whether it is a constant, as it is or rounded to a range."""
    found = maker_of(read, makers)
    if found is None or not found.op.startswith("FakeQuant"):
        return found is not None and found.op == "Const"
    return _is_number(found.input[0], makers)
