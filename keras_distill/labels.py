"""Labels that are missing, and which they are.

-1 is no label where labels are classes, or yes and no: how the output's loss reads them, else one
of its metrics, tells. Elsewhere it is a number.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_distill import _keras
from keras_distill.functional.tensors import UNLABELLED

__all__ = [
    "COUNTS",
    "aligned",
    "by_index",
    "check_unlabelled",
    "cleaned",
    "holds_minus_one",
    "known_labels",
    "reading_of",
    "refuse_minus_one",
]

# How Keras' losses and metrics read labels: class indices; a class in one-hot; yes or no an entry;
# a sequence that ends in padding; numbers; yes or no over the whole batch.
_READS = {
    "index": (
        "sparse_categorical_crossentropy",
        "categorical_generalized_cross_entropy",
        "sparse_categorical_accuracy",
        "sparse_top_k_categorical_accuracy",
    ),
    "one_hot": (
        "categorical_crossentropy",
        "categorical_focal_crossentropy",
        "categorical_hinge",
        "kl_divergence",
        "categorical_accuracy",
        "top_k_categorical_accuracy",
    ),
    "yes_no": ("binary_crossentropy", "binary_focal_crossentropy", "binary_accuracy"),
    "sequence": ("ctc",),
    "numbers": (
        "mean_squared_error",
        "mean_absolute_error",
        "mean_absolute_percentage_error",
        "mean_squared_logarithmic_error",
        "cosine_similarity",
        "huber",
        "log_cosh",
        "poisson",
        "hinge",
        "squared_hinge",
        "circle",
    ),
    "whole": ("dice", "tversky"),
}
_READ_BY = {name: reading for reading, names in _READS.items() for name in names}
# Metrics that count yes and no, and take a weight for each entry.
COUNTS = (
    keras.metrics.AUC,
    keras.metrics.Precision,
    keras.metrics.Recall,
    keras.metrics.TruePositives,
    keras.metrics.TrueNegatives,
    keras.metrics.FalsePositives,
    keras.metrics.FalseNegatives,
    keras.metrics.PrecisionAtRecall,
    keras.metrics.RecallAtPrecision,
    keras.metrics.SensitivityAtSpecificity,
    keras.metrics.SpecificityAtSensitivity,
)


def check_unlabelled(unlabelled: Any, heads: Sequence[str | None]) -> Any:
    """`unlabelled` itself.

    Raises:
      ValueError: neither "auto", -1 nor None, or a dict with another output's name.
    """
    by_head = unlabelled if isinstance(unlabelled, Mapping) else {None: unlabelled}
    if isinstance(unlabelled, Mapping) and not set(unlabelled) <= set(heads):
        raise ValueError(
            f"unlabelled= names the outputs {', '.join(map(repr, unlabelled))}, and the student's "
            f"are {', '.join(map(repr, heads))}."
        )
    for rule in by_head.values():
        if isinstance(rule, bool) or rule not in ("auto", UNLABELLED, None):
            raise ValueError(
                f"unlabelled must be 'auto', {UNLABELLED} (such a label is none) or None (every "
                f"label is one), or a dict of these by output; got {unlabelled!r}."
            )
    return unlabelled


def aligned(weight: Any, rank: int):
    """A weight with as many axes: of one that has fewer each row's serves all its positions."""
    while weight.shape.rank > rank and weight.shape[-1] in (1, None):
        weight = tf.squeeze(weight, -1)
    while weight.shape.rank < rank:
        weight = weight[..., None]
    return weight


def reading_of(reader: Any) -> str | None:
    """How a loss or metric reads labels, or None where only its author knows."""
    if isinstance(reader, COUNTS):
        return "yes_no"
    if isinstance(reader, keras.metrics.Metric):
        reader = _keras.metric_function(reader)
    function = getattr(reader, "fn", reader)
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, "fn", function)
    if not getattr(function, "__module__", "").startswith("keras."):
        return None
    return _READ_BY.get(getattr(function, "__name__", ""))


def holds_minus_one(y: Any) -> bool:
    """Whether a label of this type can be -1: in unsigned ones 255 is a class."""
    return y.dtype.is_floating or (y.dtype.is_integer and not y.dtype.is_unsigned)


def by_index(y: Any, y_pred: Any) -> bool:
    """One label a position, not one an output of it."""
    rank = y_pred.shape.rank
    return y.shape.rank == rank - 1 or (y.shape.rank == rank and y.shape[-1] == 1)


def known_labels(reading: str, y: Any, y_pred: Any) -> Any:
    """Booleans, False where there is no label, by position or by label of several; or None."""
    if reading in ("unclear", "numbers", "whole") or y_pred.shape.rank is None:
        return None
    rank = y_pred.shape.rank
    given = tf.not_equal(y, tf.cast(UNLABELLED, y.dtype))
    if reading == "sequence":
        return tf.reduce_any(given, axis=-1) if y.shape.rank == 2 else None
    one = reading in ("index", "told") or (reading == "yes_no" and y_pred.shape[-1] == 1)
    if one and rank > 1 and by_index(y, y_pred):
        return tf.squeeze(given, -1) if y.shape.rank == rank else given
    if y.shape.rank != rank or reading == "index":
        return None
    return given if reading == "yes_no" or rank == 1 else tf.reduce_any(given, axis=-1)


def cleaned(reading: str, y: Any, known: Any):
    """Labels that a loss can take, 0 in place of the missing."""
    if reading in ("one_hot", "told") and y.shape.rank == known.shape.rank + 1:
        missing = ~known[..., None]
    else:
        missing = tf.equal(y, tf.cast(UNLABELLED, y.dtype))
    return tf.where(missing, tf.zeros_like(y), y)


def refuse_minus_one(message: str, y: Any) -> None:
    """ValueError where a label is -1; in a graph an assertion, which XLA leaves out."""
    present = tf.reduce_any(tf.equal(y, tf.cast(UNLABELLED, y.dtype)))
    if not tf.executing_eagerly():
        tf.debugging.Assert(~present, [message])
    elif present:
        raise ValueError(message)
