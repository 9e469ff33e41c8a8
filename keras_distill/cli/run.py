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
    data_folder: DataFolder = None,
    modules: Modules = None,
) -> None:
    """From a recipe to verified files and a report. The same command goes on after a stop."""
    output = output or Path("runs", Path(recipe).stem)
    command = ["keras-distill", "run", recipe, "--output", str(output)]
    command += ["--smoke"] if smoke else []
    command += [] if seed is None else ["--seed", str(seed)]
    command += [] if data_folder is None else ["--data-folder", str(data_folder)]
    command += [word for module in modules or () for word in ("--import", module)]
    options: dict[str, Any] = {
        "recipe": recipe,
        "output": output,
        "until": until,
        "dry_run": dry_run,
        "smoke": smoke,
        "seed": seed,
        "data_folder": data_folder,
        "modules": tuple(modules or ()),
        "command": shlex.join(command),
    }

    def work() -> int:
        try:
            from keras_distill.pipeline.runs import running

            return 0 if running.run(running.Request(**options)) else 1
        except KeyboardInterrupt:
            if not dry_run:
                typer.echo(f"\nWhat is finished stays. Go on with: {shlex.join(command)}", err=True)
            raise

    raise typer.Exit(guarded(work, modules))


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
