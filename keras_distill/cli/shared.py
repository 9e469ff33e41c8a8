"""What the commands have in common: arguments, the printing of records, the exit statuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

Model = Annotated[Path, typer.Argument(metavar="MODEL.keras", help="A saved Keras 3 model.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")]


def print_record(record: Any, as_json: bool) -> None:
    """A record on standard output: its table, or its JSON."""
    typer.echo(record.to_json() if as_json else str(record))


def guarded(work: Callable[[], int]) -> int:
    """The command's exit status; its usage errors in one line, Ctrl-C in a word."""
    try:
        from ..pipeline.stages import UsageError

        return work()
    # First: an interrupted import leaves UsageError unbound.
    except KeyboardInterrupt:
        typer.echo("\nInterrupted.", err=True)
        return 130
    except UsageError as error:
        typer.echo(f"Error: {error}", err=True)
        return 2
