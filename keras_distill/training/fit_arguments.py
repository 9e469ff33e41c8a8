"""What `fit` was given, read by its arguments' names."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.data import unpack

__all__ = ["lacks_labels", "validation_of", "with_class_weight"]


def validation_of(given: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """What `fit` validates on of its arguments by name, as `(x, y, sample_weight)`; x may be None.

    >>> validation_of({"x": "x", "validation_data": ("a", "b")})
    ('a', 'b', None)
    """
    if given.get("validation_data") is not None:
        found = given["validation_data"]
        return unpack(tuple(found) if isinstance(found, list) else found)
    if given.get("validation_split"):
        return given.get("x"), given.get("y"), given.get("sample_weight")
    return None, None, None


def lacks_labels(x: Any, y: Any) -> bool:
    """Whether what `fit` takes as x and y has no labels; of a generator that is not known.

    >>> lacks_labels(np.ones((2, 3)), None)
    True
    """
    if isinstance(x, tf.data.Dataset):
        return unpack(x.element_spec)[1] is None
    return y is None and all(hasattr(leaf, "shape") for leaf in keras.tree.flatten(x))


def with_class_weight(given: Mapping[str, Any], output: keras.KerasTensor) -> dict[str, Any]:
    """`fit`'s arguments with `class_weight` as sample weights, one a label, where Keras can't.

    It means the same for a `tf.data.Dataset` and for arrays: a class that is missing weighs one,
    the key -1 is of labels that are missing. A generator and other data are left to Keras.

    Args:
      given: `fit`'s arguments by name.
      output: the student's, which tells labels by position from one-hot labels.

    Raises:
      ValueError: several outputs, sample weights besides, no labels; labels by position of a
        PyDataset, or of arrays with `validation_split`.
    """
    given = dict(given)
    x, y, class_weight = given.get("x"), given.get("y"), given["class_weight"]
    if isinstance(x, tf.data.Dataset):
        _, y, weight = unpack(x.element_spec)
        _check_class_weight(y, weight)

        def weigh(*element):
            inputs, labels, _ = unpack(element if len(element) > 1 else element[0])
            return inputs, labels, _class_weights(labels, class_weight, output)

        given["x"] = x.map(weigh, num_parallel_calls=tf.data.AUTOTUNE)
        return {**given, "class_weight": None}
    if len(output.shape) < 3 or not (isinstance(x, keras.utils.PyDataset) or y is not None):
        return given
    if isinstance(x, keras.utils.PyDataset) or given.get("validation_split"):
        raise ValueError(
            "class_weight: the student answers by position, and here Keras takes one label a row. "
            "Give a sample weight for each position, or a tf.data.Dataset; arrays may come "
            "with validation_data= in place of validation_split=."
        )
    _check_class_weight(y, given.get("sample_weight"))
    weights = _class_weights(y, class_weight, output).numpy()
    return {**given, "class_weight": None, "sample_weight": weights}


def _check_class_weight(y: Any, sample_weight: Any) -> None:
    if y is None:
        raise ValueError("class_weight needs labels, and the data has none. Give (x, y).")
    if sample_weight is not None:
        raise ValueError(
            "class_weight and sample_weight can't be given together. Multiply the first into the "
            "second."
        )
    if keras.tree.is_nested(y):
        raise ValueError(
            "class_weight is of the labels of one output, and these are of several. Give a "
            "sample_weight for each output."
        )


def _class_weights(y: Any, class_weight: Mapping[int, float], output: keras.KerasTensor):
    """The weight of each label, float32, of the shape of labels by index."""
    classes, rank = tf.convert_to_tensor(y), len(output.shape)
    if classes.shape.rank >= rank:
        if classes.shape[-1] == 1:
            classes = tf.squeeze(classes, -1)
        else:
            missing = tf.reduce_all(tf.equal(classes, tf.cast(-1, classes.dtype)), axis=-1)
            classes = tf.where(missing, tf.constant(-1, "int64"), tf.argmax(classes, -1))
    if classes.dtype.is_floating:
        classes = tf.round(classes)
    classes = tf.cast(classes, "int64")
    least, most = min(class_weight, default=0), max(class_weight, default=0)
    table = np.ones(most - least + 1, "float32")
    for index, weight in class_weight.items():
        table[index - least] = weight
    known = (classes >= least) & (classes <= most)
    return tf.where(known, tf.gather(table, tf.where(known, classes - least, 0)), 1.0)
