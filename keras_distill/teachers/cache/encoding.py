"""A teacher's Signals as the fields of records, and back, both inside a graph."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.functional.tensors import Tensor
from keras_distill.signals import Head, Signals
from keras_distill.teachers.cache.layout import Layout, Output, field

__all__ = ["decode", "encode", "promised", "restore"]

# The largest finite number of each dtype, as float32.
_LARGEST = {"float16": 65504.0, "bfloat16": 3.3895314e38, "float32": 3.4028235e38}
_NONE = np.float32(-np.inf)


def encode(signals: Signals, keys: tuple, layout: Layout) -> tuple[dict[str, Any], Any]:
    """The fields of a batch of records.

    Args:
      signals: what the teacher said, batch first.
      keys: of the taps, in the order of `layout.layers`.

    Returns:
      The fields by name, and how many examples hold a number that the dtype can't hold (a whole
      number: exactly) or that is no number, a scalar.
    """
    fields: dict[str, Any] = {}
    bad = tf.zeros((), "int32")
    for head in layout.heads:
        logits = tf.cast(signals.heads[head.name].logits, "float32")
        bad += _misfits(logits, _LARGEST[layout.dtype])
        # A class masked out by -inf or -1e9 has no share, and keeps none.
        largest = _LARGEST[layout.dtype]
        fields |= _encode_head(tf.clip_by_value(logits, -largest, largest), head, layout)
    for key, layer in zip(keys, layout.layers, strict=True):
        values = tf.cast(signals.taps[key], "float32")
        bad += _count(~tf.math.is_finite(values))
        if layout.layer_dtype == "int8":
            scale, steps = quantize(values)
            fields |= {field("layer", layer.name): steps, field("scale", layer.name): scale}
        else:
            bad += _count(tf.abs(values) > _LARGEST[layout.layer_dtype])
            fields[field("layer", layer.name)] = _stored(values, layout.layer_dtype)
        if signals.taps[key].dtype.is_integer:
            # Ids and rows that came back as their neighbours would be others'.
            bad += _count(_decode_layer(fields, layer, layout) != signals.taps[key])
    return fields, bad


def decode(fields: Mapping[str, Any], taps: Mapping[Any, str], layout: Layout) -> Signals:
    """Signals of a batch of records.

    Args:
      fields: by name, as the records hold them.
      taps: the objectives' keys and the names of the layers that they mean.
    """
    layers = {layer.name: layer for layer in layout.layers}
    return Signals(
        heads={
            head.name: Head(_decode_head(fields, head, layout), head.kind, layout.top_k)
            for head in layout.heads
        },
        taps={key: _decode_layer(fields, layers[name], layout) for key, name in taps.items()},
    )


def promised(taps: Mapping[Any, str], layout: Layout) -> Signals:
    """What `decode` will give, its tensors symbolic."""

    def symbolic(output: Output) -> keras.KerasTensor:
        return keras.KerasTensor((None, *output.shape), dtype=output.dtype)

    layers = {layer.name: symbolic(layer) for layer in layout.layers}
    return Signals(
        heads={head.name: Head(symbolic(head), head.kind, layout.top_k) for head in layout.heads},
        taps={key: layers[name] for key, name in taps.items()},
    )


def restore(indices: Tensor, values: Tensor, rest: Tensor, classes: int) -> Tensor:
    """Logits over all classes from the largest, the rest sharing what it is known to have.

    The kept classes have their logits, at every temperature. Each of the others gets
    `rest - log(number of others)`: together they have exactly their share at temperature 1.
    How far that is from the truth at another temperature, `rest_bound` bounds.

    Args:
      indices, values: `(..., k)`, the kept classes and their logits.
      rest: `(...)`, the logarithm of the sum of the others' exponentials.
      classes: how many there are.

    Returns:
      `(..., classes)` float32.

    >>> import math
    >>> restore([[2]], [[1.0]], [math.log(6.0)], classes=4).numpy().round(3).tolist()
    [[0.6930000185966492, 0.6930000185966492, 1.0, 0.6930000185966492]]
    """
    values, rest = tf.cast(values, "float32"), tf.cast(rest, "float32")
    indices = tf.convert_to_tensor(indices)
    kept = values.shape[-1]
    share = rest - np.float32(np.log(max(classes - kept, 1)))
    base = tf.repeat(tf.reshape(share, [-1, 1]), classes, axis=1)
    full = _placed(base, indices, values)
    return tf.reshape(full, tf.concat([tf.shape(rest), [classes]], 0))


def quantize(values: Tensor) -> tuple[Any, Any]:
    """An example's own scale and its values in steps of it, -127 to 127.

    Args:
      values: `(batch, ...)` float32.

    Returns:
      `(batch,)` float32 and `(batch, ...)` int8; `scale x steps` is off by half a scale at most.
    """
    axes = list(range(1, values.shape.rank))
    largest = tf.reduce_max(tf.abs(values), axis=axes, keepdims=True)
    scale = tf.where(largest > 0, largest / 127.0, tf.ones_like(largest))
    steps = tf.cast(tf.clip_by_value(tf.round(values / scale), -127.0, 127.0), "int8")
    return tf.reshape(scale, [-1]), steps


def _encode_head(logits: Tensor, head: Output, layout: Layout) -> dict[str, Any]:
    if layout.top_k is None:
        return {field("logits", head.name): _stored(logits, layout.dtype)}
    values, indices = tf.math.top_k(logits, layout.top_k)
    classes = head.shape[-1]
    others = _placed(tf.reshape(logits, [-1, classes]), indices, tf.fill(tf.shape(values), _NONE))
    rest = tf.reshape(tf.reduce_logsumexp(others, axis=-1), tf.shape(logits)[:-1])
    rest = tf.maximum(rest, -_LARGEST["float32"])
    small = "uint16" if classes <= 2**16 else "uint32"
    return {
        field("indices", head.name): tf.cast(indices, small),
        field("values", head.name): _stored(values, layout.dtype),
        field("rest", head.name): rest,
    }


def _decode_head(fields: Mapping[str, Any], head: Output, layout: Layout) -> Tensor:
    if layout.top_k is None:
        logits = _loaded(fields[field("logits", head.name)], layout.dtype)
    else:
        logits = restore(
            fields[field("indices", head.name)],
            _loaded(fields[field("values", head.name)], layout.dtype),
            fields[field("rest", head.name)],
            head.shape[-1],
        )
    logits = tf.ensure_shape(logits, (None, *head.shape))
    return tf.cast(logits, head.dtype)


def _decode_layer(fields: Mapping[str, Any], layer: Output, layout: Layout) -> Tensor:
    values = fields[field("layer", layer.name)]
    if layout.layer_dtype != "int8":
        return tf.cast(_loaded(values, layout.layer_dtype), layer.dtype)
    scale = fields[field("scale", layer.name)]
    shaped = tf.reshape(scale, [-1, *[1] * len(layer.shape)])
    return tf.cast(tf.cast(values, "float32") * shaped, layer.dtype)


def _placed(base: Tensor, indices: Tensor, values: Tensor) -> Tensor:
    """`base`, `(rows, classes)`, with each row's values at its indices."""
    kept = indices.shape[-1]
    columns = tf.reshape(tf.cast(indices, "int32"), [-1, kept])
    rows = tf.repeat(tf.range(tf.shape(base)[0])[:, None], kept, axis=1)
    places = tf.stack([rows, columns], axis=-1)
    return tf.tensor_scatter_nd_update(base, places, tf.reshape(values, [-1, kept]))


def _stored(values: Tensor, dtype: str) -> Tensor:
    cast = tf.cast(values, dtype)
    return tf.bitcast(cast, "uint16") if dtype == "bfloat16" else cast


def _loaded(values: Tensor, dtype: str) -> Tensor:
    values = tf.bitcast(values, "bfloat16") if dtype == "bfloat16" else values
    return tf.cast(values, "float32")


def _misfits(logits: Tensor, largest: float) -> Tensor:
    top = tf.reduce_max(logits, axis=-1)
    # Below the range a class may fall, with its share; the largest logit may not.
    lost = (top > largest) | (top < -largest) | tf.reduce_any(tf.math.is_nan(logits), axis=-1)
    return _count(lost)


def _count(wrong: Tensor) -> Tensor:
    axes = list(range(1, wrong.shape.rank))
    return tf.reduce_sum(tf.cast(tf.reduce_any(wrong, axis=axes) if axes else wrong, "int32"))
