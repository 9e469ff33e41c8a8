"""What one call of one layer costs, from shapes alone: so is priced what is not built yet.

Counted are the multiply-accumulates of kernels, as published counts do: convolutions, dense and
recurrent layers, attention's projections and products, matrix products between tensors.
Normalisations, activations, pooling, biases and everything else element by element count as 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import keras

from keras_distill.graph.traits import does, traits_of

Shape = tuple[int, ...]
Shapes = Sequence[Shape]
WeightShapes = Mapping[str, Shape]


class Call(NamedTuple):
    """What a formula reads."""

    operation: keras.Operation
    inputs: Shapes
    outputs: Shapes
    weights: WeightShapes

    def inside(self, layer: Any, inputs: Shapes, outputs: Shapes) -> Call:
        """The call of a layer that the layer holds."""
        return Call(layer, inputs, outputs, _under(self.weights, layer))


Formula = Callable[[Call], int | None]


def macs(
    operation: keras.Operation,
    input_shapes: Shapes,
    output_shapes: Shapes,
    weight_shapes: WeightShapes,
) -> int | None:
    """The multiply-accumulates of one call; each is two floating point operations.

    A transposed convolution counts every product of its kernel, also those that `padding="same"`
    crops; a masked step of a sequence counts as any other.

    Args:
      operation: a layer, or an operator between layers. Its class is read, and of its settings
        those that have nothing to do with its width: data_format, equation, axes.
      input_shapes: of each tensor that the call takes, in the order of its parameters; constants
        are tensors, too. Batch first, as in the graph: a batch of 1 gives one example's count.
      output_shapes: of each tensor that it returns.
      weight_shapes: by the weight's path inside the layer, as `graph.copying.weight_paths`.

    Returns:
      The count; None where the class does not tell: one that extends no layer of Keras' own, or
      runs somebody's code (Lambda, an RNN over a cell of one's own).

    Example:
      >>> dense = keras.layers.Dense(3)
      >>> macs(dense, [(1, 4)], [(1, 3)], {"kernel": (4, 3), "bias": (3,)})
      12
    """
    what = traits_of(operation).does
    if what == "open":
        return None
    formula = _FORMULAS.get(what, _nothing)
    return formula(Call(operation, input_shapes, output_shapes, weight_shapes))


def parameters(weight_shapes: WeightShapes) -> int:
    """How many numbers the weights hold."""
    return sum(map(prod, weight_shapes.values()))


def int8_bytes(weight_shapes: WeightShapes) -> int:
    """What the numbers of a layer take in a full-int8 file: 4 bytes a bias, 1 any other.

    A BatchNormalization's are `batch_norm_int8_bytes`. Scales and zero points (12 bytes a channel),
    names and the file's structure come on top.

    >>> int8_bytes({"kernel": (3, 3, 8, 16), "bias": (16,)})
    1216
    """
    return sum(
        prod(shape) * (4 if path.rpartition("/")[2] == "bias" else 1)
        for path, shape in weight_shapes.items()
    )


def batch_norm_int8_bytes(weight_shapes: WeightShapes, *, folded: bool, biased: bool) -> int:
    """What a BatchNormalization takes in a full-int8 file.

    Args:
      weight_shapes: its own.
      folded: the layer before it takes it into its kernel and its bias; else it becomes a
        depthwise 1x1 convolution: a kernel number and a bias a channel.
      biased: the layer before it has a bias already.

    >>> batch_norm_int8_bytes({"moving_mean": (16,)}, folded=True, biased=False)
    64
    """
    channels = prod(weight_shapes["moving_mean"])
    if not folded:
        return 5 * channels
    return 0 if biased else 4 * channels


def einsum_macs(equation: str, shapes: Shapes) -> int:
    """The multiply-accumulates of an einsum, its operands contracted from left to right.

    >>> einsum_macs("bqhd,bkhd->bhqk", [(1, 5, 2, 3), (1, 7, 2, 3)])
    210
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = [_indices(term, len(s)) for term, s in zip(left.split(","), shapes, strict=True)]
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for index, size in zip(term, shape, strict=True):
            sizes[index] = max(size, sizes.get(index, 1))
    read = [index for term in terms for index in term]
    kept = {i for i in sizes if i.isdigit() or (i in right if arrow else read.count(i) == 1)}
    total, held = 0, set(terms[0])
    for number, term in enumerate(terms[1:], start=2):
        held |= set(term)
        total += prod(sizes[index] for index in held)
        held &= kept.union(*terms[number:])
    return total


def _indices(term: str, rank: int) -> list[str]:
    """An einsum's term as indices; those of an ellipsis are numbers, counted from its right."""
    before, dots, after = term.partition("...")
    spread = rank - len(before) - len(after) if dots else 0
    return [*before, *map(str, reversed(range(spread))), *after]


def _under(weights: WeightShapes, layer: Any) -> dict[str, Shape]:
    """The weights of a layer inside the layer, by their paths in that."""
    prefix = f"{layer.name}/"
    return {path[len(prefix) :]: s for path, s in weights.items() if path.startswith(prefix)}


def _nothing(call: Call) -> int:
    return 0


def _convolution(call: Call) -> int:
    # The kernel's input axis is that of one group.
    return prod(call.outputs[0]) * prod(call.weights["kernel"][:-1])


def _depthwise(call: Call) -> int:
    return prod(call.outputs[0]) * prod(call.weights["kernel"][:-2])


def _separable(call: Call) -> int:
    depthwise, pointwise = call.weights["depthwise_kernel"], call.weights["pointwise_kernel"]
    positions = prod(call.outputs[0]) // pointwise[-1]
    return positions * (prod(depthwise) + prod(pointwise))


def _transposed(call: Call) -> int:
    # The kernel's last axis is the input's channels.
    return prod(call.inputs[0]) * prod(call.weights["kernel"][:-1])


def _dense(call: Call) -> int:
    return prod(call.outputs[0]) * call.inputs[0][-1]


def _einsum_dense(call: Call) -> int:
    # Each number that comes in meets those of the output's indices that it has not itself.
    terms, _, made = call.operation.equation.replace(" ", "").partition("->")
    read = _indices(terms.partition(",")[0], len(call.inputs[0]))
    written = zip(_indices(made, len(call.outputs[0])), call.outputs[0], strict=True)
    return prod(call.inputs[0]) * prod(size for index, size in written if index not in read)


def _reversible(call: Call) -> int:
    # Forward it looks rows up, and its output has one axis more.
    return _dense(call) if len(call.inputs[0]) == len(call.outputs[0]) else 0


def _recurrent(call: Call) -> int | None:
    cell = call.operation.cell
    step = _cell(cell, _under(call.weights, cell))
    return None if step is None else prod(call.inputs[0][:2]) * step


def _cell(cell: Any, weights: WeightShapes) -> int | None:
    """Of one step of one example; the gates lie side by side in the kernels."""
    if does(cell, "cells"):
        return _sum(_cell(inner, _under(weights, inner)) for inner in cell.cells)
    return sum(prod(weights[name]) for name in traits_of(cell).kernels) or None


def _one_step(call: Call) -> int | None:
    step = _cell(call.operation, call.weights)
    return None if step is None else call.inputs[0][0] * step


def _sum(counts: Any) -> int | None:
    found = list(counts)
    return None if None in found else sum(found)


def _convolutional_lstm(call: Call) -> int:
    cell = _under(call.weights, call.operation.cell)
    kernels = prod(cell["kernel"]) + prod(cell["recurrent_kernel"])
    rank, output = len(cell["kernel"]) - 2, call.outputs[0]
    last = call.operation.data_format == "channels_last"
    positions = prod(output[-rank - 1 : -1] if last else output[-rank:])
    return prod(call.inputs[0][:2]) * positions * kernels


def _bidirectional(call: Call) -> int | None:
    ways = (call.operation.forward_layer, call.operation.backward_layer)
    return _sum(macs(*call.inside(way, call.inputs[:1], call.outputs)) for way in ways)


def _time_distributed(call: Call) -> int | None:
    frame, made = ((shape[0], *shape[2:]) for shape in (call.inputs[0], call.outputs[0]))
    one = macs(*call.inside(call.operation.layer, [frame], [made]))
    return None if one is None else call.inputs[0][1] * one


def _wrapped(call: Call) -> int | None:
    return macs(*call.inside(call.operation.layer, call.inputs, call.outputs))


def _multi_head(call: Call) -> int:
    return _heads(call, call.operation.attention_axes)


def _grouped_query(call: Call) -> int:
    return _heads(call, (1,))


_PROJECTIONS = ("query", "key", "value", "gate", "attention_output")


def _heads(call: Call, attention_axes: Sequence[int]) -> int:
    kernel = {name: call.weights.get(f"{name}/kernel", (0,)) for name in _PROJECTIONS}
    queries, values = (prod(shape[:-1]) for shape in call.inputs[:2])
    attended = prod(call.inputs[1][axis] for axis in attention_axes)
    # Heads x size: of the scores from the queries', of the mean from the output projection's.
    per_pair = prod(kernel["query"][1:]) + prod(kernel["attention_output"][:2])
    from_queries = sum(prod(kernel[name]) for name in ("query", "gate", "attention_output"))
    from_values = prod(kernel["key"]) + prod(kernel["value"])
    return queries * (from_queries + attended * per_pair) + values * from_values


def _attention(call: Call) -> int:
    # A pair's score takes a term a channel, as a product or, in additive attention, as a sum.
    query, value = call.inputs[:2]
    return prod(query[:-1]) * value[-2] * (query[-1] + value[-1])


def _product_attention(call: Call) -> int:
    query, key, value = call.inputs[:3]
    return prod(query[:-1]) * key[1] * (query[-1] + value[-1])


def _dot(call: Call) -> int:
    batch = call.inputs[0][0]
    return batch * _contracted([shape[1:] for shape in call.inputs[:2]], call.outputs[0][1:])


def _tensordot(call: Call) -> int:
    return _contracted(call.inputs[:2], call.outputs[0])


def _contracted(operands: Shapes, output: Shape) -> int:
    # left x right = output x contracted^2, whatever the axes, where no index is kept from both.
    return math.isqrt(prod(output) * prod(map(prod, operands)))


def _einsum(call: Call) -> int:
    return einsum_macs(call.operation.subscripts, call.inputs)


def _with_kernels(formula: Formula, *names: str) -> Formula:
    """A layer's formula for its operator, to which kernels come as arguments."""

    def counted(call: Call) -> int | None:
        kernels = dict(zip(names, call.inputs[1:], strict=False))
        return formula(call._replace(weights=kernels))

    return counted


# By the word that `Traits.does` has; what has none here multiplies nothing.
_FORMULAS: dict[str, Formula] = {
    "convolution": _convolution,
    "depthwise": _depthwise,
    "separable": _separable,
    "transposed": _transposed,
    "dense": _dense,
    "einsum dense": _einsum_dense,
    "reversible embedding": _reversible,
    "recurrent": _recurrent,
    "cell": _one_step,
    "cells": _one_step,
    "convolutional recurrent": _convolutional_lstm,
    "bidirectional": _bidirectional,
    "time distributed": _time_distributed,
    "wrapped": _wrapped,
    "multi-head attention": _multi_head,
    "grouped attention": _grouped_query,
    "attention": _attention,
    "dot": _dot,
    "matrix product": _dense,
    "tensor product": _tensordot,
    "einsum": _einsum,
    "product attention": _product_attention,
    "tensor convolution": _with_kernels(_convolution, "kernel"),
    "tensor depthwise": _with_kernels(_depthwise, "kernel"),
    "tensor separable": _with_kernels(_separable, "depthwise_kernel", "pointwise_kernel"),
    "tensor transposed": _with_kernels(_transposed, "kernel"),
}
