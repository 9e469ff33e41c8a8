"""How much a channel matters: by its weights, or by what it does on data."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill import _keras
from keras_distill.data import batches
from keras_distill.graph.copying import weight_paths
from keras_distill.graph.replay import Graph, Value, functional
from keras_distill.signals.meaning import kind_of
from keras_distill.signals.outputs import head_of
from keras_distill.transfer.width.channels import Channels
from keras_distill.transfer.width.survey import Role

WEIGHT_CRITERIA = ("l1", "l2", "bn_scale")
DATA_CRITERIA = ("activation", "taylor")
CRITERIA = (*WEIGHT_CRITERIA, *DATA_CRITERIA)


def check_criterion(criterion: str, data: Any) -> None:
    """Refuses an unknown criterion, and data missing or not needed.

    Raises:
      ValueError: in words that say which criteria need data.
    """
    if criterion not in CRITERIA:
        raise ValueError(f"Expected criterion as one of {', '.join(CRITERIA)}; got {criterion!r}.")
    if criterion in DATA_CRITERIA and data is None:
        needs = "(x, y)" if criterion == "taylor" else "inputs"
        raise ValueError(
            f"criterion={criterion!r} is measured on data: give data={needs}, some hundred rows "
            f"like those to come; or choose one of {', '.join(WEIGHT_CRITERIA)}."
        )
    if criterion in WEIGHT_CRITERIA and data is not None:
        raise ValueError(f"criterion={criterion!r} looks at weights alone; leave data out.")


def importance(
    model: Any, channels: Channels, criterion: str, *, data: Any = None, loss: Any = None
) -> np.ndarray:
    """A non-negative number for each class of channels; comparable within a group.

    - "l1", "l2": the norm of the weights that make the channel (Li et al., ICLR 2017), the mean
      over the layers that make it.
    - "bn_scale": the size of its BatchNormalization's gamma (Liu et al., ICCV 2017); "l2" in a
      group where not every channel has one.
    - "activation": the mean absolute value of what the next layers with weights read.
    - "taylor": the mean over examples of `|mean over places of gradient x activation|` there, the
      loss' change to first order if the channel were zero (Molchanov et al., ICLR 2017).

    Args:
      model: the one that `channels` were found in.
      channels: from `analyse`.
      criterion: one of the above.
      data: any data argument, `(x, y)` for "taylor".
      loss: for "taylor" a Keras loss of `(y, output)`; by default the compiled one, else
        cross-entropy, for integer labels.

    Returns:
      `(classes,)` float64.

    Raises:
      ValueError: as `check_criterion`; labels missing or of a kind that needs `loss`.
    """
    check_criterion(criterion, data)
    if criterion in ("l1", "l2"):
        return _weight_norms(channels, 1 if criterion == "l1" else 2)
    if criterion == "bn_scale":
        return _scales(channels)
    return _measured(model, channels, criterion, data, loss)


def normalised(channels: Channels, scores: np.ndarray) -> np.ndarray:
    """Scores over the root mean square of their group's, so that groups can be compared."""
    scores = scores.copy()
    for group in channels.groups:
        scale = np.sqrt(np.mean(scores[group.classes] ** 2))
        if scale > 0:
            scores[group.classes] /= scale
    return scores


class _Mean:
    """The mean of what is said of each class, wherever it is said."""

    def __init__(self, count: int):
        self._sums, self.counts = np.zeros(count), np.zeros(count)

    def add(self, classes: np.ndarray, values: Any) -> None:
        np.add.at(self._sums, classes, values)
        np.add.at(self.counts, classes, 1)

    def result(self) -> np.ndarray:
        return self._sums / np.maximum(self.counts, 1)


def _weight_norms(channels: Channels, order: int) -> np.ndarray:
    found = _Mean(channels.count)
    for role in channels.roles.values():
        weights = weight_paths(role.operation) if role.made_at else {}
        # Not the biases: they say little of what a channel carries.
        for path, place in role.made_at.items():
            sizes = np.moveaxis(np.abs(weights[path].numpy().astype("float64")), place, 0)
            sums = np.sum(sizes.reshape(len(sizes), -1) ** order, axis=1)
            found.add(_axis(role, path, place), sums ** (1 / order))
    return found.result()


def _axis(role: Role, path: str, place: int) -> np.ndarray:
    axis = role.axes[path][place]
    assert axis is not None, "a layer makes channels along an axis that carries them"
    return axis


def _scales(channels: Channels) -> np.ndarray:
    found = _Mean(channels.count)
    for role in channels.roles.values():
        gamma = getattr(role.operation, "gamma", None)
        if isinstance(role.operation, keras.layers.BatchNormalization) and gamma is not None:
            found.add(role.out, np.abs(gamma.numpy().astype("float64")))
    scores, norms = found.result(), _weight_norms(channels, 2)
    for group in channels.groups:
        if not found.counts[group.classes].all():
            scores[group.classes] = norms[group.classes]
    return scores


def _measured(model: Any, channels: Channels, criterion: str, data: Any, loss: Any) -> np.ndarray:
    graph = channels.graph
    watched = {
        id(value): value
        for step in graph.steps
        if any(len(axes) > 1 for axes in channels.roles[step.path].axes.values())
        for value in step.inputs
        if value.step is not None
    }
    values = list(watched.values())
    found = [np.zeros(len(channels.of(value))) for value in values]
    measure = _taylor(graph, values, _loss_of(model, loss)) if criterion == "taylor" else None
    measure = measure or _activation(graph, values)
    for x, y, _ in batches(data, batch_size=64):
        if criterion == "taylor":
            _check_labels(y)
        inputs = _keras.standardized(functional(model), x)
        for total, part in zip(found, measure(inputs, y), strict=True):
            total += part.numpy()
    scores = _Mean(channels.count)
    for value, total in zip(values, found, strict=True):
        scores.add(channels.of(value), total)
    return scores.result()


def _activation(graph: Graph, values: list[Value]) -> Any:
    @tf.function(reduce_retracing=True)
    def measure(inputs: Any, _: Any) -> list[Any]:
        tensors, _ = _run(graph, inputs)
        return [_sum_over_examples(tf.abs(tensors[id(value)])) for value in values]

    return measure


def _taylor(graph: Graph, values: list[Value], loss: Any) -> Any:
    @tf.function(reduce_retracing=True)
    def measure(inputs: Any, labels: Any) -> list[Any]:
        with tf.GradientTape() as tape:
            tape.watch([x for x in inputs if x.dtype.is_floating])
            tensors, outputs = _run(graph, inputs)
            value = loss(labels, outputs[0])
        read = [tensors[id(value)] for value in values]
        gradients = tape.gradient(value, read, unconnected_gradients="zero")
        return [_sum_over_examples(x * g) for x, g in zip(read, gradients, strict=True)]

    return measure


def _sum_over_examples(x: Any) -> Any:
    places = list(range(1, len(x.shape) - 1))
    x = tf.cast(x, "float32")
    return tf.reduce_sum(tf.abs(tf.reduce_mean(x, places) if places else x), 0)


def _run(graph: Graph, inputs: Any) -> tuple[dict[int, Any], list[Any]]:
    """Every tensor of the graph, at inference, by its value's identity; and the outputs."""
    tensors = {id(value): x for value, x in zip(graph.inputs, inputs, strict=True)}

    def filled(argument: Any) -> Any:
        return tensors[id(argument)] if isinstance(argument, Value) else argument

    for step in graph.steps:
        args, kwargs = keras.tree.map_structure(filled, (step.args, step.kwargs))
        if _keras.takes_training(step.operation):
            kwargs["training"] = False
        made = keras.tree.flatten(step.operation(*args, **kwargs))
        tensors |= {id(value): x for value, x in zip(step.outputs, made, strict=True)}
    return tensors, [tensors[id(value)] for value in graph.outputs]


def _loss_of(model: Any, loss: Any) -> Any:
    loss = loss or (getattr(model, "loss", None) if getattr(model, "compiled", False) else None)
    if loss is None:
        return _cross_entropy
    if isinstance(loss, (list, dict)):
        raise ValueError("criterion='taylor' wants one loss, of the first output: give loss=.")
    return keras.losses.get(loss)


def _cross_entropy(labels: Any, output: Any) -> Any:
    logits = head_of(output, kind_of(output)).logits
    return keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)


def _check_labels(y: Any) -> None:
    if y is None:
        raise ValueError("criterion='taylor' needs labels: give data=(x, y).")
