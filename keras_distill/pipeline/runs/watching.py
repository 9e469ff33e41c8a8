"""What a person sees of a run: a bar for the training under way, and what is left of it all."""

import contextlib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from keras_distill.pipeline.runs.plan import Step
from keras_distill.pipeline.runs.training import epochs_of

__all__ = ["Watch", "minutes"]

# A stage that trains nothing, seen from afar: a conversion is most of it.
OTHERS = 8.0


class Watch:
    """The estimate: batches so far, and their time, tell what the other batches will take.

    Args:
      console: to draw on.
      steps: of the run.
      batches: an epoch's, of each stage that trains, by title.
    """

    def __init__(self, console: Console, steps: Sequence[Step], batches: Mapping[str, int]) -> None:
        self._console = console
        self._all = {one.title: epochs_of(one.stage) * batches.get(one.title, 0) for one in steps}
        self._left: list[str] = []
        self._seconds, self._count = 0.0, 0
        self._last: tuple[int, float] | None = None
        self._progress: Progress | None = None

    @contextlib.contextmanager
    def watching(self, running: Collection[str]) -> Iterator[None]:
        """Draw while the block goes on.

        Args:
          running: the titles of the stages that will run.
        """
        self._left = [title for title in self._all if title in running]
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}% {task.fields[detail]}"),
        )
        with Progress(*columns, console=self._console, transient=True) as self._progress:
            self._task = self._progress.add_task("", total=None, detail="", visible=False)
            self._begin()
            yield

    def heard(self, done: int, total: int, last: Mapping[str, float]) -> None:
        """A batch is over."""
        now = time.monotonic()
        if self._last is not None and self._last[0] == done - 1:
            self._seconds += now - self._last[1]
            self._count += 1
        self._last = done, now
        value = last.get("val_accuracy", last.get("val_mae"))
        found = "" if value is None else f"validation {value:.3f}, "
        assert self._progress is not None
        self._progress.update(
            self._task,
            total=total,
            completed=done,
            detail=f"{found}{minutes(self._rest(total - done))} left of all",
        )

    def finished(self, title: str) -> None:
        """A stage is over."""
        self._left = [one for one in self._left if one != title]
        self._begin()

    def _begin(self) -> None:
        self._last = None
        assert self._progress is not None
        if self._left:
            self._progress.update(
                self._task,
                description=self._left[0],
                total=None,
                completed=0,
                visible=True,
                detail="" if not self._count else f"{minutes(self._rest(None))} left of all",
            )

    def _rest(self, batches: int | None) -> float:
        """Seconds that are left, as far as the batches so far can tell."""
        if not self._left:
            return 0.0
        first = self._all[self._left[0]] if batches is None else batches
        trained = first + sum(self._all[title] for title in self._left[1:])
        each = self._seconds / max(1, self._count)
        return trained * each + OTHERS * sum(not self._all[title] for title in self._left)


def minutes(seconds: float) -> str:
    """A time as a person says it.

    >>> minutes(42.0), minutes(200.0), minutes(9000.0)
    ('about 42 s', 'about 3 min', 'about 2.5 h')
    """
    if seconds < 100:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 6000 else f"about {seconds / 3600:.1f} h"
