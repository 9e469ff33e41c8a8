"""What the losses share: dtypes, sizes, the mean over an example."""

from typing import Any, TypeAlias

from keras import backend, ops

# Of any backend, in a graph or not, or what becomes one.
Tensor: TypeAlias = Any
# Sizes, None for an open one: where none is, a check has said it, and not the type.
Shape: TypeAlias = tuple[Any, ...]

# The label of a row that has none.
UNLABELLED = -1
# Stands for minus infinity: its exponential is zero, and its difference with itself too.
_EXCLUDED = -1e30


def logit_pair(function: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both logits in one dtype of at least float32, over the same classes."""
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    if student.shape[-1] != teacher.shape[-1]:
        raise ValueError(
            f"{function}: the student has {student.shape[-1]} classes (logits "
            f"{tuple(student.shape)}) and the teacher {teacher.shape[-1]} (logits "
            f"{tuple(teacher.shape)}). Both must answer over the same classes."
        )
    return student, ops.cast(teacher, student.dtype)


def at_least_float32(x: Tensor) -> Tensor:
    """`x` as a tensor: float64 stays, everything else becomes float32."""
    x = ops.convert_to_tensor(x)
    return x if backend.standardize_dtype(x.dtype) == "float64" else ops.cast(x, "float32")


def per_example(values: Tensor) -> Tensor:
    """The mean over every axis but the batch, `(batch,)`."""
    axes = tuple(range(1, len(values.shape)))
    return ops.mean(values, axis=axes) if axes else values


def of_rows(values: Tensor, like: Tensor) -> Tensor:
    """A scalar as it is; `(batch,)` with an axis of one for each further axis of `like`."""
    values = ops.cast(ops.convert_to_tensor(values), like.dtype)
    if not len(values.shape):
        return values
    return ops.reshape(values, (-1,) + (1,) * (len(like.shape) - 1))


def check_positive(name: str, value: Any) -> None:
    """Refuses a number that is not positive; tensors pass."""
    if isinstance(value, (int, float)) and not value > 0:
        raise ValueError(f"{name} must be positive; got {value}.")


def check_several(function: str, rows: Tensor) -> None:
    """Refuses a batch known to hold a single row, where rows are compared with each other."""
    if rows.shape[0] == 1:
        raise ValueError(
            f"{function} compares examples with each other and got a batch of one. Use a batch "
            f"size of at least 2, or a method that looks at each example alone."
        )


def unit(x: Tensor, axis: Any, smallest: float = 1e-8) -> Tensor:
    """`x` over its norm along `axis`, or over `smallest` where the norm is below it."""
    squared = ops.sum(ops.square(x), axis=axis, keepdims=True)
    # The floor is put under the square: a square root has no gradient at zero.
    return x / ops.sqrt(ops.maximum(squared, smallest**2))


def class_targets(function: str, labels: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Class labels as one-hot targets, and which of them are known.

    Args:
      function: who asks, for messages.
      labels: `(batch, ...)` or `(batch, ..., 1)` integers of any dtype, -1 where there is none; or
        `(batch, ..., classes)` one-hot (of soft labels the largest counts).
      logits: `(batch, ..., classes)`.

    Returns:
      One-hot targets of the logits' shape and dtype, all zero where there is no label and NaN where
      it is out of range (as Keras' losses have it on an accelerator), and booleans `(batch, ...)`.

    Raises:
      ValueError: the shapes do not fit.
    """
    index = _class_index(function, ops.convert_to_tensor(labels), tuple(logits.shape))
    classes = logits.shape[-1]
    in_range = ops.logical_and(index >= UNLABELLED, index < classes)
    poison = ops.where(in_range, ops.cast(0, logits.dtype), ops.cast(float("nan"), logits.dtype))
    one_hot = ops.one_hot(index, classes, dtype=logits.dtype) + poison[..., None]
    return one_hot, ops.not_equal(index, UNLABELLED)


def without_target(logits: Tensor, target: Tensor) -> Tensor:
    """The logits with the label's class, one-hot in `target`, out of the softmax."""
    return ops.where(target > 0, ops.cast(_EXCLUDED, logits.dtype), logits)


def _class_index(function: str, labels: Tensor, shape: Shape) -> Tensor:
    given = tuple(labels.shape)
    if len(given) == len(shape) and given[-1] == shape[-1]:
        labels = ops.argmax(labels, axis=-1)
    elif len(given) == len(shape) and given[-1] == 1:
        labels = ops.squeeze(labels, -1)
    found = tuple(labels.shape)
    if len(found) != len(shape) - 1 or any(
        a != b for a, b in zip(found[1:], shape[1:-1], strict=True) if None not in (a, b)
    ):
        raise ValueError(
            f"{function}: labels of shape {given} do not fit logits of shape {shape}. Give "
            f"integers of shape {shape[:-1]}, or one-hot labels of the logits' shape."
        )
    return ops.cast(labels, "int32")


def match_sizes(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both feature tensors at the smaller size along every axis between batch and channels.

    An axis whose size is unknown while the graph is traced stays: it must be equal in both, and the
    step fails where it is not.
    """
    for axis in range(1, len(first.shape) - 1):
        if None in (first.shape[axis], second.shape[axis]):
            first = _of_equal_sizes(first, second, axis)
            continue
        size = min(first.shape[axis], second.shape[axis])
        first, second = adaptive_pool(first, axis, size), adaptive_pool(second, axis, size)
    return first, second


def _of_equal_sizes(first: Tensor, second: Tensor, axis: int) -> Tensor:
    """`first`, which in a graph fails with the step where it differs from `second` in size."""
    if backend.backend() != "tensorflow" or not hasattr(first, "graph"):
        return first
    # keras.ops has no assertion, so this asks the backend.
    import tensorflow as tf

    checked = tf.debugging.assert_equal(
        tf.shape(first)[axis],
        tf.shape(second)[axis],
        f"Features differ in size along axis {axis}, and the larger can only be pooled to the "
        f"smaller where sizes are known beforehand: give both models a fixed input size.",
    )
    with tf.control_dependencies([] if checked is None else [checked]):
        return tf.identity(first)


def adaptive_pool(x: Tensor, axis: int, size: int) -> Tensor:
    """Average-pool one axis to `size`: bin i covers floor(i n / size) to ceil((i + 1) n / size).

    In at least float32: the mean of many half-precision numbers would lose digits.
    """
    x = at_least_float32(x)
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


def inverse_sigmoid(probability: Any) -> Any:
    """The log odds of a sigmoid's output, at least float32; to 16 either way, as it holds no more.

    >>> round(float(inverse_sigmoid(0.75)), 4)  # log 3
    1.0986
    """
    probability = ops.clip(at_least_float32(probability), 1e-7, 1 - 1e-7)
    return ops.log(probability) - ops.log1p(-probability)
