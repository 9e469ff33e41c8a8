"""The model that compressed layers make: a Functional one that tells them of every update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_distill import _keras
from keras_distill._keras import Functional
from keras_distill.edge.compress.layer import Compressed
from keras_distill.graph import copying
from keras_distill.training.step import notify


@keras.saving.register_keras_serializable("keras_distill")
class CompressedModel(Functional):
    """A Functional model whose layers hear of every update of the optimiser.

    Schedules follow `optimizer.iterations` under plain `fit` as under a `Distiller`; a custom
    training loop calls `after_update` itself.
    """

    def train_step(self, data: Any) -> Any:
        """Keras' own step, then `after_update`."""
        logs = super().train_step(data)
        self.after_update(self.optimizer.iterations)
        return logs

    def count_params(self) -> int:
        """The numbers that the deployed model holds: no masks, no ranges."""
        own = _keras.children(self)
        return sum(layer.count_params() for layer in own)

    def after_update(self, iterations: Any) -> None:
        """Tells each layer that has an `after_update` how many updates there have been."""
        for layer in _keras.children(self):
            notify(layer, iterations)


def rebuild(
    model: Any,
    substitute: Callable[[str, Any], Any],
    *,
    on_input: Callable[[str, Any], Any] | None = None,
) -> CompressedModel:
    """A copy as `copying.rebuild` makes it, that tells its layers of every update."""
    return copying.rebuild(model, substitute, on_input=on_input, kind=CompressedModel)


def without(model: Any, unwrap: Callable[[Compressed], Any]) -> Any:
    """A copy with each `Compressed` layer replaced by what `unwrap` makes of it."""

    def substitute(_: str, layer: Any) -> Any:
        return unwrap(layer) if isinstance(layer, Compressed) else layer

    return rebuild(model, substitute)
