"""What is used of the private parts of tf_keras 2.21 and TFMOT 0.8, of which it imports neither.

Whoever calls a function that needs one of them has imported it.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import tensorflow as tf

# tf_keras exports none of these: a model's graph, and TensorFlow's functions and slices in one.
UNEXPORTED = (
    ("tf_keras.src.engine.functional", "Functional"),
    ("tf_keras.src.layers.core.tf_op_layer", "SlicingOpLambda"),
    ("tf_keras.src.layers.core.tf_op_layer", "TFOpLambda"),
)
# How a SavedModel marks its root as a model.
_MODELS = ("_tf_keras_model", "_tf_keras_network", "_tf_keras_sequential")
_PRESERVING = "tensorflow_model_optimization.python.core.quantization.keras.collab_opts"


def is_symbolic(value: Any) -> bool:
    """Whether `value` is a tensor of a graph under construction (`tf_keras.__internal__`)."""
    import tf_keras

    return isinstance(value, tf_keras.__internal__.KerasTensor)


def is_graph(model: Any) -> bool:
    """Whether it is a Functional or Sequential model whose graph is known (`_is_graph_network`)."""
    return bool(getattr(model, "_is_graph_network", False))


def structures(model: Any) -> tuple[Any, Any]:
    """A graph's inputs and outputs as they were given (`_nested_inputs`, `_nested_outputs`)."""
    return model._nested_inputs, model._nested_outputs


def first_call(layer: Any) -> tuple[tuple, dict[str, Any]]:
    """The arguments of a layer's first call in a graph, its tensors (`_inbound_nodes`)."""
    node = layer._inbound_nodes[0]
    return node.call_args, node.call_kwargs


def built_shape(model: Any) -> Any:
    """The shape that a model was built for, or None (`_build_input_shape`)."""
    return getattr(model, "_build_input_shape", None)


def rename(layer: Any, name: str) -> None:
    """Gives a layer another name (`_name`): the property can't be set."""
    layer._name = name


def takes_training(layer: Any) -> bool:
    """Whether a layer's `call` has the argument `training` (`_expects_training_arg`)."""
    return layer._expects_training_arg


def share(carrier: Any, value: Any, name: str, trained: bool | None = None) -> None:
    """Has a layer track a variable, or another object, and count it among its weights.

    `_track_trackable` for files, `_trainable_weights` and `_non_trainable_weights` for training:
    `add_weight` would make a variable of its own. With `trained=None` it counts as no weight.
    """
    carrier._track_trackable(value, name)
    if trained is not None:
        weights = carrier._trainable_weights if trained else carrier._non_trainable_weights
        weights.append(value)


def penalties(layer: Any) -> Iterator[tuple[Any, Any]]:
    """Each variable of a layer that is regularised, and the function that gives its loss.

    `_callable_losses` holds `partial(tag, partial(loss, variable))`. Without it a layer inside
    Keras 3 is not regularised.
    """
    for tagged in layer._callable_losses:
        loss = tagged.args[0] if getattr(tagged, "args", ()) else tagged
        variable = loss.args[0] if getattr(loss, "args", ()) else None
        if isinstance(variable, tf.Variable) or hasattr(variable, "handle"):
            yield variable, loss


def noted_losses(layer: Any) -> Sequence[Any]:
    """What a layer added in its last call: activity losses, its own `add_loss`.

    `_eager_losses`, in a graph `_losses`: `losses` has the regularisers' as well.
    """
    return layer._eager_losses or layer._losses


def standardized_and_statistics(layer: Any, inputs: Any) -> tuple[Any, Any, Any]:
    """A Normalization's inputs, adapted mean and variance, of one shape and type.

    `_standardize_inputs` and `_broadcast_shape`: `call` reads a copy of the statistics that only
    `adapt` renews.
    """
    inputs = tf.cast(layer._standardize_inputs(inputs), layer.compute_dtype)
    mean, variance = (
        tf.cast(tf.reshape(value, layer._broadcast_shape), layer.compute_dtype)
        for value in (layer.adapt_mean, layer.adapt_variance)
    )
    return inputs, mean, variance


def safe_mode() -> bool | None:
    """Whether tf_keras is loading in safe mode; None where nobody said (`serialization_lib`)."""
    from tf_keras.src.saving import serialization_lib

    return serialization_lib.in_safe_mode()


def safe_mode_scope(safe: bool) -> AbstractContextManager:
    """Inside, tf_keras loads in safe mode or not (`SafeModeScope`)."""
    from tf_keras.src.saving import serialization_lib

    return serialization_lib.SafeModeScope(safe)


def decoded(config: Any) -> Any:
    """A config in Python's values: tuples and shapes are written as objects (`json_utils`)."""
    import json

    from tf_keras.src.saving.legacy.saved_model import json_utils

    return json_utils.decode(json.dumps(config))


def saved_metadata(path: Path) -> str | None:
    """What tf_keras noted of the model in a SavedModel, as JSON; None of any other (`load`).

    In `keras_metadata.pb` beside the graph, before TensorFlow 2.5 in it.

    Raises:
      google.protobuf.message.DecodeError: a file is damaged.
    """
    from tensorflow.core.protobuf import saved_model_pb2
    from tf_keras.protobuf import saved_metadata_pb2

    if (noted := path / "keras_metadata.pb").is_file():
        for node in saved_metadata_pb2.SavedMetadata.FromString(noted.read_bytes()).nodes:
            if node.node_id == 0 and node.identifier in _MODELS:
                return node.metadata
    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    for graph in saved.meta_graphs[:1]:
        for node in graph.object_graph_def.nodes[:1]:
            if node.user_object.identifier in _MODELS:
                return node.user_object.metadata or None
    return None


def weight_quantizers(wrapper: Any) -> Sequence[tuple[Any, Any, dict[str, Any]]]:
    """A TFMOT QuantizeWrapper's weights, each with its quantiser and the quantiser's variables.

    `_weight_vars`; empty for a wrapper that quantises no weight.
    """
    return getattr(wrapper, "_weight_vars", ())


def preserves(quantizer: Any) -> bool:
    """Whether a TFMOT quantiser keeps zeros or clusters (its module, `collab_opts`)."""
    return type(quantizer).__module__.startswith(_PRESERVING)


def preserving_quantizers() -> dict[str, Any]:
    """TFMOT's quantisers that keep zeros or clusters, by name: no scope of TFMOT's knows them."""
    from tensorflow_model_optimization.python.core.quantization.keras.collab_opts import (
        cluster_preserve,
        prune_preserve,
    )

    pruned = prune_preserve.prune_preserve_quantize_registry
    clustered = cluster_preserve.cluster_preserve_quantize_registry
    return {
        kind.__name__: kind
        for kind in (
            pruned.PrunePreserveDefault8BitWeightsQuantizer,
            pruned.PrunePreserveDefault8BitConvWeightsQuantizer,
            clustered.ClusterPreserveDefault8BitWeightsQuantizer,
            clustered.ClusterPreserveDefault8BitConvWeightsQuantizer,
        )
    }
