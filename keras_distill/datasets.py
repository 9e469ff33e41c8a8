"""Real data that is on this machine already: in a folder of yours, in Keras' cache, in a package.

The environment's `KERAS_DISTILL_DATA` names the folder of yours. It is looked into first.
"""

from __future__ import annotations

import gzip
import os
import wave
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_distill._extras import install_hint


@dataclass(frozen=True)
class ImageSplits:
    """Images in [0, 1], `(n, height, width, channels)` float32, and their labels, `(n,)` int32."""

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_validation: np.ndarray
    y_validation: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Recordings:
    """Spoken words of one length: what was said, and by whom.

    Args:
      samples: `(n, length)` float32 in [-1, 1], zeros where a recording is over.
      lengths: samples of each recording, `(n,)` int32, before it was cut or filled up.
      labels: `(n,)` int32.
      speakers: `(n,)` int32, indices into `speaker_names`.
      rate: samples a second.
      class_names, speaker_names: by index.
    """

    samples: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    speakers: np.ndarray
    rate: int
    class_names: tuple[str, ...]
    speaker_names: tuple[str, ...]

    def of(self, *speakers: int) -> Recordings:
        """The recordings of these speakers alone: who is tested on must not have been heard."""
        rows = np.isin(self.speakers, speakers)
        return replace(
            self,
            samples=self.samples[rows],
            lengths=self.lengths[rows],
            labels=self.labels[rows],
            speakers=self.speakers[rows],
        )


def _keras_datasets() -> Path:
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "datasets"


def _own_folder() -> Path | None:
    """The folder that `KERAS_DISTILL_DATA` names.

    Raises:
      FileNotFoundError: there is none of that name.
    """
    named = os.environ.get("KERAS_DISTILL_DATA")
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"KERAS_DISTILL_DATA names {named!r}, which is no folder.")
    return folder


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
    """Where Fashion-MNIST's four files are looked for, in this order.

    `fashion-mnist` in the folder that `KERAS_DISTILL_DATA` names, Debian's package, Keras' cache.
    """
    own = _own_folder()
    return (
        *([] if own is None else [own / "fashion-mnist"]),
        Path("/usr/share/datasets/fashion-mnist"),
        _keras_datasets() / "fashion-mnist",
    )


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


CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


def load_cifar10(seed: int = 0, *, download: bool = False) -> ImageSplits:
    """CIFAR-10, 32x32 in colour: 45,000 images to train, 5,000 to validate, 10,000 to test.

    It is read from the folder that `KERAS_DISTILL_DATA` names, or from Keras' cache. The folder may
    hold `cifar10.npz` with `x_train`, `(50000, 32, 32, 3)` uint8, `y_train`, `x_test` and `y_test`;
    or `cifar10_jpeg.npz` with the images as JPEG: `jpeg_train` holds the bytes of all, image i is
    those from `offsets_train[i]` to `offsets_train[i + 1]`, and `test` likewise.

    Args:
      seed: which of the 50,000 training images validate.
      download: where it is nowhere on this machine, let `keras.datasets.cifar10` fetch it.

    Raises:
      FileNotFoundError: it is nowhere and `download` is False.
      ValueError: a file lacks an array, or the arrays are of other shapes.
    """
    own = _own_folder()
    arrays = None if own is None else _cifar10_of_folder(own)
    if arrays is None:
        cached = _keras_datasets() / "cifar-10-batches-py-target_archive"
        if not (download or cached.exists()):
            raise FileNotFoundError(
                f"CIFAR-10 is not in Keras' cache ({cached}), and no folder that the environment's "
                f"KERAS_DISTILL_DATA names has a cifar10.npz. Name one, or load with download=True."
            )
        (x, y), (x_test, y_test) = keras.datasets.cifar10.load_data()
    else:
        x, y, x_test, y_test = arrays
    if x.shape[1:] == (3, 32, 32):  # as Keras gives them where channels come first
        x, x_test = (images.transpose(0, 2, 3, 1) for images in (x, x_test))
    x, x_test = (images.astype("float32") / np.float32(255) for images in (x, x_test))
    y, y_test = (labels.reshape(-1).astype("int32") for labels in (y, y_test))
    return _split("cifar10", x, y, x_test, y_test, len(x) // 10, CIFAR10_CLASSES, seed)


def _cifar10_of_folder(folder: Path) -> list[np.ndarray] | None:
    plain, jpeg = folder / "cifar10.npz", folder / "cifar10_jpeg.npz"
    if plain.is_file():
        arrays = _arrays_of(plain, ("x_train", "y_train", "x_test", "y_test"))
    elif jpeg.is_file():
        names = [
            f"{what}_{part}" for part in ("train", "test") for what in ("jpeg", "offsets", "y")
        ]
        found = _arrays_of(jpeg, names)
        arrays = []
        for data, offsets, labels in (found[:3], found[3:]):
            arrays += [_decoded(data, offsets, jpeg), labels]
    else:
        return None
    for images, labels in (arrays[:2], arrays[2:]):
        if images.shape[1:] != (32, 32, 3) or len(images) != len(labels):
            raise ValueError(
                f"Expected images (n, 32, 32, 3) and a label for each in {folder}; got shapes "
                f"{images.shape} and {labels.shape}."
            )
    return arrays


def _arrays_of(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    with np.load(path, allow_pickle=False) as stored:
        missing = sorted(set(names) - set(stored.files))
        if missing:
            raise ValueError(
                f"Expected arrays {list(names)} in {path}; {missing} are missing, it has "
                f"{sorted(stored.files)}."
            )
        return [stored[name] for name in names]


def _decoded(data: np.ndarray, offsets: np.ndarray, path: Path) -> np.ndarray:
    ends = offsets.astype("int64")
    if len(ends) < 2 or ends[0] != 0 or ends[-1] != len(data) or (np.diff(ends) <= 0).any():
        raise ValueError(f"Expected rising offsets from 0 to {len(data)} in {path}.")
    files = tf.data.Dataset.from_tensor_slices([data[a:b].tobytes() for a, b in pairwise(ends)])
    images = files.map(lambda file: tf.io.decode_jpeg(file, channels=3)).batch(len(ends))
    try:
        return next(iter(images)).numpy()
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(f"Expected JPEG images of one size in {path}: {error.message}") from error


_DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def load_spoken_digits(*, length: int = 8000) -> Recordings:
    """The Free Spoken Digit Dataset: the ten digits, spoken 50 times each by six speakers, 8 kHz.

    It is read from the folder that `KERAS_DISTILL_DATA` names: the data set's own `recordings` with
    files named `7_jackson_32.wav` (digit, speaker, take), or `spoken_digits.npz` with `samples`,
    int16, one recording after the other, `offsets` (recording i is from `offsets[i]` to
    `offsets[i + 1]`), `digit` and `speaker`. There is no download; the recordings are at
    https://github.com/Jakobovski/free-spoken-digit-dataset, CC BY-SA 4.0.

    Args:
      length: samples of each; longer recordings are cut, shorter ones are followed by zeros.

    Raises:
      FileNotFoundError: the folder is not named, or has neither.
      ValueError: `length` is below 1; a file lacks an array or has another format.
    """
    if length < 1:
        raise ValueError(f"length must be 1 or more; got {length}.")
    own = _own_folder()
    if own is not None and (own / "spoken_digits.npz").is_file():
        path = own / "spoken_digits.npz"
        samples, offsets, digits, speakers = _arrays_of(
            path, ("samples", "offsets", "digit", "speaker")
        )
        clips = [samples[a:b] for a, b in pairwise(offsets)]
        names = tuple(f"speaker {one}" for one in range(int(speakers.max()) + 1))
    elif own is not None and (own / "recordings").is_dir():
        files = sorted((own / "recordings").glob("[0-9]_*_*.wav"))
        if not files:
            raise ValueError(f"Expected files such as 7_jackson_32.wav in {own / 'recordings'}.")
        clips = [_read_wave(file) for file in files]
        said = [file.stem.split("_")[:2] for file in files]
        names = tuple(sorted({name for _, name in said}))
        digits = np.array([int(digit) for digit, _ in said])
        speakers = np.array([names.index(name) for _, name in said])
    else:
        raise FileNotFoundError(
            "Spoken digits are read from the folder that the environment's KERAS_DISTILL_DATA "
            "names, from its recordings/*.wav or spoken_digits.npz; "
            + ("it is not set." if own is None else f"{own} has neither.")
        )
    filled = np.zeros((len(clips), length), "float32")
    for row, clip in zip(filled, clips, strict=True):
        row[: len(clip)] = clip[:length] / np.float32(2**15)
    lengths = np.array([len(clip) for clip in clips], "int32")
    labels, speakers = digits.astype("int32"), speakers.astype("int32")
    return Recordings(filled, lengths, labels, speakers, 8000, _DIGIT_WORDS, names)


def _read_wave(path: Path) -> np.ndarray:
    try:
        with wave.open(str(path)) as file:
            form = file.getnchannels(), file.getsampwidth(), file.getframerate()
            frames = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise ValueError(f"Expected a .wav file; {path} is damaged: {error}.") from error
    if form != (1, 2, 8000):
        raise ValueError(
            f"Expected one channel of 16 bits at 8000 Hz in {path}; got {form[0]} of "
            f"{8 * form[1]} bits at {form[2]} Hz."
        )
    return np.frombuffer(frames, "<i2")


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
