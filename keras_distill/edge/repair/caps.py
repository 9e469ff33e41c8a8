"""A ReLU6 whose channels were scaled: a bound of its own for each of them."""

from __future__ import annotations

from typing import Any

import keras

__all__ = ["ChannelCap"]


@keras.saving.register_keras_serializable("keras_distill")
class ChannelCap(keras.layers.Layer):
    """`min(x, caps)`, a bound for each channel of the last axis.

    Behind a ReLU it is what is left of a ReLU6 whose channels were divided by `s`:
    `relu6(s x) = s min(relu(x), 6 / s)`. A file has one MINIMUM for it.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the bounds, not trained, 6 at first."""
        self.caps = self.add_weight(
            shape=(input_shape[-1],),
            initializer=keras.initializers.Constant(6.0),
            trainable=False,
            name="caps",
        )
        self.built = True

    def call(self, x: Any) -> Any:
        """`x`, no channel above its bound."""
        return keras.ops.minimum(x, keras.ops.cast(self.caps, x.dtype))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> Any:
        """As the input's."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """What every layer has."""
        return super().get_config()
