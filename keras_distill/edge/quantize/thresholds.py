"""Where to cut a tensor's values off: from a histogram to the range that int8 should span."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

LEVELS = 256


@dataclass(frozen=True)
class Histogram:
    """`counts` of values in bins of equal width between `low` and `high`."""

    counts: np.ndarray
    low: float
    high: float

    @property
    def centers(self) -> np.ndarray:
        """The middle of each bin."""
        width = (self.high - self.low) / len(self.counts)
        return self.low + width * (np.arange(len(self.counts)) + 0.5)


def percentile(histogram: Histogram, share: float = 99.99) -> tuple[float, float]:
    """The range that leaves `100 - share` per cent of the values out, half on either side.

    Values on one side of zero only lose all of it at their far end.

    >>> percentile(Histogram(np.ones(100), 0.0, 100.0), 99.0)
    (0.0, 99.0)
    """
    outside = histogram.counts.sum() * (1.0 - share / 100.0)
    two_sided = histogram.low < 0.0 < histogram.high
    cut = outside / 2.0 if two_sided else outside
    edges = np.linspace(histogram.low, histogram.high, len(histogram.counts) + 1)
    below = np.concatenate([[0.0], np.cumsum(histogram.counts)])
    low = float(np.interp(cut, below, edges)) if histogram.low < 0.0 else 0.0
    high = float(np.interp(below[-1] - cut, below, edges)) if histogram.high > 0.0 else 0.0
    return low, high


def mse(histogram: Histogram) -> tuple[float, float]:
    """The range of the smallest mean squared error after rounding to int8 and back.

    err(low, high) = sum_i count_i (x_i - Q(x_i; low, high))^2 over the bins' centres; searched
    from the whole range inwards, each end in turn.

    Source: Banner, Nahshan, Soudry 2019 ("Post training 4-bit quantization"), by search.
    """
    bounds = [min(histogram.low, 0.0), max(histogram.high, 0.0)]
    shares = np.linspace(1.0, 0.02, 99)
    start = tuple(bounds)
    for _ in range(2):
        for end in (0, 1):
            tried = [_with(bounds, end, start[end] * share) for share in shares]
            bounds = min(tried, key=lambda pair: _squared_error(histogram, *pair))
    return bounds[0], bounds[1]


def _with(bounds: list[float], end: int, value: float) -> list[float]:
    return [value, bounds[1]] if end == 0 else [bounds[0], value]


def _squared_error(histogram: Histogram, low: float, high: float) -> float:
    step = (high - low) / (LEVELS - 1)
    if step <= 0.0:
        return float(histogram.counts @ histogram.centers**2)
    clipped = np.clip(histogram.centers, low, high)
    rounded = low + step * np.round((clipped - low) / step)
    return float(histogram.counts @ (histogram.centers - rounded) ** 2)


def kl(histogram: Histogram) -> tuple[float, float]:
    """The range that loses the least information, by Kullback-Leibler divergence.

    P is the histogram cut at the threshold, with what lies beyond added to the last bin; Q is P
    before that addition, in int8's levels (128 for one side of zero, 256 for two), spread again
    over the bins that hold values. The threshold with the smallest KL(P || Q) wins. The bin at
    zero counts as its neighbour does: what a ReLU cut off or an image left black has no error at
    any threshold, and would outweigh all that has.

    Source: Migacz 2017, "8-bit inference with TensorRT"; the zero bin as NVIDIA's
    pytorch-quantization treats it.
    """
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    reach = max(-low, high)
    if reach == 0.0:
        return low, high
    two_sided = low < 0.0 < high
    magnitudes = _by_magnitude(histogram, reach)
    levels = LEVELS // 2 if two_sided else LEVELS
    kept = _best_cut(magnitudes, levels)
    threshold = reach * kept / len(magnitudes)
    return max(low, -threshold), min(high, threshold)


def _by_magnitude(histogram: Histogram, reach: float) -> np.ndarray:
    counts, _ = np.histogram(
        np.abs(histogram.centers),
        bins=len(histogram.counts),
        range=(0.0, reach),
        weights=histogram.counts,
    )
    counts[0] = counts[1]
    return counts


def _best_cut(counts: np.ndarray, levels: int) -> int:
    cuts = range(levels, len(counts) + 1, max(1, len(counts) // 256))
    return min(cuts, key=lambda cut: _divergence(counts, cut, levels), default=len(counts))


def _divergence(counts: np.ndarray, cut: int, levels: int) -> float:
    inside = counts[:cut].astype("float64")
    p = inside.copy()
    p[-1] += counts[cut:].sum()
    bucket = np.arange(cut) * levels // cut
    held = inside > 0
    sums = np.bincount(bucket, weights=inside, minlength=levels)
    members = np.bincount(bucket, weights=held, minlength=levels)
    q = np.where(held, (sums / np.maximum(members, 1))[bucket], 0.0)
    if not q.sum() or not p.sum():
        return np.inf
    p, q = p / p.sum(), q / q.sum()
    where = p > 0
    # A bin that only what was cut off has filled: Q says nothing of it, and pays for that.
    return float(np.sum(p[where] * np.log(p[where] / np.maximum(q[where], 1e-9))))


METHODS: dict[str, Callable[[Histogram], tuple[float, float]]] = {
    "percentile": percentile,
    "kl": kl,
    "mse": mse,
}
