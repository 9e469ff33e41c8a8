"""Ways to run a teacher's forward: as a frozen graph, as the plain call, or as a LiteRT file.

Every engine is a callable from flat input tensors to flat output tensors.
"""

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

__all__ = [
    "CannotFreezeError",
    "beyond_xla",
    "check_options",
    "freeze",
    "litert_engine",
    "on_components",
    "operations",
    "seconds",
]

_PRECISIONS = ("float32", "bfloat16", "float16")
_ENGINES = ("frozen", "keras", "litert", "auto")
# What a serialised graph may hold, with room for its nodes.
_GRAPH_LIMIT = 1_900_000_000
_TABLE_OPS = ("HashTable", "MutableHashTable", "LookupTable", "StaticHashTable")

# The grappler pass that brings a graph to each precision, on each kind of device.
_PASSES = {
    ("bfloat16", "CPU"): "auto_mixed_precision_onednn_bfloat16",
    ("bfloat16", "GPU"): "auto_mixed_precision_onednn_bfloat16",
    ("float16", "CPU"): "auto_mixed_precision_cpu",
    ("float16", "GPU"): "auto_mixed_precision",
}


class CannotFreezeError(Exception):
    """The graph can't become constants; the plain call still runs."""


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


def freeze(concrete: Any, precision: str) -> Any:
    """A traced function with its variables folded in as constants.

    BatchNorm then folds into the convolutions and the kernels fuse; no variable is read again.

    Args:
      concrete: a ConcreteFunction with flat outputs.
      precision: "float32", or "bfloat16"/"float16": the graph itself is rewritten, by one local
        grappler pass; inputs and outputs stay as they are and no process option is touched.

    Raises:
      CannotFreezeError: over 2 GB of weights, lookup tables, or variables of a strategy.
      ValueError: the machine has no way to the precision.
    """
    _check_freezable(concrete)
    _forget_tables(concrete.graph)
    try:
        frozen = _keras.with_constants(concrete)
    except (ValueError, TypeError, KeyError, AttributeError, tf.errors.OpError) as error:
        raise CannotFreezeError(str(error)) from error
    return frozen if precision == "float32" else _rewrite(frozen, precision)


def _forget_tables(graph: Any) -> None:
    """Keep a graph's export quiet: eager lookup tables, anyone's, left it None for initialisers."""
    graph.clear_collection(tf.compat.v1.GraphKeys.TABLE_INITIALIZERS)


def on_components(frozen: Any) -> Callable:
    """A frozen graph for sparse and ragged tensors, whose components are its inputs."""
    return lambda *tensors: frozen(*tf.nest.flatten(list(tensors), expand_composites=True))


def _check_freezable(concrete: Any) -> None:
    size = sum(int(np.prod(v.shape)) * v.dtype.size for v in concrete.graph.variables)
    if size > _GRAPH_LIMIT:
        raise CannotFreezeError(
            f"its weights take {size / 1e9:.1f} GB, and a graph holds at most 2"
        )
    tables = sorted(op for op in operations(concrete.graph) if op.startswith(_TABLE_OPS))
    if tables:
        raise CannotFreezeError(f"it looks up tables ({', '.join(tables)})")


def operations(graph: Any) -> frozenset[str]:
    """The types of operations in a graph and in the functions that it calls."""
    found = graph.as_graph_def()
    return frozenset(node.op for part in (found, *found.library.function) for node in _nodes(part))


def beyond_xla(operations: Iterable[str]) -> list[str]:
    """Those of the operations that run on a processor and that XLA has no way to compile."""
    return sorted(op for op in operations if not _compiled_by_xla(op))


def _compiled_by_xla(operation: str) -> bool:
    devices = _keras.devices_of(operation)
    # Inputs of a graph are placeholders, which XLA replaces by arguments; a function's name is no
    # operation and has no kernel at all.
    known = operation == "Placeholder" or any(device.startswith("XLA_") for device in devices)
    return known or not devices


def _nodes(part: Any):
    return part.node if hasattr(part, "node") else part.node_def


def _rewrite(frozen: Any, precision: str) -> Any:
    device = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    config = config_pb2.ConfigProto()
    options = config.graph_options.rewrite_options
    options.min_graph_nodes = -1
    options.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.ONE
    options.remapping = rewriter_config_pb2.RewriterConfig.OFF
    options.layout_optimizer = rewriter_config_pb2.RewriterConfig.OFF
    setattr(options, _PASSES[precision, device], rewriter_config_pb2.RewriterConfig.ON)
    names = [t.name for t in frozen.inputs], [t.name for t in frozen.outputs]
    _forget_tables(frozen.graph)
    meta = tf.compat.v1.train.export_meta_graph(
        graph_def=frozen.graph.as_graph_def(), graph=frozen.graph
    )
    fetches = meta_graph_pb2.CollectionDef()
    fetches.node_list.value.extend([*names[0], *names[1]])
    meta.collection_def["train_op"].CopyFrom(fetches)
    try:
        graph_def = _keras.rewritten(config, meta)
    except Exception as error:  # grappler raises whatever its C++ side threw
        raise _no_precision(precision, device) from error
    wanted = tf.as_dtype(precision).as_datatype_enum
    # Reading a missing key of this map would create it.
    if not any("T" in node.attr and node.attr["T"].type == wanted for node in graph_def.node):
        raise _no_precision(precision, device)
    imported = tf.compat.v1.wrap_function(
        lambda: tf.graph_util.import_graph_def(graph_def, name=""), []
    )
    graph = imported.graph
    return imported.prune(*[[graph.get_tensor_by_name(n) for n in side] for side in names])


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
