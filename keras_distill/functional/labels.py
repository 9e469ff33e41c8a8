"""Losses that weigh what the teacher says against the labels, or the classes against each other."""

from typing import Any

from keras import ops

from keras_distill.functional.tensors import (
    Tensor,
    check_positive,
    class_targets,
    logit_pair,
    of_rows,
    per_example,
    without_target,
)

FOCUSES = ("disagreement", "margin")
# The reference code's constant, for a teacher that is certain of the label.
_WSLD_EPSILON = 1e-7


def hard_example_ce(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    focus: str = "disagreement",
    focusing: float | Tensor = 2.0,
) -> Tensor:
    """Cross-entropy on the labels, weighted to the examples that the teacher finds hard.

    `difficulty^focusing * -log p_s(y)` with `p = softmax(logits)`. The difficulty is `1 - p_t(y)`,
    large where the teacher disagrees with the label, or 1 less the teacher's margin, the distance
    of its two largest probabilities. A mislabelled example looks hard too: where labels are
    noisy, `bootstrapped_ce` does the opposite.

    Args:
      student_logits, teacher_logits: `(batch, ..., classes)`, unnormalised, or log-probabilities.
      labels: `(batch, ...)` integers, or one-hot of the logits' shape. A row labelled -1 counts
        zero, a label out of range gives NaN.
      focus: "disagreement" or "margin".
      focusing: exponent of at least 0; at 0 all examples count alike.

    Returns:
      `(batch,)`, in nats.

    Raises:
      ValueError: the shapes do not fit, or another focus.

    Source: the focal loss of Lin et al., ICCV 2017, with the teacher's probability in place of the
    student's; learning from disagreement, Malach and Shalev-Shwartz, NeurIPS 2017; the margin,
    Scheffer et al., IDA 2001.

    >>> round(float(hard_example_ce([[0., 0.]], [[0., 0.]], [1])[0]), 4)  # (1 - 1/2)^2 * log 2
    0.1733
    """
    student, teacher = logit_pair("hard_example_ce", student_logits, teacher_logits)
    target, known = class_targets("hard_example_ce", labels, student)
    difficulty = _difficulty(ops.softmax(teacher, axis=-1), target, focus)
    cross_entropy = -ops.sum(target * ops.log_softmax(student, axis=-1), axis=-1)
    value = difficulty**focusing * cross_entropy
    return per_example(ops.where(known, value, ops.zeros_like(value)))


def bootstrapped_ce(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    min_confidence: float | Tensor = 0.0,
) -> Tensor:
    """Cross-entropy on labels that a sure teacher overrules.

    `-sum_c q(c) log p_s(c)` with `q = (1 - trust) * onehot(y) + trust * p_t`. Where the teacher's
    most likely class is the label, trust is 0; where it is another, it is the teacher's confidence
    `max p_t`; where there is no label, 1.

    Args:
      student_logits, teacher_logits: `(batch, ..., classes)`, unnormalised, or log-probabilities.
      labels: `(batch, ...)` integers, -1 where there is none, or one-hot of the logits' shape. A
        label out of range gives NaN.
      min_confidence: below it the label stands, in [0, 1].

    Returns:
      `(batch,)`, in nats.

    Raises:
      ValueError: the shapes do not fit.

    Source: bootstrapping, Reed et al., "Training Deep Neural Networks on Noisy Labels with
    Bootstrapping", ICLR workshop 2015, with the teacher in place of the student's own prediction as
    in Li et al., "Learning from Noisy Labels with Distillation", ICCV 2017; there one share serves
    all examples, here each has its own.

    >>> round(float(bootstrapped_ce([[0., 0.]], [[9., 0.]], [1])[0]), 4)
    0.6931
    """
    student, teacher = logit_pair("bootstrapped_ce", student_logits, teacher_logits)
    target, known = class_targets("bootstrapped_ce", labels, student)
    teacher_probs = ops.softmax(teacher, axis=-1)
    trust = _trust(teacher_probs, target, known, min_confidence)
    mixed = (1 - trust) * target + trust * teacher_probs
    return per_example(-ops.sum(mixed * ops.log_softmax(student, axis=-1), axis=-1))


def normalized_kd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    gamma: float | Tensor = 1.5,
    temperature: float | Tensor = 1.0,
) -> Tensor:
    """The label's class by the teacher's trust in it, and the other classes among themselves.

    With y the label, `p = softmax(logits)` and o the softmax of `logits / T` over the classes other
    than y: `-p_t(y) log p_s(y) - gamma * T^2 * sum_c o_t(c) log o_s(c)`. Soft cross-entropy has the
    other classes' probabilities as they are, which do not sum to the same in both models, so that
    it can't be least where they are alike; at sum 1 it is.

    Args:
      student_logits, teacher_logits: `(batch, ..., classes)`, unnormalised, or log-probabilities.
      labels: `(batch, ...)` integers, or one-hot of the logits' shape. A row labelled -1 counts
        zero, a label out of range gives NaN.
      gamma: weight of the other classes.
      temperature: T > 0, of the other classes.

    Returns:
      `(batch,)`, in nats.

    Raises:
      ValueError: the shapes do not fit, or T is not positive.

    Source: Yang et al., "From Knowledge Distillation to Self-Knowledge Distillation: A Unified
    Approach with Normalized Loss and Customized Soft Labels", ICCV 2023; gamma and T as in the
    authors' code.

    >>> round(float(normalized_kd([[0., 0.]], [[0., 0.]], [1])[0]), 4)  # log 2 / 2; one other class
    0.3466
    """
    check_positive("temperature", temperature)
    student, teacher = logit_pair("normalized_kd", student_logits, teacher_logits)
    target, known = class_targets("normalized_kd", labels, student)
    trusted = target * ops.softmax(teacher, axis=-1) * ops.log_softmax(student, axis=-1)
    by_row = of_rows(temperature, student)
    ours, theirs = (without_target(x / by_row, target) for x in (student, teacher))
    others = ops.softmax(theirs, axis=-1) * ops.log_softmax(ours, axis=-1)
    of_target, of_others = (
        per_example(ops.where(known, -part, ops.zeros_like(part)))
        for part in (ops.sum(trusted, axis=-1), ops.sum(others, axis=-1))
    )
    return of_target + gamma * ops.cast(temperature, student.dtype) ** 2 * of_others


def weighted_soft_target_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float | Tensor = 2.0,
) -> Tensor:
    """Soft targets that count for less where the student knows the label better than the teacher.

    `T^2 * (1 - exp(-ce_s / ce_t)) * KL(p_t || p_s)` with `p = softmax(logits / T)` and `ce` the
    label's cross-entropy at T = 1. The weight is a constant to the gradient. On an example that the
    student has learned, soft targets would only make it less sure.

    Args:
      student_logits, teacher_logits: `(batch, ..., classes)`, unnormalised, or log-probabilities.
        Positions between batch and classes are weighted one by one, and averaged.
      labels: `(batch, ...)` integers, or one-hot of the logits' shape. A row labelled -1 counts
        zero, a label out of range gives NaN.
      temperature: T > 0.

    Returns:
      `(batch,)`, in nats.

    Raises:
      ValueError: the shapes do not fit, or T is not positive.

    Source: Zhou et al., "Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance
    Tradeoff Perspective", ICLR 2021 (WSLD), and the authors' code. That has the cross-entropy of
    the soft targets for the divergence: larger by the teacher's entropy, of the same gradient.

    >>> given = [[2., 0.]] * 2, [[0., 2.]] * 2, [1, 0]  # the teacher is right, then the student
    >>> [round(float(v), 3) for v in weighted_soft_target_kl(*given, temperature=2.0)]
    [1.848, 0.107]
    """
    check_positive("temperature", temperature)
    student, teacher = logit_pair("weighted_soft_target_kl", student_logits, teacher_logits)
    target, _ = class_targets("weighted_soft_target_kl", labels, student)
    # Without a label both are 0, and so is the weight.
    ours, theirs = (
        -ops.sum(target * ops.log_softmax(x, axis=-1), axis=-1) for x in (student, teacher)
    )
    weight = ops.stop_gradient(-ops.expm1(-ours / (theirs + _WSLD_EPSILON)))
    by_row = of_rows(temperature, student)
    log_target, log_probs = (ops.log_softmax(x / by_row, axis=-1) for x in (teacher, student))
    divergence = ops.sum(ops.exp(log_target) * (log_target - log_probs), axis=-1)
    return per_example(weight * divergence) * ops.cast(temperature, student.dtype) ** 2


def balanced_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    class_weights: Any,
    temperature: float | Tensor = 2.0,
) -> Tensor:
    """Soft targets, each class of them counting by its weight: for data of unequal classes.

    `T^2 * sum_c w_c p_t(c) * (log q(c) - log p_s(c))` with `p = softmax(logits / T)` and q the
    weighted target `w p_t` at sum 1. The first logarithm does not move with the student: it makes
    the least value zero, and the gradient is that of the weighted cross-entropy.

    Args:
      student_logits, teacher_logits: `(batch, ..., classes)`, unnormalised, or log-probabilities.
      class_weights: `(classes,)`, positive. Equal weights of 1 give `soft_target_kl`.
      temperature: T > 0.

    Returns:
      `(batch,)`, in nats.

    Raises:
      ValueError: the class counts differ, or T is not positive.

    Source: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019; on
    soft targets, Zhang et al., "Balanced Knowledge Distillation for Long-tailed Learning",
    Neurocomputing 2023.

    >>> value = balanced_kl([[2., 0.]], [[0., 2.]], class_weights=[1., 1.], temperature=2.0)
    >>> round(float(value[0]), 4)
    1.8485
    """
    check_positive("temperature", temperature)
    student, teacher = logit_pair("balanced_kl", student_logits, teacher_logits)
    by_row = of_rows(temperature, student)
    log_weights = ops.log(ops.cast(ops.convert_to_tensor(class_weights), student.dtype))
    log_mass = log_weights + ops.log_softmax(teacher / by_row, axis=-1)
    log_target = ops.log_softmax(log_mass, axis=-1)
    difference = log_target - ops.log_softmax(student / by_row, axis=-1)
    divergence = per_example(ops.sum(ops.exp(log_mass) * difference, axis=-1))
    return divergence * ops.cast(temperature, student.dtype) ** 2


def _difficulty(teacher_probs: Tensor, target: Tensor, focus: str) -> Tensor:
    if focus == "disagreement":
        return ops.sum((1 - target) * teacher_probs, axis=-1)
    if focus == "margin":
        largest = ops.top_k(teacher_probs, 2)[0]
        return 1 - (largest[..., 0] - largest[..., 1])
    raise ValueError(f"focus must be one of {', '.join(map(repr, FOCUSES))}; got {focus!r}.")


def _trust(
    teacher_probs: Tensor, target: Tensor, known: Tensor, min_confidence: float | Tensor
) -> Tensor:
    confidence = ops.max(teacher_probs, axis=-1)
    agrees = ops.equal(ops.argmax(teacher_probs, axis=-1), ops.argmax(target, axis=-1))
    stands = ops.logical_or(agrees, confidence < min_confidence)
    trust = ops.where(stands, ops.zeros_like(confidence), confidence)
    return ops.where(known, trust, ops.ones_like(trust))[..., None]
