"""What the command `keras-distill tune` does: trials, and at the end those that nothing beats."""

import contextlib
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from keras_distill import _files
from keras_distill.pipeline.recipes.reading import load_recipe
from keras_distill.pipeline.runs.deciding import settings_of
from keras_distill.pipeline.runs.running import console_for, root_of
from keras_distill.pipeline.runs.workshop import Workshop
from keras_distill.pipeline.tuning.ending import end
from keras_distill.pipeline.tuning.measuring import measure, quality_of
from keras_distill.pipeline.tuning.record import TunePoint, quality_words, said
from keras_distill.pipeline.tuning.request import Request
from keras_distill.pipeline.tuning.space import Space, space_of
from keras_distill.pipeline.tuning.study import Study, opened
from keras_distill.pipeline.tuning.trial import Trials
from keras_distill.pipeline.tuning.usual import with_space
from keras_distill.training.stages import Folder, UsageError

__all__ = ["run"]

STUDY, TRIALS, WORKER = "study.db", "trials", "worker.id"


def run(request: Request) -> bool:
    """Search as far as the trials that were asked for; true where something fits the budget.

    Raises:
      UsageError: the recipe, its data, the storage or the folder can't be used, or the recipe
        itself does not run; what is finished stays.
    """
    console = console_for(sys.stdout)
    recipe = with_space(load_recipe(request.recipe))
    space = space_of(recipe)
    shop = Workshop(
        recipe.for_smoke() if request.smoke else recipe,
        request.output,
        root_of(request.recipe, request.data_folder),
        tuple(request.modules),
    )
    with _held(request.output), _study(request, space, shop) as study:
        trials = Trials(space, shop, request.output / TRIALS, request.smoke, request.command)
        trials.folder.mkdir(exist_ok=True)
        try:
            _search(request, study, trials, console)
        except KeyboardInterrupt:
            study.take_up()
            raise
        return end(request, study, trials, console)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    Folder(folder).check_writable()
    try:
        with _files.held(folder):
            yield
    except _files.HeldError as error:
        raise UsageError(
            f"another tune is at work in {folder}: wait for it, or end it. To search with several "
            f"processes, give each its own --output and all the same --storage."
        ) from error


@contextlib.contextmanager
def _study(request: Request, space: Space, shop: Workshop) -> Iterator[Study]:
    short, _ = space.short_of(shop.recipe)
    decided = {
        "models": [one.model_dump(mode="json", exclude_none=True) for one in short.models.values()],
        "stages": [settings_of(stage) for stage in short.stages],
        "seed": short.seed,
        "data": shop.examples.facts()["sha256"],
        "space": [one.facts() for one in space.parameters],
    }
    file = request.output / WORKER
    if not file.is_file():
        _files.write(file, uuid.uuid4().hex.encode())
    url = request.storage or f"sqlite:///{(request.output / STUDY).absolute()}"
    name = request.study or shop.recipe.name
    metric = quality_of(shop.examples)
    worker = file.read_text(encoding="utf-8")
    with opened(url, name, space, metric, request.seed, worker, decided) as study:
        yield study


def _search(request: Request, study: Study, trials: Trials, console: Console) -> None:
    if again := study.take_up():
        console.print(f"{again} unfinished trial(s) of an earlier call begin again.")
    while (count := len(study.trials())) < request.trials:
        trial, values = study.ask()
        begin = time.monotonic()
        names = trials.space.short_names
        words = ", ".join(f"{names[place]} {said(value)}" for place, value in values.items())
        head = f"trial {trial.number} ({count + 1} of {request.trials}): {words}"
        try:
            file = trials.file(values, console)
            found = measure(file, trials.shop.examples)
            study.tell(trial, found, time.monotonic() - begin)
        except (UsageError, ValueError) as error:
            study.fail(trial)
            if not study.points():
                raise
            console.print(f"{head}: failed: {error}", soft_wrap=True)
            continue
        console.print(f"{head}: {_best_words(study.points(), trial.number)}", soft_wrap=True)


def _best_words(points: Sequence[TunePoint], number: int) -> str:
    this = next(one for one in points if one.trial == number)
    best = min(points, key=lambda one: one.costs)
    quality = quality_words(this.quality_validation, this.metric)
    words = f"{quality} validation, {this.bytes:,} bytes, {this.latency_p50_ms:.3g} ms"
    best_quality = quality_words(best.quality_validation, best.metric)
    return f"{words}, {this.seconds:.0f} s. Best so far {best_quality}, trial {best.trial}."
