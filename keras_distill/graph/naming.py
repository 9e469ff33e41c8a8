"""Which layers a user means: by name, path, regular expression, class or the layer itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras


def chosen(
    operations: Mapping[str, Any],
    skip: Any,
    ends: Sequence[str] = (),
    inner: Callable[[Any], Any] = lambda operation: operation,
    argument: str = "skip",
) -> set[str]:
    """The paths of the operations that `skip` names.

    Args:
      operations: by path.
      skip: a name, path, regular expression of a path, class or layer, or several; "first" and
        "last" name the ends of `ends`, unless a layer is called so.
      ends: the paths that "first" and "last" are about, in order.
      inner: gives the layer inside a wrapper, which answers for it too.
      argument: what the user knows `skip` as.

    Raises:
      ValueError: a part of `skip` names nothing.
    """
    single = isinstance(skip, (str, type, keras.layers.Layer))
    places = {"first": ends[:1], "last": ends[-1:]}
    found: set[str] = set()
    for asked in (skip,) if single else tuple(skip):
        hits = {
            path
            for path, operation in operations.items()
            if _answers(path, operation, asked) or _answers(path, inner(operation), asked)
        }
        if not hits and isinstance(asked, str):
            hits = set(places.get(asked, ()))
        if not hits:
            extra = "; and 'first' and 'last' of those with a kernel" if ends else ""
            raise ValueError(
                f"{argument} names {asked!r}, and no layer answers to it. There are "
                f"{', '.join(operations)}{extra}."
            )
        found |= hits
    return found


def _answers(path: str, operation: keras.Operation, asked: Any) -> bool:
    if isinstance(asked, str):
        return asked in (path, path.rpartition("/")[2]) or bool(re.fullmatch(asked, path))
    if isinstance(asked, type):
        return isinstance(operation, asked)
    return operation is asked
