"""Adam by hand: of Keras' optimisers TensorFlow keeps every graph that they were traced in."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from keras_distill.functional.tensors import Tensor

__all__ = ["Adam"]


class Adam:
    """Moves variables by Adam (Kingma and Ba 2015): decays 0.9 and 0.999, epsilon 1e-7."""

    def __init__(self, variables: Sequence[tf.Variable]):
        self._variables = list(variables)
        self._means, self._squares = (
            [tf.Variable(tf.zeros_like(variable)) for variable in variables] for _ in range(2)
        )

    def apply(self, gradients: Sequence[Tensor], rate: float | Tensor, count: Tensor) -> None:
        """One update, the `count`-th, from 1."""
        moved = zip(self._variables, gradients, self._means, self._squares, strict=True)
        for variable, gradient, mean, square in moved:
            mean.assign(0.9 * mean + 0.1 * gradient)
            square.assign(0.999 * square + 0.001 * gradient**2)
            size = tf.sqrt(square / (1.0 - 0.999**count)) + 1e-7
            variable.assign_sub(rate * mean / (1.0 - 0.9**count) / size)
