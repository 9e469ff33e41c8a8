"""Requests about .tflite files, answered in a child that may crash in its parent's place."""

from __future__ import annotations

import faulthandler
import math
import time
from dataclasses import asdict
from typing import Any

import numpy as np

from .kept_run import KeptRun
from .session import Session

__all__ = ["IDLE_S", "answer"]

# For ever: files that are open stay open.
IDLE_S = None
# A run may take longer than its limit by this part of it.
_SLACK = 0.01
_sessions: dict[int, Any] = {}


def answer(
    request: dict[str, Any], arrays: list[np.ndarray]
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Opens a file under a number, runs it, or says what it ends in; lets others go before."""
    for number in request["close"]:
        _sessions.pop(number, None)
    try:
        return _answer(request, arrays)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _answer(
    request: dict[str, Any], arrays: list[np.ndarray]
) -> tuple[dict[str, Any], list[np.ndarray]]:
    limit = request["limit_s"]
    begun = -math.inf

    def within_limit() -> None:
        nonlocal begun
        # Setting the clock takes longer than many a run: it is good for the runs of a while.
        if time.monotonic() - begun > _SLACK * limit:
            begun = time.monotonic()
            # A clock of C's: a run that never ends lets no Python in.
            faulthandler.dump_traceback_later((1 + _SLACK) * limit, exit=True)

    within_limit()
    number = request["number"]
    if "endings" in request:
        return {"endings": _sessions[number].endings()}, []
    if "keep" in request:
        run = _sessions[number] = KeptRun(request["keep"])
        return {"tensors": list(map(asdict, run.tensors))}, []
    if "wanted" in request:
        return {}, _sessions[number].run(arrays, request["wanted"])
    if "open" not in request:
        _sessions[number].before_run = within_limit
        return {}, _sessions[number].predict(arrays, request["batch_size"])
    session = _sessions[number] = Session(*request["open"])
    ends = {side: list(map(asdict, getattr(session, side))) for side in ("inputs", "outputs")}
    return {"signatures": session.signatures, **ends}, []
