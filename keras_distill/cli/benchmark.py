"""`keras-distill benchmark`."""

from pathlib import Path
from typing import Annotated

import typer

from keras_distill.cli.shared import AsJson, guarded, print_record


def benchmark(
    file: Annotated[Path, typer.Argument(metavar="FILE.tflite", help="Any .tflite.")],
    runs: Annotated[int, typer.Option(min=1, help="Timed runs.")] = 50,
    warmup: Annotated[int, typer.Option(min=0, help="Untimed runs before them.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="The interpreter's threads.")] = 1,
    run_limit: Annotated[
        float, typer.Option(min=0.001, help="Seconds that one run may take.")
    ] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Latency and memory of a .tflite on this machine, in a process of its own."""

    def work() -> int:
        from keras_distill.litert.runner import load_tflite
        from keras_distill.pipeline import inputs

        with inputs.usage_errors():
            runner = load_tflite(file)
            measured = runner.benchmark(
                runs=runs, warmup=warmup, num_threads=threads, run_limit_s=run_limit
            )
        print_record(measured, as_json)
        return 0

    raise typer.Exit(guarded(work))
