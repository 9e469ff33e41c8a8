"""What a metric gets of a batch in which labels may be missing."""

import inspect
from typing import Any

import keras
import tensorflow as tf

from keras_distill import _keras
from keras_distill.functional.tensors import Tensor
from keras_distill.training.labels import (
    COUNTS,
    aligned,
    both_known,
    cleaned,
    label_by_label,
    of_labels_rank,
    rank_of_value,
    reading_of,
    weight_by_position,
    weight_of_rank,
)

__all__ = ["update"]


def update(
    metric: Any, reading: str, known: Tensor | None, route: Any, weight: Tensor | None
) -> None:
    """The metric takes a batch up, without the labels that are not known."""
    y, y_pred = route.y, route.y_pred
    own, weighable = _keras.mask_of(y_pred), _takes_weight(metric)
    if known is None or not weighable:
        options = {"sample_weight": weight_by_position(own, weight)} if weighable else {}
        metric.update_state(y, y_pred, **options)
        return
    clean, function = cleaned(reading, y, known), _keras.metric_function(metric)
    if function is None:
        _update_other(metric, route, clean, known, weight)
        return
    if reading_of(metric) is not None:
        y_pred = of_labels_rank(reading, y, y_pred)
    rank, values = known.shape.rank, rank_of_value(function, clean, y_pred)
    if values < 1:
        # One value for the whole batch: nothing can be left out of it.
        metric.update_state(y, y_pred, sample_weight=weight)
        return
    if rank == y_pred.shape.rank == values + 1 and label_by_label(metric):
        clean, values = clean[..., None], rank
        y_pred = _keras.reshaped(y_pred, lambda tensor: tensor[..., None])
    elif values < rank:
        # One value a row: it reads the row's labels as they are, and counts if there is any.
        known = tf.reduce_any(known, axis=list(range(values, rank)))
        clean = y
    mask = both_known(known, own)
    weight = weight_of_rank(weight, values)
    with _keras.masked(y_pred, mask):
        # The oldest Keras reads the mask where there are weights alone.
        weight = tf.ones_like(mask, "float32") if weight is None else weight
        metric.update_state(clean, y_pred, sample_weight=weight)


def _update_other(
    metric: Any, route: Any, clean: Tensor, known: Tensor, weight: Tensor | None
) -> None:
    """A metric that is no mean of a function's values; what is missing weighs nothing in it."""
    y, y_pred = route.y, route.y_pred
    if known.shape.rank == y_pred.shape.rank > 1:
        if getattr(metric, "class_id", None) is not None:
            known = known[..., metric.class_id, None]
        elif not isinstance(metric, (*COUNTS, keras.metrics.BinaryIoU)):
            known = tf.reduce_all(known, axis=-1)

    def weighted():
        metric.update_state(clean, y_pred, sample_weight=_times(known, weight))

    if type(metric).__module__.startswith("keras."):
        weighted()
        return

    def by_row():
        rows = tf.reduce_any(known, axis=list(range(1, known.shape.rank)))
        metric.update_state(y, y_pred, sample_weight=_times(rows, weight))

    def some_missing():
        try:
            weighted()
        except (ValueError, tf.errors.InvalidArgumentError):
            by_row()

    def none_missing():
        metric.update_state(y, y_pred, sample_weight=weight)

    # Which weights a metric of the user's own takes, only its author knows.
    tf.cond(tf.reduce_all(known), none_missing, some_missing)


def _times(known: Tensor | None, weight: Tensor | None) -> Tensor:
    known = tf.cast(known, "float32")
    if weight is None:
        return known
    return known * aligned(tf.cast(weight, "float32"), known.shape.rank)


def _takes_weight(metric: keras.metrics.Metric) -> bool:
    return "sample_weight" in inspect.signature(metric.update_state).parameters
