"""Labels that are missing, and which they are.

-1 is no label where labels are classes, or yes and no: how the output's loss reads them, else one
of its metrics, tells. Elsewhere it is a number.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_distill import _keras
from keras_distill.functional.tensors import UNLABELLED, Tensor

__all__ = [
    "COUNTS",
    "aligned",
    "both_known",
    "by_index",
    "check_unlabelled",
    "cleaned",
    "holds_minus_one",
    "known_labels",
    "label_by_label",
    "measuring",
    "of_labels_rank",
    "rank_of_value",
    "reading_of",
    "refuse_minus_one",
    "weight_by_position",
    "weight_of_rank",
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
# Those whose value is the mean of what they say of each label of a position.
_LABEL_BY_LABEL = {*_READS["yes_no"], *_READS["numbers"]} - {"cosine_similarity", "circle"}
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


def aligned(weight: Tensor, rank: int) -> Tensor:
    """A weight with as many axes: of one that has fewer each row's serves all its positions."""
    while weight.shape.rank > rank and weight.shape[-1] in (1, None):
        weight = tf.squeeze(weight, -1)
    while weight.shape.rank < rank:
        weight = weight[..., None]
    return weight


def reading_of(reader: Any) -> str | None:
    """How a loss or metric reads labels, or None where only its author knows."""
    if isinstance(reader, (*COUNTS, keras.metrics.BinaryIoU)):
        return "yes_no"
    arguments = _keras.bound_arguments(reader)
    if isinstance(arguments.get("axis"), int) and arguments["axis"] != -1:
        return None
    return _READ_BY.get(_name_of(reader))


def label_by_label(reader: Any) -> bool:
    """Whether a loss or metric says as much of each label of a position alone as of all of them."""
    return _name_of(reader) in _LABEL_BY_LABEL


def _name_of(reader: Any) -> str:
    """The function of Keras behind a loss or metric, or "" for any other."""
    if isinstance(reader, keras.metrics.Metric):
        reader = _keras.metric_function(reader)
    function = getattr(reader, "fn", reader)
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, "fn", function)
    ours = getattr(function, "__module__", "").startswith("keras.")
    return getattr(function, "__name__", "") if ours else ""


def holds_minus_one(y: Tensor) -> bool:
    """Whether a label of this type can be -1: in unsigned ones 255 is a class."""
    return y.dtype.is_floating or (y.dtype.is_integer and not y.dtype.is_unsigned)


def by_index(y: Tensor, y_pred: Tensor) -> bool:
    """One label a position, not one an output of it."""
    rank = y_pred.shape.rank
    return y.shape.rank == rank - 1 or (y.shape.rank == rank and y.shape[-1] == 1)


def known_labels(reading: str, y: Tensor, y_pred: Tensor) -> Tensor:
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


def cleaned(reading: str, y: Tensor, known: Tensor) -> Tensor:
    """Labels that a loss can take, 0 in place of the missing."""
    if reading in ("one_hot", "told") and y.shape.rank == known.shape.rank + 1:
        missing = ~known[..., None]
    else:
        missing = tf.equal(y, tf.cast(UNLABELLED, y.dtype))
    return tf.where(missing, tf.zeros_like(y), y)


@contextlib.contextmanager
def measuring(y: Tensor) -> Iterator[None]:
    """Metrics take labels up meanwhile; ValueError where one misses them, as no data has any."""
    try:
        yield
    except (AttributeError, TypeError, ValueError) as error:
        if y is not None:
            raise
        raise ValueError(
            "compile() was given metrics that compare answers with labels, and the data has no "
            "labels. Give (x, y), or compile without these metrics; "
            "compile(validate_objectives=True) measures against the teacher, without labels."
        ) from error


def refuse_minus_one(message: str, y: Tensor) -> None:
    """ValueError where a label is -1; in a graph an assertion, which XLA leaves out."""
    present = tf.reduce_any(tf.equal(y, tf.cast(UNLABELLED, y.dtype)))
    if not tf.executing_eagerly():
        tf.debugging.Assert(~present, [message])
    elif present:
        raise ValueError(message)


def of_labels_rank(reading: str, y: Tensor, y_pred: Tensor) -> Tensor:
    """Without its last axis of one where the labels have none, as Keras' binary losses drop it."""
    if reading == "yes_no" and 1 < y.shape.rank == y_pred.shape.rank - 1:
        return _keras.reshaped(y_pred, lambda tensor: tf.squeeze(tensor, -1))
    return y_pred


def both_known(known: Tensor, own: Tensor | None) -> Tensor:
    """What is known and not masked by the model itself."""
    if own is None:
        return known
    own = tf.cast(own, "bool")
    return known if own.shape.rank > known.shape.rank else known & aligned(own, known.shape.rank)


def weight_by_position(mask: Tensor | None, weight: Tensor | None, rank: int = 0) -> Tensor:
    """A weight by row, for values by position: multiplied as it is, rows would meet positions."""
    rank = max(rank, 0 if mask is None else mask.shape.rank)
    if weight is None or rank < 2:
        return weight
    return aligned(weight, rank) if weight.shape.rank < rank else weight


def rank_of_value(function: Any, y: Tensor, y_pred: Tensor) -> int:
    """How many axes the values of a loss or metric have."""
    return tf.convert_to_tensor(function(y, y_pred)).shape.rank


def weight_of_rank(weight: Tensor | None, rank: int) -> Tensor:
    """`aligned`, of a weight that may be None."""
    return None if weight is None else aligned(weight, rank)
