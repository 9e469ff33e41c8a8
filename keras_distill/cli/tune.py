"""`keras-distill tune`."""

import re
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_distill.cli.run import DataFolder, RecipeArgument
from keras_distill.cli.shared import Modules, guarded

PASSWORD = re.compile(r"://([^:/@\s]*):[^@\s]*@")


def tune(
    recipe: RecipeArgument,
    output: Annotated[
        Path | None,
        typer.Option(help="The search's folder. [default: tuned/ and the recipe's name]"),
    ] = None,
    trials: Annotated[
        int, typer.Option(min=1, help="Trials of the study in all, earlier calls' among them.")
    ] = 20,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Where the study is kept, for several machines: sqlite://, mysql://, "
            "postgresql://, or journal:FILE. [default: study.db in --output]",
        ),
    ] = None,
    study: Annotated[
        str | None, typer.Option(metavar="NAME", help="[default: the recipe's name]")
    ] = None,
    budget_bytes: Annotated[
        int | None, typer.Option(min=1, help="Name the best student whose file is no larger.")
    ] = None,
    budget_ms: Annotated[
        float | None,
        typer.Option(min=1e-6, help="Name the best student that is no slower on this machine."),
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Little data and short trainings, to try a search.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 0,
    data_folder: DataFolder = None,
    modules: Modules = None,
) -> None:
    """Search a recipe's settings for accuracy, bytes and latency at once, by Optuna.

    The same command goes on after a stop; no finished trial is repeated. Exit status 1 says that
    nothing fits the budget.
    """
    output = output or Path("tuned", Path(recipe).stem)
    named: dict[str, Any] = {
        "--output": output,
        "--trials": trials,
        "--storage": storage,
        "--study": study,
        "--budget-bytes": budget_bytes,
        "--budget-ms": budget_ms,
        "--seed": seed,
        "--data-folder": data_folder,
    }
    command = ["keras-distill", "tune", recipe, *(["--smoke"] if smoke else [])]
    command += [
        word for key, value in named.items() if value is not None for word in (key, str(value))
    ]
    command += [word for module in modules or () for word in ("--import", module)]

    def work() -> int:
        try:
            from keras_distill.pipeline.tuning import tune as tuning
            from keras_distill.pipeline.tuning.front import Budget
            from keras_distill.pipeline.tuning.request import Request

            request = Request(
                recipe=recipe,
                output=output,
                trials=trials,
                storage=storage,
                study=study,
                budget=Budget(budget_bytes, budget_ms),
                smoke=smoke,
                seed=seed,
                data_folder=data_folder,
                modules=tuple(modules or ()),
                # The record is for others as well.
                command=PASSWORD.sub(r"://\1:***@", shlex.join(command)),
            )
            return 0 if tuning.run(request) else 1
        except KeyboardInterrupt:
            typer.echo(f"\nFinished trials stay. Go on with: {shlex.join(command)}", err=True)
            raise

    raise typer.Exit(guarded(work, modules))
