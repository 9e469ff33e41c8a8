"""What the losses share: dtypes, sizes, the mean over an example."""

from typing import Any

from keras import backend, ops


def logit_pair(function: str, student: Any, teacher: Any):
    """Both logits in one dtype of at least float32, over the same classes."""
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    if student.shape[-1] != teacher.shape[-1]:
        raise ValueError(
            f"{function}: the student has {student.shape[-1]} classes (logits "
            f"{tuple(student.shape)}) and the teacher {teacher.shape[-1]} (logits "
            f"{tuple(teacher.shape)}). Both must answer over the same classes."
        )
    return student, ops.cast(teacher, student.dtype)


def at_least_float32(x: Any):
    """`x` as a tensor: float64 stays, everything else becomes float32."""
    x = ops.convert_to_tensor(x)
    return x if backend.standardize_dtype(x.dtype) == "float64" else ops.cast(x, "float32")


def per_example(values: Any):
    """The mean over every axis but the batch, `(batch,)`."""
    axes = tuple(range(1, len(values.shape)))
    return ops.mean(values, axis=axes) if axes else values


def check_positive(name: str, value: Any) -> None:
    """Refuses a number that is not positive; tensors pass."""
    if isinstance(value, (int, float)) and not value > 0:
        raise ValueError(f"{name} must be positive; got {value}.")


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
