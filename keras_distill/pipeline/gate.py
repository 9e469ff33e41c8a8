"""The gate: a .tflite against its model and its tolerances, for a build server to ask."""

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_distill import _files, _json, edge
from keras_distill.edge.interface import interface_of
from keras_distill.edge.records import Check, VerificationReport
from keras_distill.edge.verification.verify import crashed
from keras_distill.litert.runner import CrashError, TFLiteRunner, load_tflite
from keras_distill.pipeline import writing
from keras_distill.pipeline.inputs import load_data, load_model, one_line, usage_errors
from keras_distill.pipeline.junit import write_junit
from keras_distill.training.stages import UsageError

MAX_DROP = 0.01
# The options that `verify` takes by the same names, with its own defaults.
_TOLERANCES = ("min_agreement", "max_bytes", "max_latency_ms", "max_error", "min_correlation")


@dataclass(frozen=True)
class Request:
    """What to verify, against what, where to write; the fields are the command's options."""

    file: Path
    model: Path
    data: str
    image_size: str | None = None
    rescale: str | None = None
    teacher: Path | None = None
    limit: int | None = None
    baseline: Path | None = None
    max_drop: float | None = None
    min_agreement: float | None = None
    max_bytes: int | None = None
    max_latency_ms: float | None = None
    max_error: float | None = None
    min_correlation: float | None = None
    junit: Path | None = None
    json: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """The report, whose `passed` is the gate's verdict, and the checks that made it."""

    report: VerificationReport
    checks: tuple[Check, ...]

    def __str__(self) -> str:
        lines = [f"{'passed' if c.passed else 'FAILED'}  {c.name}: {c.words}" for c in self.checks]
        return "\n".join([str(self.report), "", *lines])


def run(request: Request) -> Outcome:
    """Verifies a file and writes what was asked for.

    Raises:
      UsageError: something that was given can't be used; the JUnit file says so, too.
    """
    for path in (request.junit, request.json):
        if path is not None:
            writing.check_place(path)
    begin = time.monotonic()
    try:
        outcome = _verified(request)
    except UsageError as error:
        if request.junit is not None:
            # Else the build server would read the verdict of the run before.
            write_junit(request.junit, request.file, (), time.monotonic() - begin, str(error))
        raise
    if request.json is not None:
        _files.write(request.json, (outcome.report.to_json() + "\n").encode())
    if request.junit is not None:
        seconds, table = time.monotonic() - begin, str(outcome.report)
        write_junit(request.junit, request.file, outcome.checks, seconds, output=table)
    return outcome


def _verified(request: Request) -> Outcome:
    baseline = None if request.baseline is None else load_baseline(request.baseline)
    try:
        with usage_errors(passing=CrashError):
            runner = load_tflite(request.file)
    except CrashError as error:
        report = crashed(request.file, error)
        return Outcome(report, report.checks)
    model, teacher = load_model(request.model), None
    if request.teacher is not None:
        teacher = load_model(request.teacher)
    data = load_data(
        request.data,
        model,
        limit=request.limit,
        image_size=request.image_size,
        rescale=request.rescale,
    )
    _check_labels(runner, request.data, data.class_names)
    with usage_errors():
        for path, found in ((request.model, model), (request.teacher, teacher)):
            if found is not None:
                _check_inputs(runner, path, found)
        try:
            report = edge.verify(
                runner,
                model,
                data.examples,
                teacher=teacher,
                max_drop=MAX_DROP if request.max_drop is None else request.max_drop,
                **{name: getattr(request, name) for name in _TOLERANCES},
            )
        except edge.VerificationError as error:
            report = error.report
    checks = (*report.checks, *_against(baseline, request, report))
    passed = all(check.passed for check in checks)
    return Outcome(dataclasses.replace(report, checks=checks, passed=passed), checks)


def _against(
    baseline: "Baseline | None", request: Request, report: VerificationReport
) -> Iterator[Check]:
    accuracy = report.accuracy_file
    if report.rows is None:
        return
    if accuracy is None and (request.max_drop is not None or baseline is not None):
        raise UsageError(
            f"--max-drop and --baseline compare accuracies, and {request.data} has no class "
            f"labels. Add them as the array y, or leave these options out."
        )
    if accuracy is None or baseline is None:
        return
    for name, before, now in (
        ("rows", baseline.rows, report.rows),
        ("data_sha256", baseline.data_sha256, report.data_sha256),
    ):
        if before is not None and before != now:
            raise UsageError(
                f"the baseline {request.baseline} was measured on other data: its {name} is "
                f"{before}, and here it is {now}. Verify its file on these data with --json."
            )
    limit = MAX_DROP if request.max_drop is None else request.max_drop
    drop = baseline.accuracy - accuracy
    words = (
        f"the file is right on {accuracy:.2%}, the baseline on {baseline.accuracy:.2%}: a drop of "
        f"{100 * drop:.2f} points, {100 * limit:.2f} allowed"
    )
    # 0.97 - 0.96 is a little more than 0.01 in binary, and just met is met.
    yield Check("accuracy against the baseline", words, drop <= limit + 1e-9)


@dataclass(frozen=True)
class Baseline:
    """An earlier report: the accuracy of its file, and on what, where it says so."""

    accuracy: float
    rows: int | None = None
    data_sha256: str | None = None


def load_baseline(path: Path) -> Baseline:
    """An earlier report, of a file that passed.

    Raises:
      UsageError: there is no such report, it has no accuracy, or its file did not pass.
    """
    try:
        found = _json.read(path)
        accuracy = found["accuracy_file"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is no report that an earlier verify wrote with --json: {one_line(error)}"
        ) from error
    if isinstance(accuracy, bool) or not isinstance(accuracy, (int, float)):
        raise UsageError(f"the baseline {path} has no accuracy: it was measured without labels.")
    if not 0 <= accuracy <= 1:
        raise UsageError(f"the baseline {path} has an accuracy of {accuracy}, not of 0 to 1.")
    if found.get("passed") is False:
        raise UsageError(
            f"the baseline {path} is of a file that did not pass (passed: false): keep the report "
            f"of one that did."
        )
    return Baseline(float(accuracy), found.get("rows"), found.get("data_sha256"))


def _check_inputs(runner: TFLiteRunner, path: Path | None, model: keras.Model) -> None:
    ours = [info.shape[1:] for info in runner.inputs]
    theirs = [tuple(spec.shape[1:]) for spec in interface_of(model).specs.values()]
    alike = len(ours) == len(theirs) and all(
        tf.TensorShape(a).is_compatible_with(b) for a, b in zip(ours, theirs, strict=True)
    )
    if not alike:
        raise UsageError(
            f"{runner.path} takes rows of {_shapes(ours)} and {path} of {_shapes(theirs)}: they "
            f"don't belong together."
        )


def _check_labels(runner: TFLiteRunner, data: str, names: tuple[str, ...] | None) -> None:
    ours = runner.labels
    if ours is not None and names is not None and ours != names and {*ours} == {*names}:
        raise UsageError(
            f"{runner.path} numbers its classes {', '.join(ours)}; {data} has them in another "
            f"order, {', '.join(names)}. Export the file with the names in that order."
        )


def _shapes(found: list[Any]) -> str:
    return " and ".join(map(str, found))
