"""`keras-distill demo`."""

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class Dataset(StrEnum):
    """What the demo can learn."""

    digits = "digits"
    fashion_mnist = "fashion_mnist"


def demo(
    dataset: Annotated[Dataset, typer.Option(help="The images to learn.")] = Dataset.digits,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and batches.")] = 0,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Epochs of every training; else as many as suit the data."),
    ] = None,
    labels: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="The part of the student's images whose labels are known."
        ),
    ] = 0.1,
    output: Annotated[Path, typer.Option(help="The folder for models, report and pictures.")] = (
        Path("keras_distill_demo")
    ),
) -> None:
    """Teacher, labels-only baseline, distilled student, two verified .tflite files: one table."""
    command = ["keras-distill", "demo", "--dataset", dataset.value, "--seed", str(seed)]
    command += [] if epochs is None else ["--epochs", str(epochs)]
    command += ["--labels", str(labels), "--output", str(output)]
    raise typer.Exit(
        _demo(output, command, dataset=dataset.value, seed=seed, epochs=epochs, labels=labels)
    )


def _demo(output: Path, command: list[str], **settings: Any) -> int:
    folder = None
    try:
        from keras_distill.training.stages import Folder, UsageError

        folder = Folder(output)
        folder.check_writable()
        from keras_distill.pipeline.demo import run
        from keras_distill.pipeline.settings import Settings

        return 0 if run(Settings.of(**settings), folder) else 1
    # First: an interrupted import leaves UsageError unbound.
    except KeyboardInterrupt:
        finished = "Nothing was finished yet." if folder is None else folder.finished_words()
        typer.echo(f"\nInterrupted. {finished}\nGo on with: {shlex.join(command)}")
        return 130
    except UsageError as error:
        typer.echo(f"Error: {error}", err=True)
        return 2
