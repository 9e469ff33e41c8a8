"""A run: a recipe's stages in a folder, each done once, whatever stops the process."""

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_distill import _files, _json, _keras
from keras_distill.litert.runner import file_sha256
from keras_distill.pipeline.inputs import usage_errors
from keras_distill.pipeline.recipes.reading import written
from keras_distill.pipeline.runs.deciding import digest, settings_of, sources_of
from keras_distill.pipeline.runs.examples import inside
from keras_distill.pipeline.runs.fitting import check_fits
from keras_distill.pipeline.runs.plan import Step, plan
from keras_distill.pipeline.runs.stages import FAILED, STAGES
from keras_distill.pipeline.runs.workshop import Bench, Heard, Workshop
from keras_distill.training.stages import Folder, UsageError

__all__ = ["FRESH", "RECORD", "Done", "Run", "read_record"]

RECORD, RECIPE, FORMAT = "run.json", "recipe.yaml", 1
KEPT = ".unfinished"
FRESH = "not finished yet"
VERSIONS = ("keras_distill", "tensorflow", "keras", "ai-edge-litert", "numpy")


@dataclass(frozen=True)
class Done:
    """A stage that is over.

    Args:
      step: which.
      outcome: its line.
      seconds: that it took, in the run that made it.
      why: why it ran, in words; None where an earlier run had finished it.
    """

    step: Step
    outcome: str
    seconds: float
    why: str | None

    @property
    def failed(self) -> bool:
        """Whether it says no."""
        return self.outcome.startswith(FAILED)


class Run:
    """A recipe in a folder.

    Args:
      shop: recipe, folder, and what it may read.
      command: how a person would call it again, for the record.
    """

    def __init__(self, shop: Workshop, command: str) -> None:
        self._shop, self._command = shop, command
        self.steps = plan(shop.recipe)
        self._record: dict[str, Any] = {}

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Hold the folder for this process, and take up what is finished in it.

        Raises:
          UsageError: the folder can't be written to, another run is at work in it, or it holds
            something else.
        """
        folder = self._shop.folder
        Folder(folder).check_writable()
        try:
            with _files.held(folder):
                self._take_up()
                yield
        except _files.HeldError as error:
            raise UsageError(
                f"another run is at work in {folder}: wait for it, or end it; what it has finished "
                f"stays. Or name another folder (--output)."
            ) from error

    @contextlib.contextmanager
    def read(self) -> Iterator[None]:
        """Look at what is finished in the folder, if there is one; nothing is written."""
        self._record = self._begun()
        yield

    def reasons(self) -> dict[str, str | None]:
        """By stage, why it will run; None where it is finished and stays."""
        found: dict[str, str | None] = {}
        for step in self.steps:
            found[step.title] = self._why(step)
            again = [title for title in step.reads if found.get(title) is not None]
            if found[step.title] is None and again:
                found[step.title] = f"{again[0]} runs again"
        return found

    def go(self, until: str | None = None, heard: Heard | None = None) -> Iterator[Done]:
        """Run what is not finished, in order.

        Args:
          until: the last stage.
          heard: hears of each batch of a training.

        Raises:
          UsageError: a stage can't be done; those before it stay.
        """
        for step in self.steps:
            why = self._why(step)
            if why is not None:
                self._do(step, heard or (lambda done, total, last: None))
            entry = self._record["stages"][step.title]
            yield Done(step, entry["outcome"], entry["seconds"], why)
            if step.title == until:
                return

    def is_reported(self) -> bool:
        """Whether the last report was made of the files that are there."""
        return self._record.get("reported") == self._state()

    def reported(self) -> None:
        """Note that a report was made of them."""
        self._record["reported"] = self._state()
        self._write()

    def _state(self) -> str:
        return digest({title: one["files"] for title, one in self._record["stages"].items()})

    def _do(self, step: Step, heard: Heard) -> None:
        begin = time.monotonic()
        target, kept = self._shop.folder / step.title, self._shop.folder / KEPT / step.title
        decided = self._decided(step)
        mark = digest(decided)
        _for_this_alone(kept, mark)
        with usage_errors(), _files.scratch(self._shop.folder, step.title) as scratch:
            into = scratch / step.title
            into.mkdir()
            bench = Bench(self._shop, step, into, kept, mark, heard)
            with _keras.fresh_names():
                outcome = STAGES[step.stage.stage](bench, step.stage)
            # What was there is of no use any more; until here it was.
            self._record["stages"].pop(step.title, None)
            self._write()
            shutil.rmtree(target, ignore_errors=True)
            for one in into.rglob("*"):
                _files.sync(one)
            os.replace(into, target)
        self._record["stages"][step.title] = {
            "stage": step.stage.stage,
            "model": step.stage.goes_to,
            "outcome": outcome,
            "seconds": round(time.monotonic() - begin, 3),
            "decided": decided,
            "files": _checksums(target),
        }
        self._write()
        shutil.rmtree(kept, ignore_errors=True)
        with contextlib.suppress(OSError):
            kept.parent.rmdir()

    def _why(self, step: Step) -> str | None:
        entry = self._record["stages"].get(step.title)
        if entry is None:
            return FRESH
        if entry["files"] != _checksums(self._shop.folder / step.title):
            return "its files are not as it left them"
        return _difference(entry["decided"], self._decided(step))

    def _decided(self, step: Step) -> dict[str, Any]:
        """All that decides a stage's result, as JSON takes it."""
        recipe = self._shop.recipe
        sources = sources_of(recipe, step)
        for line, source in sources.items():
            if "file" in source:
                source["sha256"] = self._digest_of_source(line)
        entries = self._record["stages"]
        return {
            "stage": settings_of(step.stage),
            "models": sources,
            "seed": recipe.seed,
            "data": self._record["data"]["sha256"] | {"labels": recipe.data.labels},
            "versions": {name: self._record["environment"][name] for name in VERSIONS[:3]},
            # Last: what runs again for its own reason says that one.
            "made from": {
                title: digest(entries.get(title, {}).get("files")) for title in step.reads
            },
        }

    def _digest_of_source(self, line: str) -> str:
        file = self._shop.recipe.models[line].file
        path = inside(str(file), f"models.{line}.file", self._shop.root)
        return digest(_checksums(path) if path.is_dir() else file_sha256(path))

    def _take_up(self) -> None:
        folder = self._shop.folder
        known = {RECORD, RECIPE, "logs", KEPT, *(step.title for step in self.steps)}
        if not (folder / RECORD).exists() and (strange := sorted(known & set(os.listdir(folder)))):
            raise UsageError(
                f"{folder / strange[0]} is there already and no run wrote it: it stays untouched. "
                f"Name another folder (--output)."
            )
        self._record = self._begun()
        _files.sweep(folder)
        self._write()
        _files.write(folder / RECIPE, written(self._shop.recipe).encode())

    def _begun(self) -> dict[str, Any]:
        recipe, folder = self._shop.recipe, self._shop.folder
        check_fits(self._shop.examples, recipe.stages)
        earlier = read_record(folder) if (folder / RECORD).exists() else None
        return {
            "format": FORMAT,
            "name": recipe.name,
            "description": recipe.description,
            "command": self._command,
            "seed": recipe.seed,
            "environment": environment(),
            "data": self._shop.examples.facts(),
            "stages": {} if earlier is None else earlier["stages"],
            "reported": None if earlier is None else earlier.get("reported"),
        }

    def _write(self) -> None:
        text = json.dumps(self._record, indent=2)
        _files.write(self._shop.folder / RECORD, f"{text}\n".encode())

    @property
    def record(self) -> Mapping[str, Any]:
        """What `run.json` holds."""
        return self._record


def environment() -> dict[str, str]:
    """Versions and the machine."""
    found = {name: importlib.metadata.version(name) for name in VERSIONS}
    return found | {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": str(os.cpu_count()),
    }


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a run.

    Raises:
      UsageError: there is none, or it is damaged.
    """
    file = folder / RECORD
    try:
        record = _json.read(file)
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']}")
        for entry in record["stages"].values():
            entry["outcome"], entry["seconds"] + 0.0, entry["files"].keys()
            entry["decided"].keys(), entry["stage"], entry["model"]
        record["data"]["sha256"], record["environment"].keys(), record["name"]
        return record
    except FileNotFoundError as error:
        raise UsageError(f"{folder} holds no run: there is no {RECORD}.") from error
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        raise UsageError(
            f"{file} must be the record of a run, and can't be read as one ({error!r}). Remove the "
            f"folder, or name another (--output)."
        ) from error


def _for_this_alone(kept: Path, mark: str) -> None:
    """A folder for what a stage keeps while it works; what another one kept goes."""
    file = kept / "mark"
    if not (file.is_file() and file.read_text(encoding="utf-8") == mark):
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        _files.write(file, mark.encode())


def _difference(there: Any, now: Any, key: str = "") -> str | None:
    """The first thing that is another one, in words; None for none."""
    if isinstance(there, Mapping) and isinstance(now, Mapping):
        for name in (*now, *(name for name in there if name not in now)):
            found = _difference(there.get(name), now.get(name), f"{key}.{name}".strip("."))
            if found:
                return found
        return None
    if there == now:
        return None
    if key.startswith("made from."):
        return f"{key.removeprefix('made from.')} has run again"
    if key.startswith("data."):
        return "the data are others"
    return f"{key.removeprefix('stage.')} was {there} and is {now}"


def _checksums(folder: Path) -> dict[str, str]:
    files = sorted(one for one in folder.rglob("*") if one.is_file())
    return {one.relative_to(folder).as_posix(): file_sha256(one) for one in files}
