"""One training step's arithmetic: signals -> terms -> total. It owns no model.

total = label_weight x label loss + (1 - label_weight) x sum(weight x objective) + penalties

of each row that has a label; one without learns from the objectives in full.

This is the one place that reduces objectives: each as Keras reduces a loss, the sum of value x
sample weight over the batch's size, or over what is not masked.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_distill import _keras
from keras_distill.functional.tensors import Tensor
from keras_distill.objectives.base import Objective
from keras_distill.schedules import TeacherEntropy
from keras_distill.signals import Signals
from keras_distill.signals.outputs import by_path
from keras_distill.training.label_losses import HeadLoss
from keras_distill.training.labels import aligned

__all__ = [
    "Total",
    "check_labels_needed",
    "gradient_norm",
    "objective_terms",
    "pairs_of_heads",
    "reduce",
    "scheduled_names",
    "scheduled_values",
    "shares_of_objectives",
    "silenced",
    "taught_terms",
    "total",
]


@dataclasses.dataclass(frozen=True)
class Total:
    """A step's loss and its parts, scalars.

    Attributes:
      label_loss: unweighted, added over outputs, or None.
      shares: of each output's label loss in the total.
      rest: what the total has besides the label losses.
    """

    total: Tensor
    label_loss: Tensor
    shares: list[Any]
    rest: Tensor


def objective_terms(
    objectives: Sequence[Objective],
    pairs: Sequence[tuple[Signals, Signals]],
    labels: Any = None,
    sample_weight: Tensor | None = None,
    masks: Mapping[str | None, Any] | None = None,
) -> dict[str, Any]:
    """What each objective says of the batch, a float32 scalar by the objective's name.

    Heads are added, each with its own labels, sample weights and mask; over pairs it is the mean.
    An objective `per_position` weighs each position of its own. Any other weighs an example, by
    the mean weight of its positions; where it sees no layers, masked ones do not count in that, and
    an example without any other is out. Layers that several heads share weigh an example by the
    mean over the heads.

    Args:
      pairs: of (student, teacher).
      labels, sample_weight: None, a tensor for every head, or a structure by head.
      masks: by head, booleans `(batch, ...)` that are False at padding, or None.

    Raises:
      ValueError: an objective returned something else than one value an example, or misses the
        labels it needs.
    """
    return taught_terms(objectives, pairs, labels, sample_weight, masks)[0]


def taught_terms(
    objectives: Sequence[Objective],
    pairs: Sequence[tuple[Signals, Signals]],
    labels: Any = None,
    sample_weight: Tensor | None = None,
    masks: Mapping[str | None, Any] | None = None,
    shares: Mapping[str | None, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`objective_terms`, and the same where each row counts by the share that it takes part with.

    Args:
      shares: by head, of each row, `(batch,)` or a scalar; in full for a head that it leaves out.
    """
    if labels is None:
        check_labels_needed(objectives)
    plain: dict[str, Any] = {}
    shared: dict[str, Any] = {}
    for objective in objectives:
        terms = [
            _term(
                objective,
                ours,
                theirs,
                _of_head(labels, head, student),
                _mean([_of_head(sample_weight, h, student) for h in weighing]),
                (masks or {}).get(head if student.names else None),
                _mean([(shares or {}).get(h, 1.0) for h in weighing]),
            )
            for student, teacher in pairs
            for head, ours, theirs in _matched(objective, student, teacher)
            for weighing in [_weighing(objective, head, student)]
        ]
        for found, parts in zip((plain, shared), zip(*terms, strict=True), strict=True):
            term = parts[0] if len(parts) == 1 else tf.add_n(parts)
            found[objective.name] = term if len(pairs) == 1 else term / len(pairs)
    return plain, shared


def check_labels_needed(objectives: Sequence[Objective]) -> None:
    """ValueError where an objective can't do without labels: the data has none."""
    for objective in objectives:
        if objective.needs_labels:
            raise ValueError(
                f"{objective.name} needs labels, and the data has none. Give (x, y), or leave this "
                f"objective out."
            )


def reduce(
    values: Tensor, sample_weight: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Sum of value x sample weight over the number of values that no mask leaves out.

    Args:
      values: `(batch,)`, or with axes of positions.
      sample_weight: None, or of the values' rank; one of weight zero is out even where it is not
        finite.
      mask: None, or booleans of the values' shape.

    Returns:
      A float32 scalar.
    """
    values = tf.cast(values, "float32")
    weight = None if sample_weight is None else tf.cast(sample_weight, "float32")
    if mask is not None:
        kept = tf.cast(mask, "float32") * tf.ones_like(values)
        kept *= tf.math.divide_no_nan(tf.cast(tf.size(kept), "float32"), tf.reduce_sum(kept))
        weight = kept if weight is None else kept * weight
    if weight is not None:
        values = tf.where(weight == 0, tf.zeros_like(values), values) * weight
    return tf.math.divide_no_nan(tf.reduce_sum(values), tf.cast(tf.size(values), "float32"))


def silenced(x: Any, y: Any, sample_weight: Tensor | None) -> tuple[Any, Any]:
    """The batch with no number in it that is not finite and weighs nothing.

    Times zero such a number is still none. A row of `x` that weighs nothing in any output takes the
    place of the first that does, so that a normalisation sees nothing strange; a label becomes 0.
    """
    if all(weight is None for weight in keras.tree.flatten(sample_weight)):
        return x, y
    weights = keras.tree.flatten(sample_weight)
    zero = [
        tf.constant(False) if weight is None else tf.equal(tf.cast(weight, "float32"), 0.0)
        for weight in weights
    ]
    out = functools.reduce(tf.logical_and, [_all_but_batch(tf.reduce_all, each) for each in zero])
    first = tf.argmin(tf.cast(out, "int32"))
    x = keras.tree.map_structure(lambda leaf: _without_nan_rows(leaf, out, first), x)
    leaves = keras.tree.flatten(y)
    if len(zero) != len(leaves):
        zero = [out] * len(leaves)
    leaves = [_without_nan(*pair) for pair in zip(leaves, zero, strict=True)]
    return x, keras.tree.pack_sequence_as(y, leaves)


def shares_of_objectives(
    label_losses: Sequence[HeadLoss], label_weight: Any, heads: Iterable[str | None]
) -> dict[str | None, Any]:
    """The share of the objectives in what each row teaches, by head: what its labels leave.

    Args:
      label_losses: one an output; none where there is no label loss.
      label_weight: in [0, 1].
      heads: all of the student's.
    """
    if not label_losses:
        return {}
    by_row = {loss.head: loss.by_row for loss in label_losses}
    return {head: 1.0 - label_weight * by_row.get(head, 1.0) for head in heads}


def total(
    label_losses: Sequence[HeadLoss],
    terms: Mapping[str, Any],
    objectives: Sequence[Objective],
    *,
    label_weight: Any,
    penalties: Sequence[Any],
    balances: Sequence[Any] = (),
) -> Total:
    """The step's loss.

    `label_weight` is the labels' share in what a row with a label teaches; one without teaches
    through the objectives in full. The label loss is the mean of the rows with a label, and so
    counts by the share of these rows.

    Args:
      label_losses: one an output; none where there is no label loss.
      terms: from `taught_terms`, the second.
      objectives: whose weights apply.
      label_weight: in [0, 1].
      penalties: the student's own losses (regularisers, add_loss), scalars.
      balances: what learned weights of objectives cost, scalars; they count as the objectives do.
    """
    shares = [label_weight * head.labelled for head in label_losses]
    rest = tf.add_n([o.weight * terms[o.name] for o in objectives] or [tf.zeros(())])
    if balances:
        left = shares_of_objectives(label_losses, label_weight, [h.head for h in label_losses])
        of_heads = [tf.reduce_mean(share) for share in left.values()] or [1.0]
        rest += sum(of_heads) / len(of_heads) * tf.add_n(balances)
    for penalty in penalties:
        rest += tf.cast(tf.reduce_sum(penalty), "float32")
    labels = [share * head.value for share, head in zip(shares, label_losses, strict=True)]
    unweighted = tf.add_n([head.value for head in label_losses]) if shares else None
    return Total(tf.add_n([*labels, rest]), unweighted, shares, rest)


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


def gradient_norm(gradients: Sequence[Any]) -> Tensor:
    """The length of all gradients as one vector, a float32 scalar; None is zero."""
    # Dense first: of rows that come twice a sparse gradient holds two parts, and it is their sum
    # that counts.
    dense = [tf.cast(tf.convert_to_tensor(g), "float32") for g in gradients if g is not None]
    return tf.linalg.global_norm([tf.zeros(()), *dense])


def pairs_of_heads(
    objective: Objective, student: Signals, teacher: Signals, labels: Any = None
) -> list[tuple[Signals, Signals, Any]]:
    """The heads that an objective compares: (student, teacher, labels) of each.

    The one that `output=` names; else the first for an objective with taps, all for one without.

    Raises:
      ValueError: the two models' heads can't be matched.
    """
    return [
        (ours, theirs, _of_head(labels, head, student))
        for head, ours, theirs in _matched(objective, student, teacher)
    ]


def _matched(
    objective: Objective, student: Signals, teacher: Signals
) -> list[tuple[str | None, Signals, Signals]]:
    heads = student.names or teacher.names or (None,)
    if objective.output is not None:
        if objective.output not in heads:
            raise ValueError(
                f"{objective.name}: output={objective.output!r} names no output of the student; "
                f"its outputs are {', '.join(map(repr, heads))}."
            )
        heads = (objective.output,)
    elif objective.student_taps or objective.teacher_taps:
        heads = heads[:1]
    elif (student.names and not teacher.names) or (teacher.names and not student.names):
        raise ValueError(
            f"{objective.name}: the student has the outputs {student.names or 'one'} and the "
            f"teacher {teacher.names or 'one'}. Say which is meant with output=."
        )
    matched = [(h, _teacher_head(objective, h, student, teacher)) for h in heads]
    return [(h, student.head(h), teacher.head(t)) for h, t in matched]


def _weighing(objective: Objective, head: str | None, student: Signals) -> tuple[str | None, ...]:
    """The heads whose rows' weights an objective's rows have: all, for layers that they share."""
    if objective.student_taps and objective.output is None and student.names:
        return tuple(student.names)
    return (head if student.names else None,)


def _mean(weights: Sequence[Any]) -> Any:
    """Of the heads' weights, `(batch, ...)`, scalars or None for 1 everywhere; of one, itself."""
    if len(weights) == 1 or all(weight is None for weight in weights):
        return weights[0]
    by_row = [_by_example(tf.cast(1.0 if w is None else w, "float32"), None)[0] for w in weights]
    return sum(by_row) / len(by_row)


def _teacher_head(
    objective: Objective, head: str | None, student: Signals, teacher: Signals
) -> str | None:
    """The teacher's head for one of the student's: by name, else by place where none has one."""
    if not teacher.names or head in teacher.names:
        return head
    strangers = not set(student.names) & set(teacher.names)
    if strangers and len(teacher.names) == len(student.names):
        return teacher.names[student.names.index(head)]
    ours, theirs = (", ".join(map(repr, signals.names)) for signals in (student, teacher))
    free = [name for name in teacher.names if name not in student.names] or teacher.names
    raise ValueError(
        f"{objective.name}: the teacher has no output for the student's {head!r}. The student's "
        f"outputs are {ours}, the teacher's {theirs}; they go together by name, by place only "
        f"where as many have no name in common. Say which: "
        f"teachers.Model(teacher, heads={{{head!r}: {free[0]!r}}}); or leave {head!r} out with "
        f"output=."
    )


def _of_head(structure: Any, head: str | None, student: Signals) -> Tensor:
    if isinstance(structure, Mapping):
        return by_path(structure).get(head)
    if isinstance(structure, (list, tuple)) and head in student.names:
        return list(by_path(structure).values())[student.names.index(head)]
    return structure


def _checked(objective: Objective, value: Tensor) -> Tensor:
    value = tf.convert_to_tensor(value)
    if value.shape.rank != 1:
        raise ValueError(
            f"{objective.name} must return one value an example, shape (batch,); it returned "
            f"{tuple(value.shape)}. Average over the other axes, and leave the batch alone."
        )
    return value


def _term(
    objective: Objective,
    student: Signals,
    teacher: Signals,
    labels: Any,
    weight: Tensor | None,
    mask: Tensor | None,
    share: Any,
) -> tuple[Tensor, Tensor]:
    """One head's reduced value, and the same where each row counts by its share."""
    shape = getattr(student.logits, "shape", None)
    positions = 0 if shape is None else max(len(shape) - 2, 0)
    weight = None if weight is None else tf.cast(weight, "float32")
    mask = None if mask is None or objective.student_taps else tf.cast(mask, "bool")
    by_position = mask is not None or (weight is not None and weight.shape.rank > 1)
    if by_position and positions and objective.per_position:
        rank = positions + 1
        values = _values_by_position(objective, student, teacher, labels, mask)
        weight = None if weight is None else aligned(weight, rank)
        mask = None if mask is None else aligned(mask, rank)
    else:
        values = _checked(objective, objective.seeing(teacher)(student, teacher, labels))
        weight, mask = _by_example(weight, mask)
    plain, share = reduce(values, weight, mask), tf.cast(share, "float32")
    if not share.shape.rank:
        return plain, share * plain
    share = aligned(share, values.shape.rank)
    return plain, reduce(values, share if weight is None else share * weight, mask)


def _values_by_position(
    objective: Objective, student: Signals, teacher: Signals, labels: Any, mask: Tensor | None
):
    """What the objective says of each position as if it were an example, `(batch, ...)`."""
    now = objective.seeing(teacher, mask)
    shape = tf.shape(student.logits)[:-1]
    followed = {
        key: tf.repeat(getattr(now, key), tf.reduce_prod(shape[1:]))
        for key, value in vars(objective).items()
        if isinstance(value, TeacherEntropy)
    }
    positions = len(student.logits.shape) - 2
    values = now.with_values(followed)(
        student.folded(positions), teacher.folded(positions), _folded(labels, positions)
    )
    return tf.reshape(_checked(objective, values), shape)


def _folded(labels: Any, positions: int) -> Tensor:
    """Labels by position as labels by row; of labels by row alone there are none to a position."""
    if labels is None:
        return None
    labels = tf.convert_to_tensor(labels)
    if labels.shape.rank < positions + 1:
        return None
    return tf.reshape(labels, [-1, *labels.shape[positions + 1 :]])


def _by_example(weight: Tensor | None, mask: Tensor | None) -> tuple[Any, Any]:
    """A weight and a mask of `(batch,)`: the mean over the positions that count."""
    kept = None if mask is None else tf.cast(mask, "float32")
    if weight is not None and weight.shape.rank > 1:
        counted = tf.ones_like(weight)
        if kept is not None:
            counted *= aligned(kept, weight.shape.rank)
        summed = _all_but_batch(tf.reduce_sum, weight * counted)
        weight = tf.math.divide_no_nan(summed, _all_but_batch(tf.reduce_sum, counted))
    return weight, None if mask is None else _all_but_batch(tf.reduce_any, mask)


def _all_but_batch(reduction: Any, tensor: Tensor) -> Tensor:
    axes = list(range(1, tensor.shape.rank))
    return reduction(tensor, axis=axes) if axes else tensor


def _without_nan_rows(leaf: Tensor, out: Tensor, first: Tensor) -> Tensor:
    if isinstance(leaf, (tf.SparseTensor, tf.RaggedTensor)):
        return leaf
    leaf = tf.convert_to_tensor(leaf)
    if not leaf.dtype.is_floating or not leaf.shape.rank:
        return leaf
    finite = tf.math.is_finite(leaf)
    bad = aligned(out & ~_all_but_batch(tf.reduce_all, finite), leaf.shape.rank)
    row = leaf[first]
    row = tf.where(tf.math.is_finite(row), row, tf.zeros_like(row))
    return tf.where(bad, row[None], leaf)


def _without_nan(y: Any, zero: Tensor) -> Tensor:
    if y is None or not tf.convert_to_tensor(y).dtype.is_floating:
        return y
    bad = aligned(zero, tf.convert_to_tensor(y).shape.rank) & ~tf.math.is_finite(y)
    return tf.where(bad, tf.zeros_like(y), y)


def notify(layer: Any, iterations: Any) -> None:
    """Calls `after_update(iterations)` on each layer that has it; such a layer tells its own."""
    if hasattr(layer, "after_update"):
        layer.after_update(iterations)
        return
    for child in _keras.children(layer):
        notify(child, iterations)
