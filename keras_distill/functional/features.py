"""Losses on layers' outputs: maps, vectors and sequences, channels last."""

from collections.abc import Callable

from keras import ops

from keras_distill.functional.tensors import (
    Tensor,
    at_least_float32,
    check_positive,
    match_sizes,
    per_example,
)


def hint_mse(student: Tensor, teacher: Tensor) -> Tensor:
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
    student, teacher = _equal_pair("hint_mse", student, teacher)
    return per_example(ops.square(student - teacher))


def activation_boundaries(student: Tensor, teacher: Tensor, *, margin: float = 1.0) -> Tensor:
    """Squared hinge that puts each of the student's neurons on the teacher's side of zero.

    The mean of `relu(margin - s)^2` where the teacher's neuron is on (t > 0) and of
    `relu(margin + s)^2` where it is off. How far the teacher's is from zero counts nothing.

    Args:
      student, teacher: `(batch, ..., channels)`, before the ReLU, of equal rank and channels;
        sizes as in `hint_mse`.
      margin: from which distance to zero on the student's neuron is left alone; positive.

    Returns:
      `(batch,)`.

    Raises:
      ValueError: the ranks or the channel counts differ, or the margin is not positive.

    Source: Heo et al., "Knowledge Transfer via Distillation of Activation Boundaries Formed by
    Hidden Neurons", AAAI 2019. The authors sum over an example's neurons and weigh the
    sum with 0.003; the mean does not depend on the layer's size.

    >>> float(activation_boundaries([[0.5, 0.5]], [[3., -3.]])[0])
    1.25
    """
    check_positive("margin", margin)
    student, teacher = _equal_pair("activation_boundaries", student, teacher)
    short = ops.where(teacher > 0, margin - student, margin + student)
    return per_example(ops.square(ops.relu(short)))


def partial_l2(student: Tensor, teacher: Tensor, *, margin: float | Tensor) -> Tensor:
    """Squared distance to the teacher's response under a margin ReLU, `t' = max(t, margin)`.

    The mean of `(s - t')^2`, without the neurons where both `t <= 0` and `s <= t'`: there a ReLU
    passes nothing on, whatever the number.

    Args:
      student, teacher: `(batch, ..., channels)`, before the ReLU, of equal rank and channels;
        sizes as in `hint_mse`.
      margin: a number or `(channels,)`, at most 0: the expected value of the teacher's negative
        responses.

    Returns:
      `(batch,)`.

    Raises:
      ValueError: the ranks or the channel counts differ.

    Source: Heo et al., "A Comprehensive Overhaul of Feature Distillation", ICCV 2019. The
    authors sum over an example's neurons and weigh the sum with 0.001 or less.

    >>> float(partial_l2([[2., -3.]], [[1., -2.]], margin=-1.)[0])
    0.5
    """
    student, teacher = _equal_pair("partial_l2", student, teacher)
    target = ops.maximum(teacher, ops.cast(margin, student.dtype))
    counts = ops.logical_or(student > target, teacher > 0)
    difference = ops.where(counts, student - target, ops.zeros_like(student))
    return per_example(ops.square(difference))


def variational_information(student: Tensor, teacher: Tensor, *, variance: Tensor) -> Tensor:
    """Negative log-likelihood of the teacher's features under a Gaussian around the student's.

    The mean of `((t - s)^2 / variance + log variance) / 2`, in nats, without the constant
    `log(2 pi) / 2`; it bounds the two layers' mutual information from below.

    Args:
      student, teacher: `(batch, ..., channels)` of equal rank and channels, the student's as
        predicted means; sizes as in `hint_mse`.
      variance: a number or `(channels,)`, positive.

    Returns:
      `(batch,)`; negative values are possible.

    Raises:
      ValueError: the ranks or the channel counts differ.

    Source: Ahn et al., "Variational Information Distillation for Knowledge Transfer", CVPR 2019.

    >>> float(variational_information([[1.]], [[3.]], variance=1.)[0])
    2.0
    """
    student, teacher = _equal_pair("variational_information", student, teacher)
    variance = ops.cast(variance, student.dtype)
    return per_example((ops.square(teacher - student) / variance + ops.log(variance)) / 2)


def masked_generation(
    student: Tensor, teacher: Tensor, *, mask: Tensor, generate: Callable[[Tensor], Tensor]
) -> Tensor:
    """Squared distance of the teacher's map to one restored from the student's with parts hidden.

    The mean of `(generate(s * mask) - t)^2` over all of the teacher's numbers, hidden or not.

    Args:
      student: `(batch, ..., channels)`.
      teacher: of the shape that `generate` gives; sizes as in `hint_mse`.
      mask: of a shape that broadcasts to the student's, 0 at what is hidden and else 1:
        `(batch, height, width, 1)` hides positions, `(batch, 1, 1, channels)` channels.
      generate: what restores the map; a layer, for one.

    Returns:
      `(batch,)`.

    Raises:
      ValueError: the ranks or the channel counts of the restored and the teacher's map differ.

    Source: Yang et al., "Masked Generative Distillation", ECCV 2022, equation 5. The paper and the
    authors' code sum where this averages, their code then over the batch's size.

    >>> float(masked_generation([[3., 4.]], [[3., 2.]], mask=[[1., 0.]], generate=lambda x: x)[0])
    2.0
    """
    student = at_least_float32(student)
    restored = generate(student * ops.cast(mask, student.dtype))
    restored, teacher = _equal_pair("masked_generation", restored, teacher)
    return per_example(ops.square(restored - teacher))


def _equal_pair(function: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both at the smaller size, in one dtype of at least float32."""
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    if len(student.shape) != len(teacher.shape) or student.shape[-1] != teacher.shape[-1]:
        raise ValueError(
            f"{function} needs two tensors of equal rank and channels; the student's is "
            f"{tuple(student.shape)} and the teacher's {tuple(teacher.shape)}. Project one of them "
            f"first (its objective does it by itself)."
        )
    return match_sizes(student, ops.cast(teacher, student.dtype))
