"""The same model with fewer channels: layers made anew, weights cut along every axis."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_distill import _keras
from keras_distill.graph.copying import rebuild, settle, weight_paths
from keras_distill.graph.remaking import from_own_config, without_build
from keras_distill.graph.replay import trace
from keras_distill.graph.traits import does, traits_of
from keras_distill.transfer.report import COPIED, CUT, TransferRow
from keras_distill.transfer.width.channels import Channels
from keras_distill.transfer.width.survey import Role

layers = keras.layers


def narrow(model: Any, channels: Channels, kept: np.ndarray) -> Any:
    """A copy of `model` with the classes of channels that are kept, and only these.

    Args:
      model: the one that `channels` were found in. It is not changed.
      channels: from `analyse`.
      kept: for each class whether it stays.

    Returns:
      The smaller model, names and nesting as they were.

    Raises:
      ValueError: a layer can't be made anew from its config at the smaller width.
    """
    whole = {path: _is_whole(role, kept) for path, role in channels.roles.items()}

    def substitute(path: str, layer: Any) -> Any:
        return layer if whole[path] else _smaller(path, layer, channels.roles[path], kept)

    student = rebuild(model, substitute, anew=lambda path: not whole[path])
    for path, layer in {step.path: step.operation for step in trace(student).steps}.items():
        if not whole[path] and weight_paths(layer):
            _write(path, layer, sliced_weights(channels.roles[path], kept))
    return student


def rows(teacher: Any, student: Any, channels: Channels) -> list[TransferRow]:
    """What happened to each layer with weights, seen from the two models' shapes.

    Args:
      teacher, student: the model before and after, of the same layers.
      channels: the teacher's.
    """
    before = {step.path: step.operation for step in trace(teacher).steps}
    after = {step.path: step.operation for step in trace(student).steps}
    return [
        _row(path, layer, before[path], channels.roles[path])
        for path, layer in after.items()
        if weight_paths(layer)
    ]


def sliced_weights(role: Role, kept: np.ndarray) -> dict[str, np.ndarray]:
    """A layer's weights at the kept channels, by their paths in the layer."""
    found = {}
    for path, variable in weight_paths(role.operation).items():
        value, axes = variable.numpy(), role.axes.get(path)
        if axes is not None:
            value = value[np.ix_(*positions(axes, value.shape, kept))]
            if role.grouped is not None and path == "kernel":
                value = _cut_groups(value, role, kept)
        found[path] = value
    return found


def positions(axes: Any, shape: tuple[int, ...], kept: np.ndarray) -> list[np.ndarray]:
    """For each axis of a weight what stays of it."""
    return [
        np.arange(size) if axis is None else np.flatnonzero(kept[axis])
        for axis, size in zip(axes, shape, strict=True)
    ]


def _cut_groups(kernel: np.ndarray, role: Role, kept: np.ndarray) -> np.ndarray:
    """A grouped convolution's input axis: each group keeps places of its own."""
    parts = []
    for given, made in zip(
        np.split(kept[role.grouped], role.groups),
        np.split(kernel, role.groups, axis=-1),
        strict=True,
    ):
        parts.append(made[..., np.flatnonzero(given), :])
    return np.concatenate(parts, axis=-1)


def _is_whole(role: Role, kept: np.ndarray) -> bool:
    arrays = [role.out, *(axis for axes in role.axes.values() for axis in axes if axis is not None)]
    if role.grouped is not None:
        arrays.append(role.grouped)
    return all(kept[array].all() for array in arrays)


def _smaller(path: str, operation: Any, role: Role, kept: np.ndarray) -> Any:
    """A layer made anew for fewer channels; an operator with its shape changed."""
    width = int(kept[role.out].sum())
    if not isinstance(operation, layers.Layer):
        return _reshaping(operation, role, width)
    changes = _changes(operation, role, width)

    def change(config: dict[str, Any]) -> dict[str, Any]:
        return without_build({**config, "config": {**config["config"], **changes}})

    return from_own_config(operation, path, change)


def _changes(layer: Any, role: Role, width: int) -> dict[str, Any]:
    """What the config of a narrower layer says otherwise."""
    if isinstance(layer, layers.Reshape):
        return {"target_shape": _last_changed(layer.target_shape, role, width)}
    if "projection_dim" in (config := layer.get_config()):
        return {"projection_dim": width}
    if isinstance(layer, layers.Bidirectional):
        inner = {key: config[key] for key in ("layer", "backward_layer") if config.get(key)}
        halves = {"units": width // 2}
        return {k: {**one, "config": {**one["config"], **halves}} for k, one in inner.items()}
    if role.made is None:
        if not does(layer, "convolution") or layer.groups <= 1:
            return {}
        return {"filters": width, "groups": layer.groups * width // layer.filters}
    return {traits_of(layer).width: width}


def _last_changed(shape: Any, role: Role, width: int) -> tuple[int, ...]:
    *outer, last = shape
    return (*outer, width if last == len(role.out) else last)


def _reshaping(operation: Any, role: Role, width: int) -> Any:
    if not hasattr(operation, "newshape"):
        return operation
    twin = _keras.operation_like(operation)
    twin.newshape = _last_changed(operation.newshape, role, width)
    return twin


def _write(path: str, layer: Any, values: dict[str, np.ndarray]) -> None:
    # By place: a layer that names no weight gets another name for it each time it is made.
    for (key, value), variable in zip(values.items(), weight_paths(layer).values(), strict=True):
        if tuple(variable.shape) != value.shape:
            raise ValueError(
                f"The layer {path!r}, made anew from its config for fewer channels, has a "
                f"{key} of shape {tuple(variable.shape)}; {value.shape} was expected. Its "
                f"config fixes a width: leave the layer whole with skip=[{path!r}]."
            )
        variable.assign(value)
    settle(layer)


def _row(path: str, layer: Any, source: Any, role: Role) -> TransferRow:
    ours, theirs = weight_paths(layer), weight_paths(source)
    pairs = zip(theirs.items(), ours.values(), strict=True)
    smaller = [f"{key} {_words(a)} to {_words(b)}" for (key, a), b in pairs if a.shape != b.shape]
    if not smaller:
        return TransferRow(path, COPIED, path, "", layer.count_params())
    note = "" if role.exact else "; what it computes depends on the channels that went"
    return TransferRow(path, CUT, path, smaller[0] + note, layer.count_params())


def _words(variable: Any) -> str:
    return "x".join(map(str, variable.shape))
