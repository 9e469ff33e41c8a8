"""Going on after a kill: the weights of a backup say themselves which epoch they stand at."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from keras_distill import _keras

__all__ = ["with_epochs"]

_METADATA = "training_metadata.json"  # in the folder of a BackupAndRestore, Keras 3.10 to 3.16


def with_epochs(callbacks: Sequence[Any]) -> list:
    """A fit's callbacks, and around them what keeps a backup's weights and epoch together.

    `BackupAndRestore` writes the weights, then the epoch into a second file: a kill between them
    would train an epoch twice, and one within the second file would end in an error.
    """
    backups = [one for one in callbacks if isinstance(one, keras.callbacks.BackupAndRestore)]
    if not backups or any(isinstance(one, _First) for one in callbacks):
        return list(callbacks)
    first = _First(backups)
    return [first, *callbacks, _Last(first)]


class _First(keras.callbacks.Callback):
    """Before every other callback: how many epochs the weights have behind them."""

    def __init__(self, backups: Sequence[keras.callbacks.BackupAndRestore]):
        super().__init__()
        self.torn: list[Path] = []
        self._backups = backups

    def on_train_begin(self, logs: Any = None) -> None:
        """Take away what a kill has left of the second file."""
        self.model.epochs_loaded = None
        for backup in self._backups:
            file = Path(backup.backup_dir, _METADATA)
            if file.is_file() and not _is_json(file):
                file.unlink()
                self.torn.append(file)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """So many are whole."""
        self.model.epochs_behind = epoch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """One more is."""
        self.model.epochs_behind = epoch + 1


class _Last(keras.callbacks.Callback):
    """After every other callback: `fit` begins where the weights stand that were loaded."""

    def __init__(self, first: _First):
        super().__init__()
        self._first = first

    def on_train_begin(self, logs: Any = None) -> None:
        """Overrule what the second file said.

        Raises:
          ValueError: it said nothing, and neither do the weights.
        """
        epochs = self.model.epochs_loaded
        if epochs is not None:
            _keras.begin_at(self.model, epochs)
        elif self._first.torn:
            raise ValueError(
                f"{self._first.torn[0]} was cut off by a kill, and the weights beside it are of a "
                f"version that does not say its epoch. Load them with load_weights() and give "
                f"fit(initial_epoch=...), with another backup_dir."
            )


def _is_json(file: Path) -> bool:
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True
