"""How far a target restored from its top k can be from the whole one."""

import numpy as np

from keras_distill.functional.tensors import Tensor

__all__ = ["rest_bound"]


def rest_bound(
    values: Tensor, rest: Tensor, classes: int, *, temperature: float = 4.0
) -> np.ndarray:
    """A bound on the divergence of the restored target from the true one, at a temperature.

    `KL(p || p')` in nats, `p` the teacher's softened answer over all classes and `p'` the one
    restored from the `k` largest logits `v_1 >= ... >= v_k` and the others' `rest = log R`,
    `R = sum exp(z_i)`. By Pinsker's inequality no probability of the target, nor any sum of them,
    is off by more than `sqrt(bound / 2)`; a soft-target loss' gradient moves by the same.

    How it comes about. Restored, each of the `m = classes - k` others has the logit
    `u = rest - log m`. With `A = sum_j exp(v_j / T)` over the kept, `S = sum_i exp(z_i / T)` over
    the others and `S' = m exp(u / T)`, the kept terms of the divergence are all
    `log((A + S') / (A + S))`, and the others' the same plus `(z_i - u) / T`, so that

        KL = log((A + S') / (A + S)) + sum_i p_i (z_i - u) / T
          <= log((A + S') / (A + S)) + S / (A + S) * a,   a = (v_k - u) / T,

    because no `z_i` exceeds `v_k`. Only `S` is not known. As a sum of powers `1/T` of numbers that
    sum to `R` and are at most `c = exp(v_k)`, it lies, for `T >= 1`, between its value where `R`
    is heaped on as few classes as hold it and `S'`, where it is spread evenly (concavity); for
    `T < 1` the other way round. The right side rises in `S` up to `A (a - 1)` and falls after, so
    its largest value over that range is at that point or the end next to it.

    At `T = 1` it is `R's share x (v_k - u)`, and with no class left out it is zero. Rounding to
    the cache's dtype comes on top.

    Args:
      values: `(..., k)`, the kept logits.
      rest: `(...)`, the logarithm of the sum of the others' exponentials.
      classes: how many there are in all.
      temperature: T > 0.

    Returns:
      `(...)` float64.

    Raises:
      ValueError: T is not positive.

    >>> round(float(rest_bound([5.0], np.log(2.0), classes=3, temperature=1.0)), 4)
    0.0665
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be positive; got {temperature}.")
    values, rest = np.asarray(values, "float64"), np.asarray(rest, "float64")
    others = classes - values.shape[-1]
    if others == 0:
        return np.zeros(rest.shape)
    # Measured from the smallest kept logit, nothing overflows.
    smallest = values.min(-1)
    kept = np.exp((values - smallest[..., None]) / temperature).sum(-1)
    room = np.maximum((smallest - rest + np.log(others)) / temperature, 0.0)
    even = others * np.exp(-room)
    heaped = _heaped(np.exp(np.minimum(rest - smallest, np.log(others))), temperature)
    low, high = np.minimum(even, heaped), np.maximum(even, heaped)
    worst = np.clip(kept * (room - 1.0), low, high)
    return np.log((kept + even) / (kept + worst)) + worst / (kept + worst) * room


def _heaped(total: np.ndarray, temperature: float) -> np.ndarray:
    """Sum of powers 1/T of numbers of this total, each 1 but one."""
    whole = np.floor(total)
    return whole + (total - whole) ** (1.0 / temperature)
