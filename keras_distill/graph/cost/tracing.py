"""What shapes don't tell: the products in a trace of a layer's call."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import keras
import tensorflow as tf

from keras_distill.graph.cost import costs
from keras_distill.graph.cost.costs import Shape

layers = keras.layers


def returned(operation: Any, args: tuple, kwargs: dict[str, Any]) -> list[Any]:
    """What a call returns, as shapes and dtypes."""
    made = keras.tree.flatten(operation.compute_output_spec(*args, **kwargs))
    if all(None not in spec.shape for spec in made):
        return made
    # EinsumDense, for one, repeats an open size of its own output_shape.
    seen = keras.tree.flatten(_trace(operation, args, kwargs).structured_outputs)
    return [keras.KerasTensor(tuple(tensor.shape), tensor.dtype.name) for tensor in seen]


def traced_macs(operation: Any, args: tuple, kwargs: dict[str, Any]) -> int | None:
    """The products in a trace of a layer's call; None where a loop or an error hides some."""
    try:
        if isinstance(operation, layers.TimeDistributed):
            batch, frames, *rest = args[0].shape
            frame = keras.KerasTensor((batch, *rest), args[0].dtype)
            one = traced_macs(operation.layer, (frame,), {})
            return None if one is None else frames * one
        return sum(map(_macs_of, _trace(operation, args, kwargs).graph.get_operations()))
    # A layer of the user's may raise whatever it likes; its row says that the MACs are unknown.
    except Exception:
        return None


def _trace(operation: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """A call in TensorFlow's graph. It leaves no mark on the layer."""
    leaves = [x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, keras.KerasTensor)]

    def call(*tensors: Any) -> Any:
        fed = iter(tensors)
        ours, named = keras.tree.map_structure(
            lambda leaf: next(fed) if isinstance(leaf, keras.KerasTensor) else leaf, (args, kwargs)
        )
        with keras.StatelessScope():
            return operation(*ours, **named)

    specs = [tf.TensorSpec(leaf.shape, leaf.dtype) for leaf in leaves]
    return tf.function(call, autograph=False).get_concrete_function(*specs)


_HIDING = ("While", "If", "Case", "Call", "Func", "MapDefun")


def _macs_of(made: Any) -> int:
    """Of one of TensorFlow's operators.

    Raises:
      ValueError: operators are hidden inside it.
    """
    if any(word in made.type for word in _HIDING):
        raise ValueError(made.type)
    formula = _PRODUCTS.get(made.type)
    if formula is None:
        return 0
    return formula(made, *(tuple(tensor.shape) for tensor in (*made.inputs, *made.outputs)))


def _product(made: Any, left: Shape, right: Shape, output: Shape) -> int:
    turned = made.get_attr("transpose_a" if made.type == "MatMul" else "adj_x")
    return prod(output) * left[-2 if turned else -1]


def _einsum(made: Any, *shapes: Shape) -> int:
    return costs.einsum_macs(made.get_attr("equation").decode(), shapes[:-1])


def _convolution(made: Any, images: Shape, kernel: Shape, output: Shape) -> int:
    return prod(output) * prod(kernel[:-1])


def _depthwise(made: Any, images: Shape, kernel: Shape, output: Shape) -> int:
    return prod(output) * prod(kernel[:2])


def _transposed(made: Any, size: Shape, kernel: Shape, images: Shape, output: Shape) -> int:
    return prod(images) * prod(kernel[:-1])


_PRODUCTS: dict[str, Callable[..., int]] = {
    **dict.fromkeys(("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"), _product),
    "Einsum": _einsum,
    **dict.fromkeys(("Conv", "Conv2D", "Conv3D"), _convolution),
    "DepthwiseConv2dNative": _depthwise,
    **dict.fromkeys(("Conv2DBackpropInput", "Conv3DBackpropInputV2"), _transposed),
}
