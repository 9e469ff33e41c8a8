"""A teacher made physically narrower: one connected, dense model, faster everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_distill.transfer.recovery import Recovery
from keras_distill.transfer.report import TransferReport
from keras_distill.transfer.width.channels import Channels, analyse
from keras_distill.transfer.width.goal import Prices, goal_of
from keras_distill.transfer.width.importance import check_criterion, importance
from keras_distill.transfer.width.narrow import narrow, rows


def shrink(
    teacher: Any,
    width: float | None = None,
    *,
    criterion: str = "l2",
    data: Any = None,
    loss: Any = None,
    scope: str = "uniform",
    max_params: float | None = None,
    max_flops: float | None = None,
    max_bytes_int8: float | None = None,
    multiple_of: int = 1,
    input_shape: Any = None,
    skip: Any = (),
    treat_as: Mapping[Any, str] | None = None,
    iterative: Recovery | None = None,
) -> tuple[Any, TransferReport]:
    """A copy of `teacher` with fewer channels in every layer, the important ones, weights included.

    Which channels go together is read from the graph: through additions, concatenations,
    depthwise and grouped convolutions, normalisations, squeeze-excite products, flatten-to-dense.
    The model's inputs and outputs keep their widths. Its depth stays: see `submodel`.

    Args:
      teacher: a built Functional or Sequential model of Keras 3, nested models included. It is not
        changed.
      width: the share of channels to keep, in (0, 1]; 0.5 where neither it nor a budget is given.
        Half the channels make about a quarter of the FLOPs.
      criterion: how the channels to keep are chosen: see `importance`.
      data: for "activation" and "taylor": some hundred rows like those to come.
      loss: for "taylor": the loss; by default the compiled one, else cross-entropy.
      scope: `"uniform"`: the same share in every group; `"global"`: all channels ranked against
        each other, each by its score over the root mean square of its group's.
      max_params, max_flops, max_bytes_int8: budgets, as `profile` counts them, instead of `width`:
        the widest model within all of them is taken.
      multiple_of: numbers of channels are rounded to multiples of this; 8 suits most processors.
      input_shape: as `profile`'s, where budgets meet a model whose input sizes are open.
      skip: layers whose channels stay: names, paths, regular expressions, classes or layers.
      treat_as: operations whose channels are unknown: `"elementwise"` or `"fixed"`, by layer.
      iterative: a `Recovery`: several cuts, each followed by training under the teacher.

    Returns:
      The student, and a `TransferReport` whose `channels` name the teacher's channels that each
      layer kept.

    Raises:
      TypeError, ValueError: no model with a graph; an operation whose channels are unknown; a
        width that leaves a layer empty; a budget that can't be reached; a criterion without data.

    Example:
      student, report = shrink(teacher, max_flops=profile(teacher).flops / 4, multiple_of=8)
      print(report)
    """
    check_criterion(criterion, data)
    goal = goal_of(width, (max_params, max_flops, max_bytes_int8), scope, multiple_of)
    if input_shape is not None and not goal.budgets:
        raise ValueError("input_shape prices a model for a budget; leave it out with width.")
    first = analyse(teacher, skip=skip, treat_as=treat_as)
    prices = Prices(teacher, first, input_shape) if goal.budgets else None
    goal.check(first, prices)
    start = prices.of(np.ones(first.count, bool)) if prices else None
    sizes = [len(group.classes) for group in first.groups]
    student, channels, origin = teacher, first, _origin(first)
    rounds = iterative.rounds if iterative else 1
    for number in range(1, rounds + 1):
        part = number / rounds
        limits = goal.limits(start, part) if start else {}
        scores = importance(student, channels, criterion, data=data, loss=loss)
        kept = goal.choose(channels, sizes, scores, prices, limits, part)
        student = narrow(student, channels, kept)
        origin = {path: left[kept[channels.roles[path].made]] for path, left in origin.items()}
        if iterative:
            iterative.train(student, teacher)
        if number < rounds:
            channels = analyse(student, skip=skip, treat_as=treat_as)
            prices = Prices(student, channels, input_shape) if goal.budgets else None
    title = (
        f"{teacher.name} made narrower: {teacher.count_params():,} to "
        f"{student.count_params():,} parameters"
    )
    named = {path: tuple(places.tolist()) for path, places in origin.items()}
    return student, TransferReport(title, tuple(rows(teacher, student, first)), named)


def _origin(channels: Channels) -> dict[str, np.ndarray]:
    """For each layer that makes channels, the places of the ones that are left."""
    return {
        path: np.arange(len(role.made))
        for path, role in channels.roles.items()
        if role.made is not None
    }
