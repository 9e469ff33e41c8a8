"""What a graph tensor's numbers mean, read off the operations that lead to it.

The walk goes from an output back to the softmax or sigmoid that made it, through whatever keeps the
meaning, and into functions that the graph calls. It follows the axis of the classes: a softmax over
another axis than the output's last is no distribution over that.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_distill import _keras
from keras_distill.signals.meaning.sums import (
    bounded,
    is_sigmoid,
    is_softmax,
    linear,
    near,
    static,
    through,
)

__all__ = ["kind_of"]

# Operations that hand on each number as it is or nearly, in its place.
_words = str.split
_SAME = frozenset(
    _words("""Cast CheckNumerics ClipByValue EnsureShape FakeQuantWithMinMaxArgs
    FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel Identity PreventGradient
    QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 QuantizeAndDequantizeV4 Relu ReverseV2 Roll
    Snapshot StopGradient Switch""")
)
# Operations that move, repeat, average or leave out numbers; the classes stay together where their
# axis keeps its size.
_MOVED = frozenset(
    _words("""AvgPool AvgPool3D BroadcastTo ExpandDims GatherV2 MirrorPad Reshape ResizeBilinear
    ResizeNearestNeighbor Slice Split SplitV Squeeze StridedSlice Tile Unpack""")
)
# Operations after which a yes or no is still one, and a distribution is none.
_TORN = frozenset(
    _words("BatchToSpaceND DepthToSpace Max MaxPool MaxPool3D Min SpaceToBatchND SpaceToDepth")
)
_CUTS = frozenset(_words("GatherV2 Slice Split SplitV StridedSlice"))
_CALLS = frozenset(_words("PartitionedCall StatefulPartitionedCall"))
_SUMS = frozenset(_words("Add AddN AddV2 Mul Neg RealDiv Sub"))


@dataclasses.dataclass(frozen=True)
class _Place:
    """A tensor on the walk.

    Attributes:
      tensor: in whatever graph.
      axis: of the classes, counted from the end; None where it is lost.
      cut: whether one of several classes was taken.
      calls: the operations that call the function it is in, the outermost first.
    """

    tensor: tf.Tensor
    axis: int | None = -1
    cut: bool = False
    calls: tuple[tf.Operation, ...] = ()

    @property
    def op(self) -> tf.Operation:
        return self.tensor.op

    @property
    def index(self) -> int:
        return int(self.tensor.value_index)

    def to(self, tensor: tf.Tensor, **changes: Any) -> "_Place":
        return dataclasses.replace(self, tensor=tensor, **changes)


def kind_of(output: tf.Tensor) -> str:
    """What an output means: "probabilities", "sigmoid" or "logits".

    Args:
      output: `(batch, ..., classes)`; what can't be seen through (an eager tensor) counts as
        logits.
    """
    return "logits" if not hasattr(output, "graph") else _kind(_Place(output)) or "logits"


def _kind(place: _Place) -> str | None:
    place = _outside(place)
    op = place.op
    if op.type == "Sigmoid" or is_sigmoid(op):
        return "sigmoid"
    if op.type == "Softmax" or is_softmax(op):
        return _of_softmax(place)
    if op.type == "Exp":
        return _of_exponential(place)
    if op.type in _CALLS:
        body = _body(op, "f")
        if body is None:
            return None
        return _kind(place.to(body.outputs[place.index], calls=(*place.calls, op)))
    if op.type in _SUMS:
        return _of_sum(place)
    return _common(_sources(place))


def _of_softmax(place: _Place) -> str | None:
    if place.axis != -1:
        return None
    # One of several classes: yes, or one of the others.
    return "sigmoid" if place.cut else "probabilities"


def _of_exponential(place: _Place) -> str | None:
    inner = through(place.op.inputs[0])
    if inner.op.type == "LogSoftmax":
        return _of_softmax(place)
    # log sigmoid(x) = -softplus(-x)
    if inner.op.type == "Neg" and inner.op.inputs[0].op.type == "Softplus":
        return "sigmoid"
    return None


def _sources(place: _Place) -> Iterator[_Place]:
    """Where an output's numbers come from; nothing where they are made anew."""
    op = place.op
    if op.type in _SAME:
        yield place.to(op.inputs[0])
    elif (free := bounded(op)) is not None:
        yield place.to(free)
    elif op.type == "Transpose":
        yield place.to(op.inputs[0], axis=_before_transpose(op, place.axis))
    elif op.type in _MOVED:
        source = op.inputs[1 if op.type == "Split" else 0]
        yield place.to(source, **_before_moving(place, source))
    elif op.type in _TORN:
        yield place.to(op.inputs[0], axis=None)
    elif op.type == "Mean":
        yield place.to(op.inputs[0], axis=_before_mean(op, place.axis))
    elif op.type in ("ConcatV2", "Pack", "SelectV2", "Select", "Merge"):
        yield from _before_merging(place)
    elif op.type in ("If", "StatelessIf"):
        for branch in ("then_branch", "else_branch"):
            if body := _body(op, branch):
                call = (*place.calls, op)
                yield place.to(body.outputs[place.index], calls=call)


def _before_transpose(op: tf.Operation, axis: int | None) -> int | None:
    order = static(op.inputs[1])
    if axis is None or order is None:
        return None
    return int(order[axis]) - len(order)


def _before_moving(place: _Place, source: tf.Tensor) -> dict[str, Any]:
    before, after = source.shape, place.tensor.shape
    if place.axis is None or before.rank is None or after.rank is None:
        return {"axis": None}
    if before.rank != after.rank and (place.axis != -1 or _drops_last(place.op, before.rank)):
        return {"axis": None}
    old, new = before[place.axis], after[place.axis]
    if old == new and new is not None:
        return {}
    return {"cut": True} if new == 1 and place.op.type in _CUTS else {"axis": None}


def _drops_last(op: tf.Operation, rank: int) -> bool:
    """Whether an operation that takes one of an axis' places does so with the last axis."""
    if op.type == "StridedSlice":
        count = op.inputs[3].shape[0]
        reaches = op.get_attr("ellipsis_mask") or count == rank
        return bool(op.get_attr("shrink_axis_mask") >> (count - 1) & 1 and reaches)
    if op.type == "GatherV2":
        axis = static(op.inputs[2])
        return axis is None or axis % rank == rank - 1
    return bool(op.type == "Unpack" and op.get_attr("axis") % rank == rank - 1)


def _before_mean(op: tf.Operation, axis: int | None) -> int | None:
    averaged, rank = static(op.inputs[1]), op.inputs[0].shape.rank
    if axis != -1 or averaged is None or rank is None:
        return None
    return None if rank - 1 in np.ravel(averaged) % rank else axis


def _before_merging(place: _Place) -> Iterator[_Place]:
    op, axis = place.op, place.axis
    parts = list(op.inputs)
    rank = place.tensor.shape.rank
    if op.type == "ConcatV2":
        joined = static(parts.pop())
        if axis is None or rank is None or joined is None or joined % rank == axis + rank:
            axis = None
    elif op.type == "Pack":
        new = op.get_attr("axis")
        if axis is not None and rank is not None:
            # An axis that is put in behind the classes moves these towards the end.
            new, old = new % rank, axis + rank
            axis = None if new == old else axis + (new > old)
    elif op.type in ("Select", "SelectV2"):
        parts = parts[1:]
    for part in parts:
        yield place.to(part, axis=axis)


def _of_sum(place: _Place) -> str | None:
    """A mean of equals, and `1 - p`."""
    bias, terms = linear(place.tensor)
    factors, sources = [factor for factor, _ in terms], [source for _, source in terms]
    if not terms or sources[0] is place.tensor:
        return None
    mean = min(factors) >= 0 and near(sum(factors), 1) and near(bias, 0)
    rest = max(factors) <= 0 and near(sum(factors), -1) and near(bias, 1)
    kind = _common(place.to(source) for source in sources) if mean or rest else None
    return kind if mean or kind == "sigmoid" else None


def _common(places: Iterable[_Place]) -> str | None:
    """The one kind of all of them."""
    first: str | None = None
    for place in places:
        kind = _kind(place)
        if kind is None or first not in (None, kind):
            return None
        first = kind
    return first


def _outside(place: _Place) -> _Place:
    """What a function's argument is where the function is called."""
    while place.op.type == "Placeholder" and place.calls:
        call = place.calls[-1]
        arguments = [t.name for t in place.tensor.graph.inputs]
        at = arguments.index(place.tensor.name) + (call.type not in _CALLS)
        place = place.to(call.inputs[at], calls=place.calls[:-1])
    return place


def _body(op: tf.Operation, attribute: str) -> Any:
    return _keras.graph_of_function(op.graph, op.get_attr(attribute).name)
