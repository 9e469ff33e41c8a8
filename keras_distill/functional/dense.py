"""Losses on answers other than one class an example: numbers, several labels, maps of classes."""

from typing import Any

from keras import ops

from keras_distill.functional.tensors import (
    Tensor,
    at_least_float32,
    check_positive,
    logit_pair,
    match_sizes,
    per_example,
)


def regression_distance(student: Tensor, teacher: Tensor, *, delta: float | None = None) -> Tensor:
    """Distance of the student's numbers from the teacher's, averaged over an example's outputs.

    Args:
      student, teacher: `(batch, ..., outputs)`, in the label's units.
      delta: None for the squared error; else Huber's threshold, above which an error counts
        linearly (below it counts half its square, as in Keras).

    Returns:
      `(batch,)`, in the units' square.

    Raises:
      ValueError: the shapes differ, or delta is not positive.

    Source: Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical Statistics
    1964, for delta.

    >>> float(regression_distance([[3.]], [[1.]])[0])
    4.0
    >>> float(regression_distance([[3.]], [[1.]], delta=1.0)[0])
    1.5
    """
    student, teacher = _value_pair("regression_distance", student, teacher)
    return per_example(_error(student, teacher, delta))


def attentive_regression(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    max_teacher_error: Any,
    delta: float | None = None,
) -> Tensor:
    """Distance from the teacher, counting the less the further the teacher is from the label.

    `max(0, 1 - e(teacher, label) / max_teacher_error) * e(student, teacher)`, e the error of
    `regression_distance` at one position, averaged over positions.

    Args:
      student, teacher: `(batch, ..., outputs)`.
      labels: of the same shape, or without the last axis where that is 1.
      max_teacher_error: the teacher's error (in the units of e) from which on it is not heard.
      delta: as in `regression_distance`.

    Returns:
      `(batch,)`.

    Raises:
      ValueError: the shapes differ, or a parameter is not positive.

    Source: Saputra et al., "Distilling Knowledge From a Deep Pose Regressor Network", ICCV 2019,
    equation 8, which takes the range of the teacher's errors over the data for the threshold.

    >>> float(attentive_regression([[3.]], [[1.]], [[0.]], max_teacher_error=4.0)[0])
    3.0
    """
    check_positive("max_teacher_error", max_teacher_error)
    student, teacher = _value_pair("attentive_regression", student, teacher)
    labels = _values_like("attentive_regression", labels, student)
    heard = ops.maximum(1 - _error(teacher, labels, delta) / max_teacher_error, 0)
    return per_example(heard * _error(student, teacher, delta))


def bounded_regression(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    margin: float | Tensor = 0.0,
    delta: float | None = None,
) -> Tensor:
    """The student's error to the label, counted only where the teacher does better.

    `e(student, label)` where `e(student, label) + margin > e(teacher, label)`, else 0, e the error
    of `regression_distance` at one position, averaged over positions.

    Args:
      student, teacher: `(batch, ..., outputs)`.
      labels: of the same shape, or without the last axis where that is 1.
      margin: by how much the student has to beat the teacher before it is left alone, in the units
        of e, at least 0.
      delta: as in `regression_distance`.

    Returns:
      `(batch,)`.

    Raises:
      ValueError: the shapes differ, or delta is not positive.

    Source: Chen et al., "Learning Efficient Object Detection Models with Knowledge Distillation",
    NeurIPS 2017, equation 5 (with the squared norm where this takes the mean over outputs).

    >>> [float(v) for v in bounded_regression([[3.], [1.]], [[2.], [2.]], [[0.], [0.]])]
    [9.0, 0.0]
    """
    student, teacher = _value_pair("bounded_regression", student, teacher)
    labels = _values_like("bounded_regression", labels, student)
    error = _error(student, labels, delta)
    worse = error + margin > _error(teacher, labels, delta)
    return per_example(ops.where(worse, error, ops.zeros_like(error)))


def multilabel_kl(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float | Tensor = 1.0
) -> Tensor:
    """Binary soft targets: the divergence of each label's yes or no, averaged over the labels.

    `T^2 * mean_c [p_t log(p_t / p_s) + (1 - p_t) log((1 - p_t) / (1 - p_s))]` with
    `p = sigmoid(logits / T)`.

    Args:
      student_logits, teacher_logits: `(batch, ..., labels)`, before the sigmoid.
      temperature: T > 0.

    Returns:
      `(batch,)`, in nats a label.

    Raises:
      ValueError: the label counts differ, or T is not positive.

    Source: Hinton, Vinyals, Dean 2015, on independent labels; as in Yang et al., "Multi-Label
    Knowledge Distillation", ICCV 2023, who sum over the labels.

    >>> round(float(multilabel_kl([[2.]], [[-2.]])[0]), 4)  # 2 tanh(1)
    1.5232
    """
    check_positive("temperature", temperature)
    student, teacher = logit_pair("multilabel_kl", student_logits, teacher_logits)
    temperature = ops.cast(temperature, student.dtype)
    student, teacher = student / temperature, teacher / temperature
    divergence = sum(
        ops.sigmoid(sign * teacher)
        * (ops.log_sigmoid(sign * teacher) - ops.log_sigmoid(sign * student))
        for sign in (1, -1)
    )
    return per_example(divergence) * temperature**2


def channel_wise_kl(
    student: Tensor, teacher: Tensor, *, temperature: float | Tensor = 4.0
) -> Tensor:
    """Divergence of where in the map each channel is active, averaged over the channels.

    `T^2 * mean_c sum_i p_t(i, c) * (log p_t(i, c) - log p_s(i, c))`, where `p` is the softmax of
    channel c divided by T over the positions i: what counts is where a class is, and not its size.

    Args:
      student, teacher: `(batch, ..., channels)` with at least one axis of positions: a map of
        classes' logits, or features. Where the sizes differ, the larger is average-pooled.
      temperature: T > 0.

    Returns:
      `(batch,)`, in nats a channel.

    Raises:
      ValueError: the channel counts differ, there are no positions, or T is not positive.

    Source: Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021,
    equation 4.

    >>> round(float(channel_wise_kl([[[2.], [0.]]], [[[0.], [2.]]], temperature=2.0)[0]), 4)
    1.8485
    """
    check_positive("temperature", temperature)
    student, teacher = logit_pair("channel_wise_kl", student, teacher)
    if not len(student.shape) == len(teacher.shape) >= 3:
        raise ValueError(
            f"channel_wise_kl needs two maps (batch, ..., channels) of equal rank, 3 or more; the "
            f"student's is {tuple(student.shape)} and the teacher's {tuple(teacher.shape)}."
        )
    if student.shape[1:-1] != teacher.shape[1:-1]:
        student, teacher = match_sizes(student, teacher)
    temperature = ops.cast(temperature, student.dtype)
    positions = tuple(range(1, len(student.shape) - 1))
    student = _log_softmax_over(student / temperature, positions)
    teacher = _log_softmax_over(teacher / temperature, positions)
    divergence = ops.sum(ops.exp(teacher) * (teacher - student), axis=positions)
    return per_example(divergence) * temperature**2


def _log_softmax_over(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return x - ops.logsumexp(x, axis=axes, keepdims=True)


def _error(first: Tensor, second: Tensor, delta: float | None) -> Tensor:
    """Squared or Huber's error at each position, the mean over its outputs."""
    difference = first - second
    if delta is None:
        return ops.mean(ops.square(difference), axis=-1)
    check_positive("delta", delta)
    size = ops.abs(difference)
    huber = ops.where(size <= delta, ops.square(difference) / 2, delta * size - delta**2 / 2)
    return ops.mean(huber, axis=-1)


def _value_pair(function: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    if not _same_shape(student, teacher) or len(student.shape) < 2:
        raise ValueError(
            f"{function} needs two answers of one shape (batch, ..., outputs); the student's is "
            f"{tuple(student.shape)} and the teacher's {tuple(teacher.shape)}."
        )
    return student, ops.cast(teacher, student.dtype)


def _values_like(function: str, labels: Tensor, student: Tensor) -> Tensor:
    """Labels in the outputs' shape; left to broadcasting, (batch,) and (batch, 1) mix the rows."""
    labels = ops.cast(labels, student.dtype)
    if len(labels.shape) == len(student.shape) - 1 and student.shape[-1] == 1:
        labels = labels[..., None]
    if not _same_shape(labels, student):
        raise ValueError(
            f"{function}: labels of shape {tuple(labels.shape)} do not fit outputs of shape "
            f"{tuple(student.shape)}. Give one number an output."
        )
    return labels


def _same_shape(first: Tensor, second: Tensor) -> bool:
    return len(first.shape) == len(second.shape) and all(
        a == b for a, b in zip(first.shape[1:], second.shape[1:], strict=True) if None not in (a, b)
    )
