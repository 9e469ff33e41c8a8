"""The metric class by class."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from keras_distill.judging.record import Judgement
from keras_distill.pipeline.reports.record import ClassRow

__all__ = ["classes", "groups", "known"]

# Beyond, whole numbers are rather counts than classes.
_MOST = 2000


def groups(labels: np.ndarray | None, class_names: Sequence[str] | None) -> np.ndarray | None:
    """Each example's class, `(rows,)`; None where the labels are no classes.

    Numbers without names that are not whole, and labels of positions, are no classes.
    """
    if labels is None or not labels.size:
        return None
    if labels.ndim == 2 and labels.shape[1] > 1:
        hot = np.isin(labels, (0, 1)).all() and (labels.sum(-1) == 1).all()
        return labels.argmax(-1) if hot else None
    flat = labels.reshape(len(labels), -1)
    if flat.shape[1] != 1:
        return None
    whole = np.issubdtype(labels.dtype, np.integer) or labels.dtype == bool or class_names
    return flat[:, 0].astype("int64") if whole and len(np.unique(flat)) <= _MOST else None


def classes(
    judged: Judgement, metric: str, labels: np.ndarray | None, class_names: Sequence[str] | None
) -> Iterator[ClassRow]:
    """A row a class, in the order of their numbers; none where numbers were asked for."""
    members = groups(labels, class_names)
    parts = {one.model: one.parts for one in judged.splits if one.metric == metric}
    if members is None or judged.task == "numbers":
        return
    for number in np.unique(members[members >= 0]).tolist():
        values = {name: known(found[str(number)]) for name, found in parts.items()}
        yield ClassRow(_name(number, class_names), int((members == number).sum()), values)


def _name(number: int, class_names: Sequence[str] | None) -> str:
    if class_names is None or number >= len(class_names):
        return str(number)
    return str(class_names[number])


def known(value: Any) -> float | None:
    """A figure as JSON takes it: None where it is not finite."""
    return float(value) if np.isfinite(value) else None
