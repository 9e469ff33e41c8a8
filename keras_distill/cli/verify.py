"""`keras-distill verify`."""

from pathlib import Path
from typing import Annotated

import typer

from keras_distill.cli.shared import Data, ImageSize, Modules, Rescale, guarded


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE.tflite", help="The file to verify.")],
    model: Annotated[Path, typer.Option(help="The Keras model that it came from.")],
    data: Data,
    teacher: Annotated[Path | None, typer.Option(help="A Keras model to agree with.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many rows.")] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(help="An earlier --json report: accuracy may drop below its file's."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(help="Accuracy may drop by this much, against the model. [default: 0.01]"),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Part of the rows where file and model agree."),
    ] = None,
    max_bytes: Annotated[int | None, typer.Option(min=1, help="Largest file.")] = None,
    max_latency_ms: Annotated[float | None, typer.Option(help="Longest median run.")] = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            help="Largest error, as part of the model's range. [default: 0.001; float16: 0.01]"
        ),
    ] = None,
    min_correlation: Annotated[
        float | None,
        typer.Option(help="Smallest correlation with the model. [default: 0.9 for integers]"),
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the checks as JUnit XML.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the report as JSON.")] = None,
    image_size: ImageSize = None,
    rescale: Rescale = None,
    modules: Modules = None,
) -> None:
    """A gate for a build: what the file itself answers. 0: passed, 1: failed, 2: bad input."""
    options = {key: value for key, value in locals().items() if key != "modules"}

    def work() -> int:
        from keras_distill.pipeline import gate

        outcome = gate.run(gate.Request(**options))
        typer.echo(str(outcome))
        return 0 if outcome.report.passed else 1

    raise typer.Exit(guarded(work, modules))
