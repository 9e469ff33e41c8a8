"""TFMOT's wrappers under Keras 3: what each does at an update, and what its config leaves out.

Read from TFMOT 0.8.1, whose private parts this file alone touches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_distill import _keras
from keras_distill.edge import legacy

__all__ = ["Wrapper", "check_trainable", "class_names", "wrapper_of"]


class Wrapper:
    """What a tf_keras layer is to TFMOT; of this class: one that is none of its wrappers.

    Attributes:
      wrapped: the tf_keras layer.
      follows_updates: whether it has to hear of the optimiser's updates.
    """

    follows_updates = False

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped

    def computing(self, training: bool) -> Any:
        """The layer to call in its place: one whose call leaves the pruning where it is."""
        return self.wrapped

    @property
    def is_one(self) -> bool:
        """Whether TFMOT has put it in, so that a plain model is without it."""
        return type(self) is not Wrapper or "QuantizeLayer" in class_names(self.wrapped)

    def own_variables(self) -> list[Any]:
        """The weights of the layer inside, those that a call has put tensors over included."""
        return list(self.wrapped.weights)

    def uncounted(self) -> Iterator[tuple[dict[Any, Any], Any]]:
        """Where it keeps a tensor that no file would have: the table, and the key in it."""
        return iter(())

    def after_update(self, iterations: Any) -> None:
        """Brings masks and clusters up to date; in the graph, once an update."""

    def settle(self) -> None:
        """Writes what is masked as plain zeros; for a copy, eagerly."""

    def get_config(self) -> dict[str, Any]:
        """What TFMOT's own config leaves out, in JSON's types."""
        return {}

    def configure(self, config: dict[str, Any], input_shape: Any) -> None:
        """Makes a wrapper that is not built what `get_config` said."""


class _Pruned(Wrapper):
    """`PruneLowMagnitude`: the step is the optimiser's, and the zeros hold after every update."""

    follows_updates = True

    def computing(self, training: bool) -> Any:
        # The wrapper's own call counts as a step and may move the masks.
        if not training:
            # For averaged weights, which an optimiser writes back at an epoch's end.
            self.wrapped.pruning_obj.weight_mask_op()
        return self.wrapped.layer

    def own_variables(self) -> list[Any]:
        return list(self.wrapped.layer.weights)

    def after_update(self, iterations: Any) -> None:
        step = self.wrapped.pruning_step
        now = tf.cast(iterations, step.dtype)
        # Never back: a new optimiser counts from 0 again. TFMOT's first step is 1.
        step.assign(tf.where(now > 0, tf.maximum(now, step), step))
        self.wrapped.pruning_obj.conditional_mask_update()
        self.wrapped.pruning_obj.weight_mask_op()

    def settle(self) -> None:
        for weight, mask, _ in self.wrapped.pruning_vars:
            _set_zeros(weight, mask)

    def get_config(self) -> dict[str, Any]:
        pattern = self.wrapped.sparsity_m_by_n
        return {} if pattern is None else {"sparsity_m_by_n": list(pattern)}

    def configure(self, config: dict[str, Any], input_shape: Any) -> None:
        self.wrapped.sparsity_m_by_n = tuple(config["sparsity_m_by_n"])


class _Clustered(Wrapper):
    """`ClusterWeights`: what its next call would set is set at once, so that no call changes it."""

    follows_updates = True

    def own_variables(self) -> list[Any]:
        found = [*self.wrapped.layer.weights, *self.wrapped.original_clusterable_weights.values()]
        return list({variable.ref(): variable for variable in found}.values())

    def uncounted(self) -> Iterator[tuple[dict[Any, Any], Any]]:
        for table in (self.wrapped.sparsity_masks, self.wrapped.zero_idx):
            yield from ((table, key) for key in table)

    def after_update(self, iterations: Any) -> None:
        self.wrapped.update_clustered_weights_associations()

    def settle(self) -> None:
        for centroids in self.wrapped.cluster_centroids.values():
            _set_zeros(centroids, centroids)


class _Quantized(Wrapper):
    """`QuantizeWrapper` in its two versions; a quantiser may preserve zeros or clusters."""

    def __init__(self, wrapped: Any) -> None:
        super().__init__(wrapped)
        self._preserving = [
            (weight, quantizer, table)
            for weight, quantizer, table in _keras.legacy.weight_quantizers(wrapped)
            if _keras.legacy.preserves(quantizer)
        ]
        self.follows_updates = bool(self._preserving)

    def own_variables(self) -> list[Any]:
        quantized = _keras.legacy.weight_quantizers(self.wrapped)
        found = [*self.wrapped.layer.weights, *(weight for weight, _, _ in quantized)]
        return list({variable.ref(): variable for variable in found}.values())

    def uncounted(self) -> Iterator[tuple[dict[Any, Any], Any]]:
        for _, _, table in self._preserving:
            for key in ("sparsity_mask", "centroids_mask"):
                if table.get(key) is not None:
                    yield table, key

    def after_update(self, iterations: Any) -> None:
        for weight, quantizer, table in self._preserving:
            if "cluster_centroids_tf" in table:
                # In training it writes the clusters into the weight.
                quantizer(weight, True, weights=table)
            elif "sparsity_mask" in table:
                weight.assign(weight * table["sparsity_mask"])

    def settle(self) -> None:
        for weight, _, table in self._preserving:
            if "sparsity_mask" in table:
                _set_zeros(weight, table["sparsity_mask"])

    def get_config(self) -> dict[str, Any]:
        if not self._preserving:
            return {}
        # TFMOT's schemes preserve in Dense and Conv2D, which have one kernel each.
        ((_, quantizer, table),) = self._preserving
        centroids = table.get("cluster_centroids_tf")
        return {
            "quantizer": type(quantizer).__name__,
            "zeros": "sparsity_mask" in table,
            "preserve_sparsity": bool(getattr(quantizer, "preserve_sparsity", False)),
            "centroids": None if centroids is None else list(centroids.shape),
        }

    def configure(self, config: dict[str, Any], input_shape: Any) -> None:
        kind = _quantizers()[config["quantizer"]]
        clusters = "Cluster" in config["quantizer"]
        quantizer = kind(preserve_sparsity=config["zeros"]) if clusters else kind()
        self.wrapped.quantize_config.weight_quantizer = quantizer
        if clusters:
            # Its variables have the shape of the clusters that it finds in the kernel.
            self.wrapped.layer.build(input_shape)
            kernel = self.wrapped.layer.kernel
            kernel.assign(_with_clusters(tuple(kernel.shape), config["centroids"]))


def wrapper_of(layer: Any) -> Wrapper:
    """What a tf_keras layer is to TFMOT, built or not."""
    names = class_names(layer)
    if "PruneLowMagnitude" in names:
        return _Pruned(layer)
    if "ClusterWeights" in names:
        return _Clustered(layer)
    if "QuantizeWrapper" in names:
        return _Quantized(layer)
    return Wrapper(layer)


def check_trainable(layer: Any) -> None:
    """Refuses a layer that could not be trained as TFMOT's wrappers promise.

    Raises:
      ValueError: a pruning wrapper inside another layer, where no update of the optimiser is heard
        of; a wrapper around a layer that makes a mask, for TFMOT's call drops the mask; several
        replicas, whose masks and clusters TFMOT can't assign.
    """
    wrapper = wrapper_of(layer)
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if wrapper.follows_updates and replicas > 1:
        raise ValueError(
            f"{layer.name!r} ({type(layer).__name__}) keeps masks or clusters that TFMOT can't "
            f"assign under a strategy of {replicas} replicas. Expected one; or compress the Keras "
            f"3 model, which works under any: kd.edge.prune(student), kd.edge.cluster(student)."
        )
    for inside in _keras.layers_of(layer, itself=False):
        if isinstance(wrapper_of(inside), _Pruned):
            raise ValueError(
                f"{layer.name!r} ({type(layer).__name__}) has the pruning wrapper {inside.name!r} "
                f"inside it, where its schedule can't follow the training. Expected "
                f"prune_low_magnitude around layers of a Functional or Sequential model; or prune "
                f"the Keras 3 model: kd.edge.prune(student)."
            )
    wrapped: Any = getattr(layer, "layer", None)
    if wrapper.is_one and (getattr(wrapped, "mask_zero", False) or hasattr(wrapped, "mask_value")):
        raise ValueError(
            f"{layer.name!r} ({type(layer).__name__}) would drop the mask that {wrapped.name!r} "
            f"({type(wrapped).__name__}) makes: the model would learn from padding. Leave that "
            f"layer without a wrapper; or compress the Keras 3 model: kd.edge.prune(student), "
            f"kd.edge.cluster(student)."
        )


def class_names(layer: Any) -> set[str]:
    """The names of a layer's class and of those it is derived from."""
    # By name: TFMOT itself is imported where its wrappers are already.
    return {kind.__name__ for kind in type(layer).__mro__}


def _set_zeros(weight: Any, mask: Any) -> None:
    # TFMOT multiplies: its -0.0 among zeros makes zipped files larger.
    weight.assign(tf.where(tf.convert_to_tensor(mask) == 0, tf.zeros_like(weight), weight))


def _quantizers() -> dict[str, Any]:
    legacy.tfmot()
    return _keras.legacy.preserving_quantizers()


def _with_clusters(shape: tuple[int, ...], centroids: list[int] | None) -> np.ndarray:
    """A kernel in which TFMOT finds centroids of this shape: a row a channel, one row, or none."""
    if centroids is None:
        return np.zeros(shape, "float32")
    channels, size = shape[-1], math.prod(shape[:-1])
    values = np.arange(size * channels) % centroids[-1]
    if len(centroids) == 2:
        values = np.tile(np.arange(size) % centroids[-1], channels)
    elif len(shape) == 4:
        # A convolution has one row where its channels differ in their number of clusters.
        values = np.concatenate([np.zeros(size), values[: size * (channels - 1)]])
    return values.reshape(channels, size).T.reshape(shape).astype("float32")
