"""Every data argument is read alike, and the built-in sets are whole."""

import gzip

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn import datasets

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


def test_digits_are_all_there_once_and_the_test_set_ignores_the_seed():
    first, second = data.load_digits(seed=0), data.load_digits(seed=1)
    parts = np.concatenate([first.x_train, first.x_validation, first.x_test])
    whole = datasets.load_digits().images[..., None] / 16.0

    def in_order(images):
        return np.sort(images.reshape(len(images), -1).astype("float32"), axis=0)

    assert first.x_train.shape == (1078, 8, 8, 1)
    assert parts.dtype == np.float32
    np.testing.assert_array_equal(in_order(parts), in_order(whole))
    np.testing.assert_array_equal(first.x_test, second.x_test)
    assert not np.array_equal(first.x_validation, second.x_validation)
    np.testing.assert_array_equal(first.x_train, data.load_digits(seed=0).x_train)


def test_images_keep_their_labels():
    splits = data.load_digits(seed=3)
    found = datasets.load_digits()
    label_of = {
        image.astype("float32").tobytes(): label
        for image, label in zip(found.images, found.target, strict=True)
    }
    for x, y in [(splits.x_train, splits.y_train), (splits.x_test, splits.y_test)]:
        assert [label_of[(image[..., 0] * 16).tobytes()] for image in x] == y.tolist()


def idx(values):
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    return gzip.compress(header + values.tobytes())


@pytest.fixture
def fashion(tmp_path, monkeypatch):
    folder = tmp_path / "datasets" / "fashion-mnist"
    folder.mkdir(parents=True)
    images = np.arange(7000 * 4, dtype=np.uint32).astype(np.uint8).reshape(7000, 2, 2)
    labels = (np.arange(7000) % 10).astype(np.uint8)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(idx(images))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(idx(images[:5]))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(idx(labels[:5]))
    monkeypatch.setattr(data, "fashion_mnist_folders", lambda: (folder,))
    return folder


def test_fashion_mnist_reads_idx_files(fashion):
    splits = data.load_fashion_mnist()
    assert splits.x_train.shape == (1000, 2, 2, 1)
    assert splits.x_validation.shape == (6000, 2, 2, 1)
    # The first image's bytes are 0, 1, 2, 3, scaled to [0, 1].
    np.testing.assert_allclose(splits.x_test[0].ravel() * 255, [0, 1, 2, 3], rtol=1e-6)
    assert splits.y_test.tolist() == [0, 1, 2, 3, 4]
    assert splits.class_names[9] == "Ankle boot"


def test_damaged_and_missing_files_are_named(fashion, monkeypatch):
    damaged = fashion / "train-labels-idx1-ubyte.gz"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    with pytest.raises(ValueError, match="train-labels"):
        data.load_fashion_mnist()
    damaged.unlink()
    fetched = []
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", lambda: fetched.append(1))
    with pytest.raises(FileNotFoundError, match="apt-get install dataset-fashion-mnist"):
        data.load_fashion_mnist()
    assert not fetched
    with pytest.raises(FileNotFoundError):
        data.load_fashion_mnist(download=True)
    assert fetched
