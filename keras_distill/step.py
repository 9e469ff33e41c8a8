"""One training step's arithmetic: signals -> terms -> total. It owns no model.

total = label_weight x label loss + (1 - label_weight) x sum(weight x objective) + penalties

This is the one place that reduces: every term as Keras reduces a loss, the sum of value x sample
weight over the batch's size.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_distill.objectives.base import Objective, Signals
from keras_distill.outputs import by_path
from keras_distill.schedules import TeacherEntropy

__all__ = [
    "Labels",
    "Total",
    "gradient_norm",
    "labelled",
    "mean_values",
    "objective_values",
    "reduce",
    "scheduled_names",
    "scheduled_values",
    "total",
]

# The label of a row that has none.
UNLABELLED = -1


@dataclasses.dataclass(frozen=True)
class Labels:
    """Labels that a loss can take, and what each row of them counts.

    Attributes:
      y: as given, unlabelled rows replaced by class 0.
      weight: for metrics: the sample weight, zero on unlabelled rows; None where all count one.
      loss_weight: for losses, which divide by the batch's size: `weight`, scaled up by the share
        of rows that have a label, so that the mean is taken over these (as Keras masks).
      rows: how many rows of the first output have a label, a scalar; None where all have.
    """

    y: Any
    weight: Any
    loss_weight: Any
    rows: Any = None


@dataclasses.dataclass(frozen=True)
class Total:
    """A step's loss and its parts, scalars; `objectives` unweighted, by name."""

    total: Any
    label_loss: Any
    objectives: dict[str, Any]


def labelled(y: Any, y_pred: Any, sample_weight: Any) -> Labels:
    """Leave the rows labelled -1 out of whatever is computed with these labels.

    Only integer class labels against two classes or more can be missing: elsewhere -1 is a value.

    Args:
      y, y_pred: labels and outputs, tensors or equal structures of them.
      sample_weight: None, a tensor for all outputs, or a structure like `y`.
    """
    flat_y, flat_pred = keras.tree.flatten(y), keras.tree.flatten(y_pred)
    if len(flat_y) != len(flat_pred) or not any(map(_may_lack_labels, flat_y, flat_pred)):
        return Labels(y, sample_weight, sample_weight)
    flat_weight = keras.tree.flatten(sample_weight)
    if len(flat_weight) != len(flat_y):
        flat_weight = flat_weight * len(flat_y)
    parts = list(map(_labelled, flat_y, flat_pred, flat_weight))
    rows = next(part.rows for part in parts if part.rows is not None)
    if not keras.tree.is_nested(y):
        return parts[0]
    columns = [[getattr(p, name) for p in parts] for name in ("y", "weight", "loss_weight")]
    y, weight, loss_weight = (keras.tree.pack_sequence_as(y, column) for column in columns)
    return Labels(y, weight, loss_weight, rows)


def objective_values(
    objectives: Sequence[Objective], student: Signals, teacher: Signals, labels: Any
) -> dict[str, Any]:
    """What each objective says of each example, `(batch,)`, by the objective's name.

    Raises:
      ValueError: an objective returned something else than one value an example, or misses the
        labels it needs.
    """
    return {o.name: _value(o, student, teacher, labels) for o in objectives}


def mean_values(
    objectives: Sequence[Objective], pairs: Sequence[tuple[Signals, Signals]], labels: Any
) -> dict[str, Any]:
    """`objective_values`, averaged over pairs of (student, teacher)."""
    found = [objective_values(objectives, *pair, labels) for pair in pairs]
    if len(found) == 1:
        return found[0]
    return {name: tf.add_n([values[name] for values in found]) / len(found) for name in found[0]}


def reduce(values: Any, sample_weight: Any = None):
    """Sum of value x sample weight over the batch's size, a float32 scalar."""
    values = tf.cast(values, "float32")
    if sample_weight is not None:
        # A row of weight zero is out, even where its value is not finite.
        weight = _row_weight(sample_weight)
        values = tf.where(weight == 0, tf.zeros_like(values), values) * weight
    return tf.math.divide_no_nan(tf.reduce_sum(values), tf.cast(tf.size(values), "float32"))


def total(
    label_loss: Any,
    values: Mapping[str, Any],
    objectives: Sequence[Objective],
    *,
    label_weight: Any,
    sample_weight: Any,
    penalties: Sequence[Any],
    balances: Sequence[Any] = (),
) -> Total:
    """The step's loss.

    Args:
      label_loss: a scalar, or None where there is no label loss; the objectives then count in full.
      values: from `objective_values`.
      objectives: whose weights apply.
      label_weight: in [0, 1].
      sample_weight: None, `(batch,)`, or a structure whose first member serves.
      penalties: the student's own losses (regularisers, add_loss), scalars.
      balances: what learned weights of objectives cost, scalars; they count as the objectives do.
    """
    reduced = {name: reduce(value, sample_weight) for name, value in values.items()}
    terms = [o.weight * reduced[o.name] for o in objectives]
    learned = tf.add_n([*terms, *balances] or [tf.zeros(())])
    loss = learned
    if label_loss is not None:
        label_loss = tf.cast(label_loss, "float32")
        loss = label_weight * label_loss + (1.0 - label_weight) * learned
    for penalty in penalties:
        loss += tf.cast(tf.reduce_sum(penalty), "float32")
    return Total(loss, label_loss, reduced)


def scheduled_values(
    objectives: Sequence[Objective],
    at_step: Sequence[Objective],
    student: Signals,
    teacher: Signals,
) -> dict[str, Any]:
    """What follows a schedule, as this step has it: scalars by `objective_argument`.

    Args:
      objectives: as the user gave them.
      at_step: the same, with the step's numbers in them.
      student, teacher: the teacher's answers a temperature may follow; of several heads that an
        objective compares, the first's.
    """
    found = {}
    for given, now in zip(objectives, at_step, strict=True):
        for key in scheduled_names(given):
            value = getattr(now, key)
            if isinstance(value, TeacherEntropy):
                value = value(pairs_of_heads(now, student, teacher)[0][1].logits)
            found[f"{given.name}_{key}"] = tf.reduce_mean(value)
    return found


def scheduled_names(objective: Objective) -> list[str]:
    """The arguments of an objective that are no constants."""
    return list(objective.scheduled())


def gradient_norm(gradients: Sequence[Any]):
    """The length of all gradients as one vector, a float32 scalar; None is zero."""
    # Dense first: of rows that come twice a sparse gradient holds two parts, and it is their sum
    # that counts.
    dense = [tf.cast(tf.convert_to_tensor(g), "float32") for g in gradients if g is not None]
    return tf.linalg.global_norm([tf.zeros(()), *dense])


def _value(objective: Objective, student: Signals, teacher: Signals, labels: Any):
    if objective.needs_labels and labels is None:
        raise ValueError(
            f"{objective.name} needs labels, and the data has none. Give (x, y), or leave this "
            f"objective out."
        )
    parts = [
        _checked(objective, objective.seeing(t)(s, t, y))
        for s, t, y in pairs_of_heads(objective, student, teacher, labels)
    ]
    return parts[0] if len(parts) == 1 else tf.add_n(parts)


def pairs_of_heads(
    objective: Objective, student: Signals, teacher: Signals, labels: Any = None
) -> list[tuple[Signals, Signals, Any]]:
    """The heads that an objective compares: (student, teacher, labels) of each.

    The one that `output=` names; else the first for an objective with taps, all for one without.

    Raises:
      ValueError: the two models' heads can't be matched.
    """
    heads = student.heads or teacher.heads or (None,)
    if objective.output is not None:
        if objective.output not in heads:
            raise ValueError(
                f"{objective.name}: output={objective.output!r} names no output of the student; "
                f"its outputs are {', '.join(map(repr, heads))}."
            )
        heads = (objective.output,)
    elif objective.student_taps or objective.teacher_taps:
        heads = heads[:1]
    elif (student.heads and not teacher.heads) or (teacher.heads and not student.heads):
        raise ValueError(
            f"{objective.name}: the student has the outputs {student.heads or 'one'} and the "
            f"teacher {teacher.heads or 'one'}. Say which is meant with output=."
        )
    matched = [(h, _teacher_head(h, student, teacher)) for h in heads]
    return [
        (student.head(h), teacher.head(t), _head_labels(labels, h, student)) for h, t in matched
    ]


def _teacher_head(head: str | None, student: Signals, teacher: Signals) -> str | None:
    if not teacher.heads or head in teacher.heads:
        return head
    if len(teacher.heads) == len(student.heads):
        return teacher.heads[student.heads.index(head)]
    return head


def _head_labels(labels: Any, head: str | None, student: Signals):
    if isinstance(labels, Mapping):
        return by_path(labels).get(head)
    if isinstance(labels, (list, tuple)) and head in student.heads:
        return list(by_path(labels).values())[student.heads.index(head)]
    return labels


def _checked(objective: Objective, value: Any):
    value = tf.convert_to_tensor(value)
    if value.shape.rank != 1:
        raise ValueError(
            f"{objective.name} must return one value an example, shape (batch,); it returned "
            f"{tuple(value.shape)}. Average over the other axes, and leave the batch alone."
        )
    return value


def _may_lack_labels(y: Any, y_pred: Any) -> bool:
    if y is None or not tf.convert_to_tensor(y).dtype.is_integer:
        return False
    classes = y_pred.shape[-1]
    return y_pred.shape.rank >= 2 and classes != 1 and _is_sparse(y, y_pred)


def _is_sparse(y: Any, y_pred: Any) -> bool:
    return y.shape.rank == y_pred.shape.rank - 1 or y.shape[-1] == 1


def _labelled(y: Any, y_pred: Any, sample_weight: Any) -> Labels:
    if not _may_lack_labels(y, y_pred):
        if sample_weight is None:
            sample_weight = tf.ones_like(tf.cast(y_pred[..., 0], "float32"))
        return Labels(y, sample_weight, sample_weight)
    missing = tf.equal(y, UNLABELLED)
    known = tf.cast(~missing, "float32")
    if known.shape.rank == y_pred.shape.rank:
        known = tf.squeeze(known, -1)
    weight = known
    if sample_weight is not None:
        weight = known * _aligned(tf.cast(sample_weight, "float32"), known.shape.rank)
    rows = tf.reduce_sum(known)
    scale = tf.math.divide_no_nan(tf.cast(tf.size(known), "float32"), rows)
    return Labels(tf.where(missing, tf.zeros_like(y), y), weight, weight * scale, rows)


def _aligned(weight: Any, rank: int):
    while weight.shape.rank > rank:
        weight = tf.squeeze(weight, -1)
    while weight.shape.rank < rank:
        weight = weight[..., None]
    return weight


def _row_weight(sample_weight: Any):
    weight = tf.cast(keras.tree.flatten(sample_weight)[0], "float32")
    axes = list(range(1, weight.shape.rank))
    return tf.reduce_mean(weight, axis=axes) if axes else weight


def notify(layer: Any, iterations: Any) -> None:
    """Calls `after_update(iterations)` on each layer that has it; such a layer tells its own."""
    if hasattr(layer, "after_update"):
        layer.after_update(iterations)
        return
    for child in layer._flatten_layers(include_self=False, recursive=False):
        notify(child, iterations)
