"""`keras-distill judge`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from keras_distill.cli.shared import Data, ImageSize, Modules, Rescale, guarded


class Conditions(StrEnum):
    """Sets of corruptions."""

    images = "images"
    recordings = "recordings"
    tables = "tables"
    tokens = "tokens"


class Task(StrEnum):
    """What the models are asked."""

    auto = "auto"
    classes = "classes"
    yes_or_no = "yes or no"
    numbers = "numbers"


def judge(
    models: Annotated[
        list[str],
        typer.Argument(metavar="[NAME=]FILE...", help="Keras models and .tflite files."),
    ],
    data: Data,
    baseline: Annotated[
        str | None, typer.Option(metavar="NAME", help="Compare with this. [default: the first]")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="accuracy, NLL, MAE, ...; repeat it for several.")
    ] = None,
    conditions: Annotated[
        Conditions | None, typer.Option(help="Damage the data in all ways of this kind.")
    ] = None,
    unseen: Annotated[str | None, typer.Option(help="A second data set.")] = None,
    train: Annotated[
        str | None, typer.Option(help="The training data, for the gap to the test data.")
    ] = None,
    folds: Annotated[int | None, typer.Option(min=2, help="The figures on so many parts.")] = None,
    task: Annotated[Task, typer.Option(help="What the models are asked.")] = Task.auto,
    output: Annotated[str | None, typer.Option(help="The output, of several.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many rows.")] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(help='A demand: "b.accuracy >= a.accuracy - 0.5pt"; repeat it for several.'),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page that needs no network.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the record as JSON.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the gates as JUnit XML.")] = None,
    image_size: ImageSize = None,
    rescale: Rescale = None,
    modules: Modules = None,
) -> None:
    """Models and files on the same data. 0: every gate holds, 1: one does not, 2: bad input."""
    options = {key: value for key, value in locals().items() if key != "modules"}
    options["task"] = task.value
    options["conditions"] = None if conditions is None else conditions.value

    def work() -> int:
        from keras_distill.pipeline import judged

        outcome = judged.run(judged.Request(**options))
        typer.echo(str(outcome))
        return 0 if outcome.passed else 1

    raise typer.Exit(guarded(work, modules))
