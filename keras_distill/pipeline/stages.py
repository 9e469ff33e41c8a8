"""Resumable stages: a piece of work with a name, a function and the files that it leaves."""

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import _files

RECORD = "stages.json"
UNFINISHED = "unfinished"


class UsageError(ValueError):
    """What was asked for cannot be done; the message says the mend."""


@dataclass(frozen=True)
class Stage:
    """A piece of work.

    Args:
      name: how the record and the terminal call it.
      artefacts: the files it leaves in the output folder.
      make: called with an empty folder, writes the artefacts there and returns one line on
        what came out. It reads earlier stages' artefacts from the output folder.
    """

    name: str
    artefacts: tuple[str, ...]
    make: Callable[[Path], str]


class Folder:
    """An output folder with a record of the stages that are finished in it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._record: dict[str, Any] = {"settings": None, "finished": {}}

    def check_writable(self) -> None:
        """Make the folder and try to write in it.

        Raises:
          UsageError: it cannot be made or written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.path).close()
        except OSError as error:
            raise UsageError(
                f"the output folder {self.path} must be one that can be written to, and writing "
                f"there failed: {error}. Name another (--output on the command line)."
            ) from error

    def open(self, settings: dict[str, Any], stages: Sequence[Stage]) -> None:
        """Take up the record of an earlier run with the same settings, or begin one.

        Raises:
          UsageError: the folder holds a run with other settings, or files of the same names
            that no run of ours left there.
        """
        self.check_writable()
        settings = json.loads(json.dumps(settings))
        file = self.path / RECORD
        if file.exists():
            self._record = self._read(file, settings)
        else:
            self._refuse_strangers(stages)
            self._record = {"settings": settings, "finished": {}}
            self._write()
        _files.sweep(self.path)

    def is_finished(self, stage: Stage) -> bool:
        """Whether the stage's files are there as it left them."""
        left = self._record["finished"].get(stage.name, {}).get("sha256")
        return left is not None and left == self._checksums(stage)

    def run(self, stage: Stage) -> str:
        """Run one stage; its files appear in the folder only when all of them are whole."""
        begin = time.monotonic()
        with _files.scratch(self.path, UNFINISHED) as made:
            outcome = stage.make(made)
            for name in stage.artefacts:
                _files.place(made / name, self.path / name)
        self._record["finished"][stage.name] = {
            "seconds": round(time.monotonic() - begin, 3),
            "outcome": outcome,
            "sha256": self._checksums(stage),
        }
        self._write()
        return outcome

    def outcome(self, stage: Stage) -> str:
        """The line that a finished stage returned."""
        return self._record["finished"][stage.name]["outcome"]

    def seconds(self) -> dict[str, float]:
        """How long each finished stage took."""
        return {name: entry["seconds"] for name, entry in self._record["finished"].items()}

    def finished_words(self) -> str:
        """What an interrupted run leaves behind, in a sentence."""
        names = ", ".join(self._record["finished"])
        if not names:
            return "Nothing was finished yet."
        return f"Finished and kept in {self.path}: {names}."

    def _read(self, file: Path, settings: dict[str, Any]) -> dict[str, Any]:
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            there = dict(record["settings"])
            dict(record["finished"])
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{file} must be the record of an earlier run, and cannot be read as one "
                f"({error!r}). Remove the folder or name another (--output on the command line)."
            ) from error
        if there != settings:
            changed = [
                f"{key} {there.get(key)!r} there, {settings.get(key)!r} now"
                for key in sorted({*there, *settings})
                if there.get(key) != settings.get(key)
            ]
            raise UsageError(
                f"{self.path} holds a run with other settings ({'; '.join(changed)}), which "
                f"stays untouched. Name another folder (--output on the command line), or remove "
                f"this one."
            )
        return record

    def _refuse_strangers(self, stages: Sequence[Stage]) -> None:
        for stage in stages:
            for name in stage.artefacts:
                if (self.path / name).exists():
                    raise UsageError(
                        f"{self.path / name} is there already and no earlier run wrote it: it "
                        f"stays untouched. Name another folder (--output on the command line)."
                    )

    def _checksums(self, stage: Stage) -> dict[str, str] | None:
        files = {name: self.path / name for name in stage.artefacts}
        if not all(file.is_file() for file in files.values()):
            return None
        return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}

    def _write(self) -> None:
        _files.write(self.path / RECORD, (json.dumps(self._record, indent=2) + "\n").encode())


def run_stages(stages: Sequence[Stage], folder: Folder) -> Iterator[tuple[Stage, str, bool]]:
    """Run what is not finished, in order; once a stage runs, all that follow run too.

    Yields:
      Each stage, its outcome and whether an earlier run had finished it.
    """
    again = False
    for stage in stages:
        again = again or not folder.is_finished(stage)
        outcome = folder.run(stage) if again else folder.outcome(stage)
        yield stage, outcome, not again
