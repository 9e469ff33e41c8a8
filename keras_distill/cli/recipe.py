"""`keras-distill recipe`: init, check, show."""

from pathlib import Path
from typing import Annotated

import typer

from keras_distill.cli.run import DataFolder, RecipeArgument
from keras_distill.cli.shared import Modules, Overwrite, guarded

recipe = typer.Typer(help="Recipes: begin one, check one, see one whole.", no_args_is_help=True)


@recipe.command("init")
def recipe_init(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A shipped recipe to begin with.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The file. [default: NAME.yaml here]")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a shipped recipe to a file of your own; without a NAME, list them."""

    def work() -> int:
        from keras_distill.pipeline.recipes import beginning

        typer.echo(beginning.begin(name, output, overwrite))
        return 0

    raise typer.Exit(guarded(work))


@recipe.command("check")
def recipe_check(
    file: RecipeArgument, data_folder: DataFolder = None, modules: Modules = None
) -> None:
    """Read a recipe, its data and its models, and train nothing. 0: all is well, 2: it is not."""

    def work() -> int:
        from keras_distill.pipeline.runs import running

        request = running.Request(
            recipe=file, output=Path(), data_folder=data_folder, modules=tuple(modules or ())
        )
        typer.echo(running.checked(request))
        return 0

    raise typer.Exit(guarded(work, modules))


@recipe.command("show")
def recipe_show(file: RecipeArgument) -> None:
    """A recipe with every default written out."""

    def work() -> int:
        from keras_distill.pipeline.recipes.reading import load_recipe, written

        typer.echo(written(load_recipe(file)), nl=False)
        return 0

    raise typer.Exit(guarded(work))
