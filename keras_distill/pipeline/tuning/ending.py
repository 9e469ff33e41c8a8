"""What a search leaves: record, table, picture, a recipe for each point, the best that fits."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from keras_distill import _files
from keras_distill._extras import install_hint
from keras_distill.pipeline.recipes.reading import written
from keras_distill.pipeline.tuning.front import best, on_front
from keras_distill.pipeline.tuning.measuring import score
from keras_distill.pipeline.tuning.record import (
    TunePoint,
    TuneReport,
    latency_words,
    quality_words,
)
from keras_distill.pipeline.tuning.request import Request
from keras_distill.pipeline.tuning.study import Study
from keras_distill.pipeline.tuning.trial import Trials
from keras_distill.training.stages import UsageError

__all__ = ["end"]

RECORD, PICTURE, FRONT, BEST = "tune.json", "pareto.png", "pareto", "best.yaml"


def end(request: Request, study: Study, trials: Trials, console: Console) -> bool:
    """Write and print what was found.

    Args:
      request: see there.
      study, trials: see there.
      console: to print on.

    Returns:
      Whether a file fits the budget; true without one.
    """
    points = study.points()
    if not points:
        raise UsageError(f"none of {study.failed()} trials gave a file.")
    front = on_front([point.costs for point in points])
    points = [
        dataclasses.replace(point, on_front=True, quality_test=_test(point, trials))
        if unbeaten
        else point
        for point, unbeaten in zip(points, front, strict=True)
    ]
    budget = request.budget
    chosen = best(points, budget) if budget.asked else None
    report = TuneReport(
        recipe=trials.space.recipe.name,
        study=study.inner.study_name,
        data=trials.shop.examples.name,
        seed=request.seed,
        names=trials.space.short_names,
        points=tuple(points),
        failed=study.failed(),
        best=None if chosen is None else chosen.trial,
        budget_bytes=budget.bytes,
        budget_ms=budget.ms,
        command=request.command,
    )
    folder = request.output
    _files.write(folder / RECORD, (report.to_json() + "\n").encode())
    _write_recipes(request, trials, points, chosen)
    console.print(str(report), markup=False, soft_wrap=True)
    _draw(folder, report, console)
    shown = f"{folder / RECORD}; the recipe of each point is {folder / FRONT}/TRIAL.yaml"
    console.print(f"All trials are in {shown}.", soft_wrap=True)
    if not budget.asked:
        return True
    if chosen is None:
        nearest = min(points, key=budget.over)
        console.print(
            f"Nothing fits {budget}. The nearest is trial {nearest.trial}: {_words(nearest)}, "
            f"{budget.over(nearest) - 1:.0%} over. Search on with more --trials, or widen the "
            f"recipe's tune.space.",
            soft_wrap=True,
        )
        return False
    console.print(
        f"The best within {budget} is trial {chosen.trial}: {_words(chosen)}. Its recipe is "
        f"{folder / BEST}.",
        soft_wrap=True,
    )
    return True


def _test(point: TunePoint, trials: Trials) -> float | None:
    """The figure on the test data, where the file was made here."""
    file = trials.finished(point.values)
    return None if file is None else score(file, trials.shop.examples.test, point.metric)


def _write_recipes(
    request: Request, trials: Trials, points: Sequence[TunePoint], chosen: TunePoint | None
) -> None:
    folder = request.output / FRONT
    folder.mkdir(exist_ok=True)
    wanted = {folder / f"{point.trial}.yaml": point for point in points if point.on_front}
    if chosen is not None:
        wanted[request.output / BEST] = chosen
    for stale in {*folder.glob("*.yaml"), request.output / BEST} - set(wanted):
        stale.unlink(missing_ok=True)
    for file, point in wanted.items():
        _files.write(file, _recipe_text(request, trials, file, point).encode())


def _recipe_text(request: Request, trials: Trials, file: Path, point: TunePoint) -> str:
    command = f"keras-distill run {file} --data-folder {trials.shop.root}"
    command += " --smoke" if trials.smoke else ""
    command += "".join(f" --import {one}" for one in request.modules)
    head = f"# Trial {point.trial} of a search: {_words(point)}.\n# {command}\n"
    return head + written(trials.recipe(point.values))


def _words(point: TunePoint) -> str:
    quality = quality_words(point.quality_validation, point.metric)
    return f"{quality} validation {point.metric}, {point.bytes:,} bytes, {latency_words(point)} ms"


def _draw(folder: Path, report: TuneReport, console: Console) -> None:
    try:
        from keras_distill.pipeline.tuning.picture import drawn

        picture = drawn(report)
    except ImportError:
        console.print(f"No picture is drawn: that needs matplotlib: {install_hint('tune')}")
        return
    _files.write(folder / PICTURE, picture)
