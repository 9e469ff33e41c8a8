"""`keras-distill run` and `keras-distill runs`."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_distill.cli.shared import Modules, guarded

RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="A recipe's YAML file, or a shipped one by its name, such as tiny."
    ),
]
Labels = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        help="The part of the training labels that students know. [default: the recipe's]",
    ),
]
Epochs = Annotated[
    int | None, typer.Option(min=1, help="Epochs of every training; else as the recipe says.")
]
DataFolder = Annotated[
    Path | None,
    typer.Option(help="Where the recipe's paths start. [default: the recipe's own folder]"),
]


def run(
    recipe: RecipeArgument,
    output: Annotated[
        Path | None, typer.Option(help="The run's folder. [default: runs/ and the recipe's name]")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done; nothing is written.")
    ] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Little data and short trainings, to try a recipe.")
    ] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="In place of the recipe's own.")] = None,
    labels: Labels = None,
    epochs: Epochs = None,
    data_folder: DataFolder = None,
    modules: Modules = None,
) -> None:
    """From a recipe to verified files and a report. The same command goes on after a stop."""
    output = output or Path("runs", Path(recipe).stem)
    raise typer.Exit(
        execute(
            ["run", recipe],
            recipe,
            output,
            until=until,
            dry_run=dry_run,
            smoke=smoke,
            seed=seed,
            labels=labels,
            epochs=epochs,
            data_folder=data_folder,
            modules=modules,
        )
    )


def execute(
    begin: list[str],
    recipe: str,
    output: Path,
    *,
    modules: list[str] | None = None,
    until: str | None = None,
    dry_run: bool = False,
    **options: Any,
) -> int:
    """Run a recipe; what the terminal is told to go on with is the command that was given.

    Args:
      begin: the command's first words.
      recipe, output, until, dry_run: see `run`.
      options: its other options by name.
      modules: to import first.
    """
    command = ["keras-distill", *begin]
    for name, value in options.items():
        if value is True:
            command.append(f"--{name.replace('_', '-')}")
        elif value is not None and value is not False:
            command += [f"--{name.replace('_', '-')}", str(value)]
    command += [word for module in modules or () for word in ("--import", module)]
    command += ["--output", str(output)]

    def work() -> int:
        try:
            from keras_distill.pipeline.runs import running

            request = running.Request(
                recipe=recipe,
                output=output,
                until=until,
                dry_run=dry_run,
                modules=tuple(modules or ()),
                command=shlex.join(command),
                **options,
            )
            return 0 if running.run(request) else 1
        except KeyboardInterrupt:
            if not dry_run:
                typer.echo(f"\nWhat is finished stays. Go on with: {shlex.join(command)}", err=True)
            raise

    return guarded(work, modules)


def runs(
    places: Annotated[
        list[Path] | None, typer.Argument(metavar="FOLDER...", help="Runs, or folders of runs.")
    ] = None,
) -> None:
    """The runs in some folders, side by side. [default: those in runs/]"""

    def work() -> int:
        import sys

        from keras_distill.pipeline.runs import listing, running

        found = listing.find_runs(places or [Path("runs")])
        running.console_for(sys.stdout).print(listing.runs_table(found))
        return 0

    raise typer.Exit(guarded(work))
