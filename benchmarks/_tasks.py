"""What the benchmark of objectives trains on: a data set asked in five ways, two models each.

Every model names the layers that objectives tap alike: "norm1" to "norm3" before a ReLU, "block1"
to "block3" after it, "pool"; with rows as tokens "hidden1", "attention1" and "value1".
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_distill.data import ImageSplits

# Of a pixel's brightness: from here on it belongs to the thing in the picture.
FOREGROUND = 0.25


@dataclasses.dataclass(frozen=True)
class Task:
    """One way to ask.

    Args:
      label: in the table.
      model: `(shape, large, seed)` to the teacher (large) or a student.
      targets: from images and class labels to what `fit` takes as y.
      loss: of the labels.
      accuracy: from outputs, images and class labels to the share that is right.
      classes: whether y holds classes, so that -1 can say that there is no label.
    """

    label: str
    model: Callable[[tuple, bool, int], keras.Model]
    targets: Callable[[np.ndarray, np.ndarray], np.ndarray]
    loss: Callable[[], keras.losses.Loss]
    accuracy: Callable[[np.ndarray, np.ndarray, np.ndarray], float]
    classes: bool = True


def cnn(shape: tuple, large: bool, seed: int) -> keras.Model:
    """Three convolutions and a linear head."""
    keras.utils.set_random_seed(seed)
    image = keras.Input(shape)
    x = image
    for number, width in enumerate((32, 64, 128) if large else (8, 16, 32), 1):
        # Digits have 8 x 8 pixels to begin with.
        stride = 1 if number == 1 and shape[0] < 16 else 2
        x = _convolution(x, width, stride, number)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, keras.layers.Dense(10, name="logits")(x), name=_name(large))


def pixels(shape: tuple, large: bool, seed: int) -> keras.Model:
    """Three convolutions of one size, and a class for each place."""
    keras.utils.set_random_seed(seed)
    image = keras.Input(shape)
    x = image
    for number in (1, 2, 3):
        stride = 2 if number == 1 and shape[0] >= 16 else 1
        x = _convolution(x, 32 if large else 8, stride, number, size=5)
    return keras.Model(image, keras.layers.Conv2D(11, 1, name="logits")(x), name=_name(large))


def rows(shape: tuple, large: bool, seed: int) -> keras.Model:
    """A transformer of one block for the student and two for the teacher: each row is a token."""
    keras.utils.set_random_seed(seed)
    tokens, width = shape[0], 64 if large else 16
    image = keras.Input(shape)
    x = keras.layers.Dense(width)(keras.layers.Reshape((tokens, shape[1]))(image))
    x = _Places(tokens, width)(x)
    for number in (1, 2) if large else (1,):
        x = _transformer_block(x, tokens, width, number)
    x = keras.layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(image, keras.layers.Dense(10, name="logits")(x), name=_name(large))


def _name(large: bool) -> str:
    return "teacher" if large else "student"


def _convolution(x: Any, width: int, stride: int, number: int, size: int = 3) -> Any:
    x = keras.layers.Conv2D(width, size, stride, padding="same", use_bias=False)(x)
    x = keras.layers.BatchNormalization(momentum=0.9, name=f"norm{number}")(x)
    return keras.layers.ReLU(name=f"block{number}")(x)


class _Places(keras.layers.Layer):
    """Adds a learned vector to each place."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.places = self.add_weight(shape=(tokens, width), initializer="random_normal")

    def call(self, x: Any) -> Any:
        return x + self.places


def _transformer_block(x: Any, tokens: int, width: int, number: int, heads: int = 4) -> Any:
    normed = keras.layers.LayerNormalization()(x)
    query, key = (keras.layers.Dense(width)(normed) for _ in range(2))
    value = keras.layers.Dense(width, name=f"value{number}")(normed)
    query, key, split = (
        keras.layers.Permute((2, 1, 3))(keras.layers.Reshape((tokens, heads, -1))(part))
        for part in (query, key, value)
    )
    scores = keras.ops.matmul(query, keras.ops.transpose(key, (0, 1, 3, 2)))
    attention = keras.layers.Softmax(name=f"attention{number}")(scores / (width // heads) ** 0.5)
    mixed = keras.layers.Permute((2, 1, 3))(keras.ops.matmul(attention, split))
    x = x + keras.layers.Dense(width)(keras.layers.Reshape((tokens, width))(mixed))
    inner = keras.layers.Dense(2 * width, "gelu")(keras.layers.LayerNormalization()(x))
    return keras.layers.Add(name=f"hidden{number}")([x, keras.layers.Dense(width)(inner)])


def _classes(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return labels.copy()


def _one_hot(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.eye(10, dtype="float32")[labels]


def _by_pixel(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    if images.shape[1] >= 16:
        images = images.reshape(len(images), 14, 2, 14, 2).mean((2, 4))[..., None]
    inside = images[..., 0] > FOREGROUND
    return np.where(inside, labels[:, None, None], 10).astype("int32")


def _share_of_classes(answers: np.ndarray, images: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(answers.argmax(-1) == labels))


def _share_of_pixels(answers: np.ndarray, images: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(answers.argmax(-1) == _by_pixel(images, labels)))


_cross_entropy = functools.partial(keras.losses.SparseCategoricalCrossentropy, from_logits=True)
_binary = functools.partial(keras.losses.BinaryCrossentropy, from_logits=True)
_squared = keras.losses.MeanSquaredError

TASKS = {
    "class": Task("CNN, classes", cnn, _classes, _cross_entropy, _share_of_classes),
    "rows": Task("transformer over rows", rows, _classes, _cross_entropy, _share_of_classes),
    "values": Task("CNN, ten values to regress", cnn, _one_hot, _squared, _share_of_classes, False),
    "sigmoid": Task("CNN, ten yes or no", cnn, _one_hot, _binary, _share_of_classes, False),
    "pixels": Task("a class for each pixel", pixels, _by_pixel, _cross_entropy, _share_of_pixels),
}


def scored(model: keras.Model, task: Task, images: np.ndarray, labels: np.ndarray) -> float:
    """The model's accuracy on a task."""
    answers = model.predict(images, batch_size=500, verbose=0)
    return task.accuracy(answers, images, labels)


def part(splits: ImageSplits, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and class labels of "train", "validation" or "test"."""
    return getattr(splits, f"x_{name}"), getattr(splits, f"y_{name}")
