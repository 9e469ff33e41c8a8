"""A loss on which items a teacher ranks first."""

from keras import ops

from keras_distill.functional.tensors import Tensor, check_positive, logit_pair, per_example


def ranking_distillation(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    top_k: int = 10,
    position_scale: float | Tensor = 1.0,
    discrepancy_sharpness: float | Tensor | None = 0.1,
) -> Tensor:
    """The teacher's best items as items that are wanted, most of all where the student has missed.

    `-sum_r w_r log sigmoid(s(i_r))` over the teacher's items i_1 to i_K. With `a = softmax(-r /
    position_scale)` over the K positions, and n_r the number of items that the student scores
    higher than i_r: `w_r = a_r * tanh(discrepancy_sharpness * max(n_r - (r - 1), 0))`. An item that
    the student ranks as high as the teacher, or higher, counts nothing. The weights have no
    gradient.

    Args:
      student_logits, teacher_logits: `(batch, ..., items)`, the higher the better; the student's
        before a sigmoid. Positions between batch and items are averaged.
      top_k: K, at most the number of items.
      position_scale: over how many positions the weight falls by a factor of e.
      discrepancy_sharpness: of the weight in the items by which the student is behind. None weighs
        by position alone.

    Returns:
      `(batch,)`, in nats.

    Raises:
      ValueError: the item counts differ, top_k exceeds them, or a parameter is not positive.

    Source: Tang and Wang, "Ranking Distillation: Learning Compact Ranking Models With High
    Performance for Recommender System", KDD 2018; the product of the weights is not brought to sum
    1, as in the authors' code. That scores a sample of the items and estimates n_r from it; here
    every item has its score, so n_r is counted, without a sample's noise. The authors leave out the
    items that the labels name, which here stay.

    >>> student, teacher = [[0., 1., 2.]], [[2., 1., 0.]]
    >>> value = ranking_distillation(student, teacher, top_k=1, discrepancy_sharpness=0.5)
    >>> round(float(value[0]), 4)  # two items too low: tanh(1) * log 2
    0.5279
    """
    check_positive("position_scale", position_scale)
    check_positive("discrepancy_sharpness", discrepancy_sharpness)
    student, teacher = logit_pair("ranking_distillation", student_logits, teacher_logits)
    if not 1 <= top_k <= student.shape[-1]:
        raise ValueError(
            f"ranking_distillation: top_k must be from 1 to the number of items; got {top_k}, and "
            f"the student scores {student.shape[-1]} (logits {tuple(student.shape)})."
        )
    best = ops.take_along_axis(student, ops.top_k(teacher, top_k)[1], axis=-1)
    places = ops.arange(top_k, dtype=student.dtype)
    weights = ops.softmax(-places / position_scale, axis=-1)
    if discrepancy_sharpness is not None:
        behind = ops.cast(_count_above(student, best), student.dtype) - places
        weights = weights * ops.tanh(discrepancy_sharpness * ops.relu(behind))
    return per_example(-ops.sum(weights * ops.log_sigmoid(best), axis=-1))


def _count_above(scores: Tensor, chosen: Tensor) -> Tensor:
    """How many of the scores are above each of the chosen, `(..., chosen)`."""
    # One by one: all at once would take memory for every pair.
    columns = (chosen[..., index : index + 1] for index in range(chosen.shape[-1]))
    return ops.stack([ops.count_nonzero(scores > one, axis=-1) for one in columns], axis=-1)
