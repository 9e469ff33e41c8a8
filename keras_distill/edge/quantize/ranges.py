"""The range of a tensor in the file, and the rounding to it that training sees."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_distill.edge.compress.layer import is_exporting
from keras_distill.edge.compress.repaired import Repaired
from keras_distill.edge.quantize.sums import ReadSums, requantized
from keras_distill.edge.quantize.weights import rule_in_force
from keras_distill.functional.tensors import Tensor

# A calibrated range moves on in training as slowly as TFMOT's: its decay.
SETTLED = 999.0


_state = threading.local()


@contextlib.contextmanager
def observed(observer: Callable[[Range, Any], Any]) -> Iterator[None]:
    """Inside, ranges show their tensors to `observer(range, tensor)` and hand on what it returns.

    They round nothing themselves; for None they hand on the tensor.
    """
    outer, _state.observer = getattr(_state, "observer", None), observer
    try:
        yield
    finally:
        _state.observer = outer


def is_observed() -> bool:
    """Whether this thread's ranges show their tensors and round nothing."""
    return getattr(_state, "observer", None) is not None


def fake_quant(x: Any, low: Any, high: Any) -> Any:
    """`x` rounded to 256 steps between `low` and `high`, zero among them; gradient 1 inside.

    Args:
      x: any shape, any float dtype.
      low, high: scalars, `low <= 0 <= high`, nudged so that zero is a step.
    """
    rounded = tf.quantization.fake_quant_with_min_max_vars(tf.cast(x, tf.float32), low, high)
    return tf.cast(rounded, x.dtype)


@keras.saving.register_keras_serializable("keras_distill")
class Range(keras.layers.Layer):
    """Rounds a tensor to int8's 256 steps over a range that training finds or calibration sets.

    In training the range follows the batches' smallest and largest values by a moving average of
    decay `min(0.999, n / (n + 1))`, so that the first batches set it and later ones move it
    slowly. Where nothing was seen yet, tensors pass unrounded.

    Args:
      fixed: `(low, high)` where the operation's own definition says the range.

    Attributes:
      sums: what tells, at inference, the sums that an integer kernel brings to this range; None
        where nothing is known of them. Its owner sets it.
      repaired: what a repair has left here, of this range and others, or None.
    """

    repaired: Repaired | None = None

    def __init__(self, fixed: tuple[float, float] | None = None, **kwargs: Any):
        super().__init__(**{"dtype": "float32", "autocast": False, **kwargs})
        self.supports_masking = True
        self.fixed = None if fixed is None else (float(fixed[0]), float(fixed[1]))
        if self.fixed is None:
            self.low = self._scalar("low")
            self.high = self._scalar("high")
            self.seen = self._scalar("seen")
        self.sums: ReadSums | None = None
        self.built = True

    def _scalar(self, name: str) -> Any:
        return self.add_weight(
            shape=(), initializer="zeros", trainable=False, name=name, aggregation="mean"
        )

    def call(self, x: Any, training: bool | None = None) -> Any:
        """`x`, rounded."""
        observer = getattr(_state, "observer", None)
        if observer is not None:
            seen = observer(self, x)
            return x if seen is None else seen
        if self.fixed is not None:
            return fake_quant(x, *self.fixed)
        if is_exporting():
            return self._rounded_for_export(x)
        if training:
            self._follow(x)
            return self._in_training(x)
        return tf.cond(
            self.seen.value > 0,
            lambda: fake_quant(self._as_kernels_round(x), *self.limits()),
            lambda: tf.identity(x),
        )

    def _as_kernels_round(self, x: Tensor) -> Tensor:
        """`x` on the range's steps, not clipped to it, with the gradient of `x`."""
        if x.dtype != tf.float32 or rule_in_force() is not None:
            return x
        scale = self.scale()
        if self.sums is None:
            found = scale * tf.round(x / scale)
        else:
            found = requantized(x, self.sums(), scale)
        return x + tf.stop_gradient(tf.where(tf.math.is_finite(x), found - x, 0.0))

    def scale(self) -> Tensor:
        """The step, as the converter computes it and the file has it; 1 for a range of nothing."""
        low, high = (tf.cast(one, tf.float64) for one in self.limits())
        return tf.cast(tf.where(high > low, (high - low) / 255.0, 1.0), tf.float32)

    def is_seen(self) -> Tensor:
        """Whether the range is set, in a graph as well."""
        return tf.constant(True) if self.fixed is not None else self.seen.value > 0

    def _in_training(self, x: Any) -> Any:
        return fake_quant(x, *self.limits())

    def _follow(self, x: Any) -> None:
        x = self.counted(tf.stop_gradient(tf.cast(x, tf.float32)))
        share = self._share()
        for bound, found in (
            (self.low, tf.minimum(tf.reduce_min(x), 0.0)),
            (self.high, tf.maximum(tf.reduce_max(x), 0.0)),
        ):
            bound.assign(bound.value + share * (found - bound.value))
        self.seen.assign(self.seen.value + 1.0)

    def _share(self) -> Any:
        """How far a batch moves the range towards its own."""
        return tf.maximum(1.0 / (self.seen.value + 1.0), 1.0 - 0.999)

    def counted(self, x: Any) -> Any:
        """What of a tensor its range is found from."""
        return x

    def _rounded_for_export(self, x: Any) -> Any:
        return fake_quant(x, *self.bounds()) if self.is_set else x

    @property
    def is_set(self) -> bool:
        """Whether a file can take this range."""
        with tf.init_scope():
            return self.fixed is not None or float(self.seen.numpy()) > 0

    def set(self, low: float, high: float) -> None:
        """Sets the range; zero is always inside it, and where there was nothing else, one."""
        self.low.assign(min(low, 0.0))
        # LiteRT's kernels refuse to multiply by what brings a sum to steps of nothing.
        self.high.assign(max(high, 0.0) if low or high else 1.0)
        self.seen.assign(SETTLED)

    def bounds(self) -> tuple[float, float]:
        """`(low, high)`."""
        if self.fixed is not None:
            return self.fixed
        with tf.init_scope():
            # Under a strategy a variable is one of each replica, and all of them are alike.
            low, high = map(tf.convert_to_tensor, self.limits())
            return float(low), float(high)

    def limits(self) -> tuple[Any, Any]:
        """`(low, high)` as they are where it is called; equal where nothing was seen yet."""
        if self.fixed is not None:
            return tf.constant(self.fixed[0]), tf.constant(self.fixed[1])
        return self.low.value, self.high.value

    def compute_output_spec(self, x: Any, training: bool | None = None) -> Any:
        """As `x`."""
        return keras.KerasTensor(x.shape, x.dtype)

    def get_config(self) -> dict[str, Any]:
        """The name and whether the range is fixed."""
        return {"name": self.name, "fixed": self.fixed}


@keras.saving.register_keras_serializable("keras_distill")
class InverseRoot(Range):
    """1 / sqrt(x), both rounded: a range for x, and from it the result's.

    What rounds to zero counts as one step of x, as LiteRT's RSQRT has it, so that the result spans
    `[0, 1 / sqrt(high / 255)]`. Its largest value in float says nothing: an almost constant row of
    a normalisation would stretch the range until all other rows' results were zero.
    """

    def call(self, x: Any, training: bool | None = None) -> Any:
        """`1 / sqrt(x)`, rounded."""
        x = super().call(x, training=training)
        if is_observed():
            return _inverse_root(x)
        if is_exporting():
            if not self.is_set:
                return _inverse_root(x)
            return _rounded_inverse_root(x, tf.constant(self.bounds()[1]))
        return tf.cond(
            self.seen.value > 0,
            lambda: _rounded_inverse_root(x, self.limits()[1]),
            lambda: _inverse_root(x),
        )


def _inverse_root(x: Any) -> Any:
    # As Keras has it for a row of zeros.
    return tf.math.rsqrt(tf.maximum(x, 1e-14))


def _rounded_inverse_root(x: Any, high: Any) -> Any:
    step = tf.maximum(tf.convert_to_tensor(high) / 255.0, 1e-12)
    result = tf.math.rsqrt(tf.maximum(x, tf.cast(step, x.dtype)))
    return fake_quant(result, 0.0, tf.math.rsqrt(step))
