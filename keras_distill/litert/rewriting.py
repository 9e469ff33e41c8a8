"""A .tflite that is opened, changed and written again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import flatbuffers
import numpy as np

__all__ = ["Edit", "rewritten", "short_names", "unrecorded"]

# Changes a model of the schema's object form: `edit(schema, model)`.
Edit = Callable[[Any, Any], None]
# What the schema asks for a tensor's numbers; Python's builder does not know of it.
_ALIGNMENT = 16


def rewritten(content: bytes, edits: Sequence[Edit]) -> bytes:
    """The file after some changes, in order; vectors and texts that are equal lie there once.

    The converter writes the zero points of a kernel's channels, 8 bytes each and all zero, for
    every kernel and once more for every bias.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for edit in edits:
        edit(schema, model)
    _forget_empty(model)
    builder = _Sharing(len(content), _written_over(model))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _forget_empty(model: Any) -> None:
    """Leaves one empty buffer, the first, for all tensors that hold nothing."""
    places: list[int] = []
    kept: list[Any] = []
    states = {t.buffer for graph in model.subgraphs for t in graph.tensors if t.isVariable}
    for number, buffer in enumerate(model.buffers):
        gone = number and buffer.data is None and not buffer.size and number not in states
        places.append(0 if gone else len(kept))
        kept += [] if gone else [buffer]
    holders = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    for holder in (*holders, *(model.metadata or ())):
        holder.buffer = places[holder.buffer]
    model.buffers = kept


def _written_over(model: Any) -> set[bytes]:
    """What `signature.restore` changes in its place: the graph's ends, and their names."""
    ends = [end for graph in model.subgraphs for end in (graph.inputs, graph.outputs)]
    maps = [m for one in model.signatureDefs or () for m in (*one.inputs, *one.outputs)]
    numbers = {np.asarray(end, "int32").tobytes() for end in ends if end is not None}
    return numbers | {one.name for one in maps}


class _Sharing(flatbuffers.Builder):
    """A builder that writes a vector of numbers, and a text, where it has none like it.

    Args:
      size: what there will be about, in bytes.
      alone: what is written each time, for it will be changed.
    """

    def __init__(self, size: int, alone: set[bytes]) -> None:
        super().__init__(size)
        self.places: dict[tuple[str, bytes], Any] = {}
        self.alone = alone

    def CreateNumpyVector(self, x: np.ndarray) -> Any:  # noqa: N802
        """As its base, which calls it so."""
        if x.dtype == np.int32 and x.tobytes() in self.alone:
            return super().CreateNumpyVector(x)
        key = (x.dtype.str, x.tobytes())
        if key not in self.places:
            if x.dtype == np.uint8:
                self.Prep(_ALIGNMENT, x.size)
            self.places[key] = super().CreateNumpyVector(x)
        return self.places[key]

    def CreateString(self, s: Any, *args: Any) -> Any:  # noqa: N802
        """As its base, which calls it so."""
        text = s.encode() if isinstance(s, str) else bytes(s)
        if text in self.alone:
            return super().CreateString(s, *args)
        key = ("text", text)
        if key not in self.places:
            self.places[key] = super().CreateString(s, *args)
        return self.places[key]


def unrecorded(schema: Any, model: Any) -> None:
    """Leaves out the converter's record of its own settings, which no interpreter reads."""
    kept = []
    for one in model.metadata or ():
        if one.name == b"CONVERSION_METADATA":
            model.buffers[one.buffer].data = None
        else:
            kept.append(one)
    model.metadata = kept


def short_names(schema: Any, model: Any) -> None:
    """Leaves a constant the last part of the first of its names.

    The converter joins the names of all operations that went into it, scopes and all, which take
    kilobytes in a small network's file. What data flows through keeps its name: by it one finds the
    layer that it belongs to. Where two would have one name the later ones are counted: tools that
    quantise a file tell its tensors by them.
    """
    for graph in model.subgraphs:
        ends = {*graph.inputs, *graph.outputs}
        constants = [
            tensor
            for number, tensor in enumerate(graph.tensors)
            if number not in ends and model.buffers[tensor.buffer].data is not None
        ]
        shortened = {id(tensor) for tensor in constants}
        taken = {tensor.name for tensor in graph.tensors if id(tensor) not in shortened}
        for tensor in constants:
            name = tensor.name.split(b";")[0].split(b"/")[-1]
            counted = (name if n == 0 else b"%s_%d" % (name, n) for n in itertools.count())
            tensor.name = next(one for one in counted if one not in taken)
            taken.add(tensor.name)
