"""Built-in data are whole, from wherever they are read, and what is missing or damaged is named."""

import gzip
import wave

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits as sklearn_digits

from keras_distill import data, datasets


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The user's folder; nothing of Keras' cache is seen."""
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.setenv("KERAS_DISTILL_DATA", str(folder))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return folder


def test_digits_are_all_there_once_and_the_test_set_ignores_the_seed():
    first, second = data.load_digits(seed=0), data.load_digits(seed=1)
    parts = np.concatenate([first.x_train, first.x_validation, first.x_test])
    whole = sklearn_digits().images[..., None] / 16.0

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
    found = sklearn_digits()
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
    monkeypatch.setattr(datasets, "fashion_mnist_folders", lambda: (folder,))
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


def test_the_folder_of_ones_own_is_first(own):
    assert data.fashion_mnist_folders()[0] == own / "fashion-mnist"
    own.rmdir()
    with pytest.raises(FileNotFoundError, match="KERAS_DISTILL_DATA"):
        data.fashion_mnist_folders()


def smooth_images(count):
    """Colours that JPEG keeps nearly as they are: `(count, 32, 32, 3)` uint8."""
    rng = np.random.default_rng(count)
    ends = rng.integers(0, 256, (count, 2, 1, 1, 3))
    share = np.linspace(0.0, 1.0, 32)[:, None, None]
    return (ends[:, 0] * share + ends[:, 1] * (1 - share) + np.zeros((1, 32, 32, 3))).astype(
        "uint8"
    )


@pytest.fixture
def cifar():
    """Arrays by their names: 40 images to train on and 6 to test."""
    return {
        "x_train": smooth_images(40),
        "y_train": np.arange(40, dtype="uint8")[:, None] % 10,
        "x_test": smooth_images(6),
        "y_test": np.arange(6)[:, None],
    }


def as_jpeg(images):
    files = [tf.io.encode_jpeg(image, quality=100).numpy() for image in images]
    offsets = np.cumsum([0, *map(len, files)])
    return np.frombuffer(b"".join(files), "uint8"), offsets


@pytest.mark.parametrize("form", ["arrays", "JPEG", "Keras' cache", "Keras, channels first"])
def test_cifar10_is_read_from_each_place(form, own, cifar, monkeypatch):
    if form == "arrays":
        np.savez(own / "cifar10.npz", **cifar)
    elif form == "JPEG":
        found = {f"y_{part}": cifar[f"y_{part}"] for part in ("train", "test")}
        for part in ("train", "test"):
            found[f"jpeg_{part}"], found[f"offsets_{part}"] = as_jpeg(cifar[f"x_{part}"])
        np.savez(own / "cifar10_jpeg.npz", **found)
    else:
        archive = own.parent / "keras" / "datasets" / "cifar-10-batches-py-target_archive"
        archive.parent.mkdir(parents=True)
        archive.touch()
        order = (0, 3, 1, 2) if "first" in form else (0, 1, 2, 3)
        given = [cifar[f"x_{part}"].transpose(order) for part in ("train", "test")]
        pairs = (given[0], cifar["y_train"]), (given[1], cifar["y_test"])
        monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: pairs)
    splits = data.load_cifar10(seed=1)
    assert (len(splits.x_train), len(splits.x_validation)) == (36, 4)
    assert splits.x_train.dtype == np.float32
    np.testing.assert_allclose(splits.x_test * 255, cifar["x_test"], atol=8)
    assert splits.y_test.tolist() == list(range(6))
    # Every image has its label still.
    for image, label in zip(splits.x_train, splits.y_train, strict=True):
        distances = np.abs(cifar["x_train"] / 255 - image).mean((1, 2, 3))
        assert distances.argmin() % 10 == label


def test_cifar10_that_is_missing_or_damaged_is_named(own, cifar, monkeypatch):
    fetched = []
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: fetched.append(1) or 1 / 0)
    with pytest.raises(FileNotFoundError, match="KERAS_DISTILL_DATA"):
        data.load_cifar10()
    assert not fetched
    with pytest.raises(ZeroDivisionError):
        data.load_cifar10(download=True)
    jpeg, offsets = as_jpeg(cifar["x_train"])
    stored = {"jpeg_train": jpeg, "offsets_train": offsets, "y_train": cifar["y_train"]}
    stored |= {"jpeg_test": jpeg, "offsets_test": offsets, "y_test": cifar["y_train"]}
    for bad, words in (
        ({"offsets_train": offsets[:-1]}, "rising offsets"),
        ({"jpeg_train": jpeg * 0}, "JPEG images"),
        ({"y_train": cifar["y_test"]}, "a label for each"),
    ):
        np.savez(own / "cifar10_jpeg.npz", **{**stored, **bad})
        with pytest.raises(ValueError, match=words):
            data.load_cifar10()
    np.savez(own / "cifar10.npz", x_train=cifar["x_train"])
    with pytest.raises(ValueError, match=r"'x_test', 'y_test', 'y_train'"):
        data.load_cifar10()


SPOKEN = [("0_amy_0", 5), ("3_bob_0", 12), ("3_amy_1", 7)]


def recording(name, length):
    return (np.arange(length) * 100 - len(name) * 10).astype("<i2")


@pytest.mark.parametrize("form", ["wav", "arrays"])
def test_spoken_digits_are_cut_and_filled(form, own):
    clips = [recording(*one) for one in sorted(SPOKEN)]
    if form == "wav":
        (own / "recordings").mkdir()
        for name, length in SPOKEN:
            with wave.open(str(own / "recordings" / f"{name}.wav"), "wb") as file:
                file.setparams((1, 2, 8000, 0, "NONE", ""))
                file.writeframes(recording(name, length).tobytes())
    else:
        offsets = np.cumsum([0, *map(len, clips)])
        known = {"digit": np.array([0, 3, 3]), "speaker": np.array([0, 0, 1])}
        np.savez(own / "spoken_digits.npz", samples=np.concatenate(clips), offsets=offsets, **known)
    found = data.load_spoken_digits(length=8)
    assert found.samples.shape == (3, 8)
    assert found.lengths.tolist() == [5, 7, 12]
    for row, clip in zip(found.samples, clips, strict=True):
        np.testing.assert_array_equal(row * 2**15, np.pad(clip[:8], (0, max(0, 8 - len(clip)))))
    assert (found.labels.tolist(), found.speakers.tolist()) == ([0, 3, 3], [0, 0, 1])
    if form == "wav":
        assert found.speaker_names == ("amy", "bob")
    assert found.of(1).lengths.tolist() == [12]
    assert found.of(1).rate == 8000


def test_spoken_digits_that_are_missing_or_of_another_format_are_named(own):
    with pytest.raises(FileNotFoundError, match="recordings"):
        data.load_spoken_digits()
    with pytest.raises(ValueError, match="length"):
        data.load_spoken_digits(length=0)
    folder = own / "recordings"
    folder.mkdir()
    with pytest.raises(ValueError, match="7_jackson_32"):
        data.load_spoken_digits()
    with wave.open(str(folder / "1_amy_0.wav"), "wb") as file:
        file.setparams((2, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(64))
    with pytest.raises(ValueError, match="2 of 16 bits at 16000 Hz"):
        data.load_spoken_digits()
    (folder / "1_amy_0.wav").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match="damaged"):
        data.load_spoken_digits()
