"""A long work's progress: one bar, and what the library has to say.

That is said to the logger "keras_distill" at level INFO, whose handler writes it to the standard
output. `logging.getLogger("keras_distill").setLevel("WARNING")` makes it silent, a handler given to
it before the import takes the other's place.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator

__all__ = ["LOG", "bar"]

LOG = logging.getLogger("keras_distill")


class _Output(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        # Notebooks and tests put another stream in the place of `sys.stdout`.
        print(self.format(record), flush=True)


if not LOG.handlers:
    LOG.addHandler(_Output())
    LOG.setLevel(logging.INFO)
    # Where an application's or Colab's root has a handler, it would be said twice.
    LOG.propagate = False


@contextlib.contextmanager
def bar(title: str, total: int | None, shown: bool) -> Iterator[Callable[[int], None]]:
    """A function that advances the bar by a number of examples.

    Args:
      title: before the bar.
      total: examples; None where it is not known.
      shown: draw it.
    """
    if not shown:
        yield lambda rows: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("examples"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda rows: progress.advance(task, rows)
