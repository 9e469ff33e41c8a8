"""The command line. Each command imports what it runs, so that `--help` stays quick."""

import importlib.metadata
from typing import Annotated

import typer

from keras_distill.cli.benchmark import benchmark
from keras_distill.cli.cache import cache
from keras_distill.cli.demo import demo
from keras_distill.cli.distil import distil
from keras_distill.cli.explain import explain
from keras_distill.cli.export import export
from keras_distill.cli.inspect import inspect
from keras_distill.cli.judge import judge
from keras_distill.cli.profile import profile
from keras_distill.cli.quantize import quantize
from keras_distill.cli.recipe import recipe
from keras_distill.cli.run import run, runs
from keras_distill.cli.tune import tune
from keras_distill.cli.verify import verify

app = typer.Typer(
    name="keras-distill",
    help="From a large Keras teacher to a small student, verified inside its .tflite.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    demo,
    run,
    runs,
    tune,
    distil,
    quantize,
    export,
    verify,
    judge,
    benchmark,
    inspect,
    profile,
    explain,
):
    app.command()(command)
app.add_typer(recipe, name="recipe")
app.add_typer(cache, name="cache")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"keras-distill {importlib.metadata.version('keras_distill')}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it and end."),
    ] = False,
) -> None:
    """From a large Keras teacher to a small student, verified inside its .tflite."""
