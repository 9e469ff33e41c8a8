"""Which epoch a pass over a data set is."""

import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
import numpy as np

__all__ = ["Announcer", "Clock", "Fitted"]


class Clock:
    """Which epoch comes next: announced by `fit`, else one more than the last.

    Args:
      steps: batches a pass.
      views: how many epochs there are views for; None where they start over.
    """

    def __init__(self, steps: int, views: int | None):
        self.steps, self._views = steps, views
        self._next = 0
        self._lock = threading.Lock()

    def announce(self, epoch: int) -> None:
        """The next pass over the data is that epoch."""
        with self._lock:
            self._next = epoch

    def take(self) -> np.int64:
        """The epoch that begins now."""
        with self._lock:
            epoch = self._next
            self._next += 1
        self.check(epoch)
        return np.int64(epoch)

    def check(self, epoch: int) -> None:
        """ValueError where no more views are cached and they don't start over."""
        if self._views is not None and epoch >= self._views:
            raise ValueError(
                f"Epoch {epoch} (from 0) asks for more views than were cached: there are "
                f"{self._views}. Build with epochs={epoch + 1}, train for fewer, or let them "
                f"start over: cache.dataset(..., on_exhausted='cycle')."
            )


class Fitted(NamedTuple):
    """How `fit` passes over a data set of a cache.

    Attributes:
      clock: of the data set.
      load: makes ready what a pass reads; it is given the epoch.
      batches: what `fit` was given holds; negative where that is not known or without end.
      passes: over the cache's data set in one over what `fit` was given; -1 without end.
    """

    clock: Clock
    load: Callable[[int], Any]
    batches: int
    passes: int

    def first_pass(self, epoch: int, steps: int | None) -> int:
        """The pass that begins with an epoch of `fit`.

        Args:
          steps: of an epoch, as Keras' callbacks know them.

        Raises:
          ValueError: it begins in the midst of a pass.
        """
        if not self.goes_on(steps):
            return epoch * self._passes_a_round()
        passed, done = divmod(epoch * self._taken(steps), self._steps_a_pass())
        if done:
            raise ValueError(
                f"With steps_per_epoch={steps} epoch {epoch} begins {done} batches after the "
                f"beginning of a pass over the cache's data, and a pass can be taken up at its "
                f"beginning only. Train the rest of it first, on cache.dataset(..., "
                f"start_step={done}), or leave steps_per_epoch out."
            )
        return passed

    def last_pass(self, epochs: int, steps: int | None) -> int:
        """The last pass that so many epochs begin."""
        if not self.goes_on(steps):
            return epochs * self._passes_a_round() - 1
        return -(-epochs * self._taken(steps) // self._steps_a_pass()) - 1

    def goes_on(self, steps: int | None) -> bool:
        """Whether an epoch of `fit` goes on where the last one stopped: with steps_per_epoch."""
        return steps is not None and steps != self.batches

    def _taken(self, steps: Any) -> int:
        # Where an epoch asks for more than there is, Keras begins the next at the front.
        return min(steps, self.batches) if self.batches > 0 else steps

    def _steps_a_pass(self) -> int:
        if self.batches > 0 and self.passes > 0 and self.batches % self.passes == 0:
            return self.batches // self.passes
        return self.clock.steps

    def _passes_a_round(self) -> int:
        if self.passes > 0:
            return self.passes
        return max(-(-self.batches // self.clock.steps), 1)


class Announcer(keras.callbacks.Callback):
    """Tells the data sets of a cache the epoch that `fit` begins."""

    def __init__(self, clocks: Iterable[Clock], fitted: Iterable[Fitted]):
        super().__init__()
        self._fitted = list(fitted)
        known = {id(one.clock) for one in self._fitted}
        self._others = [clock for clock in clocks if id(clock) not in known]
        self._begun = False

    def on_train_begin(self, logs: Any = None) -> None:
        """Refuse more epochs than there are views before the first of them."""
        self._begun = False
        epochs = (self.params or {}).get("epochs") or 0
        for one in self._fitted if epochs else []:
            one.clock.check(one.last_pass(epochs, self._steps()))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """A pass over the data that begins now is that epoch."""
        for clock in self._others:
            clock.announce(epoch)
        for one in self._fitted:
            # A pass of data that goes on may have begun already, ahead of its first batch.
            if not (self._begun and one.goes_on(self._steps())):
                first = one.first_pass(epoch, self._steps())
                one.clock.announce(first)
                one.load(first)
        self._begun = True

    def _steps(self) -> int | None:
        return (self.params or {}).get("steps")
