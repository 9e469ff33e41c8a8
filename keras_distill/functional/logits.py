"""Losses on what two models answer: logits over the same classes."""

import math

from keras import ops

from keras_distill.functional.tensors import (
    Tensor,
    check_positive,
    check_several,
    class_targets,
    logit_pair,
    of_rows,
    per_example,
    unit,
    without_target,
)


def soft_target_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float | Tensor = 2.0,
    standardize: bool = False,
) -> Tensor:
    """Kullback-Leibler divergence from teacher to student, softened and rescaled by T^2.

    `T^2 * sum_c p_t(c) * (log p_t(c) - log p_s(c))` with `p = softmax(logits / T)`.

    Args:
      student_logits, teacher_logits: `(batch, ..., classes)`, unnormalised (or log-probabilities,
        which differ from logits by a constant that the softmax cancels), any float dtype.
        Positions between batch and classes are averaged.
      temperature: T > 0, a number, a scalar tensor or one an example, `(batch,)`. Gradients keep
        their scale as T grows.
      standardize: z-score the logits of each example first (sample standard deviation plus 1e-7),
        so that the student matches the teacher's relations and not its range (Sun et al., "Logit
        Standardization in Knowledge Distillation", CVPR 2024, which weights the loss by 9 besides;
        its T^2 is kept here).

    Returns:
      `(batch,)` float32 (float64 for float64 logits), in nats.

    Raises:
      ValueError: the class counts differ, or T is not positive.

    Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.

    >>> round(float(soft_target_kl([[2., 0.]], [[0., 2.]], temperature=2.0)[0]), 4)
    1.8485
    """
    check_positive("temperature", temperature)
    student, teacher = logit_pair("soft_target_kl", student_logits, teacher_logits)
    if standardize:
        student, teacher = _z_score(student), _z_score(teacher)
    by_row = of_rows(temperature, student)
    student_log_probs = ops.log_softmax(student / by_row, axis=-1)
    teacher_log_probs = ops.log_softmax(teacher / by_row, axis=-1)
    teacher_probs = ops.exp(teacher_log_probs)
    divergence = ops.sum(teacher_probs * (teacher_log_probs - student_log_probs), axis=-1)
    return per_example(divergence) * ops.cast(temperature, student.dtype) ** 2


def hard_target_ce(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross-entropy of the student against the teacher's most likely class.

    Args:
      student_logits, teacher_logits: `(batch, ..., classes)`, unnormalised.

    Returns:
      `(batch,)`, in nats.

    Raises:
      ValueError: the class counts differ.

    Source: pseudo-labels, Lee, ICML workshop 2013; as hard distillation, Touvron et al., "DeiT",
    ICML 2021, equation 3.

    >>> round(float(hard_target_ce([[0., 0.]], [[1., 3.]])[0]), 4)
    0.6931
    """
    student, teacher = logit_pair("hard_target_ce", student_logits, teacher_logits)
    target = ops.one_hot(ops.argmax(teacher, axis=-1), student.shape[-1], dtype=student.dtype)
    return per_example(-ops.sum(target * ops.log_softmax(student, axis=-1), axis=-1))


def logits_mse(
    student_logits: Tensor, teacher_logits: Tensor, *, half_squared_norm: bool = False
) -> Tensor:
    """Squared distance of the logits, averaged over the classes.

    Args:
      student_logits, teacher_logits: `(batch, ..., classes)`, unnormalised.
      half_squared_norm: sum over the classes and halve, as the paper writes it, instead of the
        mean over classes that reference code takes. The gradient is then larger by `classes / 2`.

    Returns:
      `(batch,)`.

    Raises:
      ValueError: the class counts differ.

    Source: Ba and Caruana, "Do Deep Nets Really Need to be Deep?", NeurIPS 2014, equation 1.

    >>> float(logits_mse([[1., 0., 0., 0.]], [[3., 0., 0., 0.]])[0])
    1.0
    >>> float(logits_mse([[1., 0., 0., 0.]], [[3., 0., 0., 0.]], half_squared_norm=True)[0])
    2.0
    """
    student, teacher = logit_pair("logits_mse", student_logits, teacher_logits)
    squared = ops.square(student - teacher)
    if half_squared_norm:
        return per_example(ops.sum(squared, axis=-1)) / 2
    return per_example(ops.mean(squared, axis=-1))


def decoupled_kd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float | Tensor = 1.0,
    beta: float | Tensor = 8.0,
    temperature: float | Tensor = 4.0,
) -> Tensor:
    """The divergence in its two parts, weighted apart: the label's class, and the other classes.

    With `p = softmax(logits / T)`, y the label, `b = (p_y, 1 - p_y)` and `o` = p over the classes
    other than y: `T^2 * (alpha * KL(b_t || b_s) + beta * KL(o_t || o_s))`. In the plain divergence
    beta is `1 - p_t(y)`, which a sure teacher makes small.

    Args:
      student_logits, teacher_logits: `(batch, ..., classes)`, unnormalised, or log-probabilities.
      labels: `(batch, ...)` integers, or one-hot of the logits' shape. A row labelled -1 counts
        zero, a label out of range gives NaN.
      alpha: weight of the target class' part (TCKD).
      beta: weight of the other classes' part (NCKD).
      temperature: T > 0.

    Returns:
      `(batch,)`, in nats.

    Raises:
      ValueError: the shapes do not fit, or T is not positive.

    Source: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, equation 7; T^2 as in the
    authors' code, which also ramps the whole up over the first epochs.

    >>> round(float(decoupled_kd([[2., 0.]], [[0., 2.]], [0], temperature=2.0)[0]), 4)
    1.8485
    """
    check_positive("temperature", temperature)
    student, teacher = logit_pair("decoupled_kd", student_logits, teacher_logits)
    target, known = class_targets("decoupled_kd", labels, student)
    by_row = of_rows(temperature, student)
    student_log_target, student_log_others = _decoupled(student / by_row, target)
    teacher_log_target, teacher_log_others = _decoupled(teacher / by_row, target)
    target_part = _kl_of_log_probs(student_log_target, teacher_log_target)
    others_part = _kl_of_log_probs(student_log_others, teacher_log_others)
    divergence = alpha * target_part + beta * others_part
    divergence = per_example(ops.where(known, divergence, ops.zeros_like(divergence)))
    return divergence * ops.cast(temperature, student.dtype) ** 2


def generalized_jsd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    beta: float = 0.5,
    temperature: float | Tensor = 1.0,
) -> Tensor:
    """Generalised Jensen-Shannon divergence: between the two directions of Kullback and Leibler.

    With `p = softmax(logits / T)` and the mixture `m = beta p_t + (1 - beta) p_s`: `beta KL(p_t ||
    m) + (1 - beta) KL(p_s || m)`. A beta of exactly 0 is `KL(p_t || p_s)`, one of exactly 1
    `KL(p_s || p_t)`, to which the divergence over beta, and over 1 - beta, tends. The closer to 1,
    the more the student keeps to what the teacher finds likely, at the price of its variety.

    Args:
      student_logits, teacher_logits: `(batch, ..., classes)`, unnormalised, or log-probabilities.
        Positions between batch and classes are averaged.
      beta: the teacher's share of the mixture, in [0, 1].
      temperature: T > 0; the value is not rescaled by T^2.

    Returns:
      `(batch,)`, in nats, at most log 2 where beta is inside its range.

    Raises:
      ValueError: the class counts differ, beta is out of range, or T is not positive.

    Source: Agarwal et al., "On-Policy Distillation of Language Models", ICLR 2024, equation 1.

    >>> round(float(generalized_jsd([[0., 99.]], [[99., 0.]])[0]), 4)  # nothing in common: log 2
    0.6931
    """
    check_positive("temperature", temperature)
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must be in [0, 1]; got {beta}.")
    student, teacher = logit_pair("generalized_jsd", student_logits, teacher_logits)
    by_row = of_rows(temperature, student)
    student = ops.log_softmax(student / by_row, axis=-1)
    teacher = ops.log_softmax(teacher / by_row, axis=-1)
    if beta == 0:
        return per_example(_kl_of_log_probs(student, teacher))
    if beta == 1:
        return per_example(_kl_of_log_probs(teacher, student))
    mixture = ops.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    ours, theirs = _kl_of_log_probs(mixture, student), _kl_of_log_probs(mixture, teacher)
    return per_example(beta * theirs + (1 - beta) * ours)


def dist_relation(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    beta: float | Tensor = 1.0,
    gamma: float | Tensor = 1.0,
    temperature: float | Tensor = 1.0,
) -> Tensor:
    """One minus Pearson's correlation, over the classes and over the batch.

    With `p = softmax(logits / T)`: `T^2 * (beta * (1 - r(p_s[b, :], p_t[b, :])) + gamma * (1 -
    r(p_s[:, c], p_t[:, c])))`, the first averaged over examples, the second over classes. Only
    relations count, so a teacher far stronger than the student asks for nothing out of reach.

    Of the second part an example gets its own share: `1 - r` is half the squared distance of the
    two centred columns at unit length, a sum over the examples.

    Args:
      student_logits, teacher_logits: `(batch, ..., classes)`, unnormalised, or log-probabilities.
        Positions between batch and classes count as examples.
      beta: weight of the relation between classes.
      gamma: weight of the relation between examples.
      temperature: T > 0. With T^2 as in the authors' code, not in the paper.

    Returns:
      `(batch,)`; the value of a row depends on the others.

    Raises:
      ValueError: the class counts differ, T is not positive, or there is a single row.

    Source: Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022,
    equations 8 to 10.

    >>> value = dist_relation([[0., 1.], [0., 2.]], [[0., 1.], [2., 0.]])
    >>> [round(float(v), 3) for v in value]  # the rows' r are 1 and -1, the columns' both -1
    [2.0, 4.0]
    """
    check_positive("temperature", temperature)
    student, teacher = logit_pair("dist_relation", student_logits, teacher_logits)
    temperature = ops.cast(temperature, student.dtype)
    shape, classes = ops.shape(student), student.shape[-1]
    student, teacher = ops.reshape(student, (-1, classes)), ops.reshape(teacher, (-1, classes))
    check_several("dist_relation", student)
    student = ops.softmax(student / temperature, axis=-1)
    teacher = ops.softmax(teacher / temperature, axis=-1)
    rows = ops.cast(ops.shape(student)[0], student.dtype)
    between_classes = ops.sum(_lack_of_correlation(student, teacher, -1), axis=-1)
    between_examples = rows * ops.mean(_lack_of_correlation(student, teacher, 0), axis=-1)
    # A remainder of one row, known only to the step, has nothing to relate to.
    between_examples *= ops.minimum(rows - 1, 1)
    value = temperature**2 * (beta * between_classes + gamma * between_examples)
    return per_example(ops.reshape(value, shape[:-1]))


def _z_score(logits: Tensor) -> Tensor:
    classes = logits.shape[-1]
    centred = logits - ops.mean(logits, axis=-1, keepdims=True)
    variance = ops.sum(ops.square(centred), axis=-1, keepdims=True) / (classes - 1)
    # The floor is for logits that are all equal: a square root has no gradient at zero.
    return centred / (ops.sqrt(ops.maximum(variance, 1e-14)) + 1e-7)


def _decoupled(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of (label, not the label), and of the other classes among themselves."""
    others = without_target(logits, target)
    log_target = ops.sum(target * ops.log_softmax(logits, axis=-1), axis=-1)
    log_not_target = ops.logsumexp(others, axis=-1) - ops.logsumexp(logits, axis=-1)
    return ops.stack([log_target, log_not_target], axis=-1), ops.log_softmax(others, axis=-1)


def _kl_of_log_probs(student: Tensor, teacher: Tensor) -> Tensor:
    return ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)


def _lack_of_correlation(student: Tensor, teacher: Tensor, axis: int) -> Tensor:
    """Shares that sum to 1 - r along `axis`; r is 0 where one of the two does not vary."""
    student = unit(student - ops.mean(student, axis=axis, keepdims=True), axis)
    teacher = unit(teacher - ops.mean(teacher, axis=axis, keepdims=True), axis)
    norms = ops.sum(ops.square(student) + ops.square(teacher), axis=axis, keepdims=True)
    length = ops.cast(ops.shape(student)[axis], student.dtype)
    return ops.square(student - teacher) / 2 + (1 - norms / 2) / length
