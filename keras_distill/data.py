"""One way in for every data argument, and the two image sets that need no download."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill._extras import install_hint

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

    >>> no_keras3_model("student.keras")
    'Expected a Keras 3 model (keras.Model); got str. Load it first: keras.saving.load_model(path).'
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
        words += " Load it first: keras.saving.load_model(path)."
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


@dataclass(frozen=True)
class ImageSplits:
    """Images in [0, 1], `(n, height, width, 1)` float32, and their labels, `(n,)` int32."""

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_validation: np.ndarray
    y_validation: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    class_names: tuple[str, ...]


def load_digits(seed: int = 0) -> ImageSplits:
    """scikit-learn's 1,797 real 8x8 digits: 1,078 to train, 359 to validate, 360 to test.

    The test images are the same for every seed; `seed` says which of the others validate. So no
    test image is ever trained on by a run of another seed.

    Raises:
      ModuleNotFoundError: scikit-learn is missing, which the extra "demo" brings.
    """
    try:
        from sklearn import datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"load_digits needs scikit-learn: {install_hint('demo')}"
        ) from error
    found = datasets.load_digits()
    images = (found.images / 16.0).astype("float32")[..., None]
    labels = found.target.astype("int32")
    order = np.random.default_rng(2012).permutation(len(images))
    rest, test = order[:-360], order[-360:]
    names = tuple(str(digit) for digit in range(10))
    return _split(
        "digits", images[rest], labels[rest], images[test], labels[test], 359, names, seed
    )


FASHION_MNIST_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_FASHION_MNIST_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def fashion_mnist_folders() -> tuple[Path, ...]:
    """Where Fashion-MNIST's four files are looked for: Debian's package, then Keras' own cache."""
    keras_home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    return (Path("/usr/share/datasets/fashion-mnist"), keras_home / "datasets" / "fashion-mnist")


def load_fashion_mnist(seed: int = 0, *, download: bool = False) -> ImageSplits:
    """Fashion-MNIST, 28x28: 54,000 images to train, 6,000 to validate, 10,000 to test.

    Args:
      seed: which of the 60,000 training images validate.
      download: where no file is on this machine, let `keras.datasets.fashion_mnist` fetch them.

    Raises:
      FileNotFoundError: the files are nowhere and `download` is False.
      ValueError: a file is damaged.
    """
    folder = _fashion_mnist_folder()
    if folder is None and download:
        keras.datasets.fashion_mnist.load_data()
        folder = _fashion_mnist_folder()
    if folder is None:
        places = " and ".join(str(place) for place in fashion_mnist_folders())
        raise FileNotFoundError(
            f"Fashion-MNIST's four .idx files are not in {places}. "
            f"`apt-get install dataset-fashion-mnist` brings them, or load with download=True."
        )
    x, y, x_test, y_test = (read_idx(folder / name) for name in _FASHION_MNIST_FILES)
    x, x_test = (images.astype("float32")[..., None] / np.float32(255) for images in (x, x_test))
    y, y_test = (labels.astype("int32") for labels in (y, y_test))
    return _split("fashion_mnist", x, y, x_test, y_test, 6000, FASHION_MNIST_CLASSES, seed)


def _fashion_mnist_folder() -> Path | None:
    for folder in fashion_mnist_folders():
        if all((folder / name).is_file() for name in _FASHION_MNIST_FILES):
            return folder
    return None


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a gzipped IDX file of unsigned bytes (LeCun's MNIST format).

    Raises:
      ValueError: not an IDX file of bytes, or cut short.
    """
    try:
        content = gzip.decompress(Path(path).read_bytes())
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"Expected a gzipped IDX file; {path} is damaged: {error}.") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError(f"Expected an IDX file of bytes; {path} begins with {content[:4]!r}.")
    rank = content[3]
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", count=rank, offset=4))
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    if values.size != np.prod(shape):
        raise ValueError(
            f"Expected {np.prod(shape)} bytes for {shape} in {path}; got {values.size}."
        )
    return values.reshape(shape)


def _split(name, x, y, x_test, y_test, validation, class_names, seed) -> ImageSplits:
    order = np.random.default_rng(seed).permutation(len(x))
    held, train = order[:validation], order[validation:]
    return ImageSplits(name, x[train], y[train], x[held], y[held], x_test, y_test, class_names)
