"""What a TensorFlow graph takes a tensor for: numbers, or ids, categories and marks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["is_read_exactly", "is_read_whole"]

# Operations that hand a tensor on as it is.
_MOVING = frozenset(
    (
        *("Identity", "IdentityN", "Reshape", "StridedSlice", "Slice", "Squeeze", "ExpandDims"),
        *("Transpose", "ConcatV2", "Pack", "Unpack", "Split", "SplitV", "StopGradient", "Tile"),
    )
)
_EXACT = frozenset(("Equal", "NotEqual", "OneHot", "Bucketize"))


def is_read_exactly(tensor: Any) -> bool:
    """Whether some operation reads a tensor as ids, categories or marks."""
    return any(_is_exact(reader, read) for reader, read in _readers(tensor))


def is_read_whole(tensor: Any) -> bool:
    """Whether all that read real numbers make whole ones of them first, or look for a mark."""
    readers = [reader for reader, _ in _readers(tensor)]
    marks = ("Equal", "NotEqual")
    return (
        tensor.dtype.is_floating
        and any(map(_to_whole, readers))
        and all(_to_whole(reader) or reader.type in marks for reader in readers)
    )


def _is_exact(reader: Any, read: Any) -> bool:
    if reader.type in ("GatherV2", "ResourceGather"):
        return reader.inputs[1] is read
    return reader.type in _EXACT or _to_whole(reader)


def _to_whole(reader: Any) -> bool:
    return reader.type == "Cast" and reader.outputs[0].dtype.is_integer


def _readers(tensor: Any) -> Iterator[tuple[Any, Any]]:
    """The operations that read a tensor, seen through those that only move it about."""
    for reader in tensor.consumers():
        halved = reader.type == "Cast" and reader.outputs[0].dtype.is_floating
        if reader.type in _MOVING or halved:
            for output in reader.outputs:
                yield from _readers(output)
        elif reader.type != "Shape":
            yield reader, tensor
