"""A .tflite that is opened, changed and written again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Edit", "rewritten", "short_names"]

# Changes a model of the schema's object form: `edit(schema, model)`.
Edit = Callable[[Any, Any], None]


def rewritten(content: bytes, edits: Sequence[Edit]) -> bytes:
    """The file after some changes, in their order."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for edit in edits:
        edit(schema, model)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def short_names(schema: Any, model: Any) -> None:
    """Leaves a constant the last two parts of the first of its names.

    The converter joins the names of all operations that went into it, scopes and all, which take
    kilobytes in a small network's file. What data flows through keeps its name: by it one finds the
    layer that it belongs to.
    """
    for graph in model.subgraphs:
        ends = {*graph.inputs, *graph.outputs}
        for number, tensor in enumerate(graph.tensors):
            if number not in ends and model.buffers[tensor.buffer].data is not None:
                tensor.name = b"/".join(tensor.name.split(b";")[0].split(b"/")[-2:])
