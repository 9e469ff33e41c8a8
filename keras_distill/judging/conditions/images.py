"""Damage to images, `(height, width, channels)`, at five severities.

The kinds are those of Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations", ICLR 2019; strengths are of our own, as parts of the image's range
and size, so that they mean the same at any resolution.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from keras_distill.judging.conditions.base import Corruption, Row

__all__ = [
    "JPEG",
    "Blur",
    "Brightness",
    "Contrast",
    "ImageNoise",
    "Occlusion",
    "Pixelation",
    "Rotation",
    "image_corruptions",
]

# Each with how far values may lie outside and still be of it, for resizing rings. Of 0 to 255 that
# is little: what is standardised has values of -3 to 3.
_RANGES = ((0.0, 1.0, 0.02), (-1.0, 1.0, 0.04), (0.0, 255.0, 0.25))


class _Image(Corruption):
    """A corruption of images.

    Args:
      severity, seed, input: see `Corruption`.
      range: lowest and highest value of a pixel; None to find out: 0 to 1, -1 to 1, 0 to 255.
    """

    def __init__(
        self, severity: int = 3, *, range: tuple[float, float] | None = None, **options: Any
    ):
        super().__init__(severity, **options)
        self._range = range

    def check(self, batch: np.ndarray) -> None:
        if batch.ndim != 4 or batch.shape[-1] not in (1, 3, 4):
            raise ValueError(
                f"{self.label} is for images, (rows, height, width, channels) with 1, 3 or 4 "
                f"channels; the data has rows of {batch.shape[1:]}."
            )
        if self._range is None:
            self._range = _range_of(batch, self.label)

    def damaged(self, row: Row) -> np.ndarray:
        """In the image's own range; inside it all is computed from 0 to 1."""
        assert self._range is not None
        low, high = self._range
        inside = (row.values.astype("float64") - low) / (high - low)
        found = np.clip(self.unit(inside, row.rng), 0, 1) * (high - low) + low
        return np.rint(found) if np.issubdtype(row.values.dtype, np.integer) else found

    def unit(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """An image from 0 to 1 as it arrives; what lies outside is clipped afterwards."""
        raise NotImplementedError(f"{type(self).__name__} defines no unit.")


class ImageNoise(_Image):
    """Gaussian noise on every value; its standard deviation is 4 to 20 % of the range."""

    name: ClassVar[str] = "noise"

    def unit(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return image + rng.normal(size=image.shape) * (0.04, 0.08, 0.12, 0.16, 0.2)[self.level]


class Blur(_Image):
    """A Gaussian blur; its standard deviation is 1 to 5 % of the shorter side."""

    name: ClassVar[str] = "blur"

    def unit(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        sigma = min(image.shape[:2]) * self.severity * 0.01  # type: ignore[operator]
        for axis in (0, 1):
            image = _smoothed(image, sigma, axis)
        return image


class Contrast(_Image):
    """Everything nearer to the image's mean: 70 to 15 % of the contrast is left."""

    name: ClassVar[str] = "contrast"

    def unit(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        mean = image.mean(axis=(0, 1), keepdims=True)
        return mean + (image - mean) * (0.7, 0.5, 0.35, 0.25, 0.15)[self.level]


class Brightness(_Image):
    """Darker or brighter, by the example's draw: by 10 to 40 % of the range."""

    name: ClassVar[str] = "brightness"

    def unit(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        by = (0.1, 0.175, 0.25, 0.325, 0.4)[self.level]
        return image + (by if rng.random() < 0.5 else -by)


class Occlusion(_Image):
    """A grey square somewhere; it covers 5 to 40 % of the image."""

    name: ClassVar[str] = "occlusion"

    def unit(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        share = (0.05, 0.12, 0.2, 0.3, 0.4)[self.level] ** 0.5
        sizes = [max(1, round(side * share)) for side in image.shape[:2]]
        top, left = (
            rng.integers(side - size + 1) for side, size in zip(image.shape, sizes, strict=False)
        )
        image = image.copy()
        image[top : top + sizes[0], left : left + sizes[1]] = 0.5
        return image


class Pixelation(_Image):
    """Shrunk and enlarged again: 80 to 25 % of the rows and columns are left."""

    name: ClassVar[str] = "pixelation"

    def unit(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        left = (0.8, 0.6, 0.45, 0.35, 0.25)[self.level]
        sizes = [max(1, round(side * left)) for side in image.shape[:2]]
        small = tf.image.resize(image, sizes, "area")
        return tf.image.resize(small, image.shape[:2], "nearest").numpy()


class JPEG(_Image):
    """Written as JPEG and read again, at a quality of 40 to 5."""

    name: ClassVar[str] = "JPEG"

    def check(self, batch: np.ndarray) -> None:
        super().check(batch)
        if batch.shape[-1] == 4:
            raise ValueError(f"{self.label} is for images of 1 or 3 channels; these have 4.")

    def unit(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        quality = (40, 25, 15, 10, 5)[self.level]
        whole = np.rint(np.clip(image, 0, 1) * 255).astype("uint8")
        read = tf.io.decode_jpeg(tf.io.encode_jpeg(whole, quality=quality), image.shape[-1])
        return read.numpy() / 255.0


class Rotation(_Image):
    """Turned by 5 to 30 degrees, to the side that the example draws; edges are repeated."""

    name: ClassVar[str] = "rotation"

    def unit(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        angle = np.deg2rad((5, 10, 15, 22, 30)[self.level]) * (1 if rng.random() < 0.5 else -1)
        height, width = image.shape[:2]
        y, x = np.mgrid[:height, :width].astype("float64")
        y, x = y - (height - 1) / 2, x - (width - 1) / 2
        down = y * np.cos(angle) - x * np.sin(angle) + (height - 1) / 2
        right = y * np.sin(angle) + x * np.cos(angle) + (width - 1) / 2
        return _at(image, np.clip(down, 0, height - 1), np.clip(right, 0, width - 1))


def image_corruptions(**options: Any) -> tuple[Corruption, ...]:
    """All eight at all five severities, 40 conditions.

    Args:
      **options: see `Corruption`, and `range` of pixels.
    """
    kinds = (ImageNoise, Blur, Contrast, Brightness, Occlusion, Pixelation, JPEG, Rotation)
    return tuple(one for kind in kinds for one in kind.all(**options))


def _range_of(batch: np.ndarray, label: str) -> tuple[float, float]:
    if np.issubdtype(batch.dtype, np.integer):
        return _RANGES[-1][:2]
    least, most = float(batch.min()), float(batch.max())
    for low, high, slack in _RANGES:
        if low - slack <= least and most <= high + slack:
            return low, high
    raise ValueError(
        f"{label}: the first images have values from {least:.4g} to {most:.4g}, neither in 0 to 1, "
        f"-1 to 1 nor 0 to 255. Say what a pixel may be: range=(low, high)."
    )


def _smoothed(image: np.ndarray, sigma: float, axis: int) -> np.ndarray:
    reach = max(1, round(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    padding = [(reach, reach) if one == axis else (0, 0) for one in range(image.ndim)]
    padded = np.pad(image, padding, mode="edge")
    size = image.shape[axis]
    return sum(
        weight * np.take(padded, np.arange(place, place + size), axis)
        for place, weight in enumerate(weights)
    )


def _at(image: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Between the pixels, linearly."""
    top, left = np.floor(down).astype(int), np.floor(right).astype(int)
    bottom = np.minimum(top + 1, image.shape[0] - 1)
    beside = np.minimum(left + 1, image.shape[1] - 1)
    v, h = (down - top)[..., None], (right - left)[..., None]
    above = image[top, left] * (1 - h) + image[top, beside] * h
    below = image[bottom, left] * (1 - h) + image[bottom, beside] * h
    return above * (1 - v) + below * v
