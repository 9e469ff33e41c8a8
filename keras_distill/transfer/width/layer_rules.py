"""What layers with weights do with channels."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_distill.graph.copying import weight_paths
from keras_distill.graph.traits import does, traits_of
from keras_distill.transfer.width.survey import Axes, Call, Role
from keras_distill.transfer.width.tensor_rules import channels_last


def _last(call: Call, path: str, *axes: np.ndarray | None) -> dict[str, Axes]:
    """The channels along a weight's last axes; none along those before."""
    weight = weight_paths(call.operation).get(path)
    if weight is None:
        return {}
    return {path: (*[None] * (len(weight.shape) - len(axes)), *axes)}


def dense(call: Call) -> Role:
    """Sums over its input channels."""
    out = call.make(call.operation.units)
    axes = _last(call, "kernel", call.only, out) | _last(call, "bias", out)
    return Role(call.operation, axes, out, made=out, made_at={"kernel": -1})


def convolution(call: Call) -> Role:
    """Plain, depthwise in the shape of groups, or grouped."""
    channels_last(call)
    layer, given = call.operation, call.only
    if layer.groups == 1:
        out = call.make(layer.filters)
        axes = _last(call, "kernel", given, out) | _last(call, "bias", out)
        return Role(layer, axes, out, made=out, made_at={"kernel": -1})
    if layer.groups == len(given):
        out = np.repeat(given, layer.filters // layer.groups)
        return Role(layer, _last(call, "kernel", None, out) | _last(call, "bias", out), out)
    out = call.make(layer.filters)
    call.survey.even += [(given, layer.groups), (out, layer.groups)]
    axes = _last(call, "kernel", None, out) | _last(call, "bias", out)
    return Role(
        layer, axes, out, made=out, made_at={"kernel": -1}, groups=layer.groups, grouped=given
    )


def transposed(call: Call) -> Role:
    """Its kernel holds the output channels before the input ones."""
    channels_last(call)
    out = call.make(call.operation.filters)
    axes = _last(call, "kernel", out, call.only) | _last(call, "bias", out)
    return Role(call.operation, axes, out, made=out, made_at={"kernel": -2})


def depthwise(call: Call) -> Role:
    """Its outputs stay or go with the input channel that they come from."""
    channels_last(call)
    out = np.repeat(call.only, call.operation.depth_multiplier)
    axes = _last(call, "kernel", call.only, None) | _last(call, "bias", out)
    return Role(call.operation, axes, out)


def separable(call: Call) -> Role:
    """A depthwise part, then a pointwise one."""
    channels_last(call)
    between = np.repeat(call.only, call.operation.depth_multiplier)
    out = call.make(call.operation.filters)
    axes = _last(call, "depthwise_kernel", call.only, None)
    axes |= _last(call, "pointwise_kernel", between, out) | _last(call, "bias", out)
    return Role(call.operation, axes, out, made=out, made_at={"pointwise_kernel": -1})


def embedding(call: Call) -> Role:
    """Makes its channels from token numbers."""
    out = call.make(call.operation.output_dim)
    return Role(
        call.operation, _last(call, "embeddings", out), out, made=out, made_at={"embeddings": -1}
    )


def by_channel(call: Call) -> Role:
    """A normalisation, a scale, PReLU: one number or more a channel, in the last axis."""
    layer, rank = call.operation, len(call.step.inputs[0].shape)
    axis = getattr(layer, "axis", -1)
    if axis not in (-1, rank - 1, [-1], [rank - 1], (-1,), (rank - 1,)):
        raise call.unknown(f"it works along axis {axis}; channels are followed along the last")
    width = len(call.only)
    axes: dict[str, Axes] = {}
    for path, weight in weight_paths(layer).items():
        if len(weight.shape) and weight.shape[-1] == width:
            axes |= _last(call, path, call.only)
    return Role(layer, axes, call.only, exact=not does(layer, "row normalization"))


def group_normalisation(call: Call) -> Role:
    """Its parts must stay equally large."""
    groups = call.operation.groups
    call.survey.even.append((call.only, len(call.only) if groups == -1 else groups))
    role = by_channel(call)
    return Role(role.operation, role.axes, role.out, exact=False)


def _recurrent_axes(layer: Any, prefix: str, given: np.ndarray, out: np.ndarray) -> dict[str, Axes]:
    gates = np.tile(out, traits_of(layer).gates)
    cell = f"{prefix}{layer.cell.name}/"
    axes: dict[str, Axes] = {
        f"{cell}kernel": (given, gates),
        f"{cell}recurrent_kernel": (out, gates),
    }
    if layer.cell.bias is not None:
        axes[f"{cell}bias"] = (*[None] * (len(layer.cell.bias.shape) - 1), gates)
    return axes


def _kernels(axes: dict[str, Axes]) -> dict[str, int]:
    return {path: -1 for path in axes if path.endswith("kernel")}


def _check_gates(call: Call, layer: Any) -> None:
    if not traits_of(layer).gates:
        raise call.unknown(f"what the cell of {type(layer).__name__} does is not known")


def recurrent(call: Call) -> Role:
    """The state has the channels of the output; each gate has them once."""
    _check_gates(call, call.operation)
    out = call.make(call.operation.units)
    call.tie([out, *call.inputs[1:]])
    axes = _recurrent_axes(call.operation, "", call.only, out)
    return Role(call.operation, axes, out, made=out, made_at=_kernels(axes))


def bidirectional(call: Call) -> Role:
    """Two directions side by side."""
    wrapper, given = call.operation, call.only
    forward, backward = wrapper.forward_layer, wrapper.backward_layer
    if len(call.inputs) > 1 or wrapper.merge_mode != "concat" or len(call.step.outputs) > 1:
        raise call.unknown("a Bidirectional with states or another merge than 'concat'")
    _check_gates(call, forward)
    both = call.make(2 * forward.units)
    ours, theirs = both[: forward.units], both[forward.units :]
    # One number of units in the config serves both directions.
    call.survey.even.append((both, 2))
    axes = _recurrent_axes(forward, f"{forward.name}/", given, ours)
    axes |= _recurrent_axes(backward, f"{backward.name}/", given, theirs)
    return Role(wrapper, axes, both, made=both, made_at=_kernels(axes))


def attention(call: Call) -> Role:
    """Heads stay; what comes in and goes out is cut."""
    layer = call.operation
    query, value, *rest = (call.inputs * 2)[: max(2, len(call.inputs))]
    key = rest[0] if rest else value
    paths = {"query": query, "key": key, "value": value}
    axes: dict[str, Axes] = {f"{name}/kernel": (given, None, None) for name, given in paths.items()}
    out = call.make(call.step.outputs[0].shape[-1] or 0)
    axes |= _last(call, "attention_output/kernel", out) | _last(call, "attention_output/bias", out)
    if len(call.step.outputs) > 1:
        raise call.unknown("an attention layer that returns its scores")
    return Role(layer, axes, out, made=out, made_at={"attention_output/kernel": -1})
