"""JSON from a file that anybody may have written: whatever it holds costs a bounded effort."""

import json
import os
from typing import Any

__all__ = ["loads", "read"]

MAX_BYTES = 64 * 1024 * 1024
MAX_DEPTH = 100


def read(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Any:
    """The content of a JSON file, in Python's types.

    Args:
      path: of an ordinary file; a pipe or a device could be read for ever.
      max_bytes: the longest file that is read.

    Raises:
      FileNotFoundError: there is none.
      OSError: it can't be read.
      ValueError: not an ordinary file, too long, no JSON in UTF-8, or nested too deeply.
    """
    if not os.path.isfile(path):
        os.stat(path)
        raise ValueError(f"{os.fspath(path)} is not an ordinary file")
    with open(path, "rb") as file:
        content = file.read(max_bytes + 1)
    return loads(content, max_bytes=max_bytes)


def loads(content: str | bytes, *, max_bytes: int = MAX_BYTES) -> Any:
    """What a JSON text holds, in Python's types.

    Raises:
      ValueError: too long, no JSON in UTF-8, or nested more than `MAX_DEPTH` deep.

    >>> loads('{"epochs": 3}')
    {'epochs': 3}
    >>> loads("[" * 100_000)
    Traceback (most recent call last):
      ...
    ValueError: expected JSON nested at most 100 deep
    """
    if len(content) > max_bytes:
        raise ValueError(f"expected at most {max_bytes:,} bytes of JSON")
    try:
        found = json.loads(content if isinstance(content, str) else content.decode("utf-8"))
    except RecursionError:
        raise _too_deep() from None
    # Every later walk over it, a comparison or a repr, recurses as deep as it is nested.
    level = [found]
    for _ in range(MAX_DEPTH):
        level = [item for value in level if isinstance(value, (dict, list)) for item in _in(value)]
        if not level:
            return found
    raise _too_deep()


def _in(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value


def _too_deep() -> ValueError:
    return ValueError(f"expected JSON nested at most {MAX_DEPTH} deep")
