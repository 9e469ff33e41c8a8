"""Resumable stages: a piece of work with a name, a function and the files that it leaves."""

import contextlib
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_distill import _files, _json

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
        self._stages: tuple[Stage, ...] = ()

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

    @contextlib.contextmanager
    def open(
        self, settings: dict[str, Any], stages: Sequence[Stage], added: Collection[str] = ()
    ) -> Iterator[None]:
        """Take up the record of an earlier run with the same settings, or begin one.

        The folder is held for this run alone until the block ends.

        Args:
          settings: whatever decides what comes out, in JSON's types.
          stages: all of the run's, in order.
          added: settings that the record of an earlier version may lack.

        Raises:
          UsageError: the folder holds a run with other settings, or files of the same names
            that no run of ours left there; another run is at work in it.
        """
        self.check_writable()
        settings = json.loads(json.dumps(settings))
        try:
            with _files.held(self.path):
                self._take_up(settings, stages, added)
                yield
        except _files.HeldError as error:
            raise UsageError(
                f"another run is at work in {self.path}: wait for it, or end it; what it has "
                f"finished stays. Or name another folder (--output on the command line)."
            ) from error

    def _take_up(
        self, settings: dict[str, Any], stages: Sequence[Stage], added: Collection[str]
    ) -> None:
        file = self.path / RECORD
        if file.exists():
            record = self._read(file)
            unknown = {key: settings[key] for key in added if key not in record["settings"]}
            self._refuse_other(record["settings"] | unknown, settings)
            self._record = record | {"settings": settings}
        else:
            self._refuse_strangers(stages)
            self._record = {"settings": settings, "finished": {}}
            self._write()
        _files.sweep(self.path)
        self._stages = tuple(stages)

    def is_finished(self, stage: Stage) -> bool:
        """Whether the stage's files are there as it left them, made from what is there before."""
        entry = self._record["finished"].get(stage.name, {})
        left, made_from = entry.get("sha256"), entry.get("made_from")
        return (
            left is not None
            and left == self._checksums(stage)
            # An earlier version did not say from what.
            and made_from in (None, self._before(stage))
        )

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
            "made_from": self._before(stage),
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

    def _before(self, stage: Stage) -> str:
        """A digest of the files that all stages before this one have left."""
        finished = self._record["finished"]
        names = [one.name for one in self._stages]
        names = names[: names.index(stage.name)]
        left = [finished.get(name, {}).get("sha256") for name in names]
        return hashlib.sha256(json.dumps(left, sort_keys=True).encode()).hexdigest()

    def _read(self, file: Path) -> dict[str, Any]:
        try:
            record = _json.read(file)
            record["settings"].keys()
            for entry in record["finished"].values():
                entry["sha256"].keys()
                entry["outcome"], entry["seconds"]
            return record
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{file} must be the record of an earlier run, and cannot be read as one "
                f"({error!r}). Remove the folder or name another (--output on the command line)."
            ) from error

    def _refuse_other(self, there: dict[str, Any], settings: dict[str, Any]) -> None:
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
