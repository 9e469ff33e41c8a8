"""One way in for every data argument; `datasets` has real data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.datasets import FASHION_MNIST_CLASSES as FASHION_MNIST_CLASSES
from keras_distill.datasets import ImageSplits as ImageSplits
from keras_distill.datasets import Recordings as Recordings
from keras_distill.datasets import fashion_mnist_folders as fashion_mnist_folders
from keras_distill.datasets import load_cifar10 as load_cifar10
from keras_distill.datasets import load_digits as load_digits
from keras_distill.datasets import load_fashion_mnist as load_fashion_mnist
from keras_distill.datasets import load_spoken_digits as load_spoken_digits
from keras_distill.datasets import read_idx as read_idx

ACCEPTED = (
    "an array of inputs, a tuple (x, y) or (x, y, sample_weight) of arrays, a dict or list of "
    "arrays as x, a batched tf.data.Dataset of x or (x, y), or a keras.utils.PyDataset"
)


def qualified_name(value: Any) -> str:
    """The type of `value` with its module: both Keras generations have a `Sequential`.

    >>> qualified_name(keras.Sequential())
    'keras.src.models.sequential.Sequential'
    """
    kind = type(value)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )


def no_keras3_model(value: Any, wanted: str = "Expected a Keras 3 model (keras.Model)") -> str:
    """What an error says of what is no model of Keras 3, with the way to one.

    >>> no_keras3_model("student.keras", "Expected a student")
    'Expected a student; got str. Load it first: keras_distill.load_model(path).'
    """
    words = f"{wanted}; got {qualified_name(value)}."
    bases = [(kind.__module__.partition(".")[0], kind.__name__) for kind in type(value).__mro__]
    if ("tf_keras", "Model") in bases:
        words += (
            " It is of the older generation: kd.edge.to_keras3(model) makes a Keras 3 model of it, "
            "kd.edge.wrap_legacy(model) trains it as it is."
        )
    elif isinstance(value, keras.layers.Layer):
        words += " Make a model of the layer: keras.Sequential([keras.Input(...), layer])."
    elif isinstance(value, (str, os.PathLike)):
        words += " Load it first: keras_distill.load_model(path)."
    return words


def batches(data: Any, batch_size: int = 32) -> Iterator[tuple[Any, Any, Any]]:
    """Reads any data argument batch by batch.

    Args:
      data: an array of inputs, a tuple `(x, y)` or `(x, y, sample_weight)` of arrays, a dict or
        list of arrays as x, a batched `tf.data.Dataset` of x or `(x, y[, sample_weight])`, or a
        `keras.utils.PyDataset`. A tuple of two arrays means `(x, y)`; several inputs are a list.
      batch_size: rows a batch, for arrays; datasets bring their own.

    Returns:
      An iterator of `(x, y, sample_weight)`, NumPy arrays in the structure they came in. `y` and
      `sample_weight` are None where the data has none.

    Raises:
      TypeError: `data` is none of these, or a dataset that is not batched.
      ValueError: `data` is empty or endless, or its arrays differ in length.

    >>> x = np.arange(5.0).reshape(5, 1)
    >>> [batch.shape for batch, _, _ in batches(x, batch_size=2)]
    [(2, 1), (2, 1), (1, 1)]
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more; got {batch_size}.")
    if isinstance(data, keras.utils.PyDataset):
        return _never_empty(_pydataset_batches(data), data)
    if _is_tf_dataset(data):
        return _never_empty(_tf_batches(_checked_dataset(data)), data)
    return _array_batches(_arrays(data), batch_size)


def _never_empty(source: Iterator[Any], data: Any) -> Iterator[tuple[Any, Any, Any]]:
    empty = True
    for element in source:
        empty = False
        yield unpack(element)
    if empty:
        raise ValueError(
            f"Expected data with at least one batch; this {qualified_name(data)} yields none. "
            f"A drop_remainder=True or a filter may have dropped every row."
        )


def unpack(element: Any) -> tuple[Any, Any, Any]:
    """Splits what a data set yields into `(x, y, sample_weight)`.

    >>> unpack(("x", "y"))
    ('x', 'y', None)
    """
    parts = element if isinstance(element, tuple) else (element,)
    if not 1 <= len(parts) <= 3:
        raise TypeError(
            f"Expected x, (x, y) or (x, y, sample_weight); got a tuple of {len(parts)}. "
            f"Several inputs are a list or a dict, not a tuple."
        )
    x, y, sample_weight = (*parts, None, None)[:3]
    return x, y, sample_weight


def as_arrays(batch: Any) -> Any:
    """A tree of tensors as one of arrays, None as it is."""
    return keras.tree.map_structure(lambda x: x if x is None else np.asarray(x), batch)


def _pydataset_batches(data: Any) -> Iterator[Any]:
    if data.num_batches is None:
        raise ValueError("Expected a PyDataset of known length; its num_batches is None.")
    for index in range(data.num_batches):
        yield as_arrays(data[index])


def _is_tf_dataset(data: Any) -> bool:
    return isinstance(data, tf.data.Dataset)


def _checked_dataset(data: Any) -> Any:
    if data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("Expected data that ends; this tf.data.Dataset repeats. Add .take(n).")
    for spec in tf.nest.flatten(data.element_spec):
        if spec.shape.rank == 0:
            raise TypeError(
                f"Expected a batched tf.data.Dataset; its elements are {data.element_spec}. "
                f"Add .batch(32)."
            )
    return data


def _tf_batches(data: Any) -> Iterator[Any]:
    for element in data:
        yield tf.nest.map_structure(np.asarray, element)


def _arrays(data: Any) -> tuple[Any, Any, Any]:
    found = unpack(data)
    if found[0] is None:
        raise TypeError(f"Expected {ACCEPTED}; got None as x.")
    x, y, sample_weight = (
        None if part is None else keras.tree.map_structure(_as_array, part) for part in found
    )
    parts = (x, y, sample_weight)
    lengths = {len(leaf) for leaf in keras.tree.flatten(parts) if leaf is not None}
    if len(lengths) != 1:
        raise ValueError(f"Expected arrays of one length; got lengths {sorted(lengths)}.")
    if lengths == {0}:
        raise ValueError("Expected data with at least one row; got 0 rows.")
    return parts


def _as_array(leaf: Any) -> np.ndarray:
    # A list of numbers is refused: `list` already means several inputs.
    shape = getattr(leaf, "shape", None)
    if shape is None or isinstance(leaf, (type, keras.KerasTensor)):
        raise TypeError(f"Expected {ACCEPTED}; got {qualified_name(leaf)}.")
    if len(shape) == 0:
        raise TypeError("Expected arrays with a row for each example; got a scalar.")
    return np.asarray(leaf)


def _array_batches(parts: tuple[Any, Any, Any], batch_size: int) -> Iterator[tuple[Any, Any, Any]]:
    rows = len(keras.tree.flatten(parts[0])[0])
    for start in range(0, rows, batch_size):
        chosen = slice(start, start + batch_size)
        x, y, sample_weight = (
            None if part is None else keras.tree.map_structure(lambda a, s=chosen: a[s], part)
            for part in parts
        )
        yield x, y, sample_weight
