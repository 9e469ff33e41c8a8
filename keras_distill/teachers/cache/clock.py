"""Which epoch a data set is in."""

import threading
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

__all__ = ["Announcer", "Clock"]


class Clock:
    """Which epoch comes next: announced by `fit`, else one more than the last."""

    def __init__(self, cached: int | None):
        self._next, self._cached = 0, cached
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
        if self._cached is not None and epoch >= self._cached:
            raise ValueError(
                f"Epoch {epoch} (from 0) asks for more views than were cached: there are "
                f"{self._cached}. Build with epochs={epoch + 1}, train for fewer, or let them "
                f"start over: cache.dataset(..., on_exhausted='cycle')."
            )


class Announcer(keras.callbacks.Callback):
    """Tells the data sets of a cache the epoch that `fit` begins."""

    def __init__(self, clocks: Iterable[Clock], fitted: Clock | None):
        super().__init__()
        self._clocks, self._fitted = clocks, fitted

    def on_train_begin(self, logs: Any = None) -> None:
        """Refuse more epochs than there are views before the first of them."""
        epochs = (self.params or {}).get("epochs")
        if self._fitted is not None and epochs:
            self._fitted.check(epochs - 1)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """A pass over the data that begins now is that epoch."""
        for clock in self._clocks:
            clock.announce(epoch)
