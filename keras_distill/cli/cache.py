"""`keras-distill cache`: build, info, verify, merge."""

from pathlib import Path
from typing import Annotated, Any

import typer

from keras_distill.cli.shared import AsJson, Modules, guarded, print_record

cache = typer.Typer(
    help="A teacher's answers on disk: asked once, read at every epoch.", no_args_is_help=True
)

CacheFolder = Annotated[Path, typer.Argument(metavar="DIRECTORY", help="The cache's folder.")]


@cache.command("build")
def cache_build(
    context: typer.Context,
    teacher: Annotated[Path, typer.Argument(metavar="TEACHER", help="A saved Keras model.")],
    data: Annotated[Path, typer.Argument(metavar="DATA.npz", help="An array x, and y if any.")],
    directory: CacheFolder,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Keep so many logits; else all of them.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Of logits: float16, bfloat16 or float32.")
    ] = "float16",
    layer: Annotated[
        list[str] | None, typer.Option(help="Keep this layer's output too; once a layer.")
    ] = None,
    layer_dtype: Annotated[str, typer.Option(help="Of layers: as of logits, or int8.")] = "float16",
    batch_size: Annotated[int, typer.Option(min=1, help="Examples a call of the teacher.")] = 128,
    shard_examples: Annotated[
        int | None, typer.Option(min=1, help="Examples a file; a multiple of the batch size.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Do part I of N, from 0, to be merged afterwards."),
    ] = None,
    store_inputs: Annotated[
        bool, typer.Option("--store-inputs", help="Keep x and y in the cache too.")
    ] = False,
    modules: Modules = None,
    as_json: AsJson = False,
) -> None:
    """Ask the teacher about every example; what a stopped build has finished is kept."""
    options: dict[str, Any] = {
        "top_k": top_k,
        "dtype": dtype,
        "layers": layer or [],
        "layer_dtype": layer_dtype,
        "batch_size": batch_size,
        "shard_examples": shard_examples,
        "store_inputs": store_inputs,
        "verbose": not as_json,
    }

    def work() -> int:
        from keras_distill.pipeline import caching

        try:
            info = caching.build(teacher, data, directory, shard=shard, **options)
        except KeyboardInterrupt:
            typer.echo(caching.stopped_words(directory, context), err=True)
            raise
        print_record(info, as_json)
        return 0

    raise typer.Exit(guarded(work, modules))


@cache.command("info")
def cache_info(directory: CacheFolder, as_json: AsJson = False) -> None:
    """What a cache holds, its bytes an example, and what it was built from."""

    def work() -> int:
        from keras_distill.pipeline import caching

        with caching.refusals():
            print_record(caching.cache.info(directory), as_json)
        return 0

    raise typer.Exit(guarded(work))


@cache.command("verify")
def cache_verify(
    directory: CacheFolder,
    repair: Annotated[
        bool, typer.Option("--repair", help="Make damaged shards anew, each alone.")
    ] = False,
    teacher: Annotated[Path | None, typer.Option(help="For --repair: its file.")] = None,
    data: Annotated[Path | None, typer.Option(help="For --repair: the .npz file.")] = None,
    modules: Modules = None,
    as_json: AsJson = False,
) -> None:
    """Read every byte and name what is damaged or missing. 0: whole, 1: not, 2: bad input."""

    def work() -> int:
        from keras_distill.pipeline import caching

        if (teacher or data) and not repair:
            raise caching.UsageError("--teacher and --data are for --repair; add it.")
        with caching.refusals():
            mended = caching.repair(directory, teacher, data) if repair else None
            report = mended or caching.cache.verify(directory)
        print_record(report, as_json)
        return 0 if report.passed else 1

    raise typer.Exit(guarded(work, modules))


@cache.command("merge")
def cache_merge(
    directory: CacheFolder,
    parts: Annotated[list[Path], typer.Argument(metavar="PART...", help="The parts' folders.")],
    as_json: AsJson = False,
) -> None:
    """One cache out of the parts that `build --shard` wrote; the parts stay as they are."""

    def work() -> int:
        from keras_distill.pipeline import caching

        with caching.refusals():
            report = caching.cache.merge(parts, directory)
        print_record(report, as_json)
        return 0 if report.passed else 1

    raise typer.Exit(guarded(work))
