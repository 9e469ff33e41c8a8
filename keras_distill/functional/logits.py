"""Losses on what two models answer: logits over the same classes."""

from typing import Any

from keras import ops

from .tensors import check_positive, logit_pair, per_example


def soft_target_kl(
    student_logits: Any,
    teacher_logits: Any,
    *,
    temperature: Any = 4.0,
    standardize: bool = False,
):
    """Kullback-Leibler divergence from teacher to student, softened and rescaled by T^2.

    `T^2 * sum_c p_t(c) * (log p_t(c) - log p_s(c))` with `p = softmax(logits / T)`.

    Args:
      student_logits, teacher_logits: `(batch, ..., classes)`, unnormalised (or log-probabilities,
        which differ from logits by a constant that the softmax cancels), any float dtype.
        Positions between batch and classes are averaged.
      temperature: T > 0, a number or a scalar tensor. Gradients keep their scale as T grows.
      standardize: z-score the logits of each example first (sample standard deviation), so that
        the student matches the teacher's relations and not its range (Sun et al., CVPR 2024).

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
    temperature = ops.cast(temperature, student.dtype)
    student_log_probs = ops.log_softmax(student / temperature, axis=-1)
    teacher_log_probs = ops.log_softmax(teacher / temperature, axis=-1)
    teacher_probs = ops.exp(teacher_log_probs)
    divergence = ops.sum(teacher_probs * (teacher_log_probs - student_log_probs), axis=-1)
    return per_example(divergence) * temperature**2


def hard_target_ce(student_logits: Any, teacher_logits: Any):
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


def logits_mse(student_logits: Any, teacher_logits: Any):
    """Squared distance of the logits, averaged over the classes.

    Args:
      student_logits, teacher_logits: `(batch, ..., classes)`, unnormalised.

    Returns:
      `(batch,)`.

    Raises:
      ValueError: the class counts differ.

    Source: Ba and Caruana, "Do Deep Nets Really Need to be Deep?", NeurIPS 2014, equation 1
    (which halves the squared norm; reference code takes the mean over classes, as here).

    >>> float(logits_mse([[1., 0.]], [[3., 0.]])[0])
    2.0
    """
    student, teacher = logit_pair("logits_mse", student_logits, teacher_logits)
    return per_example(ops.mean(ops.square(student - teacher), axis=-1))


def _z_score(logits: Any):
    classes = logits.shape[-1]
    centred = logits - ops.mean(logits, axis=-1, keepdims=True)
    variance = ops.sum(ops.square(centred), axis=-1, keepdims=True) / (classes - 1)
    return centred / (ops.sqrt(variance) + 1e-7)
