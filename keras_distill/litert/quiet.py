"""A terminal that stays free of what TensorFlow and LiteRT write of their own accord.

For the length of a block; the command line does it to its whole process, before either is loaded.
"""

import contextlib
import logging
import os
import tempfile
import threading
from collections.abc import Iterator

__all__ = ["quiet_stderr", "quiet_tensorflow"]

_STDERR_LOCK = threading.RLock()


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Lets only errors of TensorFlow's and absl's Python loggers through, and puts them back."""
    loggers = [logging.getLogger(name) for name in ("tensorflow", "absl")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keeps LiteRT's INFO lines, which it writes to file descriptor 2, from the terminal.

    Everything else written meanwhile comes out afterwards. Harmless where descriptor 2 is closed.
    """
    with _STDERR_LOCK, contextlib.ExitStack() as stack:
        try:
            saved = os.dup(2)
        except OSError:
            yield
            return
        stack.callback(os.close, saved)
        sink = stack.enter_context(tempfile.TemporaryFile())
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            sink.seek(0)
            kept = [line for line in sink if not line.startswith((b"INFO: ", b"ERROR: "))]
            os.write(2, b"".join(kept)) if kept else None
