"""What is used of the frameworks' private parts: where it was read, and what breaks without it.

What names no version was read from Keras 3.15.1, whose names are there since 3.10.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras.src.applications.convnext import LayerScale
from keras.src.backend import get_keras_mask, set_keras_mask
from keras.src.models.functional import Functional
from keras.src.trainers.compile_utils import CompileLoss, CompileMetrics, MetricsList
from tensorflow.python.framework import convert_to_constants, kernels
from tensorflow.python.grappler import tf_optimizer

__all__ = [
    "Directions",
    "Functional",
    "LayerScale",
    "LossRoute",
    "MetricRoute",
    "bound_arguments",
    "built_with",
    "children",
    "devices_of",
    "first_call",
    "graph_of_function",
    "history",
    "input_structure",
    "is_validation_of_fit",
    "keep_logits",
    "kept_logits",
    "layers_of",
    "loss_routes",
    "mask_of",
    "masked",
    "metric_function",
    "metric_routes",
    "named_directions",
    "nodes",
    "output_structure",
    "own_variables",
    "reshaped",
    "reshuffled",
    "rewritten",
    "sequential_graph",
    "standardized",
    "upstream",
    "with_constants",
]


def layers_of(layer: Any, *, itself: bool = True) -> list[Any]:
    """A layer or model of either generation and every layer that it tracks, however deep.

    `Layer._flatten_layers`: `Model.layers` stops at the first level, and no layer has it.
    """
    return list(layer._flatten_layers(include_self=itself))


def children(layer: Any) -> list[Any]:
    """The layers that a layer or model of either generation tracks itself, not those in them."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def own_variables(layer: keras.layers.Layer) -> list[Any]:
    """The variables that a layer tracks itself, not those of the layers in it.

    `_trainable_variables` and `_non_trainable_variables`: `variables` has all.
    """
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def built_with(layer: keras.layers.Layer) -> Any:
    """What a layer was built with, by argument (`_build_shapes_dict`); None where nobody knows."""
    return layer._build_shapes_dict


def history(tensor: Any) -> Any:
    """Where a symbolic tensor comes from: `(operation, node_index, tensor_index)`, or None.

    `_keras_history`, of either generation. Without it nothing knows the layer behind an input.
    """
    return getattr(tensor, "_keras_history", None)


def first_call(operation: keras.Operation) -> tuple[tuple, dict[str, Any]] | None:
    """The arguments of an operation's first call in a graph, tensors without a history; or None.

    `_inbound_nodes`, `Node.arguments`. Without it layers whose weights come with their first call
    could not be copied.
    """
    if not operation._inbound_nodes:
        return None

    def bare(value: Any) -> Any:
        if not isinstance(value, keras.KerasTensor):
            return value
        return keras.KerasTensor(
            value.shape, value.dtype, sparse=value.sparse, record_history=False
        )

    arguments = operation._inbound_nodes[0].arguments
    return keras.tree.map_structure(bare, (arguments.args, arguments.kwargs))


def input_structure(model: Functional) -> Any:
    """A Functional model's inputs as they were given: a tensor, or lists and dicts of them.

    `_inputs_struct`: `inputs` is flat.
    """
    return model._inputs_struct


def output_structure(model: Functional) -> Any:
    """A Functional model's outputs as they were given (`_outputs_struct`)."""
    return model._outputs_struct


def nodes(model: Any) -> Iterator[Any]:
    """The graph's nodes in the order in which Keras runs them, inputs left out.

    `_nodes_by_depth`, of either generation.
    """
    for depth in sorted(model._nodes_by_depth, reverse=True):
        yield from (node for node in model._nodes_by_depth[depth] if not node.is_input)


def sequential_graph(model: keras.Sequential) -> Functional | None:
    """The Functional model inside a Sequential (`_functional`); None before it is built."""
    return model._functional


def standardized(model: Functional, inputs: Any) -> list[Any]:
    """Inputs as a Functional model's first layers get them: flat, cast and shaped.

    `_standardize_inputs`, which `call` does first.
    """
    return model._standardize_inputs(inputs)


def mask_of(tensor: Any) -> Any:
    """The mask that layers hung on their output (`_keras_mask`), or None.

    Without it padded positions would count.
    """
    return get_keras_mask(tensor)


@contextlib.contextmanager
def masked(tensor: Any, mask: Any) -> Iterator[None]:
    """`tensor` carries this mask, which Keras' losses and metrics read (`Loss.__call__`).

    It stays the same object: Keras finds the logits behind a softmax by it.
    """
    before = get_keras_mask(tensor)
    set_keras_mask(tensor, mask)
    try:
        yield
    finally:
        set_keras_mask(tensor, before)


def kept_logits(output: Any) -> Any:
    """The input of the softmax or sigmoid that gave `output` (`_keras_logits`), or None.

    Keras' activations hang it there, and its losses read it.
    """
    return getattr(output, "_keras_logits", None)


def keep_logits(output: Any, logits: Any) -> None:
    """Hangs `logits` on `output`, for Keras' losses to read in its place."""
    output._keras_logits = logits


def reshaped(tensor: Any, change: Callable[[Any], Any]) -> Any:
    """`change(tensor)`, the logits that Keras keeps on it (`_keras_logits`) changed likewise."""
    changed = change(tensor)
    kept = kept_logits(tensor)
    if kept is not None and changed is not tensor:
        keep_logits(changed, change(kept))
    return changed


def is_validation_of_fit(arguments: Mapping[str, Any]) -> bool:
    """Whether `evaluate` was called by `fit`, for its validation data (`Trainer.fit`).

    Without it each validation looks for changes of the teacher.
    """
    return bool(arguments.get("_use_cached_eval_dataset"))


class LossRoute(NamedTuple):
    """One loss of a compiled model, and what it reads of a batch; `mean` is None for a single."""

    loss: keras.losses.Loss
    factor: Any
    mean: Any
    y: Any
    y_pred: Any
    sample_weight: Any


class _Router(CompileLoss):
    """Asks `CompileLoss.call` which labels go to which loss, and computes none."""

    def __init__(self, compiled: CompileLoss):
        self._compiled = compiled
        self.found: list[LossRoute] = []
        self.__dict__.update(compiled.__dict__)
        if compiled.built:
            self._listen()

    def build(self, y_true: Any, y_pred: Any) -> None:
        self._compiled.build(y_true, y_pred)
        self._listen()

    def _listen(self) -> None:
        self.__dict__.update(self._compiled.__dict__)
        parts = self._compiled._flat_losses
        means = self._compiled._metrics or [None] * len(parts)
        self._flat_losses = [
            part._replace(loss=functools.partial(self._note, part, mean), loss_weights=None)
            for part, mean in zip(parts, means, strict=True)
        ]
        # `call` walks losses and means side by side.
        self._metrics = [None] * len(parts)

    def _note(self, part: Any, mean: Any, y: Any, y_pred: Any, sample_weight: Any) -> float:
        self.found.append(LossRoute(part.loss, part.loss_weights, mean, y, y_pred, sample_weight))
        return 0.0


def loss_routes(compiled: CompileLoss, y: Any, y_pred: Any, sample_weight: Any) -> list[LossRoute]:
    """Which labels, outputs and weights each compiled loss reads, by Keras' own rules.

    Of several losses on a single output Keras counts the first.

    Raises:
      ValueError, KeyError: Keras', where structures do not fit.
    """
    router = _Router(compiled)
    router.call(y, y_pred, sample_weight)
    nested = keras.tree.is_nested(y) or keras.tree.is_nested(y_pred)
    return router.found if nested else router.found[:1]


class MetricRoute(NamedTuple):
    """The metrics of one output, and what they read of a batch."""

    metrics: Sequence[keras.metrics.Metric]
    weighted: Sequence[keras.metrics.Metric]
    y: Any
    y_pred: Any
    sample_weight: Any


def metric_routes(
    compiled: CompileMetrics, y: Any, y_pred: Any, sample_weight: Any
) -> list[MetricRoute]:
    """Which labels, outputs and weights the metrics of each output read, as `update_state` has it.

    An output without labels has None; a metric on it fails as in Keras.
    """
    names = list(y_pred) if isinstance(y_pred, Mapping) else compiled.output_names
    if isinstance(y, Mapping) and names:
        y = {**dict.fromkeys(names), **y}
    if not compiled.built:
        compiled.build(y, y_pred)
    labels, answers = compiled._flatten_y(y), compiled._flatten_y(y_pred)
    weights = [None] if sample_weight is None else compiled._flatten_y(sample_weight)
    if len(weights) < len(labels):
        weights = [weights[0]] * len(labels)
    lists = zip(compiled._flat_metrics, compiled._flat_weighted_metrics, strict=True)
    return [
        MetricRoute(plain.metrics if plain else (), weighted.metrics if weighted else (), *read)
        for (plain, weighted), *read in zip(lists, labels, answers, weights, strict=False)
    ]


def bound_arguments(reader: Any) -> Mapping[str, Any]:
    """What a loss or metric calls its function with besides labels and answers (`_fn_kwargs`)."""
    return getattr(reader, "_fn_kwargs", {})


def metric_function(metric: keras.metrics.Metric) -> Any:
    """The function whose values a metric averages, its arguments bound; None for other metrics.

    `MeanMetricWrapper` alone reads a mask.
    """
    if not isinstance(metric, keras.metrics.MeanMetricWrapper):
        return None
    return functools.partial(metric._fn, **metric._fn_kwargs)


class _Direction:
    def __init__(self, name: str, direction: str):
        self.name, self._direction = name, direction


class Directions(MetricsList):
    """Tells callbacks of mode "auto" which way names in the logs get better; it measures nothing.

    `MonitorCallback` looks for names and `_direction` in the lists of metrics alone.
    """

    def __init__(self, directions: dict[str, str]):
        named = [_Direction(name, direction) for name, direction in directions.items()]
        super().__init__(named, name="directions")

    @property
    def variables(self) -> list:
        """None."""
        return []

    def reset_state(self) -> None:
        """Nothing to reset."""

    def result(self) -> dict:
        """No entry in the logs."""
        return {}


def named_directions(compiled: CompileMetrics | None) -> dict[str, str]:
    """Which way the metrics of several outputs get better, by the names that the logs have."""
    if compiled is None or not compiled.built:
        return {}
    lists = [*compiled._flat_metrics, *compiled._flat_weighted_metrics]
    return {
        f"{one.output_name}_{metric.name}": metric._direction
        for one in lists
        if one and one.output_name
        for metric in one.metrics
        if hasattr(metric, "_direction")
    }


def upstream(dataset: tf.data.Dataset) -> Iterator[tuple[tf.data.Dataset, int]]:
    """A data set, those that it was made of, and how often one pass over it passes over each.

    How often is -1 where it repeats for ever. Read from TensorFlow 2.21: `Dataset._inputs`, and
    `_RepeatDataset._count`. Without them a data set is made of nothing.
    """
    waiting = [(dataset, 1)]
    while waiting:
        one, times = waiting.pop()
        yield one, times
        count = getattr(one, "_count", 1) if type(one).__name__ == "_RepeatDataset" else 1
        count = int(count)
        times = -1 if -1 in (times, count) else times * count
        waiting += [(source, times) for source in getattr(one, "_inputs", tuple)()]


def reshuffled(dataset: tf.data.Dataset) -> bool:
    """Whether a data set is shuffled anew at each pass, and not kept by a `cache()` since.

    Read from TensorFlow 2.21: `_ShuffleDataset._reshuffle_each_iteration`, `CacheDataset`. Without
    them it is never known.
    """
    if type(dataset).__name__ == "CacheDataset":
        return False
    if type(dataset).__name__ == "_ShuffleDataset":
        return bool(getattr(dataset, "_reshuffle_each_iteration", False))
    return any(reshuffled(source) for source in getattr(dataset, "_inputs", tuple)())


def graph_of_function(graph: Any, name: str) -> Any:
    """The graph of a function that a graph calls by name; None where it knows none of that name.

    Read from TensorFlow 2.21: `FuncGraph._get_function`.
    """
    function = graph._get_function(name)
    return None if function is None else function.graph


def with_constants(concrete: Any) -> Any:
    """A concrete function with its variables' values as constants, as TFLite's converter has it.

    Read from TensorFlow 2.21: `convert_variables_to_constants_v2`. Without it no teacher is frozen.
    """
    return convert_to_constants.convert_variables_to_constants_v2(concrete)


def rewritten(config: Any, meta: Any) -> Any:
    """The GraphDef of a MetaGraphDef after grappler's passes that a ConfigProto asks for.

    Read from TensorFlow 2.21: `tf_optimizer.OptimizeGraph`. Without it there are no half-precision
    engines.
    """
    return tf_optimizer.OptimizeGraph(config, meta)


def devices_of(operation: str) -> set[str]:
    """The devices that an operation has kernels for (`get_registered_kernels_for_op`)."""
    return {k.device_type for k in kernels.get_registered_kernels_for_op(operation).kernel}
