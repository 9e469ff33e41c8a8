"""What is used of the private parts of LiteRT and of flatbuffers; read from ai-edge-litert 2.3."""

from typing import Any

__all__ = ["graph_of", "name_at", "operators_of"]


def operators_of(interpreter: Any) -> list[dict[str, Any]]:
    """A file's operators in order: `op_name`, and the numbers of their `inputs` and `outputs`.

    `Interpreter._get_ops_details`. Without it nothing looks inside a file, and no file tells
    whether it ends in a softmax: `teachers.Model(runner, output=)` has to say it.
    """
    return interpreter._get_ops_details()


def graph_of(runner: Any) -> int:
    """The number of the graph that a signature runs (`SignatureRunner._subgraph_index`).

    Without it a file of several signatures could not tell which is the main one.
    """
    return runner._subgraph_index


def name_at(entry: Any) -> int:
    """Where in the file the name of a signature's tensor begins (flatbuffers' `Table`, `_tab`).

    Without it names could not be overwritten in their place.
    """
    return entry._tab.Vector(entry._tab.Offset(4))
