"""Weight clustering of Keras 3 models: each kernel holds a few different numbers only."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_distill.edge.compress import masks
from keras_distill.edge.compress.kernels import kernels, targets
from keras_distill.edge.compress.layer import Compressed
from keras_distill.edge.compress.model import CompressedModel, rebuild
from keras_distill.edge.compress.pruning import Mask
from keras_distill.edge.compress.treatment import Treatment
from keras_distill.edge.interface import as_keras3, without_float16
from keras_distill.edge.quantize.layer import Quantized
from keras_distill.functional.tensors import Tensor

# TFMOT's, so that both find the same centroids.
_SEED = 9


@keras.saving.register_keras_serializable("keras_distill")
class Clusters(Treatment):
    """A weight of which every number is the nearest of a few centroids.

    The centroids are trained: each has the sum of the gradients of the numbers that are near it.
    The variable underneath has the same gradient, as if there were no rounding, so that numbers
    change their cluster.

    Args:
      clusters: how many different numbers there are at most.
      zero: one of them is 0, and numbers that are 0 at the start stay so.

    Source: Han, Mao, Dally 2016, "Deep Compression", section 3; TFMOT's `cluster_weights`.
    """

    def __init__(self, clusters: int, zero: bool = False):
        self.clusters = clusters
        self.zero = zero

    def build(self, owner: Any, variable: keras.Variable, prefix: str) -> None:
        """The centroids, 0 left out, and what is not 0; `start` sets them."""
        prefix = prefix.replace("/", "_")
        self.centroids = owner.add_weight(
            shape=(self.clusters - self.zero,),
            initializer="zeros",
            dtype=variable.dtype,
            name=f"{prefix}_centroids",
        )
        self.state = (self.centroids,)
        if self.zero:
            self.kept = masks.add_to(owner, variable, prefix)
            self.state = (self.centroids, self.kept)

    def start(self, value: Tensor) -> None:
        """Sets the centroids from the weight as it is, by k-means++; eagerly."""
        value = tf.convert_to_tensor(value)
        self.centroids.assign(first_centroids(value, self.clusters, zero=self.zero))
        if self.zero:
            self.kept.assign(self(value) != 0)

    def __call__(self, value: Tensor) -> Tensor:
        value = tf.convert_to_tensor(value)
        centroids = tf.cast(self.centroids.value, value.dtype)
        if self.zero:
            value = tf.where(self.kept.value, value, tf.zeros_like(value))
            centroids = tf.concat([tf.zeros([1], value.dtype), centroids], 0)
        nearest = tf.gather(centroids, _nearest(value, centroids))
        # The difference is 0: the gradient alone passes, and the sum stays a centroid exactly.
        return nearest + (value - tf.stop_gradient(value))

    def get_config(self) -> dict[str, Any]:
        """The number of clusters, and whether one is 0."""
        return {"clusters": self.clusters, "zero": self.zero}


def _nearest(value: Tensor, centroids: Tensor) -> Tensor:
    """The index of each number's nearest centroid; by bisection, for the table may be large."""
    order = tf.argsort(centroids)
    ordered = tf.gather(tf.stop_gradient(centroids), order)
    bounds = (ordered[1:] + ordered[:-1]) / 2
    place = tf.searchsorted(bounds, tf.reshape(tf.stop_gradient(value), [-1]))
    return tf.reshape(tf.gather(order, place), tf.shape(value))


def first_centroids(value: Tensor, clusters: int, *, zero: bool) -> Tensor:
    """Where clustering begins: k-means++ on a weight's numbers, TFMOT's default.

    Args:
      value: a weight of any shape.
      clusters: how many.
      zero: one of them is 0: the others are shared out between the negative and the positive
        numbers as those are.

    Returns:
      `(clusters,)`, or `(clusters - 1,)` with `zero`, whose 0 is left out. A weight of fewer
      different numbers has each of them, the last one several times.

    Source: Arthur and Vassilvitskii 2007, "k-means++".

    >>> first_centroids(tf.constant([-1.0, 0.0, 0.0, 2.0]), 3, zero=True).numpy().tolist()
    [-1.0, 2.0]
    """
    if not zero:
        return _seeded(value, clusters)
    negative, positive = tf.boolean_mask(value, value < 0), tf.boolean_mask(value, value > 0)
    total = int(tf.size(negative)) + int(tf.size(positive))
    if not total:
        return tf.zeros([clusters - 1], value.dtype)
    below = round((clusters - 1) * int(tf.size(negative)) / total)
    parts = [_seeded(negative, below), _seeded(positive, clusters - 1 - below)]
    return tf.concat(parts, 0)


def _seeded(value: Tensor, count: int) -> Tensor:
    points = tf.reshape(value, [-1])
    different = tf.sort(tf.unique(points).y)
    if count <= 0:
        return points[:0]
    if len(different) <= count:
        return tf.concat([different, tf.repeat(different[-1:], count - len(different))], 0)
    found = tf.raw_ops.KmeansPlusPlusInitialization(
        points=tf.cast(points[:, None], tf.float32),
        num_to_sample=count,
        seed=_SEED,
        num_retries_per_sample=-1,
    )
    return tf.cast(tf.reshape(found, [count]), value.dtype)


def cluster(
    model: Any, clusters: int = 16, *, preserve_sparsity: bool = True, skip: Any = ()
) -> CompressedModel:
    """A copy of `model` each of whose kernels holds at most `clusters` different numbers.

    At all times: when it is returned, in training, in the file. The numbers themselves are trained;
    the zipped file is the smaller for it. For a model that is trained already; `fit` the copy
    alone or in a `Distiller`.

    Args:
      model: a built Functional or Sequential model of Keras 3, nested models included, plain or
        pruned; or one of tf_keras. It is not changed.
      clusters: different numbers a kernel, 2 or more.
      preserve_sparsity: in kernels that have zeros or are pruned, one of the numbers is 0 and
        zeros stay zeros. Kernels without zeros have all numbers to themselves.
      skip: layers to leave as they are: names, paths, regular expressions, classes or layers;
        "first" and "last" stand for the first and the last layer with a kernel.

    Returns:
      A `CompressedModel` with the same layer names.

    Raises:
      TypeError, ValueError: not a model, subclassed or not built; clustered or quantised already;
        `clusters` no whole number of 2 or more; `skip` names no layer or leaves none.

    Source: Han, Mao, Dally 2016, "Deep Compression"; TFMOT's `cluster_weights`.

    Example:
      small = cluster(prune(student, 0.5), 16)
    """
    if not isinstance(clusters, int) or isinstance(clusters, bool) or clusters < 2:
        raise ValueError(f"Expected clusters as a whole number of 2 or more; got {clusters!r}.")
    model = as_keras3(model)
    chosen = targets(model, skip, _check_clusterable, "cluster")

    def substitute(path: str, layer: Any) -> Any:
        return _clustered(layer, clusters, preserve_sparsity) if path in chosen else layer

    return rebuild(without_float16(model), substitute)


def _clustered(layer: Any, clusters: int, preserve_sparsity: bool) -> Compressed:
    earlier = layer if isinstance(layer, Compressed) else None
    before = {path: _seen(layer, path, kernel) for path, kernel in kernels(layer).items()}
    treatments = {} if earlier is None else earlier.fresh_treatments()
    made = {}
    for path, value in before.items():
        chain = treatments.setdefault(path, [])
        pruned = any(isinstance(one, Mask) for one in chain)
        has_zero = preserve_sparsity and (pruned or bool(tf.reduce_any(value == 0)))
        made[path] = Clusters(clusters, has_zero)
        chain.append(made[path])
    inside = layer if earlier is None else earlier.stripped()
    wrapped = Compressed(inside, treatments, name=layer.name, trainable=layer.trainable)
    if earlier is not None:
        wrapped.take_state(earlier)
    for path, value in before.items():
        made[path].start(value)
    return wrapped


def _seen(layer: Any, path: str, kernel: Any) -> Any:
    if isinstance(layer, Compressed) and path in layer.treatments:
        return layer.treated_weights()[path]
    return tf.convert_to_tensor(kernel.variable.value)


def _check_clusterable(path: str, operation: Any) -> None:
    if isinstance(operation, Quantized):
        raise ValueError(
            f"The layer {path!r} is quantised: its clusters would be lost in new steps. Cluster "
            f"first, then quantize_aware(clustered); or kd.edge.strip(model) first."
        )
    chains = operation.treatments.values() if isinstance(operation, Compressed) else ()
    if any(isinstance(one, Clusters) for chain in chains for one in chain):
        raise ValueError(
            f"The layer {path!r} is clustered already. Train on with the model as it is, or "
            f"cluster(kd.edge.strip(model), ...)."
        )
