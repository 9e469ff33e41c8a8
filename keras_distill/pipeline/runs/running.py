"""What the command `keras-distill run` does: a recipe's stages, a line each, and the report."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from keras_distill.pipeline.inputs import usage_errors
from keras_distill.pipeline.modules import import_modules
from keras_distill.pipeline.recipes.reading import load_recipe, nearest
from keras_distill.pipeline.recipes.recipe import Recipe
from keras_distill.pipeline.recipes.shipped import SHIPPED
from keras_distill.pipeline.recipes.stages import Training
from keras_distill.pipeline.runs.dry import dry_run
from keras_distill.pipeline.runs.reporting import report
from keras_distill.pipeline.runs.run import FRESH, Run
from keras_distill.pipeline.runs.training import steps_of
from keras_distill.pipeline.runs.watching import Watch
from keras_distill.pipeline.runs.workshop import Workshop
from keras_distill.training.stages import UsageError

__all__ = ["Request", "checked", "console_for", "run", "run_recipe", "workshop"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to run; the fields are the command's options."""

    recipe: str
    output: Path
    until: str | None = None
    dry_run: bool = False
    smoke: bool = False
    seed: int | None = None
    labels: float | None = None
    epochs: int | None = None
    data_folder: Path | None = None
    modules: Sequence[str] = ()
    command: str = ""


def run(request: Request) -> bool:
    """Run what is not finished; true where no file failed its verification.

    Raises:
      UsageError: the recipe, the data or the folder can't be used, or a stage can't be done; what
        is finished stays.
    """
    console = console_for(sys.stdout)
    shop = workshop(request)
    work = Run(shop, request.command)
    _check_until(request.until, shop.recipe, request.recipe)
    if request.dry_run:
        with work.read():
            for part in dry_run(shop, work):
                console.print(part, soft_wrap=isinstance(part, str))
        return True
    with work.opened():
        passed = _go(work, shop, console, request.until)
        if request.until is None:
            report(work, shop, console)
        console.print(f"Models, files and records are in {shop.folder}.", soft_wrap=True)
        return passed


def run_recipe(
    recipe: Recipe,
    folder: str | Path,
    *,
    until: str | None = None,
    data_folder: str | Path | None = None,
    modules: Sequence[str] = (),
    verbose: bool = True,
) -> Mapping[str, Any]:
    """Run a recipe's stages that are not finished in a folder, as `keras-distill run` does.

    Args:
      recipe: a `Recipe`, or what `load_recipe` read.
      folder: of this run; made where there is none. The same call goes on in it after a stop, at
        the last finished epoch, and runs again what a change of the recipe makes needed.
      until: the name of the last stage to run; None for all, and the report.
      data_folder: where the recipe's paths start; by default the current folder.
      modules: that the recipe may name functions of; imported first, and run as Python.
      verbose: print a line a stage, and a bar.

    Returns:
      The run's record as in `run.json`: `record["stages"]` holds by name what each stage came to
      (`outcome`), its `seconds` and its `files`.

    Raises:
      UsageError: the recipe, its data, models or folder can't be used, or a stage can't be done;
        what is finished stays.

    >>> import tempfile
    >>> recipe = Recipe.model_validate({
    ...     "name": "small", "data": {"set": "digits", "rows": 64},
    ...     "models": {"student": {"build": "mlp"}}, "stages": [{"stage": "train", "epochs": 1}]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     record = run_recipe(recipe, folder, until="train-student", verbose=False)
    >>> list(record["stages"]["train-student"]["files"])
    ['history.json', 'model.keras']
    """
    if modules:
        import_modules(modules)
    _check_until(until, recipe, recipe.name)
    console = console_for(sys.stdout)
    console.quiet = not verbose
    shop = Workshop(recipe, Path(folder), Path(data_folder or "."), tuple(modules))
    work = Run(shop, f"run_recipe(recipe, {str(folder)!r})")
    with work.opened():
        _go(work, shop, console, until)
        if until is None:
            report(work, shop, console)
        return work.record


def _check_until(until: str | None, recipe: Recipe, name: str) -> None:
    titles = [stage.title for stage in recipe.stages]
    if until is not None and until not in titles:
        raise UsageError(
            f"--until takes a stage of {name}: {', '.join(titles)}; got {until}."
            f"{nearest(until, titles)}"
        )


def _go(work: Run, shop: Workshop, console: Console, until: str | None) -> bool:
    titles = [step.title for step in work.steps]
    wanted = titles[: titles.index(until) + 1] if until else titles
    running = [one for one, why in work.reasons().items() if why is not None and one in wanted]
    watch = Watch(console, work.steps, batches_of(shop))
    width, passed, again = max(map(len, wanted)), True, len(running) < len(wanted)
    with watch.watching(running):
        for done in work.go(until, watch.heard):
            watch.finished(done.step.title)
            kept = " (finished earlier)" if done.why is None else ""
            why = f" (again: {done.why})" if again and done.why not in (None, FRESH) else ""
            console.print(f"{done.step.title:<{width}}  {done.outcome}{kept}{why}", soft_wrap=True)
            passed = passed and not done.failed
    return passed


def checked(request: Request) -> str:
    """Read all that a recipe names, and say what it is.

    Raises:
      UsageError: see `run`.
    """
    shop = workshop(request)
    for line, source in shop.recipe.models.items():
        if source.build or source.file:
            shop.begun(line)
    rows = shop.examples.facts()["rows"]
    parts = ", ".join(f"{count:,} {name}" for name, count in rows.items())
    stages = ", ".join(stage.title for stage in shop.recipe.stages)
    return f"{shop.recipe.name} is whole. Data: {shop.examples.name}, {parts}. Stages: {stages}."


def batches_of(shop: Workshop) -> dict[str, int]:
    """An epoch's batches of each stage that trains, by its title."""
    return {
        one.title: steps_of(one, shop.examples)
        for one in shop.recipe.stages
        if isinstance(one, Training)
    }


def workshop(request: Request) -> Workshop:
    """Recipe, folder and permissions of a request."""
    recipe: Recipe = load_recipe(request.recipe)
    if request.smoke:
        recipe = recipe.for_smoke()
    with usage_errors():
        recipe = recipe.changed(seed=request.seed, labels=request.labels, epochs=request.epochs)
    root = root_of(request.recipe, request.data_folder)
    return Workshop(recipe, request.output, root, tuple(request.modules))


def root_of(recipe: str, data_folder: Path | None) -> Path:
    """Where a recipe's paths start: its own folder, of a shipped one the working directory."""
    return data_folder or (Path.cwd() if recipe in SHIPPED else Path(recipe).parent)


def console_for(stream: object) -> Console:
    """A console; where nobody says how wide it is, tables are not cut."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=100)
