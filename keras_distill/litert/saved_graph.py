"""A SavedModel's file: its operations spelled as LiteRT needs them, its nodes by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .nodes import Nodes, copied, output_of
from .spellings import Spelling, rounds

__all__ = ["nodes_of", "readers_of_tensor", "respell"]


def respell(folder: str, precision: str, *, calibrated: bool = False) -> None:
    """Spells operations of a SavedModel otherwise, in the file, where LiteRT needs them so.

    Args:
      folder: of the SavedModel.
      precision: one of `converter.PRECISIONS`.
      calibrated: whether the converter finds the ranges from data.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    path = Path(folder, "saved_model.pb")
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for meta in saved.meta_graphs:
        for function in meta.graph_def.library.function:
            for spellings in rounds(precision, calibrated):
                _respell_function(function, spellings)
    path.write_bytes(saved.SerializeToString())


def nodes_of(folder: str, operations: Sequence[str]) -> list[str]:
    """The names of a SavedModel's nodes that are one of `operations`."""
    return [
        node.name
        for function in _functions(folder)
        for node in function.node_def
        if node.op in operations
    ]


def readers_of_tensor(folder: str, tensor: str) -> list[str]:
    """The names of a SavedModel's nodes that read what a .tflite calls `tensor`, and of its maker.

    The converter calls a node's output by the node, and an input by its signature's name.
    """
    name = tensor.removeprefix("serving_default_").removesuffix(":0")
    nodes = [node for function in _functions(folder) for node in function.node_def]
    readers = [node.name for node in nodes if any(name == one.split(":")[0] for one in node.input)]
    return [*(node.name for node in nodes if node.name == name), *readers]


def _functions(folder: str) -> list[Any]:
    from tensorflow.core.protobuf import saved_model_pb2

    content = Path(folder, "saved_model.pb").read_bytes()
    saved = saved_model_pb2.SavedModel.FromString(content)
    return [one for meta in saved.meta_graphs for one in meta.graph_def.library.function]


def _respell_function(function: Any, spellings: Mapping[str, Spelling]) -> None:
    if not any(node.op in spellings for node in function.node_def):
        return
    nodes = [copied(node) for node in function.node_def]
    makers = Nodes(nodes)
    made = [new for node in nodes for new in _spelled(node, makers, spellings)]
    moved = {
        output_of(makers[node.name]): output_of(node)
        for node in made
        if node.name in makers and output_of(makers[node.name]) != output_of(node)
    }
    for node in made:
        node.input[:] = [moved.get(read, read) for read in node.input]
    del function.node_def[:]
    function.node_def.extend(made)
    for name, read in function.ret.items():
        function.ret[name] = moved.get(read, read)


def _spelled(node: Any, makers: Nodes, spellings: Mapping[str, Spelling]) -> list[Any]:
    spelling = spellings.get(node.op)
    found = None if spelling is None else spelling(node, makers)
    return [node] if found is None else found
