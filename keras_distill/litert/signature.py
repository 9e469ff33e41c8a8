"""Puts a .tflite's inputs and outputs back into the caller's order and under his names.

TensorFlow sorts a signature's names and replaces the characters it does not know. Both are mended
in place, so that nothing else in the file moves.
"""

from __future__ import annotations

import numpy as np

from ._interpreter import name_at


def restore(content: bytes, inputs: dict[str, str], outputs: list[str]) -> bytes:
    """The same file with its inputs and outputs ordered and named as asked.

    Args:
      content: a .tflite with the signature `serving_default`.
      inputs: in order, the name asked for and the one of equal length that is in the file.
      outputs: the names in order.
    """
    from ai_edge_litert import schema_py_generated as schema

    buffer = bytearray(content)
    model = schema.Model.GetRootAs(buffer, 0)
    signature = next(
        model.SignatureDefs(i)
        for i in range(model.SignatureDefsLength())
        if model.SignatureDefs(i).SignatureKey() == b"serving_default"
    )
    graph = model.Subgraphs(signature.SubgraphIndex())
    maps = [signature.Inputs(i) for i in range(signature.InputsLength())]
    tensors = {entry.Name().decode(): entry.TensorIndex() for entry in maps}
    _reorder(graph.InputsAsNumpy(), [tensors[inner] for inner in inputs.values()])
    wanted = {inner: name for name, inner in inputs.items()}
    for entry in maps:
        _overwrite(buffer, entry, wanted[entry.Name().decode()])
    found = [signature.Outputs(i) for i in range(signature.OutputsLength())]
    tensors = {entry.Name().decode(): entry.TensorIndex() for entry in found}
    _reorder(graph.OutputsAsNumpy(), [tensors[name] for name in outputs])
    return bytes(buffer)


def _reorder(stored: np.ndarray, order: list[int]) -> None:
    # Two names for one tensor, or an input nothing reads: the file's order is as good as any.
    if sorted(stored.tolist()) == sorted(order):
        stored[:] = order


def _overwrite(buffer: bytearray, entry, name: str) -> None:
    start = name_at(entry)
    buffer[start : start + len(name.encode())] = name.encode()
