"""A run's report: what its stages made, measured once, and written for people."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from keras_distill import _json
from keras_distill.pipeline.recipes.reading import written
from keras_distill.pipeline.reports import Facts, Made, RunReport, measure
from keras_distill.pipeline.runs.run import Run
from keras_distill.pipeline.runs.stages import HISTORY
from keras_distill.pipeline.runs.workshop import MODEL, Workshop, tflite_name

__all__ = ["REPORT", "report"]

REPORT = "report.json"
RECORDS = ("verification.json", "judgement.json")


def report(work: Run, shop: Workshop, console: Console) -> RunReport | None:
    """Measure and write what has changed since the last report, and print it.

    Returns:
      The record; None where no stage made a model.
    """
    made = _made(work, shop)
    if not made:
        return None
    folder = shop.folder
    found = _earlier(work, shop)
    if found is None:
        found = _measured(work, shop, made, console)
        found.save(folder / REPORT)
        found.to_html(folder / "report.html")
        found.to_markdown(folder / "report.md")
        work.reported()
    console.print(str(found), soft_wrap=True, markup=False)
    console.print(f"The report for others: {folder / 'report.html'}", soft_wrap=True)
    return found


def _earlier(work: Run, shop: Workshop) -> RunReport | None:
    """The report of the same files; None where it is not there, or of another version."""
    if not work.is_reported():
        return None
    try:
        return RunReport.load(shop.folder / REPORT)
    except (OSError, ValueError):
        return None


def _measured(work: Run, shop: Workshop, made: list[Made], console: Console) -> RunReport:
    record, examples = work.record, shop.examples
    facts = Facts(
        title=record["name"],
        description=record["description"],
        command=record["command"],
        seed=record["seed"],
        environment=record["environment"],
        data=record["data"],
        recipe=written(shop.recipe),
        records=_records(work, shop),
    )
    with console.status("measuring") as status:
        return measure(
            made,
            facts,
            examples.test.x,
            examples.test.y,
            examples.class_names,
            progress=lambda words: status.update(f"measuring {words}"),
        )


def _made(work: Run, shop: Workshop) -> list[Made]:
    """The models and files of the run, in the stages' order."""
    found: list[Made] = []
    for step in work.steps:
        folder = shop.folder / step.title
        stage: Any = step.stage
        path = folder / (tflite_name(stage) if stage.stage == "export" else MODEL)
        if not path.is_file():
            continue
        history, entry = folder / HISTORY, work.record["stages"][step.title]
        found.append(
            Made(
                name=step.title,
                line=stage.goes_to,
                stage=stage.stage,
                path=path,
                source=step.models.get(stage.model) if stage.stage == "export" else None,
                history=_json.read(history) if history.is_file() else None,
                seconds=entry["seconds"],
                outcome=entry["outcome"],
            )
        )
    return found


def _records(work: Run, shop: Workshop) -> Mapping[str, Any]:
    """By stage what its record says."""
    return {
        step.title: _json.read(file)
        for step in work.steps
        for name in RECORDS
        if (file := shop.folder / step.title / name).is_file()
    }
