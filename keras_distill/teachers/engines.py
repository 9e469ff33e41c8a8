"""Ways to run a teacher's forward: as a frozen graph, as the plain call, or as a LiteRT file.

Every engine is a callable from flat input tensors to flat output tensors.
"""

import functools
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, rewriter_config_pb2

from keras_distill import _keras
from keras_distill.teachers.folding import CannotFreezeError, Folded

__all__ = [
    "CannotFreezeError",
    "beyond_xla",
    "check_options",
    "freeze",
    "litert_engine",
    "on_components",
    "seconds",
]

_PRECISIONS = ("float32", "bfloat16", "float16")
_ENGINES = ("frozen", "keras", "litert", "auto")

# The grappler pass that brings a graph to each precision, on each kind of device.
_PASSES = {
    ("bfloat16", "CPU"): "auto_mixed_precision_onednn_bfloat16",
    ("bfloat16", "GPU"): "auto_mixed_precision_onednn_bfloat16",
    ("float16", "CPU"): "auto_mixed_precision_cpu",
    ("float16", "GPU"): "auto_mixed_precision",
}


def check_options(precision: str, engine: str) -> None:
    """ValueError for an unknown precision or engine, or two that exclude each other."""
    if precision not in _PRECISIONS:
        raise ValueError(f"precision must be one of {_PRECISIONS}; got {precision!r}.")
    if engine not in _ENGINES:
        raise ValueError(f"engine must be one of {_ENGINES}; got {engine!r}.")
    if precision != "float32" and engine != "frozen":
        raise ValueError(
            f"precision={precision!r} rewrites the frozen graph; engine={engine!r} has none. "
            f"Leave engine='frozen'."
        )


def seconds(run: Callable, batch: list) -> float:
    """What a call takes, the median of five after a first one."""
    times = []
    for _ in range(6):
        start = time.perf_counter()
        keras.tree.flatten(run(*batch))[0].numpy()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def freeze(concrete: Any, precision: str) -> Folded:
    """A traced function that reads its weights folded: BatchNorm goes into the convolutions.

    Args:
      concrete: a ConcreteFunction with flat outputs.
      precision: "float32", or "bfloat16"/"float16": the graph itself is rewritten, by one local
        grappler pass; inputs and outputs stay as they are and no process option is touched.

    Raises:
      CannotFreezeError: it writes variables.
      ValueError: the machine has no way to the precision.
    """
    if precision == "float32":
        return Folded(concrete)
    return Folded(concrete, rewrite=functools.partial(_rewritten, precision=precision))


def _forget_tables(graph: Any) -> None:
    """Keep a graph's export quiet: eager lookup tables, anyone's, left it None for initialisers."""
    graph.clear_collection(tf.compat.v1.GraphKeys.TABLE_INITIALIZERS)


def on_components(frozen: Any) -> Callable:
    """A frozen graph for sparse and ragged tensors, whose components are its inputs."""
    return lambda *tensors: frozen(*tf.nest.flatten(list(tensors), expand_composites=True))


def beyond_xla(operations: Iterable[str]) -> list[str]:
    """Those of the operations that run on a processor and that XLA has no way to compile."""
    return sorted(op for op in operations if not _compiled_by_xla(op))


def _compiled_by_xla(operation: str) -> bool:
    devices = _keras.devices_of(operation)
    # Inputs of a graph are placeholders, which XLA replaces by arguments; a function's name is no
    # operation and has no kernel at all.
    known = operation == "Placeholder" or any(device.startswith("XLA_") for device in devices)
    return known or not devices


def _rewritten(function: Any, precision: str) -> Any:
    device = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    config = config_pb2.ConfigProto()
    options = config.graph_options.rewrite_options
    options.min_graph_nodes = -1
    options.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.ONE
    options.remapping = rewriter_config_pb2.RewriterConfig.OFF
    options.layout_optimizer = rewriter_config_pb2.RewriterConfig.OFF
    setattr(options, _PASSES[precision, device], rewriter_config_pb2.RewriterConfig.ON)
    _forget_tables(function.graph)
    meta = tf.compat.v1.train.export_meta_graph(
        graph_def=function.graph.as_graph_def(), graph=function.graph
    )
    fetches = meta_graph_pb2.CollectionDef()
    fetches.node_list.value.extend(t.name for t in (*function.inputs, *function.outputs))
    meta.collection_def["train_op"].CopyFrom(fetches)
    try:
        graph_def = _keras.rewritten(config, meta)
    except Exception as error:  # grappler raises whatever its C++ side threw
        raise _no_precision(precision, device) from error
    wanted = tf.as_dtype(precision).as_datatype_enum
    # Reading a missing key of this map would create it.
    if not any("T" in node.attr and node.attr["T"].type == wanted for node in graph_def.node):
        raise _no_precision(precision, device)
    return graph_def


def _no_precision(precision: str, device: str) -> ValueError:
    other = "'float32' or 'bfloat16'" if precision == "float16" else "'float32'"
    return ValueError(
        f"precision={precision!r}: TensorFlow has no way to run this teacher in {precision} on "
        f"this machine's {device}. Use precision={other}."
    )


def litert_engine(
    forward: Callable, specs: Sequence[tf.TensorSpec], variables: Sequence[Any], outputs: Sequence
) -> Callable:
    """The forward as a LiteRT file in memory of its own, run on two threads.

    Args:
      forward: from flat tensors to a flat list of them.
      specs: of the inputs, batch None.
      variables: what `forward` reads.
      outputs: specs of the outputs, batch None.

    Raises:
      keras_distill.edge.ConversionError: the converter can't take the model.
    """
    # Here, because few teachers need them and every import would pay.
    from keras_distill import litert
    from keras_distill.litert import converter

    inputs = {f"input_{i}": spec for i, spec in enumerate(specs)}
    names = [f"output_{i}" for i in range(len(outputs))]

    def named(tensors: dict) -> dict:
        return dict(zip(names, forward(*(tensors[name] for name in inputs)), strict=True))

    with tempfile.TemporaryDirectory(prefix="keras_distill_teacher_") as folder:
        saved = converter.write_saved_model(named, inputs, f"{folder}/saved", variables)
        path = pathlib.Path(folder, "teacher.tflite")
        converter.convert(saved, path)
        runner = litert.TFLiteRunner(path, num_threads=2, isolated=False)

    def run(*tensors: np.ndarray) -> list:
        answer = runner.predict(dict(zip(inputs, tensors, strict=True)), batch_size=len(tensors[0]))
        return [answer[name] for name in names] if len(names) > 1 else [answer]

    def call(*tensors: Any) -> list:
        results = tf.numpy_function(run, tensors, [tf.as_dtype(spec.dtype) for spec in outputs])
        for result, spec in zip(results, outputs, strict=True):
            result.set_shape(spec.shape)
        return list(results)

    return call
