"""`--dry-run`: what a run would do, how large its models are, what would not be quantised."""

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.table import Table

from keras_distill import edge
from keras_distill.edge.analysis import Analysis
from keras_distill.pipeline.inputs import one_line
from keras_distill.pipeline.recipes.stages import Export, Quantize, Training
from keras_distill.pipeline.runs.run import Run
from keras_distill.pipeline.runs.training import steps_of
from keras_distill.pipeline.runs.workshop import Workshop
from keras_distill.transfer import profile

__all__ = ["dry_run"]


def dry_run(shop: Workshop, run: Run) -> Iterator[Any]:
    """What rich prints: the stages, the models, and sentences on what will not be quantised."""
    yield _stages(shop, run)
    models = {
        line: shop.begun(line)
        for line, source in shop.recipe.models.items()
        if source.build or source.file
    }
    yield _models(models)
    integers = {
        one.model
        for one in shop.recipe.stages
        if isinstance(one, Quantize) or (isinstance(one, Export) and one.precision == "int8")
    }
    for line, model in models.items():
        if line in integers:
            yield f"{line}: {_left_in_float(model)}"
    for line in shop.recipe.models.keys() - models.keys():
        yield f"{line}: its size is known once the stage that makes it has run."


def _stages(shop: Workshop, run: Run) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for heading in ("stage", "reads", "trains", "runs"):
        table.add_column(heading, overflow="fold")
    reasons = run.reasons()
    for step in run.steps:
        trains = ""
        if isinstance(step.stage, Training) and step.stage.epochs:
            batches = steps_of(step.stage, shop.examples)
            trains = f"{step.stage.epochs} x {batches} batches"
        reads = ", ".join(step.reads) or "the data"
        table.add_row(step.title, reads, trains, reasons[step.title] or "no: finished earlier")
    return table


def _models(models: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("model")
    for heading in ("parameters", "multiply-\nadds", "bytes at\nfloat32", "bytes at\nint8"):
        table.add_column(heading, justify="right")
    for line, model in models.items():
        found = profile(model)
        table.add_row(
            line,
            f"{found.parameters:,}",
            f"{found.macs:,}",
            f"{found.bytes_float32:,}",
            f"{found.bytes_int8:,}",
        )
    return table


def _left_in_float(model: Any) -> str:
    try:
        found = Analysis(edge.quantize_aware(model)).left_in_float
    except ValueError as error:
        return f"will not be quantised: {one_line(error)}"
    if not found:
        return "every layer with weights will be quantised."
    return f"will stay in float: {', '.join(found)}."
