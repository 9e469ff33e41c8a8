"""Loss mathematics: tensors in, one value an example out; no state, no reduction over the batch.

Every function takes the student first and the teacher second, computes in at least float32
(float64 stays float64) and returns `(batch,)`. The mean of what it returns is the published loss.
"""

from typing import Any

from keras import backend, ops

__all__ = [
    "adaptive_pool",
    "hard_target_ce",
    "hint_mse",
    "logits_mse",
    "match_sizes",
    "soft_target_kl",
]


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
    _check_positive("temperature", temperature)
    student, teacher = _logit_pair("soft_target_kl", student_logits, teacher_logits)
    if standardize:
        student, teacher = _z_score(student), _z_score(teacher)
    temperature = ops.cast(temperature, student.dtype)
    student_log_probs = ops.log_softmax(student / temperature, axis=-1)
    teacher_log_probs = ops.log_softmax(teacher / temperature, axis=-1)
    teacher_probs = ops.exp(teacher_log_probs)
    divergence = ops.sum(teacher_probs * (teacher_log_probs - student_log_probs), axis=-1)
    return _per_example(divergence) * temperature**2


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
    student, teacher = _logit_pair("hard_target_ce", student_logits, teacher_logits)
    target = ops.one_hot(ops.argmax(teacher, axis=-1), student.shape[-1], dtype=student.dtype)
    return _per_example(-ops.sum(target * ops.log_softmax(student, axis=-1), axis=-1))


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
    student, teacher = _logit_pair("logits_mse", student_logits, teacher_logits)
    return _per_example(ops.mean(ops.square(student - teacher), axis=-1))


def hint_mse(student: Any, teacher: Any):
    """Squared distance of two feature tensors of equal width, averaged over all but the batch.

    Args:
      student, teacher: `(batch, ..., channels)` of equal rank and channels. Where the sizes in
        between differ, the larger is average-pooled to the smaller, axis by axis.

    Returns:
      `(batch,)`.

    Raises:
      ValueError: the ranks or the channel counts differ.

    Source: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, equation 3 (which
    halves the squared norm; reference code takes the mean, as here).

    >>> float(hint_mse([[1., 2.]], [[3., 2.]])[0])
    2.0
    """
    student, teacher = _at_least_float32(student), _at_least_float32(teacher)
    if len(student.shape) != len(teacher.shape) or student.shape[-1] != teacher.shape[-1]:
        raise ValueError(
            f"hint_mse needs two tensors of equal rank and channels; the student's is "
            f"{tuple(student.shape)} and the teacher's {tuple(teacher.shape)}. Project one of them "
            f"first (FeatureHint does it with adapter='auto')."
        )
    student, teacher = match_sizes(student, teacher)
    return _per_example(ops.square(student - ops.cast(teacher, student.dtype)))


def match_sizes(first: Any, second: Any):
    """Both feature tensors at the smaller size along every axis between batch and channels."""
    for axis in range(1, len(first.shape) - 1):
        size = min(first.shape[axis], second.shape[axis])
        first, second = adaptive_pool(first, axis, size), adaptive_pool(second, axis, size)
    return first, second


def adaptive_pool(x: Any, axis: int, size: int):
    """Average-pool one axis to `size`: bin i covers floor(i n / size) to ceil((i + 1) n / size)."""
    length = x.shape[axis]
    if length == size:
        return x
    if length % size == 0:
        shape = [*x.shape[1:axis], size, length // size, *x.shape[axis + 1 :]]
        return ops.mean(ops.reshape(x, [-1, *shape]), axis=axis + 1)
    bins = []
    for index in range(size):
        start, stop = index * length // size, -((-(index + 1) * length) // size)
        bins.append(ops.mean(ops.take(x, range(start, stop), axis=axis), axis=axis))
    return ops.stack(bins, axis=axis)


def _logit_pair(function: str, student: Any, teacher: Any):
    student, teacher = _at_least_float32(student), _at_least_float32(teacher)
    if student.shape[-1] != teacher.shape[-1]:
        raise ValueError(
            f"{function}: the student has {student.shape[-1]} classes (logits "
            f"{tuple(student.shape)}) and the teacher {teacher.shape[-1]} (logits "
            f"{tuple(teacher.shape)}). Both must answer over the same classes."
        )
    return student, ops.cast(teacher, student.dtype)


def _at_least_float32(x: Any):
    x = ops.convert_to_tensor(x)
    return x if backend.standardize_dtype(x.dtype) == "float64" else ops.cast(x, "float32")


def _z_score(logits: Any):
    classes = logits.shape[-1]
    centred = logits - ops.mean(logits, axis=-1, keepdims=True)
    variance = ops.sum(ops.square(centred), axis=-1, keepdims=True) / (classes - 1)
    return centred / (ops.sqrt(variance) + 1e-7)


def _per_example(values: Any):
    axes = tuple(range(1, len(values.shape)))
    return ops.mean(values, axis=axes) if axes else values


def _check_positive(name: str, value: Any) -> None:
    if isinstance(value, (int, float)) and not value > 0:
        raise ValueError(f"{name} must be positive; got {value}.")
