"""Losses on sequences: hidden states, attention, relations of values.

A `mask`, `(batch, time)`, is non-zero at the real tokens. Padded positions count neither as rows
nor as columns: each example's value is the mean over its own real positions, zero where it has
none. Without a mask every position is real.
"""

from typing import Any

import numpy as np
from keras import ops

from keras_distill.functional.relations import unit_or_zero
from keras_distill.functional.tensors import Tensor, at_least_float32, per_example

# Below any probability that matters, above what a logarithm turns into infinity.
_SMALLEST = 1e-9
_NEVER = -1e30


def hidden_state_mse(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Squared distance of two sequences of states, averaged over width and real positions.

    Args:
      student, teacher: `(batch, time, width)` of equal shapes.
      mask: `(batch, time)`, non-zero at real tokens.

    Returns:
      `(batch,)`.

    Raises:
      ValueError: the shapes differ, or the mask's length.

    Source: Jiao et al., "TinyBERT", EMNLP Findings 2020, equation 8. The authors' code counts the
    padded positions, too.

    >>> float(hidden_state_mse([[[1.], [5.]]], [[[3.], [0.]]], mask=[[1, 0]])[0])
    4.0
    """
    student, teacher = _state_pair("hidden_state_mse", student, teacher)
    return over_positions(ops.mean(ops.square(student - teacher), axis=-1), mask)


def hidden_state_cosine(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """One minus the cosine of two sequences of states, averaged over real positions.

    Args:
      student, teacher: `(batch, time, width)` of equal shapes. A state of zeros has cosine 0.
      mask: `(batch, time)`, non-zero at real tokens.

    Returns:
      `(batch,)`, from 0 to 2.

    Raises:
      ValueError: the shapes differ, or the mask's length.

    Source: Sanh et al., "DistilBERT", NeurIPS workshop 2019, section 3. The authors' code takes
    one mean over all tokens of the batch, where long examples count more.

    >>> float(hidden_state_cosine([[[2., 0.]]], [[[0., 1.]]])[0])
    1.0
    """
    student, teacher = _state_pair("hidden_state_cosine", student, teacher)
    return over_positions(1 - ops.sum(unit_or_zero(student) * unit_or_zero(teacher), axis=-1), mask)


def patient_state_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of two states that are scaled to length 1, averaged over their width.

    `|s / |s| - t / |t||^2 / width`, which is `2 (1 - cos(s, t)) / width`.

    Args:
      student, teacher: `(batch, width)` of equal shapes. A state of zeros stays zero.

    Returns:
      `(batch,)`, from 0 to `4 / width`.

    Raises:
      ValueError: they are no such states, or the widths differ.

    Source: Sun et al., "Patient Knowledge Distillation for BERT Model Compression", EMNLP 2019,
    equation 7, which sums over width and layers; the authors' code takes the mean, as here.

    >>> float(patient_state_mse([[2., 0.]], [[0., 1.]])[0])
    1.0
    """
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    ours, theirs = tuple(student.shape), tuple(teacher.shape)
    if len(ours) != 2 or len(theirs) != 2 or ours[1] != theirs[1]:
        raise ValueError(
            f"patient_state_mse needs one state an example, (batch, width), of equal width; the "
            f"student's is {ours} and the teacher's {theirs}. Project one of them first "
            f"(PatientStates does it by itself)."
        )
    teacher = ops.cast(teacher, student.dtype)
    return per_example(ops.square(unit_or_zero(student) - unit_or_zero(teacher)))


def attention_kl(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Kullback-Leibler divergence from the teacher's attention to the student's.

    Rows are averaged over heads and real positions. With a mask, each row is first made a
    distribution over the real columns. Where the numbers of heads differ, each side's heads are
    averaged.

    Args:
      student, teacher: `(batch, heads, time, time)`, probabilities over the last axis.
      mask: `(batch, time)`, non-zero at real tokens.

    Returns:
      `(batch,)`, in nats.

    Raises:
      ValueError: the lengths differ, or the mask's.

    Source: Wang et al., "MiniLM", NeurIPS 2020, equation 5.

    >>> even, sure = [[[[0.5, 0.5]] * 2]], [[[[1., 0.]] * 2]]
    >>> round(float(attention_kl(even, sure)[0]), 4)
    0.6931
    """
    student, teacher = _attention_pair("attention_kl", student, teacher, mask)
    return _over_rows(divergence(_log(student), _log(teacher)), mask)


def attention_mse(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Squared distance of two models' attention probabilities, averaged over real columns and rows.

    With a mask, each row is first made a distribution over the real columns. Where the numbers of
    heads differ, each side's heads are averaged.

    Args:
      student, teacher: `(batch, heads, time, time)`, probabilities over the last axis.
      mask: `(batch, time)`, non-zero at real tokens.

    Returns:
      `(batch,)`.

    Raises:
      ValueError: the lengths differ, or the mask's.

    Source: after Jiao et al., "TinyBERT", EMNLP Findings 2020, equation 7, which takes the scores
    before their softmax.

    >>> even, sure = [[[[0.5, 0.5]] * 2]], [[[[1., 0.]] * 2]]
    >>> float(attention_mse(even, sure)[0])
    0.25
    """
    student, teacher = _attention_pair("attention_mse", student, teacher, mask)
    square = ops.square(student - teacher)
    if mask is None:
        return _over_rows(ops.mean(square, axis=-1), mask)
    real = _real(mask, square)
    columns = ops.maximum(ops.sum(real, axis=1), 1)[:, None, None]
    return _over_rows(ops.sum(square * real[:, None, None, :], axis=-1) / columns, mask)


def value_relation_kl(
    student: Tensor, teacher: Tensor, *, heads: int | None = None, mask: Tensor | None = None
) -> Tensor:
    """Divergence of the relations among a layer's values: softmax of their scaled inner products.

    `KL(softmax(V_t V_t^T / sqrt(d_t)) || softmax(V_s V_s^T / sqrt(d_s)))` a head, averaged over
    heads and real positions. Queries or keys in the place of values are MiniLMv2's other relations.

    Args:
      student, teacher: `(batch, time, width)` or, as Keras' attention layers project them,
        `(batch, time, heads, width)`. The widths may differ.
      heads: in how many equal parts to split all of a position's numbers, on both sides. By default
        the heads that come, one where there are none.
      mask: `(batch, time)`, non-zero at real tokens.

    Returns:
      `(batch,)`, in nats.

    Raises:
      ValueError: the lengths or the numbers of heads differ, or a width does not divide.

    Source: Wang et al., "MiniLM", NeurIPS 2020, equations 6 and 7; with relation heads, "MiniLMv2",
    ACL Findings 2021.

    >>> alike = [[[1.], [1.]]]
    >>> float(value_relation_kl(alike, alike)[0])
    0.0
    """
    student, teacher = (
        _split_heads("value_relation_kl", at_least_float32(x), heads) for x in (student, teacher)
    )
    ours, theirs = student.shape, teacher.shape
    if ours[1] != theirs[1]:
        raise ValueError(
            f"value_relation_kl: the student has {ours[1]} heads and the teacher {theirs[1]}. Give "
            f"heads=, which splits both widths anew."
        )
    _check_lengths("value_relation_kl", ours[2], theirs[2], mask)
    ours, theirs = (_relations(x, mask) for x in (student, ops.cast(teacher, student.dtype)))
    return _over_rows(divergence(ours, theirs), mask)


def _state_pair(function: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    ours, theirs = tuple(student.shape), tuple(teacher.shape)
    if len(ours) != 3 or len(theirs) != 3 or ours[2] != theirs[2]:
        raise ValueError(
            f"{function} needs two sequences of states, (batch, time, width), of equal width; the "
            f"student's is {ours} and the teacher's {theirs}. Project one of them first "
            f"(HiddenStates does it by itself)."
        )
    _check_lengths(function, ours[1], theirs[1], None)
    return student, ops.cast(teacher, student.dtype)


def _attention_pair(
    function: str, student: Tensor, teacher: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    ours, theirs = tuple(student.shape), tuple(teacher.shape)
    if len(ours) != 4 or len(theirs) != 4:
        raise ValueError(
            f"{function} needs attention probabilities, (batch, heads, time, time); the student's "
            f"are {ours} and the teacher's {theirs}."
        )
    for axis in (2, 3):
        _check_lengths(function, ours[axis], theirs[axis], mask)
    if ours[1] != theirs[1]:
        student, teacher = (ops.mean(x, axis=1, keepdims=True) for x in (student, teacher))
    return _distribution(student, mask), _distribution(ops.cast(teacher, student.dtype), mask)


def _check_lengths(function: str, ours: Tensor, theirs: Tensor, mask: Tensor) -> None:
    lengths = {"the student's": ours, "the teacher's": theirs}
    if mask is not None:
        lengths["the mask's"] = ops.convert_to_tensor(mask).shape[1]
    known = {who: length for who, length in lengths.items() if isinstance(length, int)}
    if len(set(known.values())) > 1:
        found = " and ".join(f"{who} {length}" for who, length in known.items())
        raise ValueError(
            f"{function} compares sequences position by position, and the lengths differ: {found}. "
            f"Pad or cut the inputs of both models to one length."
        )


def _real(mask: Tensor, like: Tensor) -> Tensor:
    """The mask as ones and zeros, `(batch, time)`."""
    return ops.cast(ops.cast(mask, "bool"), like.dtype)


def over_positions(values: Tensor, mask: Tensor) -> Tensor:
    """The mean over what lies behind the batch, or over the real positions of `(batch, time)`."""
    if mask is None:
        return per_example(values)
    _check_lengths("a masked loss", values.shape[1], None, mask)
    real = _real(mask, values)
    # Not a product alone: a padded position may hold what is not finite.
    counted = ops.where(real > 0, values, ops.zeros_like(values))
    return ops.sum(counted, axis=1) / ops.maximum(ops.sum(real, axis=1), 1)


def _over_rows(values: Tensor, mask: Tensor) -> Tensor:
    """`(batch, heads, time)` averaged over heads, then over real positions."""
    return over_positions(ops.mean(values, axis=1), mask)


def _distribution(attention: Tensor, mask: Tensor) -> Tensor:
    if mask is None:
        return attention
    attention = attention * _real(mask, attention)[:, None, None, :]
    return attention / ops.maximum(ops.sum(attention, axis=-1, keepdims=True), _SMALLEST)


def _log(probabilities: Any) -> Tensor:
    return ops.log(ops.maximum(probabilities, _SMALLEST))


def divergence(ours: Tensor, theirs: Tensor) -> Tensor:
    """`sum p_t (log p_t - log p_s)` over the last axis, of log-probabilities."""
    return ops.sum(ops.exp(theirs) * (theirs - ours), axis=-1)


def _split_heads(function: str, x: Tensor, heads: int | None) -> Tensor:
    """`(batch, heads, time, width)` of what comes with heads or without."""
    if len(x.shape) not in (3, 4):
        raise ValueError(
            f"{function} needs (batch, time, width) or (batch, time, heads, width); got "
            f"{tuple(x.shape)}."
        )
    width = int(np.prod(x.shape[2:]))
    heads = heads or (x.shape[2] if len(x.shape) == 4 else 1)
    if width % heads:
        raise ValueError(
            f"{function}: {width} numbers a position ({tuple(x.shape)}) do not split into "
            f"{heads} heads. Give a heads= that divides both models' widths."
        )
    length = x.shape[1] or ops.shape(x)[1]
    return ops.transpose(ops.reshape(x, (-1, length, heads, width // heads)), (0, 2, 1, 3))


def _relations(x: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities `(batch, heads, time, time)` of each position's likeness to the others."""
    scores = ops.matmul(x, ops.transpose(x, (0, 1, 3, 2))) / float(np.sqrt(x.shape[-1]))
    if mask is not None:
        real = _real(mask, scores)[:, None, None, :]
        scores = ops.where(real > 0, scores, ops.full_like(scores, _NEVER))
    return ops.log_softmax(scores, axis=-1)
