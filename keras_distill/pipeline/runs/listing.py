"""`keras-distill runs`: the runs in some folders, side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from keras_distill.pipeline.runs.run import RECORD, read_record
from keras_distill.training.stages import UsageError

__all__ = ["find_runs", "runs_table"]


def find_runs(places: Sequence[Path]) -> dict[Path, dict[str, Any]]:
    """The records of the runs in these folders, or in folders within them.

    Raises:
      UsageError: there are none, or one is damaged.
    """
    found: dict[Path, dict[str, Any]] = {}
    for place in places:
        folders = [place] if (place / RECORD).is_file() else []
        folders = folders or sorted(file.parent for file in place.glob(f"*/{RECORD}"))
        found |= {folder: read_record(folder) for folder in folders}
    if not found:
        raise UsageError(f"there is no run in {' or '.join(map(str, places))}: no {RECORD}.")
    return found


def runs_table(runs: dict[Path, dict[str, Any]]) -> Table:
    """A row a run: recipe, seed, data, how far it is, what its last model and file came to."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for heading in ("run", "recipe", "seed", "data", "stages", "seconds", "came to"):
        table.add_column(heading, overflow="fold")
    for folder, record in runs.items():
        stages = record["stages"]
        came = [f"{title}: {one['outcome']}" for title, one in stages.items() if _tells(one)]
        table.add_row(
            str(folder),
            record["name"],
            str(record["seed"]),
            str(record["data"].get("name", "")),
            str(len(stages)),
            f"{sum(one['seconds'] for one in stages.values()):.0f}",
            "\n".join(came),
            end_section=True,
        )
    return table


def _tells(entry: dict[str, Any]) -> bool:
    return entry["stage"] in ("distil", "quantize", "export", "verify")
