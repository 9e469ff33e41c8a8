"""Batches in an order, and in views, that seed and epoch alone decide: a run can go on anywhere."""

from typing import Any

import keras
import numpy as np

from keras_distill.pipeline.recipes.stages import Augment

__all__ = ["Batches"]


class Batches(keras.utils.PyDataset):
    """Full batches; one epoch is always `steps` of them.

    Few examples come round more often, in new orders, so that trainings on different numbers of
    examples have the same budget.

    Args:
      x, y: a row an example; y of class numbers may hold -1, which is no label.
      batch_size, steps: see above.
      seed: of order and views.
      epoch: the first.
      augment: see `Augment`.
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        *,
        batch_size: int,
        steps: int,
        seed: int,
        epoch: int = 0,
        augment: Augment | None = None,
    ) -> None:
        super().__init__()
        self._x, self._y = x, y
        self._batch_size, self._steps, self._seed, self._epoch = batch_size, steps, seed, epoch
        self._augment = augment or Augment()
        self._order = self._ordered()

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        x, y = self._x[rows], self._y[rows]
        if self._augment == Augment():
            return x, y
        random = np.random.default_rng([self._seed, 1, self._epoch, index])
        return _view(x, y, self._augment, random)

    def on_epoch_end(self) -> None:
        """The next epoch's order."""
        self._epoch += 1
        self._order = self._ordered()

    def _ordered(self) -> np.ndarray:
        """This epoch's part of the endless row of permutations that the seed decides."""
        rows, needed = len(self._x), self._steps * self._batch_size
        begin = self._epoch * needed
        numbers = range(begin // rows, (begin + needed - 1) // rows + 1)
        orders = [np.random.default_rng([self._seed, 0, i]).permutation(rows) for i in numbers]
        first = begin - numbers.start * rows
        return np.concatenate(orders)[first : first + needed]


def _view(
    x: np.ndarray, y: np.ndarray, augment: Augment, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    x = x.copy()
    if augment.flip:
        flipped = random.random(len(x)) < 0.5
        x[flipped] = x[flipped, :, ::-1]
    if augment.shift:
        x = np.stack([_moved(one, augment.shift, random) for one in x])
    if augment.noise:
        x = x + random.normal(0.0, augment.noise, x.shape).astype(x.dtype)
    if augment.mixup:
        shape = (len(x),) + (1,) * (x.ndim - 1)
        part = random.beta(augment.mixup, augment.mixup, shape).astype(x.dtype)
        x = part * x + (1 - part) * x[random.permutation(len(x))]
        y = np.full_like(y, -1)
    return x, y


def _moved(image: np.ndarray, most: int, random: np.random.Generator) -> Any:
    down, right = random.integers(-most, most + 1, 2)
    padded = np.pad(image, ((most, most), (most, most), (0, 0)))
    height, width = image.shape[:2]
    return padded[most + down : most + down + height, most + right : most + right + width]
