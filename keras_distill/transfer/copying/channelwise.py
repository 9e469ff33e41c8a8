"""Weights for a student of other widths: the teacher's channels, chosen and kept consistent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_distill.graph.copying import settle, weight_paths
from keras_distill.transfer.copying.matching import match
from keras_distill.transfer.copying.weighted import weighted_layers
from keras_distill.transfer.report import COPIED, CUT, LEFT, TransferReport, TransferRow
from keras_distill.transfer.width import selection
from keras_distill.transfer.width.channels import Channels, Group, analyse
from keras_distill.transfer.width.importance import check_criterion, importance
from keras_distill.transfer.width.narrow import positions, sliced_weights


def copy_random(
    teacher: Any,
    student: Any,
    *,
    fraction: float = 1.0,
    seed: int = 0,
    mapping: Any = "name",
    skip: Any = (),
    treat_as: Mapping[Any, str] | None = None,
) -> tuple[Any, TransferReport]:
    """Fills the student's layers with channels of the teacher's, drawn at random.

    The outputs drawn for one layer are the inputs read by the next, so that the student begins
    as a thinned teacher. See `copy_important` for how layers and widths are matched.

    Args:
      teacher: a built Functional or Sequential model of Keras 3. It is not changed.
      student: the same, built; its weights are written in place.
      fraction: of the channels drawn for each layer, the share that is written; the rest keep the
        student's own start, inputs and outputs. In (0, 1].
      seed: of the draw.
      mapping: how layers find their partners: as `copy_layers`.
      skip, treat_as: about the teacher: see `shrink`.

    Returns:
      The student, and a `TransferReport` whose `channels` name the teacher's channels of each
      layer.

    Raises:
      TypeError, ValueError: as `copy_important`; a fraction outside (0, 1].

    Source: random parameter distillation; weight selection as in Xu et al., "Initializing Models
    with Larger Ones", ICLR 2024, drawn at random.

    Example:
      student, report = copy_random(teacher, student, fraction=0.5, seed=1)
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"Expected fraction in (0, 1], a share of the channels; got {fraction}.")
    channels = analyse(teacher, skip=skip, treat_as=treat_as)
    random = np.random.default_rng(seed)
    scores = random.random(channels.count)
    plan = _Plan(teacher, student, channels, mapping)
    kept = plan.kept(scores)
    written = kept & (_bound(channels) | (random.random(channels.count) < fraction))
    title = f"{fraction:.0%} of {student.name} from {teacher.name}, channels drawn by seed {seed}"
    return student, plan.write(title, kept, written)


def copy_important(
    teacher: Any,
    student: Any,
    criterion: str = "l1",
    *,
    data: Any = None,
    loss: Any = None,
    mapping: Any = "name",
    skip: Any = (),
    treat_as: Mapping[Any, str] | None = None,
) -> tuple[Any, TransferReport]:
    """Fills the student's layers with the teacher's most important channels.

    Layers are matched by `mapping`. For each group of channels that belong together in the teacher
    the student's widths say how many are taken; the outputs taken in one layer are the inputs
    taken in the next, through additions, concatenations, depthwise and grouped convolutions,
    normalisations, flatten-to-dense. A layer whose shape in the student is not what this gives
    (a part of the graph is built otherwise) is left as it is, and the report says so.

    Args:
      teacher: a built Functional or Sequential model of Keras 3. It is not changed.
      student: the same, built; its weights are written in place.
      criterion: "l1", "l2", "bn_scale", "activation" or "taylor": see `importance`.
      data: for "activation" and "taylor": some hundred rows, with labels for "taylor".
      loss: for "taylor": the loss; by default the compiled one, else cross-entropy.
      mapping: how layers find their partners: as `copy_layers`.
      skip, treat_as: about the teacher: see `shrink`.

    Returns:
      The student, and a `TransferReport` whose `channels` name the teacher's channels of each
      layer.

    Raises:
      TypeError, ValueError: no model with a graph; layers that the teacher ties have different
        widths in the student; no layer could be filled; a criterion without data.

    Example:
      student, report = copy_important(teacher, student, "taylor", data=(x[:500], y[:500]))
    """
    check_criterion(criterion, data)
    channels = analyse(teacher, skip=skip, treat_as=treat_as)
    plan = _Plan(teacher, student, channels, mapping)
    kept = plan.kept(importance(teacher, channels, criterion, data=data, loss=loss))
    title = f"{student.name} from the channels of {teacher.name} that matter most by {criterion}"
    return student, plan.write(title, kept, kept)


def _bound(channels: Channels) -> np.ndarray:
    """The classes among which nothing is chosen: of inputs, of outputs."""
    bound = np.ones(channels.count, bool)
    for group in channels.groups:
        bound[group.classes] = group.fixed
    return bound


class _Plan:
    """Which layer goes where, and what then is written."""

    def __init__(self, teacher: Any, student: Any, channels: Channels, mapping: Any):
        self._channels = channels
        self._student = weighted_layers(student)
        self._partners = match(weighted_layers(teacher), self._student, mapping)
        self._sizes = [self._size(group) for group in channels.groups]

    def _size(self, group: Group) -> int:
        """How many channels of a group the student has; all where it has no such layer."""
        found: dict[str, int] = {}
        for path, partner in self._partners.items():
            if partner in group.producers:
                width = self._width(path, partner)
                if width is not None:
                    found[path] = width
        if len(set(found.values())) > 1:
            widths = ", ".join(f"{path} {width}" for path, width in found.items())
            raise ValueError(
                f"The teacher ties the channels of {', '.join(group.producers)}: they are added or "
                f"multiplied, so that equally many must be kept of each. The student's widths "
                f"there differ: {widths}. Make them equal, or leave layers out of mapping."
            )
        # Blocks that must stay equal bind the teacher's graph, not a student of one group.
        return min(len(group.classes), *found.values()) if found else len(group.classes)

    def _width(self, path: str, partner: str) -> int | None:
        """How many classes of the teacher's layer the student's layer has room for."""
        role = self._channels.roles[partner]
        theirs = list(weight_paths(role.operation))
        ours = list(weight_paths(self._student[path]).values())
        if len(ours) != len(theirs):
            return None
        rooms: dict[bytes, int] = {}
        for key, place in role.made_at.items():
            axis, shape = role.axes[key][place], ours[theirs.index(key)].shape
            if axis is None or len(shape) != len(role.axes[key]):
                return None
            classes = np.unique(axis)
            # The gates of a recurrent layer have each class several times.
            rooms[classes.tobytes()] = shape[place] * len(classes) // len(axis)
        return sum(rooms.values())

    def kept(self, scores: np.ndarray) -> np.ndarray:
        """The teacher's classes that have a place in the student."""
        return selection.select(self._channels, self._sizes, scores)

    def write(self, title: str, kept: np.ndarray, written: np.ndarray) -> TransferReport:
        """Writes the teacher's weights at `kept` where all that they join is among `written`."""
        values = {
            path: sliced_weights(self._channels.roles[partner], kept)
            for path, partner in self._partners.items()
        }
        problems = {path: self._problem(path, found) for path, found in values.items()}
        if all(problem for problem in problems.values()):
            reasons = "; ".join(
                f"{path}: {problem}" for path, problem in list(problems.items())[:3]
            )
            raise ValueError(
                f"No layer of the student can hold the teacher's channels ({reasons}). Name "
                f"partners with mapping={{student layer: teacher layer}}."
            )
        rows, channels = [], {}
        for path in self._student:
            partner = self._partners.get(path)
            if partner is None:
                rows.append(TransferRow(path, LEFT, None, "no partner in the teacher"))
                continue
            if problems[path]:
                rows.append(TransferRow(path, LEFT, partner, problems[path]))
                continue
            count = self._assign(path, partner, values[path], kept, written)
            rows.append(self._row(path, partner, count))
            role = self._channels.roles[partner]
            if role.made is not None:
                channels[path] = tuple(np.flatnonzero(kept[role.made]).tolist())
        return TransferReport(title, tuple(rows), channels)

    def _problem(self, path: str, values: dict[str, np.ndarray]) -> str:
        ours = [tuple(weight.shape) for weight in weight_paths(self._student[path]).values()]
        theirs = [value.shape for value in values.values()]
        if ours == theirs:
            return ""
        return f"its weights are {_words(ours)}, the teacher's channels give {_words(theirs)}"

    def _assign(
        self,
        path: str,
        partner: str,
        values: dict[str, np.ndarray],
        kept: np.ndarray,
        written: np.ndarray,
    ) -> int:
        """How many numbers were written."""
        role, count = self._channels.roles[partner], 0
        theirs = weight_paths(role.operation)
        for (key, value), variable in zip(
            values.items(), weight_paths(self._student[path]).values(), strict=True
        ):
            here = np.ones(value.shape, bool)
            axes = role.axes.get(key)
            if axes is not None and not np.array_equal(kept, written):
                places = positions(axes, tuple(theirs[key].shape), kept)
                for i, (axis, place) in enumerate(zip(axes, places, strict=True)):
                    if axis is not None:
                        shape = [1] * here.ndim
                        shape[i] = -1
                        here &= written[axis[place]].reshape(shape)
            variable.assign(np.where(here, value, variable.numpy()))
            count += int(here.sum())
        settle(self._student[path])
        return count

    def _row(self, path: str, partner: str, count: int) -> TransferRow:
        ours = [tuple(w.shape) for w in weight_paths(self._student[path]).values()]
        source = weight_paths(self._channels.roles[partner].operation).values()
        theirs = [tuple(weight.shape) for weight in source]
        if ours == theirs and count == sum(int(np.prod(shape)) for shape in ours):
            return TransferRow(path, COPIED, partner, "", count)
        return TransferRow(path, CUT, partner, f"{_words(theirs)} to {_words(ours)}", count)


def _words(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, shape)) or "scalar" for shape in shapes)
