"""Whole layers of the teacher, copied into a student."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_distill.graph.copying import settle, weight_paths
from keras_distill.graph.float_only import check_float
from keras_distill.graph.wrapping import Wrapping
from keras_distill.transfer.copying.matching import find_all, match
from keras_distill.transfer.copying.weighted import (
    identity,
    kind,
    parts_of,
    unwrapped,
    weighted_layers,
    weights_of,
)
from keras_distill.transfer.report import COPIED, LEFT, TransferReport, TransferRow

# TFMOT's wrappers and ours: what they hold is no plain weight.
_TFMOT = ("PruneLowMagnitude", "ClusterWeights", "QuantizeWrapper", "QuantizeWrapperV2")
_WAYS_OUT = (
    'Give mapping="order", or a dict of student layers to teacher layers; copy_important takes '
    "over channels where widths differ."
)


@dataclass(frozen=True)
class Weight:
    """A weight and its path inside its layer."""

    path: str
    variable: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """As a tuple."""
        return tuple(self.variable.shape)

    @property
    def name(self) -> str:
        """The path's last part."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Plan:
    """What is to happen to one layer of the student: its weights with the teacher's, or why not."""

    path: str
    layer: Any
    source: str | None = None
    pairs: tuple[tuple[Weight, Weight], ...] = ()
    why: str = ""


def copy_layers(
    teacher: Any, student: Any, mapping: Any = "name", *, freeze: Any = False
) -> tuple[Any, TransferReport]:
    """Writes layers of the teacher, whole, into the student.

    All of a layer's weights are copied, BatchNorm's statistics included, across Keras generations
    too; states of random layers and metrics are not. Copy before the student goes into a
    `Distiller` or `fit`: what has been traced has been traced with the old `trainable`.

    Args:
      teacher: a built model of Keras or tf_keras. It is not changed.
      student: a built model of Keras or tf_keras, written into in place. In both, nested models are
        taken apart: their layers' paths are "outer/inner".
      mapping: which layers are partners. "name": those of equal path, else of a last name that is
        unique on both sides; what has no name inside a layer of your own is counted there.
        "order": the i-th of a class with the i-th, in the order of execution. Or a dict of student
        layers to teacher layers, each a path, the end of one, or the layer itself. Under a name or
        the order, layers whose shapes differ are left; a dict must fit.
      freeze: True sets `trainable = False` on every copied layer; a collection of paths, layers
        or nested models on those among them. `GradualUnfreezing` freezes by itself.

    Returns:
      The student, and a `TransferReport` of a row for each layer with weights.

    Raises:
      TypeError: no model; a mapping or `freeze` of another type.
      ValueError: a model that is not built; the student is the teacher; a mapping that names a
        layer that is not there, or one twice, or shapes that differ, or a compressed layer; a
        `freeze` that names no copied layer; nothing to copy. Nothing has been written then.

    >>> def model(width):
    ...     return keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="low"),
    ...                              keras.layers.Dense(width, name="top")])
    >>> student, report = copy_layers(model(2), model(5))
    >>> report.copied, report.left
    (('low',), ('top',))
    """
    theirs, mine = weighted_layers(teacher), weighted_layers(student)
    if student is teacher:
        raise ValueError(
            f"The student is the teacher, {teacher.name!r}: layers copied within one model write "
            f"to the teacher, and in a circle lose weights. Copy into keras.models.clone_model()."
        )
    for model in (teacher, student):
        check_float(model)
    pairs = match(theirs, mine, mapping)
    explicit = isinstance(mapping, Mapping)
    owned = {identity(v) for layer in theirs.values() for v in weights_of(layer)}
    plans = []
    for path, layer in mine.items():
        plan = _planned(path, layer, pairs.get(path), theirs, by_order=explicit)
        plans.append(_checked(plan, owned, explicit))
    _check_something(plans, teacher, student, mapping)
    frozen = _to_freeze(freeze, {plan.path: plan.layer for plan in plans if plan.pairs})
    for plan in plans:
        _write(plan)
    for path in frozen:
        mine[path].trainable = False
    _forget_traces(student)
    how = "as mapped" if explicit else f"by {mapping}"
    title = f"Layers of {teacher.name!r} into {student.name!r}, {how}"
    return student, TransferReport(title, tuple(_row(plan, frozen) for plan in plans))


def _planned(
    path: str, layer: Any, source: str | None, teacher: Mapping[str, Any], *, by_order: bool
) -> Plan:
    if source is None:
        return Plan(path, layer, why="no partner in the teacher")
    theirs = teacher[source]
    _check_plain(path, layer, "student")
    _check_plain(source, theirs, "teacher")
    pairs = _aligned(theirs, layer, by_order=by_order or kind(theirs) == kind(layer))
    if pairs is not None and all(_fits(*pair) for pair in pairs):
        return Plan(path, layer, source, tuple(pairs))
    why = f"the teacher's weights are {_listed(theirs)}; the student's {_listed(layer)}"
    return Plan(path, layer, source, why=why)


def _checked(plan: Plan, owned: Collection[int], explicit: bool) -> Plan:
    """The plan, without a layer whose writing would write to the teacher."""
    if plan.source and any(identity(variable) in owned for variable in weights_of(plan.layer)):
        plan = Plan(plan.path, plan.layer, plan.source, why="it shares weights with the teacher")
    if plan.source and plan.why and explicit:
        raise ValueError(
            f"The mapping gives the teacher's layer {plan.source!r} to the student's "
            f"{plan.path!r}: {plan.why}. Map layers of equal shapes and of the student's own, or "
            f"use copy_important, which takes over channels."
        )
    return plan


def _fits(mine: Weight, theirs: Weight) -> bool:
    ours, other = (keras.backend.standardize_dtype(w.variable.dtype) for w in (mine, theirs))
    both_float = "float" in ours and "float" in other
    return mine.shape == theirs.shape and (ours == other or both_float)


def _aligned(theirs: Any, mine: Any, *, by_order: bool) -> list[tuple[Weight, Weight]] | None:
    """The student's weights, each with the teacher's: by path, else by name, else by place."""
    wanted, found = _weights(mine), _weights(theirs)
    if len(wanted) != len(found):
        return None
    for key in ("path", "name"):
        known = {getattr(weight, key): weight for weight in found}
        keys = [getattr(weight, key) for weight in wanted]
        if len(known) == len(found) and sorted(keys) == sorted(known):
            return [(weight, known[key]) for key, weight in zip(keys, wanted, strict=True)]
    return list(zip(wanted, found, strict=True)) if by_order else None


def _weights(layer: Any) -> list[Weight]:
    """A layer's weights, of either Keras generation, by their paths inside it."""
    layer = unwrapped(layer)
    variables = list(layer.weights)
    if isinstance(layer, keras.layers.Layer):
        paths = weight_paths(layer)
        if len(paths) == len(variables):
            return [Weight(path, variable) for path, variable in paths.items()]
    return [Weight(_path_inside(layer, variable), variable) for variable in variables]


def _path_inside(layer: Any, variable: Any) -> str:
    """`query/kernel` of tf_keras' `block/attention/query/kernel:0`."""
    parts = variable.name.partition(":")[0].split("/")
    places = [i for i, part in enumerate(parts[:-1]) if part == layer.name]
    return "/".join(parts[places[-1] + 1 :] if places else parts[-1:])


def _listed(layer: Any) -> str:
    return ", ".join(f"{weight.name} {weight.shape}" for weight in _weights(layer))


def _check_plain(path: str, layer: Any, whose: str) -> None:
    if isinstance(layer, Wrapping) or type(unwrapped(layer)).__name__ in _TFMOT:
        raise ValueError(
            f"The {whose}'s layer {path!r} is compressed (pruned, clustered or quantised): its "
            f"weights can't be copied as they are. Copy first and compress afterwards, or take the "
            f"wrappers off with kd.edge.strip(model)."
        )


def _check_something(plans: list[Plan], teacher: Any, student: Any, mapping: Any) -> None:
    if any(plan.pairs for plan in plans):
        return
    reasons = Counter(plan.why for plan in plans)
    said = "; ".join(f"{why} ({count})" for why, count in reasons.most_common(3))
    raise ValueError(
        f"Nothing to copy from {teacher.name!r} to {student.name!r} with mapping={mapping!r}. Of "
        f"{len(plans)} layers with weights: {said or 'none'}. {_WAYS_OUT}"
    )


def _to_freeze(freeze: Any, copied: Mapping[str, Any]) -> list[str]:
    if isinstance(freeze, bool):
        return list(copied) if freeze else []
    single = isinstance(freeze, str)
    if not single and not isinstance(freeze, Collection):
        raise TypeError(f"freeze is True, False or a collection of copied layers; got {freeze!r}.")
    try:
        asked = [freeze] if single else freeze
        return [path for one in asked for path in find_all(copied, one, "student")]
    except ValueError as error:
        raise ValueError(f"freeze= takes layers that are copied, and no others. {error}") from None


def _write(plan: Plan) -> None:
    for mine, theirs in plan.pairs:
        dtype = keras.backend.standardize_dtype(mine.variable.dtype)
        mine.variable.assign(theirs.variable.numpy().astype(dtype))
    for part in parts_of(unwrapped(plan.layer)) if plan.pairs else ():
        settle(part)
        if not isinstance(part, keras.layers.Layer) and hasattr(part, "adapt_mean"):
            part.finalize_state()


def _forget_traces(model: Any) -> None:
    """What has been traced knows the old `trainable`, and a Normalization's old statistics."""
    for name in ("train_function", "test_function", "predict_function"):
        if getattr(model, name, None) is not None:
            setattr(model, name, None)


def _row(plan: Plan, frozen: Collection[str]) -> TransferRow:
    if not plan.pairs:
        return TransferRow(plan.path, LEFT, plan.source, plan.why)
    why = "frozen" if plan.path in frozen else ""
    count = sum(int(np.prod(mine.shape)) for mine, _ in plan.pairs)
    return TransferRow(plan.path, COPIED, plan.source, why, count)
