"""`keras-distill distil`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from keras_distill.cli.shared import Data, ImageSize, Modules, Overwrite, Rescale, guarded


def distil(
    teacher: Annotated[
        Path, typer.Argument(metavar="TEACHER", help="What teaches: a saved Keras model.")
    ],
    student: Annotated[Path, typer.Argument(metavar="STUDENT", help="What is to learn: another.")],
    data: Data,
    output: Annotated[Path, typer.Option(help="The trained student, a .keras file.")],
    validation_data: Annotated[
        str | None,
        typer.Option(help="As --data; digits and fashion_mnist have their own."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples a step.")] = 32,
    learning_rate: Annotated[float, typer.Option(min=0.0, help="Adam's.")] = 1e-3,
    objective: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLASS",
            help="What is learned of the teacher, a class of keras_distill; once for each. "
            "[default: SoftTargets]",
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Of the objectives. [default: the class', mostly 4]")
    ] = None,
    label_weight: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="The labels' part of the loss, the rest the teacher's. [default: 0.1]",
        ),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(help="Keras' name of the labels' loss. [default: a cross-entropy]"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of batches and random layers.")] = 0,
    backup: Annotated[
        Path | None,
        typer.Option(help="Keep each finished epoch in this folder: the same command goes on."),
    ] = None,
    image_size: ImageSize = None,
    rescale: Rescale = None,
    modules: Modules = None,
    overwrite: Overwrite = False,
) -> None:
    """Train a student on its teacher's answers and on the labels, where there are any."""
    options = {key: value for key, value in locals().items() if key != "modules"}

    def work() -> int:
        from keras_distill.pipeline import distilling
        from keras_distill.training.chain_report import outcome

        options["objective"] = objective or ["SoftTargets"]
        # A bar redraws itself, which is for terminals.
        verbose = 1 if sys.stdout.isatty() else 2
        history = distilling.run(distilling.Request(**options), verbose)
        typer.echo(f"{output}: {outcome(history)}")
        return 0

    raise typer.Exit(guarded(work, modules))
