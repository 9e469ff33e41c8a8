"""A SavedModel's graph in operations that LiteRT computes right in integers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["without_one_hot"]


def without_one_hot(folder: str) -> None:
    """Spells every one-hot operation of a SavedModel out, in the file.

    LiteRT's ONE_HOT at int8 writes a zero's byte for "off" whatever the zero point is. A comparison
    with 0, 1, 2 ... that selects between on and off answers the same, and is right in integers.

    Args:
      folder: of the SavedModel. Those over another axis than the last stay.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    path = Path(folder, "saved_model.pb")
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for meta in saved.meta_graphs:
        for function in meta.graph_def.library.function:
            nodes = list(function.node_def)
            if any(map(_is_one_hot, nodes)):
                del function.node_def[:]
                function.node_def.extend(new for node in nodes for new in _spelled_out(node))
    path.write_bytes(saved.SerializeToString())


def _is_one_hot(node: Any) -> bool:
    # An attribute that is what it is by default isn't there.
    return node.op == "OneHot" and ("axis" not in node.attr or node.attr["axis"].i == -1)


def _spelled_out(node: Any) -> Iterator[Any]:
    """`node`, or what computes the same under its name."""
    import tensorflow as tf

    if not _is_one_hot(node):
        yield node
        return
    indices, depth, on, off, *control = node.input
    kind = tf.dtypes.as_dtype(node.attr["TI"].type) if "TI" in node.attr else tf.int64
    for value, name in ((-1, "last"), (0, "first"), (1, "step")):
        constant = _node(node, name, "Const", [], dtype=tf.int32)
        constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value, tf.int32))
        yield constant
    last, first, step = (f"{node.name}/{name}:output:0" for name in ("last", "first", "step"))
    yield _node(node, "each", "ExpandDims", [indices, last], T=kind, Tdim=tf.int32)
    yield _node(node, "count", "Range", [first, depth, step], Tidx=tf.int32)
    counted = f"{node.name}/count:output:0"
    yield _node(node, "numbers", "Cast", [counted], SrcT=tf.int32, DstT=kind)
    compared = [f"{node.name}/each:output:0", f"{node.name}/numbers:y:0"]
    yield _node(node, "equal", "Equal", compared, T=kind)
    chosen = [f"{node.name}/equal:z:0", on, off, *control]
    answer = _node(node, "", "SelectV2", chosen, T=tf.dtypes.as_dtype(node.attr["T"].type))
    answer.name = node.name
    yield answer


def _node(near: Any, name: str, operation: str, inputs: list[str], **kinds: Any) -> Any:
    made = type(near)(name=f"{near.name}/{name}", op=operation, input=inputs)
    for attribute, kind in kinds.items():
        made.attr[attribute].type = kind.as_datatype_enum
    return made
