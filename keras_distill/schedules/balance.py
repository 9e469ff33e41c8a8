"""Weights that follow the training itself, so that no objective drowns the others."""

import math
from typing import Any

import keras
from keras import ops

from keras_distill.schedules.scalars import read_once

__all__ = ["Balance", "GradientNorm", "Uncertainty"]


class Balance(keras.layers.Layer):
    """A weight with a state, which the Distiller trains or measures, and saves."""

    # Whether the Distiller must measure each part's gradient for it.
    measures_gradients = False

    def factor(self) -> Any:
        """The weight now, a float32 scalar."""
        raise NotImplementedError(f"{type(self).__name__} defines no factor.")

    def penalty(self) -> Any:
        """What the total gains besides the weighted objective, a float32 scalar."""
        return ops.zeros((), "float32")


@keras.saving.register_keras_serializable("keras_distill")
class Uncertainty(Balance):
    """The objective's weight is learned: `exp(-s) * objective + s / 2`, s a trained scalar.

    s is the logarithm of the variance that the objective is granted; at rest the weight is
    `1 / (2 * objective)`. The optimiser trains s as it does the student's weights (weight decay
    included, which pulls the weight towards 1).

    Args:
      initial: the weight to begin with, above 0.

    Raises:
      ValueError: `initial` is not positive.

    Source: Kendall, Gal, Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses", CVPR
    2018, equation 10 (the form for classification).

    >>> float(Uncertainty(initial=0.5).factor())
    0.5
    """

    def __init__(self, *, initial: float = 1.0, **options: Any) -> None:
        super().__init__(**{**options, "dtype": "float32"})
        self.initial = _above_zero("Uncertainty", "initial", initial)
        start = keras.initializers.Constant(-math.log(self.initial))
        self.log_variance = self.add_weight(shape=(), initializer=start, name="log_variance")
        self.built = True

    def factor(self) -> Any:
        return ops.exp(-ops.convert_to_tensor(self.log_variance))

    def penalty(self) -> Any:
        return 0.5 * ops.convert_to_tensor(self.log_variance)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "initial": self.initial}


@keras.saving.register_keras_serializable("keras_distill")
class GradientNorm(Balance):
    """The objective pulls at the student's weights `share` times as hard as the label loss does.

    The weight is a moving average of `share * |g_label| / |g_objective|`, the norms of the two
    gradients over all of the student's trained weights, before `label_weight` divides them. An
    update where either is zero or not finite leaves it. Every part then takes a backward pass of
    its own in each step: the price of measuring it.

    Args:
      share: above 0.
      momentum: of the moving average, in [0, 1).

    Raises:
      ValueError: a number out of range.

    Source: after Chen et al., "GradNorm", ICML 2018, whose norms are made equal by training the
    weights; the ratio itself is what Esser et al., "Taming Transformers", CVPR 2021, use.

    >>> float(GradientNorm(share=0.5).factor())
    1.0
    """

    measures_gradients = True

    def __init__(self, *, share: float = 1.0, momentum: float = 0.9, **options: Any) -> None:
        super().__init__(**{**options, "dtype": "float32"})
        self.share = _above_zero("GradientNorm", "share", share)
        self.momentum = read_once("GradientNorm", "momentum", momentum)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"GradientNorm: momentum must be in [0, 1); got {momentum}.")
        self.value = self.add_weight(
            shape=(), initializer="ones", trainable=False, aggregation="mean", name="value"
        )
        self.built = True

    def factor(self) -> Any:
        return ops.convert_to_tensor(self.value)

    def observe(self, label_norm: Any, objective_norm: Any) -> None:
        """Move towards the ratio of this update's gradients."""
        known = ops.logical_and(label_norm > 0, objective_norm > 0)
        known = ops.logical_and(known, ops.isfinite(label_norm + objective_norm))
        ratio = self.share * label_norm / ops.where(known, objective_norm, 1.0)
        moved = self.momentum * self.value + (1 - self.momentum) * ratio
        self.value.assign(ops.where(known, moved, self.value))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "share": self.share, "momentum": self.momentum}


def _above_zero(owner: str, name: str, value: Any) -> float:
    number = read_once(owner, name, value)
    if not 0 < number < float("inf"):
        raise ValueError(f"{owner}: {name} must be positive; got {value}.")
    return number
