"""Every data argument is read alike."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import data

X = np.arange(10, dtype="float32").reshape(5, 2)
Y = np.arange(5)
W = np.linspace(0.0, 1.0, 5)


class Rows(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return X[2 * index : 2 * index + 2], Y[2 * index : 2 * index + 2]


def joined(source, part):
    return np.concatenate([np.asarray(batch[part]) for batch in source])


@pytest.mark.parametrize(
    "source",
    [
        (X, Y),
        (tf.constant(X), tf.constant(Y)),
        tf.data.Dataset.from_tensor_slices((X, Y)).batch(2),
        Rows(),
    ],
    ids=["arrays", "tensors", "tf.data", "PyDataset"],
)
def test_every_source_yields_the_same_rows(source):
    read = list(data.batches(source, batch_size=2))
    assert [len(x) for x, _, _ in read] == [2, 2, 1]
    np.testing.assert_array_equal(joined(read, 0), X)
    np.testing.assert_array_equal(joined(read, 1), Y)
    assert all(type(x) is np.ndarray and w is None for x, _, w in read)


def test_weights_and_absent_labels():
    (x, y, w), *_ = data.batches((X, None, W), batch_size=5)
    assert y is None
    np.testing.assert_array_equal(w, W)
    ((x, y, w),) = data.batches(X)
    np.testing.assert_array_equal(x, X)
    assert y is None
    assert w is None


def test_a_dict_and_a_list_are_inputs_not_labels():
    read = list(data.batches({"a": X, "b": Y}, batch_size=3))
    np.testing.assert_array_equal(read[1][0]["b"], Y[3:])
    assert read[0][1] is None
    ((x, y, _),) = data.batches(([X, Y], Y))
    assert len(x) == 2
    np.testing.assert_array_equal(y, Y)


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        (X[:0], ValueError, "0 rows"),
        (tf.data.Dataset.from_tensor_slices(X).batch(9, drop_remainder=True), ValueError, "none"),
        (tf.data.Dataset.from_tensor_slices(X).batch(2).repeat(), ValueError, "take"),
        (tf.data.Dataset.from_tensor_slices((X, Y)), TypeError, r"\.batch\(32\)"),
        ((X, Y[:3]), ValueError, "one length"),
        ("images/", TypeError, "tf.data.Dataset"),
        ([1.0, 2.0], TypeError, "float"),
        (None, TypeError, "None"),
        ((X, Y, W, W), TypeError, "tuple of 4"),
    ],
)
def test_bad_data_is_named(source, error, words):
    with pytest.raises(error, match=words):
        next(data.batches(source))
