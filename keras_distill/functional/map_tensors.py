"""What the losses on maps share: two maps made comparable, a map by position."""

import functools

from keras import ops

from keras_distill.functional.tensors import Tensor, at_least_float32, match_sizes


def map_pair(
    function: str, student: Tensor, teacher: Tensor, who: tuple[str, str] = ("student", "teacher")
) -> tuple[Tensor, Tensor]:
    """Both maps at the smaller size, in one dtype of at least float32."""
    return match_sizes(*two_maps(function, student, teacher, who))


def two_maps(
    function: str,
    student: Tensor,
    teacher: Tensor,
    who: tuple[str, str] = ("student", "teacher"),
    *,
    open_axes: bool = True,
) -> tuple[Tensor, Tensor]:
    """Both maps in one dtype of at least float32."""
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    ours, theirs = tuple(student.shape), tuple(teacher.shape)
    known = open_axes or None not in (*ours[1:], *theirs[1:])
    if len(ours) != len(theirs) or len(ours) < 3 or not known:
        raise ValueError(
            f"{function} needs two maps (batch, ..., channels) of equal rank, with at least one "
            f"axis of positions and all sizes known; the {who[0]}'s is {ours} and the {who[1]}'s "
            f"{theirs}."
        )
    return student, ops.cast(teacher, student.dtype)


def check_equal_channels(function: str, student: Tensor, teacher: Tensor) -> None:
    """ValueError where the channel counts differ."""
    if student.shape[-1] != teacher.shape[-1]:
        raise ValueError(
            f"{function} needs maps of equal channels; the student's is {tuple(student.shape)} and "
            f"the teacher's {tuple(teacher.shape)}. Project the student's first."
        )


def by_position(x: Tensor) -> Tensor:
    """`(batch, positions, channels)`."""
    if None in x.shape[1:-1]:
        return ops.reshape(x, (ops.shape(x)[0], -1, x.shape[-1]))
    return ops.reshape(x, (-1, functools.reduce(int.__mul__, x.shape[1:-1]), x.shape[-1]))


def flat(x: Tensor) -> Tensor:
    """`(batch, numbers)`."""
    if None in x.shape[1:]:
        return ops.reshape(x, (ops.shape(x)[0], -1))
    return ops.reshape(x, (-1, functools.reduce(int.__mul__, x.shape[1:])))


def scaled(x: Tensor) -> Tensor:
    """Each example over its largest number, lest a power of it overflow or vanish.

    The scale cancels where the result is brought to length 1, so that it needs no gradient.
    """
    largest = ops.max(ops.abs(x), axis=tuple(range(1, len(x.shape))), keepdims=True)
    return x / ops.stop_gradient(ops.where(largest > 0, largest, ops.ones_like(largest)))
