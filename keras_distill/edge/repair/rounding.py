"""Which of its two steps each weight goes to, learned: AdaRound."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from keras_distill.edge.quantize.adam import Adam
from keras_distill.edge.quantize.weights import Grid, rounded_by
from keras_distill.edge.repair.blocks import Block, dense_strides
from keras_distill.functional.tensors import Tensor

__all__ = ["Rounding", "batch_order", "is_settled", "learned"]

# The rectified sigmoid's ends, past 0 and 1 so that it reaches them.
_LOW, _HIGH = -0.1, 1.1
# The exponent of what pulls a choice to 0 or 1, first and last.
_FLAT, _STEEP = 20.0, 2.0
# The share of the updates before anything is pulled.
_WARM = 0.2
_RATE, _PULL = 0.1, 10.0
# As near to a step as float32 tells.
_ON_A_STEP = 1e-4


class Rounding:
    """The choice between the step below and the step above for each number of one weight.

    w = scale * (floor(w / scale) + h), h = clip(1.2 sigmoid(v) - 0.1, 0, 1). What lies on a step
    stays on it: zeros, and the largest of each channel, so that the scale stays too.

    Args:
      value: the weight in float, masks applied.
      grid: which it lies on.
    """

    def __init__(self, value: Tensor, grid: Grid):
        self._value, self._scale = tf.convert_to_tensor(value), grid.scale(value)
        steps = tf.math.divide_no_nan(self._value, self._scale)
        # Steps that were learned may leave the largest outside.
        steps = tf.clip_by_value(steps, -grid.most, grid.most)
        nearest = tf.round(steps)
        self.free = tf.abs(steps - nearest) > _ON_A_STEP
        self._below = tf.where(self.free, tf.floor(steps), nearest)
        share = tf.where(self.free, steps - self._below, 0.5 * tf.ones_like(steps))
        inside = (share - _LOW) / (_HIGH - _LOW)
        self.choice = tf.Variable(tf.math.log(inside) - tf.math.log1p(-inside))

    def upwards(self) -> Tensor:
        """h: 0 for the step below, 1 for the one above."""
        stretched = tf.sigmoid(self.choice) * (_HIGH - _LOW) + _LOW
        return tf.clip_by_value(stretched, 0.0, 1.0)

    def soft(self) -> Tensor:
        """The weight with choices that are not yet made."""
        return self._scale * (self._below + tf.where(self.free, self.upwards(), 0.0))

    def made(self) -> Tensor:
        """The weight on the steps that were chosen."""
        above = tf.cast(self.upwards() >= 0.5, self._below.dtype)
        return tf.where(self.free, self._scale * (self._below + above), self._value)

    def undecided(self, exponent: Tensor) -> Tensor:
        """The sum of 1 - |2h - 1|^exponent over what is free to move."""
        open_ = 1.0 - tf.abs(2.0 * self.upwards() - 1.0) ** exponent
        return tf.reduce_sum(tf.where(self.free, open_, 0.0))


def is_settled(block: Block) -> bool:
    """Whether all of a block's weights lie on steps: nothing of it can be learned."""
    before = block.before_grids().items()
    return not any(bool(tf.reduce_any(Rounding(v, block.grids[key]).free)) for key, v in before)


def learned(
    block: Block,
    inputs: Sequence[Sequence[Tensor]],
    targets: Sequence[Tensor],
    measure: Callable[[Tensor, Tensor], Tensor],
    *,
    iterations: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """The block's weights on the steps that bring its answers nearest to the targets.

    Minimised is error + 10 * mean(1 - |2h - 1|^exponent), the exponent going from 20 to 2 behind a
    fifth of the updates that know no pull.

    Args:
      block: its variables are read, and not changed.
      inputs, targets: for each batch the block's inputs, and what it is to answer.
      measure: the error of an answer beside its target, a scalar; what rounding adds is to be 1.
      iterations: updates, a batch each.
      seed: of the batches' order.

    Returns:
      By their paths, weights that the grids leave as they are; none where nothing is free to move.
    """
    roundings = {key: Rounding(v, block.grids[key]) for key, v in block.before_grids().items()}
    free = sum(float(tf.reduce_sum(tf.cast(one.free, tf.float32))) for one in roundings.values())
    if not free:
        return {}
    update = _updater(block, roundings, measure, free)
    with dense_strides(block) as read:
        inputs = [[read(x) for x in batch] for batch in inputs]
        for step, number in zip(range(iterations), batch_order(len(targets), seed), strict=False):
            scalars = (step + 1.0, *_annealed(step / iterations))
            update(inputs[number], targets[number], *map(tf.constant, scalars))
    return {key: one.made().numpy() for key, one in roundings.items()}


def _updater(
    block: Block, roundings: Mapping[str, Rounding], measure: Callable[..., Tensor], free: float
) -> Callable[..., None]:
    """One update of all choices by Adam."""
    by_grid = {id(block.grids[key]): one for key, one in roundings.items()}
    choices = [one.choice for one in roundings.values()]
    optimizer = Adam(choices)

    @tf.function(reduce_retracing=True)
    def update(
        inputs: Sequence[Tensor], target: Tensor, count: Tensor, exponent: Tensor, pull: Tensor
    ) -> None:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(choices)
            with rounded_by(lambda grid, value: by_grid[id(grid)].soft()):
                # Of a size that Adam's epsilon is small beside, however many choices there are.
                loss = free * measure(block(*inputs), target)
            for one in roundings.values():
                loss += pull * one.undecided(exponent)
        optimizer.apply(tape.gradient(loss, choices), _RATE, count)

    return update


def _annealed(share: float) -> tuple[float, float]:
    """The exponent and the pull after a share of the updates."""
    if share < _WARM:
        return _FLAT, 0.0
    behind = (share - _WARM) / (1.0 - _WARM)
    return _STEEP + (_FLAT - _STEEP) * 0.5 * (1.0 + math.cos(math.pi * behind)), _PULL


def batch_order(count: int, seed: int) -> Iterator[int]:
    """Numbers of batches without end, each as often as the others."""
    random = np.random.default_rng(seed)
    while True:
        yield from random.permutation(count)
