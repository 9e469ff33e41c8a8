"""What each channel of a chain is divided by, until all chains stand still."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_distill.edge.repair.chains import Chain, Weight
from keras_distill.graph.copying import weight_paths

__all__ = ["Values", "settle", "values_of"]

# A normalised channel's values: beyond beta +- 6 gamma there are next to none (Nagel et al.).
_DEVIATIONS = 6.0
_ROUNDS, _STILL = 100, 1e-4
# One channel is divided by a million times as much as another at most.
_SPREAD = 1e6

# What a BatchNormalization that reads has besides gamma.
_STATISTICS = ("moving_mean", "moving_variance")

Values = dict[tuple[str, str], np.ndarray]


def values_of(chains: list[Chain], operations: dict[str, Any], bounded: bool) -> Values:
    """Every weight of the chains as float64; a missing gamma is ones, a dropped bound infinite."""
    found: Values = {}
    for chain in chains:
        for weight in (*chain.divided, chain.multiplied, *_statistics(chain)):
            held = weight_paths(operations[weight.path])
            if weight.name in held:
                array = keras.ops.convert_to_numpy(held[weight.name]).astype("float64")
            else:
                array = np.ones(operations[weight.path].moving_variance.shape)
            found[weight.path, weight.name] = array
        for weight, cap in chain.caps.items():
            if cap is None:
                array = keras.ops.convert_to_numpy(operations[weight.path].caps).astype("float64")
            else:
                array = np.full(_channels(chain, found), cap if bounded else np.inf)
            found[weight.path, weight.name] = array
    return found


def _statistics(chain: Chain) -> list[Weight]:
    names = () if chain.epsilon is None else _STATISTICS
    return [Weight(chain.multiplied.path, name) for name in names]


def _channels(chain: Chain, values: Values) -> int:
    first = chain.divided[0]
    shape = values[first.path, first.name].shape
    return int(np.prod([shape[axis] for axis in first.axes]))


def settle(chains: list[Chain], values: Values) -> None:
    """Divides chain after chain, in place, until none moves by more than a ten-thousandth."""
    for _ in range(_ROUNDS):
        moved = 0.0
        for chain in chains:
            factors = _factors(chain, values)
            _divide(chain, values, factors)
            moved = max(moved, float(np.max(np.abs(np.log(factors)))))
        if moved < _STILL:
            return


def _factors(chain: Chain, values: Values) -> np.ndarray:
    """s, `(channels,)`; 1 for a channel that is made of zeros or read by zeros, or was dead."""
    made, read = _made(chain, values), _read(chain, values)
    alive = (made > made.max() / _SPREAD) & (read > read.max() / _SPREAD) & _told(chain, values)
    if not alive.any():
        return np.ones_like(made)
    logs = np.log(np.where(alive, made, 1.0)) - np.log(np.where(alive, read, 1.0))
    if not chain.own_grids:
        logs /= 2.0
    if chain.own_grids or chain.normalised:
        logs -= logs[alive].mean()
    return np.exp(np.where(alive, logs, 0.0))


def _told(chain: Chain, values: Values) -> np.ndarray:
    """Of which channels a BatchNormalization that reads knows the range, `(channels,)`.

    All, where none reads. Not of one that varies by less than its epsilon: it was next to dead in
    training, and the rare values that it has lie hundreds of deviations out.
    """
    channels = _channels(chain, values)
    if chain.epsilon is None:
        return np.full(channels, True)
    _, variance = (values[weight.path, weight.name] for weight in _statistics(chain))
    return variance.reshape(-1, channels).max(axis=0) > chain.epsilon


def _made(chain: Chain, values: Values) -> np.ndarray:
    """r1, `(channels,)`."""
    first = chain.divided[0]
    array = values[first.path, first.name]
    if chain.epsilon is not None:
        mean, variance = (values[weight.path, weight.name] for weight in _statistics(chain))
        reach = _reach(mean, np.sqrt(variance), chain.one_sided)
        # Behind a Flatten a channel is read at several places.
        return reach.reshape(-1, _channels(chain, values)).max(axis=0)
    if not chain.normalised:
        return _largest(array, first.axes)
    beta = values.get((first.path, "beta"), np.zeros_like(array))
    reach = _reach(beta, np.abs(array), chain.one_sided)
    for weight in chain.caps:
        reach = np.minimum(reach, values[weight.path, weight.name])
    return reach


def _reach(mean: np.ndarray, deviation: np.ndarray, one_sided: bool) -> np.ndarray:
    """How far from zero values go."""
    beside = _DEVIATIONS * deviation
    return np.maximum(mean + beside, 0.0) if one_sided else np.abs(mean) + beside


def _read(chain: Chain, values: Values) -> np.ndarray:
    """r2, `(channels,)`; ones where each channel has a grid of its own."""
    channels = _channels(chain, values)
    if chain.own_grids:
        return np.ones(channels)
    weight = chain.multiplied
    largest = _largest(values[weight.path, weight.name], weight.axes)
    return largest.reshape(-1, channels).max(axis=0)


def _largest(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    kept = [axis % array.ndim for axis in axes]
    others = tuple(axis for axis in range(array.ndim) if axis not in kept)
    return np.abs(array).max(axis=others).reshape(-1)


def _divide(chain: Chain, values: Values, factors: np.ndarray) -> None:
    for weight in (*chain.divided, *chain.caps):
        _scale(values, weight, 1.0 / factors)
    if chain.epsilon is None:
        _scale(values, chain.multiplied, factors)
    else:
        _renormalise(chain, values, factors)


def _renormalise(chain: Chain, values: Values, factors: np.ndarray) -> None:
    """Statistics of a BatchNormalization's divided input.

    gamma (x - m) / sqrt(v + e) = gamma' (x / s - m / s) / sqrt(v / s^2 + e)
    with gamma' = gamma sqrt(v + s^2 e) / sqrt(v + e).
    """
    mean, variance = _statistics(chain)
    before, epsilon = values[variance.path, variance.name], chain.epsilon or 0.0
    _scale(values, mean, 1.0 / factors)
    _scale(values, variance, 1.0 / factors**2)
    growth = np.sqrt((before + _tiled(factors, before) ** 2 * epsilon) / (before + epsilon))
    values[chain.multiplied.path, chain.multiplied.name] *= growth


def _tiled(factors: np.ndarray, like: np.ndarray) -> np.ndarray:
    return np.tile(factors, like.size // len(factors))


def _scale(values: Values, weight: Weight, factors: np.ndarray) -> None:
    array = values[weight.path, weight.name]
    shape = [1] * array.ndim
    for axis in weight.axes:
        shape[axis] = array.shape[axis]
    count = int(np.prod(shape)) // len(factors)
    values[weight.path, weight.name] = array * np.tile(factors, count).reshape(shape)
