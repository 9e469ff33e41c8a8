"""The judge for a build server: models and files side by side, and demands on what was found."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from keras_distill import _files, judging
from keras_distill.edge.records import Check
from keras_distill.litert.child import CrashError
from keras_distill.litert.runner import load_tflite
from keras_distill.pipeline import writing
from keras_distill.pipeline.inputs import load_data, load_model, usage_errors
from keras_distill.pipeline.junit import write_junit
from keras_distill.training.stages import UsageError

__all__ = ["CONDITIONS", "Outcome", "Request", "run"]

CONDITIONS = {
    "images": judging.image_corruptions,
    "recordings": judging.signal_corruptions,
    "tables": judging.table_corruptions,
    "tokens": judging.token_corruptions,
}


@dataclass(frozen=True)
class Request:
    """What to judge, on what, where to write; the fields are the command's options."""

    models: Sequence[str]
    data: str
    baseline: str | None = None
    metric: Sequence[str] | None = None
    conditions: str | None = None
    unseen: str | None = None
    train: str | None = None
    folds: int | None = None
    task: str = "auto"
    output: str | None = None
    limit: int | None = None
    gate: Sequence[str] | None = None
    html: Path | None = None
    json: Path | None = None
    junit: Path | None = None
    image_size: str | None = None
    rescale: str | None = None


@dataclass(frozen=True)
class Outcome:
    """The record, and the gates that were checked."""

    record: judging.Judgement
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every gate holds and every file ran."""
        return all(check.passed for check in self.checks)

    def __str__(self) -> str:
        lines = [f"{'passed' if c.passed else 'FAILED'}  {c.name}: {c.words}" for c in self.checks]
        return "\n".join([str(self.record), "", *lines]).rstrip()


def run(request: Request) -> Outcome:
    """Judges and writes what was asked for.

    Raises:
      UsageError: something that was given can't be used; the JUnit file says so, too.
    """
    for path in (request.html, request.json, request.junit):
        if path is not None:
            writing.check_place(path)
    begin, subject = time.monotonic(), " ".join(request.models)
    try:
        outcome = _judged(request)
    except UsageError as error:
        if request.junit is not None:
            seconds = time.monotonic() - begin
            write_junit(request.junit, subject, (), seconds, str(error), command="judge")
        raise
    if request.html is not None:
        outcome.record.to_html(request.html)
    if request.json is not None:
        _files.write(request.json, (outcome.record.to_json() + "\n").encode())
    if request.junit is not None:
        seconds = time.monotonic() - begin
        table = str(outcome.record)
        write_junit(request.junit, subject, outcome.checks, seconds, output=table, command="judge")
    return outcome


def _judged(request: Request) -> Outcome:
    paths = _named(request.models)
    with usage_errors():
        gates = [judging.Gate.of(text, list(paths)) for text in request.gate or ()]
        candidates, failed = {}, {}
        for name, path in paths.items():
            try:
                candidates[name] = _loaded(path)
            except CrashError as error:
                failed[name] = str(error)
        if not candidates:
            raise UsageError("; ".join(failed.values()))
        like = next((one for one in candidates.values() if isinstance(one, keras.Model)), None)
        found = _data(request.data, like, request)
        options: dict[str, Any] = {}
        if request.train is not None:
            options["train"] = _data(request.train, like, request, part="train").examples
        conditions: list[judging.Condition] = []
        if request.conditions is not None:
            conditions += CONDITIONS[request.conditions]()
        if request.unseen is not None:
            conditions.append(judging.Unseen(_data(request.unseen, like, request).examples))
        if request.folds is not None:
            options["splits"] = [judging.KFold(request.folds)]
        record = judging.judge(
            candidates,
            found.examples,
            baseline=request.baseline,
            metrics=request.metric or None,
            conditions=conditions,
            task=request.task,
            output=request.output,
            **options,
        )
        failed |= record.failed
        checks = [Check(f"{name} runs", why, False) for name, why in failed.items()]
        checks += [_checked(gate, record, set(failed)) for gate in gates]
    return Outcome(record, tuple(checks))


def _checked(gate: judging.Gate, record: judging.Judgement, failed: set[str]) -> Check:
    """A gate on what does not run holds in no case."""
    models = {side.model for side in (gate.left, gate.right) if side is not None}
    if lost := models & failed:
        return Check(gate.text, f"{', '.join(sorted(lost))} does not run", False)
    return gate.check(record)


def _named(models: Sequence[str]) -> dict[str, Path]:
    """By NAME of NAME=PATH, else by the file's name, without its ending where that is enough."""
    pairs = [one.partition("=") if "=" in one else ("", "", one) for one in models]
    stems = Counter(Path(path).stem for name, _, path in pairs if not name)
    found: dict[str, Path] = {}
    for name, _, path in pairs:
        short = Path(path).stem if stems[Path(path).stem] == 1 else Path(path).name
        name = name or short
        if name in found:
            raise UsageError(
                f"{found[name]} and {path} would both be called {name}. Name them: "
                f"a={found[name]} b={path}."
            )
        found[name] = Path(path)
    return found


def _loaded(path: Path) -> Any:
    return load_tflite(path) if path.suffix == ".tflite" else load_model(path)


def _data(name: str, like: keras.Model | None, request: Request, part: str = "test") -> Any:
    if like is None and Path(name).is_dir():
        raise UsageError(
            f"{name} is a folder of images, whose size a Keras model tells, and none is judged. "
            f"Add the model that the files came from."
        )
    return load_data(
        name,
        like,  # type: ignore[arg-type]
        limit=request.limit,
        part=part,
        image_size=request.image_size,
        rescale=request.rescale,
    )
