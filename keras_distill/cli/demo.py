"""`keras-distill demo`."""

from pathlib import Path
from typing import Annotated

import typer

from keras_distill.cli.run import Epochs, Labels, execute


def demo(
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of weights and batches. [default: 0]")
    ] = None,
    epochs: Epochs = None,
    labels: Labels = None,
    output: Annotated[Path, typer.Option(help="The folder for models, report and pictures.")] = (
        Path("keras_distill_demo")
    ),
) -> None:
    """Teacher, labels-only twin, distilled student, two verified files, a report: the recipe tiny.

    The same as keras-distill run tiny.
    """
    raise typer.Exit(execute(["demo"], "tiny", output, seed=seed, epochs=epochs, labels=labels))
