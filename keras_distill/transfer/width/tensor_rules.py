"""What operations without weights do with channels: pass, merge, rearrange them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_distill.transfer.width.survey import Call, Role


def channels_last(call: Call) -> None:
    """Refuses channels that come first."""
    if getattr(call.operation, "data_format", "channels_last") != "channels_last":
        raise call.unknown("its channels come first; they are followed along the last axis only")


def same(call: Call) -> Role:
    """Each output channel is its input channel's."""
    channels_last(call)
    return Role(call.operation, {}, call.only)


def merge(call: Call) -> Role:
    """Broadcasting: a last axis of one stands beside any number of channels."""
    arrays = call.inputs
    width = max(map(len, arrays))
    wide = [atoms for atoms in arrays if len(atoms) == width]
    if any(len(atoms) not in (1, width) for atoms in arrays):
        raise call.unknown()
    out = call.tie(wide)
    constants = keras.tree.flatten((call.step.args, call.step.kwargs))
    if any(_is_array(constant, width) for constant in constants):
        call.survey.pin(out)
    return Role(call.operation, {}, out)


def _is_array(constant: Any, width: int) -> bool:
    shape: Any = getattr(constant, "shape", ())
    is_value = hasattr(constant, "step")
    return not is_value and len(shape) > 0 and shape[-1] == width


def concatenation(call: Call) -> Role:
    """Side by side along the last axis; tied along any other."""
    rank = len(call.step.outputs[0].shape)
    if call.operation.axis in (-1, rank - 1):
        return Role(call.operation, {}, np.concatenate(call.inputs))
    return Role(call.operation, {}, call.tie(call.inputs))


def rearranged(call: Call) -> Role:
    """Reshape, Flatten, Permute: the channel of every position is followed to its new place."""
    channels_last(call)
    before: Any = call.step.inputs[0].shape[1:]
    after: Any = call.step.outputs[0].shape[1:]
    if None in (*before, *after):
        if before and after and before[-1] == after[-1] and not _permutation(call):
            return Role(call.operation, {}, call.only)
        raise call.unknown("an axis of unknown size is rearranged")
    full = np.broadcast_to(call.only, before)
    order = _permutation(call)
    full = full.transpose(order) if order else full.reshape(after)
    rows = np.unique(full.reshape(-1, after[-1]), axis=0)
    return Role(call.operation, {}, call.tie(rows))


def _permutation(call: Call) -> list[int]:
    """The order of the axes but the batch's, from 0; empty where they keep it."""
    dims = getattr(call.operation, "dims", None) or getattr(call.operation, "axes", None)
    if dims is None:
        return []
    dims = list(dims)
    if len(dims) == len(call.step.inputs[0].shape):
        if dims[0] != 0:
            raise call.unknown("it moves the batch's axis")
        dims = dims[1:]
    return [axis - 1 for axis in dims]


def reduction(call: Call) -> Role:
    """Over places: the channels stay. Over channels: none are left."""
    rank, axis = len(call.step.inputs[0].shape), call.operation.axis
    axes = range(rank) if axis is None else np.atleast_1d(axis) % rank
    if rank - 1 in axes:
        # A mean over the channels counts the ones that are zero, too.
        width = call.step.outputs[0].shape[-1] if call.step.outputs[0].shape else None
        return Role(call.operation, {}, call.survey.fixed(width), exact=False)
    return Role(call.operation, {}, call.only)


def item(call: Call) -> Role:
    """Slices of places."""
    key = call.step.args[1] if len(call.step.args) > 1 else call.step.kwargs.get("key")
    key = key if isinstance(key, tuple) else (key,)
    rank = len(call.step.inputs[0].shape)
    whole = len(key) < rank or key[-1] in (slice(None), Ellipsis)
    if None in key or (Ellipsis in key and key[-1] is not Ellipsis) or not whole:
        raise call.unknown("it takes some of the channels")
    return Role(call.operation, {}, call.only)


def own_axis(call: Call) -> Role:
    """ExpandDims, Squeeze: the last axis stays the last."""
    shapes = call.step.inputs[0].shape[-1], call.step.outputs[0].shape[-1]
    if shapes[0] != shapes[1]:
        raise call.unknown("it moves the channels to another axis")
    return Role(call.operation, {}, call.only)
