"""The data as it is, and another data set in its place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from keras_distill.data import batches
from keras_distill.judging.conditions.base import Condition

__all__ = ["Clean", "Unseen"]


class Clean(Condition):
    """Nothing happens."""

    name: ClassVar[str] = "clean"

    def batches(self, source: Iterator[tuple[Any, Any]], context: Any) -> Iterator[tuple[Any, Any]]:
        yield from source


class Unseen(Condition):
    """Another data set, with labels of the same kind: of another year, another hospital.

    Args:
      data: any data argument.
      name: in tables and gates.
    """

    name: ClassVar[str] = "unseen"

    def __init__(self, data: Any, name: str = "unseen"):
        self._data, self._called = data, name

    @property
    def label(self) -> str:
        return self._called

    def batches(self, source: Iterator[tuple[Any, Any]], context: Any) -> Iterator[tuple[Any, Any]]:
        for x, y, _ in batches(self._data, context.batch_size):
            yield x, y
