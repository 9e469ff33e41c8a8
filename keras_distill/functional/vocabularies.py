"""Losses between answers over different sets of tokens."""

from collections.abc import Sequence

import numpy as np
from keras import ops

from keras_distill.functional.sequences import divergence, over_positions
from keras_distill.functional.tensors import Tensor, at_least_float32, check_positive

UNSHARED = ("bucket", "renormalise")


def shared_token_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    student_shared: Sequence[int],
    teacher_shared: Sequence[int],
    unshared: str = "bucket",
    temperature: float | Tensor = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Divergence of two answers over different sets of tokens, compared on the shared ones.

    "bucket" compares the coarse distributions over the shared tokens and one further event, "any
    other token", exactly: `T^2 KL(teacher || student)` of them. What happens within the bucket is
    not seen, so this bounds from below the divergence of any finer distributions that agree with
    the two, and says nothing else of these. "renormalise" drops the other tokens from both sides
    and compares the conditional distributions on the shared ones.

    Args:
      student_logits, teacher_logits: `(batch, ..., tokens)`, equal but for the number of tokens.
        Positions in between are averaged.
      student_shared, teacher_shared: the shared tokens' places on the last axis, in one order.
      unshared: "bucket" or "renormalise".
      temperature: T > 0, applied to both before anything is added up.
      mask: `(batch, time)`, non-zero at real tokens, for `(batch, time, tokens)` logits.

    Returns:
      `(batch,)`, in nats.

    Raises:
      ValueError: no shared token; a student without a place for the teacher's other tokens; an
        unknown `unshared`; lengths that differ.

    Source: coarse-graining, Cover and Thomas, "Elements of Information Theory", 2006, section 2.9.

    >>> teacher, student = [[0., 0., 0., 0.]], [[0., 0.]]
    >>> places = {"student_shared": [0], "teacher_shared": [2]}
    >>> round(float(shared_token_kl(student, teacher, **places)[0]), 4)
    0.1308
    """
    check_positive("temperature", temperature)
    student, teacher = at_least_float32(student_logits), at_least_float32(teacher_logits)
    _check_shared(student, teacher, student_shared, teacher_shared, unshared)
    if mask is not None and len(student.shape) != 3:
        raise ValueError(
            f"shared_token_kl: a mask of positions needs logits (batch, time, tokens); got "
            f"{tuple(student.shape)}."
        )
    temperature = ops.cast(temperature, student.dtype)
    teacher = ops.cast(teacher, student.dtype)
    bucket = unshared == "bucket" and len(teacher_shared) < teacher.shape[-1]
    if unshared == "bucket":
        student, teacher = (ops.log_softmax(x / temperature, axis=-1) for x in (student, teacher))
        ours, theirs = (
            _coarse(student, student_shared, bucket),
            _coarse(teacher, teacher_shared, bucket),
        )
    else:
        ours = ops.log_softmax(ops.take(student / temperature, student_shared, axis=-1), axis=-1)
        theirs = ops.log_softmax(ops.take(teacher / temperature, teacher_shared, axis=-1), axis=-1)
    return over_positions(divergence(ours, theirs), mask) * temperature**2


def _check_shared(
    student: Tensor, teacher: Tensor, ours: Tensor, theirs: Tensor, unshared: str
) -> None:
    if unshared not in UNSHARED:
        raise ValueError(f"unshared must be one of {UNSHARED}; got {unshared!r}.")
    if len(ours) != len(theirs) or not len(ours):
        raise ValueError(
            f"shared_token_kl needs one place a shared token on both sides, and a token at least; "
            f"got {len(ours)} of the student's and {len(theirs)} of the teacher's."
        )
    if unshared == "bucket" and len(theirs) < teacher.shape[-1] and len(ours) == student.shape[-1]:
        raise ValueError(
            "shared_token_kl: the teacher has tokens that the student has not, and the student has "
            "none of its own to stand for them: its bucket would be empty and the divergence "
            "infinite. Use unshared='renormalise', or leave an unknown token out of the shared."
        )


def _coarse(log_probs: Tensor, shared: Sequence[int], bucket: bool) -> Tensor:
    """The shared tokens' log-probabilities, and behind them that of any other token."""
    kept = ops.take(log_probs, np.asarray(shared, "int32"), axis=-1)
    if not bucket:
        return kept
    others = np.setdiff1d(np.arange(log_probs.shape[-1]), np.asarray(shared))
    rest = ops.take(log_probs, others.astype("int32"), axis=-1)
    return ops.concatenate([kept, ops.logsumexp(rest, axis=-1, keepdims=True)], axis=-1)
