"""What trials have in common is done once: a run begins with what others have finished."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keras_distill import _files
from keras_distill.pipeline.recipes.recipe import Recipe
from keras_distill.pipeline.runs.deciding import settings_of, sources_of
from keras_distill.pipeline.runs.plan import Step, plan
from keras_distill.pipeline.runs.run import RECORD, read_record
from keras_distill.training.stages import UsageError

__all__ = ["begin"]


def begin(folder: Path, recipe: Recipe, others: Iterable[Path]) -> None:
    """Make a run's folder with the stages in it that other runs have done just so.

    Their files are linked where the file system can. The run itself checks all that it finds, by
    what decided each stage and by its files' digests, and does again what does not fit.

    Args:
      folder: of the run; one that is there stays as it is.
      recipe: that it will run.
      others: folders of runs.
    """
    if folder.exists():
        return
    steps = plan(recipe)
    donors = {one: record for one in others if (record := _record(one)) is not None}
    found: dict[str, tuple[Path, Any]] = {}
    for step in steps:
        for donor, record in donors.items():
            entry = record["stages"].get(step.title)
            there = entry is not None and (donor / step.title).is_dir()
            if there and _same(step, recipe, entry, record, found):
                found[step.title] = donor, entry
                break
    if not found:
        return
    first = donors[next(iter(found.values()))[0]]
    stages = {title: entry for title, (_, entry) in found.items()}
    with _files.whole_folder(folder) as fresh:
        fresh.mkdir()
        for title, (donor, _) in found.items():
            shutil.copytree(donor / title, fresh / title, copy_function=_link)
        text = json.dumps(first | {"stages": stages}, indent=2)
        (fresh / RECORD).write_text(f"{text}\n", encoding="utf-8")


def _record(folder: Path) -> dict[str, Any] | None:
    with contextlib.suppress(UsageError):
        return read_record(folder)
    return None


def _same(
    step: Step, recipe: Recipe, entry: Any, record: Any, found: dict[str, tuple[Path, Any]]
) -> bool:
    """Whether an entry of another run's record is what this step would leave."""
    decided = entry["decided"]
    theirs = {
        line: {key: value for key, value in source.items() if key != "sha256"}
        for line, source in decided.get("models", {}).items()
    }
    return (
        decided.get("stage") == settings_of(step.stage)
        and theirs == sources_of(recipe, step)
        and all(
            title in found
            and found[title][1]["files"] == record["stages"].get(title, {}).get("files")
            for title in step.reads
        )
    )


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
