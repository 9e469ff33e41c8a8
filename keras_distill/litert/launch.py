"""Python processes of our own: they import what this one would, not what lies where it stands."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

__all__ = ["command", "environment", "killed_with_parent"]

_HOME = Path(__file__).parent.parent.parent


def command(*arguments: str) -> list[str]:
    """What starts Python with these arguments, the current folder not among its modules' places."""
    return [sys.executable, "-P", *arguments]


def environment(**changes: str) -> dict[str, str]:
    """This process' environment and import path, with changes.

    The current folder is left out of the path (it is on ours under `python -m`), unless this
    package itself lies in it: a `json.py` there would be taken for Python's.
    """
    places = [place for place in sys.path if place and not _is_only_here(Path(place))]
    return os.environ | {"PYTHONPATH": os.pathsep.join(places)} | changes


def _is_only_here(place: Path) -> bool:
    return place.resolve() == Path.cwd() and place.resolve() != _HOME


def killed_with_parent() -> None:
    """Has Linux kill this process when the thread that started it ends."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
