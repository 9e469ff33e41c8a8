"""Numbers that are assigned while `fit` runs: the step is traced anew for them."""

import warnings
from collections.abc import Sequence
from typing import Any

import keras

from keras_distill.objectives.base import Objective

__all__ = ["FollowSettings", "Settings"]


class Settings:
    """What a traced step took for constant: the objectives' arguments and the label weight."""

    def __init__(self, objectives: Sequence[Objective], label_weight: Any):
        self._values = [{"label_weight": label_weight}, *(o.settings() for o in objectives)]

    def differ(self, other: "Settings") -> bool:
        """Whether anything was assigned in between; equal numbers are the same."""
        return any(
            not _same(value, theirs.get(name))
            for ours, theirs in zip(self._values, other._values, strict=True)
            for name, value in ours.items()
        )


class FollowSettings(keras.callbacks.Callback):
    """Has the step traced anew, before the next batch, where another callback assigned a number.

    The fifth time it warns of what that costs.
    """

    def __init__(self) -> None:
        super().__init__()
        self._left = 5

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Keras takes the step from the model before each batch."""
        before = self.model.train_function
        self.model.make_train_function()
        if self.model.train_function is before:
            return
        self._left -= 1
        if self._left == 0:
            warnings.warn(
                "A callback goes on assigning an objective's numbers or the label weight, and each "
                "time the step is traced anew, which takes seconds. A schedule "
                "(keras_distill.schedules) or a keras.Variable given in the number's place, which "
                "the callback assigns to, costs nothing.",
                stacklevel=2,
            )


def _same(ours: Any, theirs: Any) -> bool:
    numbers = isinstance(ours, (int, float)) and isinstance(theirs, (int, float))
    return ours is theirs or (numbers and ours == theirs)
