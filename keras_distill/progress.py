"""A long work's progress, as one bar."""

import contextlib
from collections.abc import Callable, Iterator

__all__ = ["bar"]


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
