"""What is used of the private parts of LiteRT, its converter and flatbuffers.

Read from ai-edge-litert 2.3 and TensorFlow 2.21.
"""

from typing import Any

__all__ = ["graph_of", "name_at", "one_scale_a_dense_kernel", "operators_of"]


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


def one_scale_a_dense_kernel(converter: Any) -> None:
    """Has a converter write Dense kernels with one scale, not one for each output.

    `TFLiteConverter._experimental_disable_per_channel_quantization_for_dense_layers`. Without it
    the kernels have a scale for each output.
    """
    converter._experimental_disable_per_channel_quantization_for_dense_layers = True
