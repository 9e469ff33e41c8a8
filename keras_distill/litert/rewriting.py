"""A .tflite that is opened, changed and written again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import flatbuffers
import numpy as np

__all__ = ["Edit", "rewritten", "short_names"]

# Changes a model of the schema's object form: `edit(schema, model)`.
Edit = Callable[[Any, Any], None]
# What the schema asks for a tensor's numbers; Python's builder does not know of it.
_ALIGNMENT = 16


def rewritten(content: bytes, edits: Sequence[Edit]) -> bytes:
    """The file after some changes, in order; weights and scales that are equal lie there once.

    The converter writes the zero points of a kernel's channels, 8 bytes each and all zero, for
    every kernel and once more for every bias.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for edit in edits:
        edit(schema, model)
    builder = _Sharing(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


class _Sharing(flatbuffers.Builder):
    """A builder that writes a vector of numbers where it has none like it."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.places: dict[tuple[str, bytes], Any] = {}

    def CreateNumpyVector(self, x: np.ndarray) -> Any:  # noqa: N802
        """As its base, which calls it so."""
        # Which tensors a graph and its operators read: `signature.restore` changes the graph's.
        if x.dtype == np.int32:
            return super().CreateNumpyVector(x)
        key = (x.dtype.str, x.tobytes())
        if key not in self.places:
            if x.dtype == np.uint8:
                self.Prep(_ALIGNMENT, x.size)
            self.places[key] = super().CreateNumpyVector(x)
        return self.places[key]


def short_names(schema: Any, model: Any) -> None:
    """Leaves a constant the last two parts of the first of its names.

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
            name = b"/".join(tensor.name.split(b";")[0].split(b"/")[-2:])
            counted = (name if n == 0 else b"%s_%d" % (name, n) for n in itertools.count())
            tensor.name = next(one for one in counted if one not in taken)
            taken.add(tensor.name)
