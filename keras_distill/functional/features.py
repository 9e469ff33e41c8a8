"""Losses on layers' outputs: maps, vectors and sequences, channels last."""

from typing import Any

from keras import ops

from .tensors import at_least_float32, match_sizes, per_example


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
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    if len(student.shape) != len(teacher.shape) or student.shape[-1] != teacher.shape[-1]:
        raise ValueError(
            f"hint_mse needs two tensors of equal rank and channels; the student's is "
            f"{tuple(student.shape)} and the teacher's {tuple(teacher.shape)}. Project one of them "
            f"first (FeatureHint does it with adapter='auto')."
        )
    student, teacher = match_sizes(student, teacher)
    return per_example(ops.square(student - ops.cast(teacher, student.dtype)))
