"""The command line. Each command imports what it runs, so that `--help` stays quick."""

import importlib.metadata
import shlex
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="keras-distill",
    help="From a large Keras teacher to a small student, verified inside its .tflite.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cache = typer.Typer(
    help="A teacher's answers on disk: asked once, read at every epoch.", no_args_is_help=True
)
app.add_typer(cache, name="cache")

Model = Annotated[Path, typer.Argument(metavar="MODEL.keras", help="A saved Keras 3 model.")]
CacheFolder = Annotated[Path, typer.Argument(metavar="DIRECTORY", help="The cache's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")]


class Dataset(StrEnum):
    """What the demo can learn."""

    digits = "digits"
    fashion_mnist = "fashion_mnist"


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


@app.command()
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


@app.command()
def inspect(
    model: Model,
    as_json: AsJson = False,
) -> None:
    """Layer by layer: what can be pruned and quantised, how, and why not."""

    def work() -> int:
        from .edge.inspection import inspect as inspected
        from .pipeline import gate

        loaded = gate.load_model(model)
        with gate.usage_errors():
            _print_record(inspected(loaded), as_json)
        return 0

    raise typer.Exit(_guarded(work))


@app.command()
def profile(
    model: Model,
    input_shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]SIZES",
            help="Settles open sizes, batch left out: 224,224,3, or for each of several inputs "
            "image=224,224,3.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Layer by layer and whole: parameters, FLOPs, activation memory, bytes, for one example."""

    def work() -> int:
        from .pipeline import arguments, gate
        from .transfer import profile as profiled

        shape = arguments.shapes(input_shape or [])
        loaded = gate.load_model(model)
        with gate.usage_errors():
            _print_record(profiled(loaded, input_shape=shape), as_json)
        return 0

    raise typer.Exit(_guarded(work))


@app.command()
def benchmark(
    file: Annotated[Path, typer.Argument(metavar="FILE.tflite", help="Any .tflite.")],
    runs: Annotated[int, typer.Option(min=1, help="Timed runs.")] = 50,
    warmup: Annotated[int, typer.Option(min=0, help="Untimed runs before them.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="The interpreter's threads.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Latency and memory of a .tflite on this machine, in a process of its own."""

    def work() -> int:
        from .litert import load_tflite
        from .pipeline import gate

        with gate.usage_errors():
            runner = load_tflite(file)
            measured = runner.benchmark(runs=runs, warmup=warmup, num_threads=threads)
        _print_record(measured, as_json)
        return 0

    raise typer.Exit(_guarded(work))


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE.tflite", help="The file to verify.")],
    model: Annotated[Path, typer.Option(help="The Keras model that it came from.")],
    data: Annotated[
        str,
        typer.Option(help="digits, fashion_mnist (their test images), or a .npz of x and y."),
    ],
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
    junit: Annotated[Path | None, typer.Option(help="Write the checks as JUnit XML.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the report as JSON.")] = None,
) -> None:
    """A gate for a build: what the file itself answers. 0: passed, 1: failed, 2: bad input."""
    options = dict(locals())

    def work() -> int:
        from .pipeline import gate

        outcome = gate.run(gate.Request(**options))
        typer.echo(str(outcome))
        return 0 if outcome.report.passed else 1

    raise typer.Exit(_guarded(work))


@app.command()
def explain(
    student: Annotated[Path, typer.Argument(metavar="STUDENT.keras", help="What has learned.")],
    teacher: Annotated[Path, typer.Argument(metavar="TEACHER.keras", help="What has taught.")],
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="digits, fashion_mnist (their test images), or a .npz of x and y."
        ),
    ],
    output: Annotated[Path, typer.Option(help="The folder for record and pictures.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many rows.")] = None,
) -> None:
    """What the student learned, and what not: agreement, calibration, layers, worst examples."""

    def work() -> int:
        from .pipeline import gate

        models = gate.load_model(student), gate.load_model(teacher)
        found = gate.load_data(data, limit)
        with gate.usage_errors():
            # First: a long pass must not end in a missing library.
            try:
                from .explaining import explain, pictures  # noqa: F401
            except ModuleNotFoundError as error:
                raise ValueError('it needs pip install "keras_distill[demo]".') from error
            record = explain(*models, found)
            files = record.save(output)
        typer.echo(str(record))
        typer.echo(f"\nWritten to {output}: {', '.join(path.name for path in files)}")
        return 0

    raise typer.Exit(_guarded(work))


@cache.command("build")
def cache_build(
    context: typer.Context,
    teacher: Annotated[Path, typer.Argument(metavar="TEACHER.keras", help="The teacher.")],
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
        from .pipeline import caching

        try:
            info = caching.build(teacher, data, directory, shard=shard, **options)
        except KeyboardInterrupt:
            typer.echo(caching.stopped_words(directory, context), err=True)
            raise
        _print_record(info, as_json)
        return 0

    raise typer.Exit(_guarded(work))


@cache.command("info")
def cache_info(directory: CacheFolder, as_json: AsJson = False) -> None:
    """What a cache holds, its bytes an example, and what it was built from."""

    def work() -> int:
        from .pipeline import caching

        with caching.refusals():
            _print_record(caching.cache.info(directory), as_json)
        return 0

    raise typer.Exit(_guarded(work))


@cache.command("verify")
def cache_verify(
    directory: CacheFolder,
    repair: Annotated[
        bool, typer.Option("--repair", help="Make damaged shards anew, each alone.")
    ] = False,
    teacher: Annotated[Path | None, typer.Option(help="For --repair: the .keras file.")] = None,
    data: Annotated[Path | None, typer.Option(help="For --repair: the .npz file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read every byte and name what is damaged or missing. 0: whole, 1: not, 2: bad input."""

    def work() -> int:
        from .pipeline import caching

        if (teacher or data) and not repair:
            raise caching.UsageError("--teacher and --data are for --repair; add it.")
        with caching.refusals():
            mended = caching.repair(directory, teacher, data) if repair else None
            report = mended or caching.cache.verify(directory)
        _print_record(report, as_json)
        return 0 if report.passed else 1

    raise typer.Exit(_guarded(work))


@cache.command("merge")
def cache_merge(
    directory: CacheFolder,
    parts: Annotated[list[Path], typer.Argument(metavar="PART...", help="The parts' folders.")],
    as_json: AsJson = False,
) -> None:
    """One cache out of the parts that `build --shard` wrote; the parts stay as they are."""

    def work() -> int:
        from .pipeline import caching

        with caching.refusals():
            report = caching.cache.merge(parts, directory)
        _print_record(report, as_json)
        return 0 if report.passed else 1

    raise typer.Exit(_guarded(work))


def _print_record(record: Any, as_json: bool) -> None:
    typer.echo(record.to_json() if as_json else str(record))


def _guarded(work: Callable[[], int]) -> int:
    """The command's exit status; its usage errors in one line, Ctrl-C in a word."""
    try:
        from .pipeline.stages import UsageError

        return work()
    # First: an interrupted import leaves UsageError unbound.
    except KeyboardInterrupt:
        typer.echo("\nInterrupted.", err=True)
        return 130
    except UsageError as error:
        typer.echo(f"Error: {error}", err=True)
        return 2


def _demo(output: Path, command: list[str], **settings: Any) -> int:
    folder = None
    try:
        from .pipeline.stages import Folder, UsageError

        folder = Folder(output)
        folder.check_writable()
        from .pipeline.demo import run
        from .pipeline.settings import Settings

        return 0 if run(Settings.of(**settings), folder) else 1
    # First: an interrupted import leaves UsageError unbound.
    except KeyboardInterrupt:
        finished = "Nothing was finished yet." if folder is None else folder.finished_words()
        typer.echo(f"\nInterrupted. {finished}\nGo on with: {shlex.join(command)}")
        return 130
    except UsageError as error:
        typer.echo(f"Error: {error}", err=True)
        return 2
