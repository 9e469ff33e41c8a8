"""What is used of the frameworks' private parts: where it was read, and what breaks without it.

What names no version was read from Keras 3.15.1, whose names are there since 3.10.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras.src.backend import get_keras_mask, set_keras_mask
from keras.src.trainers.compile_utils import CompileLoss, CompileMetrics, MetricsList

__all__ = [
    "Directions",
    "LossRoute",
    "MetricRoute",
    "is_validation_of_fit",
    "loss_routes",
    "mask_of",
    "masked",
    "metric_function",
    "metric_routes",
    "named_directions",
    "reshaped",
    "reshuffled",
    "upstream",
]


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


def reshaped(tensor: Any, change: Callable[[Any], Any]) -> Any:
    """`change(tensor)`, the logits that Keras keeps on it (`_keras_logits`) changed likewise."""
    changed = change(tensor)
    kept = getattr(tensor, "_keras_logits", None)
    if kept is not None and changed is not tensor:
        changed._keras_logits = change(kept)
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
