"""What Keras' losses and metrics get of a batch in which labels may be missing.

Positions without a label go to Keras as a mask, so that each reduction leaves them out as Keras
does. Where none can be missing, Keras gets what it would get alone.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_distill import _keras
from keras_distill._pages import see
from keras_distill.functional.tensors import UNLABELLED, Tensor
from keras_distill.training import label_metrics
from keras_distill.training.labels import (
    aligned,
    both_known,
    by_index,
    cleaned,
    holds_minus_one,
    known_labels,
    label_by_label,
    measuring,
    of_labels_rank,
    rank_of_value,
    reading_of,
    refuse_minus_one,
    weight_by_position,
    weight_of_rank,
)

__all__ = ["HeadLoss", "LabelReader"]

_FOR_ALL = (
    ", and its loss gives one value for the whole batch, of which no label can be left out. Take a "
    "loss that gives one an example, or leave such rows out of the data."
)


@dataclasses.dataclass(frozen=True)
class HeadLoss:
    """One output's label loss in a batch.

    Attributes:
      head: the output's name.
      value: what the gradient is taken of, a float32 scalar, times `loss_weights`.
      mean: the same for the logs; another number only where the loss reduces nothing.
      rows: how many rows it is the mean of: those with a label.
      labelled: their share of the rows that no mask leaves out; 1 where the loss is a sum, to which
        a row without a label adds nothing.
      by_row: the share of each row's labels that is there, `(batch,)`, or 1 where none can miss.
    """

    head: str | None
    value: Tensor
    mean: Any
    rows: Tensor
    labelled: Any = 1.0
    by_row: Any = 1.0


@dataclasses.dataclass(frozen=True)
class _Sent:
    """What a loss or metric gets.

    Attributes:
      y, y_pred, weight: in place of the labels, outputs and sample weights given.
      known: booleans by value of the loss, False where there is no label; None where it reads all.
      entries: how many labels a position has, where each became a position of its own.
    """

    y: Tensor
    y_pred: Tensor
    weight: Tensor | None
    known: Tensor | None = None
    entries: Tensor | None = None


class LabelReader:
    """Sends one batch's labels to the compiled losses and metrics.

    Args:
      unlabelled: "auto", -1 or None, or a dict of these by output; see `Distiller.compile`.
      kinds: what the outputs are, by head: "logits", "probabilities" or "sigmoid".
      heads: this batch's outputs by head.
      routes: from `_keras.loss_routes`; empty without a loss.
      metric_routes: from `_keras.metric_routes`; empty without metrics.
    """

    def __init__(
        self,
        unlabelled: Any,
        kinds: Mapping[str | None, str],
        heads: Mapping[str | None, Any],
        routes: Sequence[_keras.LossRoute],
        metric_routes: Sequence[_keras.MetricRoute],
    ):
        self._unlabelled, self._kinds = unlabelled, kinds
        self._names = {id(tensor): head for head, tensor in heads.items()}
        self._routes = [_of_tensors(route) for route in routes]
        self._metric_routes = [_of_tensors(route) for route in metric_routes]

    def losses(self, rows: Tensor) -> list[HeadLoss]:
        """Every output's label loss, and Keras' own means of each updated."""
        return [self._loss(route, rows) for route in self._routes]

    def update_metrics(self) -> None:
        """Every compiled metric takes the batch up."""
        for route in self._metric_routes:
            if not (route.metrics or route.weighted):
                continue
            reading, known = self._read(route.y, route.y_pred)
            with measuring(route.y):
                for metric in route.metrics:
                    label_metrics.update(metric, reading, known, route, None)
                for metric in route.weighted:
                    label_metrics.update(metric, reading, known, route, route.sample_weight)

    def _loss(self, route: _keras.LossRoute, rows: Tensor) -> HeadLoss:
        reading, known = self._read(route.y, route.y_pred)
        sent = _sent(route, reading, known)
        own = _keras.mask_of(route.y_pred)
        mask = own if sent.known is None else both_known(sent.known, own)
        with _keras.masked(sent.y_pred, mask):
            value = route.loss(sent.y, sent.y_pred, sent.weight)
        if sent.entries is not None and value.shape.rank:
            value = tf.reduce_sum(value, -1)
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        if replicas > 1:
            value = value * replicas  # Keras divides each replica's loss by their number.
        summed = route.loss.reduction in ("sum", "none", None)
        share = labelled = by_row = 1.0
        if sent.known is not None:
            by_row = _share(sent.known, own, axis=list(range(1, sent.known.shape.rank)))
            if not summed:
                share = tf.reduce_mean(tf.cast(sent.known, "float32"))
                weighted = route.loss.reduction == "mean_with_sample_weight"
                labelled = _share(sent.known, own, sent.weight if weighted else None)
        if route.mean is not None:
            _update_as_keras(route, value, share)
        value = tf.cast(value, "float32")
        if route.factor is not None:
            value = value * tf.cast(route.factor, "float32")
        rows = tf.cast(rows, "float32") * share
        head, mean = self._names.get(id(route.y_pred)), value
        if value.shape.rank:
            value, mean = tf.reduce_sum(value), tf.reduce_mean(value)
        return HeadLoss(head, value, mean, rows, labelled, by_row)

    def _rule(self, y_pred: Tensor) -> Any:
        if isinstance(self._unlabelled, Mapping):
            return self._unlabelled.get(self._names.get(id(y_pred)), "auto")
        return self._unlabelled

    def _read(self, y: Tensor, y_pred: Tensor) -> tuple[str, Any]:
        """How this output's labels are read, and which are known; None where none can miss."""
        losses = [route.loss for route in self._routes if route.y_pred is y_pred]
        readers: list[Any] = [*losses]
        for route in self._metric_routes:
            if route.y_pred is y_pred:
                readers += [*route.metrics, *route.weighted]
        reading = next(filter(None, map(reading_of, readers)), "unclear")
        rule = self._rule(y_pred)
        told_by_metric = not any(map(reading_of, losses))
        if reading == "one_hot" and told_by_metric and self._kind(y_pred) == "sigmoid":
            reading = "yes_no"  # Keras takes "accuracy" of several labels for a class in one-hot.
        if y is None or rule is None or not holds_minus_one(y):
            return reading, None
        if rule == UNLABELLED and reading in ("unclear", "numbers", "whole"):
            reading = "told"
        if reading == "unclear" and self._kind(y_pred) == "probabilities" and by_index(y, y_pred):
            reading = "index"
        if reading in ("unclear", "whole"):
            self._refuse_unclear(reading, y, y_pred)
        return reading, known_labels(reading, y, y_pred)

    def _kind(self, y_pred: Tensor) -> str:
        return self._kinds.get(self._names.get(id(y_pred)), "logits")

    def _refuse_unclear(self, reading: str, y: Tensor, y_pred: Tensor) -> None:
        """ValueError on -1 in labels of which nothing says what it means; floats are numbers."""
        head = self._names.get(id(y_pred))
        where = "" if head is None else f" of the output {head!r}"
        if reading == "whole":
            refuse_minus_one(f"A label{where} is {UNLABELLED}{_FOR_ALL}", y)
        elif y.dtype.is_integer or self._kind(y_pred) == "sigmoid":
            refuse_minus_one(
                f"A label{where} is {UNLABELLED}, and what reads it does not tell whether this "
                f"means no label. Say compile(unlabelled={UNLABELLED}) if it does and "
                f"compile(unlabelled=None) if it is a label like any other, or give such rows the "
                f"sample weight 0 and another label.{see('unlabelled')}",
                y,
            )


def _of_tensors(route: Any) -> Any:
    given = {"y": route.y, "sample_weight": route.sample_weight}
    tensors = {k: None if v is None else tf.convert_to_tensor(v) for k, v in given.items()}
    return route._replace(**tensors)


def _sent(route: _keras.LossRoute, reading: str, known: Tensor | None) -> _Sent:
    y, y_pred, weight = route.y, route.y_pred, route.sample_weight
    own, reads = _keras.mask_of(y_pred), reading_of(route.loss)
    if known is None:
        rank = 0 if reads in (None, "whole", "sequence") else y_pred.shape.rank - 1
        return _Sent(y, y_pred, weight_by_position(own, weight, rank))
    if reads is not None:
        y_pred = of_labels_rank(reading, y, y_pred)
    clean = cleaned(reading, y, known)
    if reading == "sequence" and own is not None:
        return _Sent(clean, y_pred, weight)
    rank = y_pred.shape.rank - 1
    if reads is None:
        cast = (tf.cast(tensor, route.loss.dtype) for tensor in (clean, y_pred))
        rank = rank_of_value(route.loss.call, *cast)  # Keras calls it with tensors of this type.
    elif reading == "sequence":
        rank = 1
    if known.shape.rank == y_pred.shape.rank and label_by_label(route.loss):
        return _by_entry(route, clean, y_pred, known)
    if known.shape.rank > rank >= 1:
        # One value a row: it reads the row's labels as they are, and counts if there is any.
        known = tf.reduce_any(known, axis=list(range(rank, known.shape.rank)))
        return _Sent(y, y_pred, weight, known)
    if rank < 1:
        refuse_minus_one(f"A label is {UNLABELLED}{_FOR_ALL}", y)
        return _Sent(y, y_pred, weight)
    return _Sent(clean, y_pred, weight_of_rank(weight, rank), known)


def _by_entry(route: _keras.LossRoute, y: Tensor, y_pred: Tensor, known: Tensor) -> _Sent:
    """Each label of a position as a position of its own, which a mask can leave out."""
    entries = tf.shape(known)[-1]
    weight = route.sample_weight
    if weight is not None:
        weight = tf.cast(weight_of_rank(weight, known.shape.rank), "float32")
    if route.loss.reduction in ("sum", "none", None):
        # The loss of a position is the mean over its labels.
        weight = (1.0 if weight is None else weight) / tf.cast(entries, "float32")
    if weight is not None:
        weight = weight * tf.ones_like(known, "float32")
    y_pred = _keras.reshaped(y_pred, lambda tensor: tensor[..., None])
    return _Sent(y[..., None], y_pred, weight, known, entries)


def _share(
    known: Tensor,
    own: Tensor | None,
    weight: Tensor | None = None,
    axis: Sequence[int] | None = None,
) -> Tensor:
    """The share of labels that are there, of those that the model's own mask does not leave out."""
    kept = tf.cast(both_known(tf.ones_like(known), own), "float32")
    if weight is not None:
        kept *= aligned(tf.cast(weight, "float32"), known.shape.rank)
    missing = tf.reduce_sum(tf.where(known, 0.0, kept), axis)
    # Where nothing is kept, nothing is missing.
    return 1.0 - tf.math.divide_no_nan(missing, tf.reduce_sum(kept, axis))


def _update_as_keras(route: _keras.LossRoute, value: Tensor, share: Tensor) -> None:
    """Keras weighs a batch by its size where that is known beforehand, else all alike."""
    rows = route.y_pred.shape[0]
    weight = rows if isinstance(share, float) else (rows or 1.0) * share
    route.mean.update_state(value, sample_weight=weight)
