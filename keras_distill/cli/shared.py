"""What the commands have in common: arguments, the printing of records, the exit statuses."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", help="A saved Keras model: a .keras, a legacy .h5, a SavedModel's folder."
    ),
]
Data = Annotated[
    str,
    typer.Option(
        help="digits, fashion_mnist, a .npz of x and y, or a folder of images, a folder a class."
    ),
]
ImageSize = Annotated[
    str | None,
    typer.Option(metavar="HEIGHT,WIDTH", help="Of a folder's images, where the model has none."),
]
Rescale = Annotated[
    str | None,
    typer.Option(
        metavar="SCALE[,OFFSET]",
        help="Of a folder's pixels, which are 0 to 255 else: 1/255, or 1/127.5,-1 for -1 to 1.",
    ),
]
Modules = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        metavar="MODULE",
        help="Import this first: it defines layers that the model is made of. It runs as Python.",
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the file that is at --output.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")]


def print_record(record: Any, as_json: bool) -> None:
    """A record on standard output: its table, or its JSON."""
    typer.echo(record.to_json() if as_json else str(record))


def guarded(work: Callable[[], int], modules: Sequence[str] | None = None) -> int:
    """The command's exit status; its usage errors in one line, Ctrl-C in a word.

    Args:
      work: returns the status of what went well.
      modules: to import before it.
    """
    try:
        from keras_distill.training.stages import UsageError

        if modules:
            from keras_distill.pipeline.modules import import_modules

            import_modules(modules)
        return work()
    # First: an interrupted import leaves UsageError unbound.
    except KeyboardInterrupt:
        typer.echo("\nInterrupted.", err=True)
        return 130
    except UsageError as error:
        typer.echo(f"Error: {error}", err=True)
        return 2
