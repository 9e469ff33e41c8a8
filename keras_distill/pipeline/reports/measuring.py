"""All that a run made, asked the same examples, timed alike and looked into."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_distill import judging
from keras_distill.edge.tflite_file import read_content
from keras_distill.judging.record import Judgement
from keras_distill.litert.child import CrashError
from keras_distill.litert.quiet import quiet_tensorflow
from keras_distill.litert.runner import file_sha256, load_tflite
from keras_distill.pipeline.inputs import load_model, one_line
from keras_distill.pipeline.reports.classes import classes, groups, known
from keras_distill.pipeline.reports.layers import LayerRow, layers
from keras_distill.pipeline.reports.made import Facts, Made
from keras_distill.pipeline.reports.record import Beside, Row, RunReport
from keras_distill.pipeline.reports.robustness import robustness
from keras_distill.pipeline.reports.timing import Clock

__all__ = ["measure"]


def measure(
    made: Sequence[Made],
    facts: Facts,
    x_test: Any,
    y_test: Any,
    class_names: Sequence[str] | None = None,
    *,
    teacher: str = "teacher",
    twin: str = "twin",
    progress: Callable[[str], None] | None = None,
) -> RunReport:
    """Ask every model and file the test examples, take their times and look into the files.

    Args:
      made: in the order in which it was made, a model before its files.
      facts: what the run says of itself.
      x_test: inputs, as the models take them.
      y_test: labels, as `kd.judge` takes them; None for none, then the teacher's answers stand for
        them.
      class_names: by number; None for the numbers themselves.
      teacher, twin: the lines whose last Keras models others are compared with; a run may have
        neither.
      progress: is told what is measured next, in words.

    Returns:
      A `RunReport`. A file that ends the process which runs it has a row without figures, and a
      note.

    Raises:
      ValueError: nothing was made, two have one name, or answers that `kd.judge` can't compare.
      UsageError, FileNotFoundError: a model or file can't be read.
    """
    _check(made)
    tell = progress or (lambda words: None)
    models = {one.name: load_model(Path(one.path)) for one in made if not one.is_file}
    candidates, notes = _candidates(made, models)
    references = {
        line: next((o.name for o in reversed(made) if o.line == line and not o.is_file), None)
        for line in (teacher, twin)
    }
    tell("the answers to the test examples")
    labels = None if y_test is None else np.asarray(y_test)
    data = x_test if labels is None else (x_test, labels)
    main = references[teacher] or references[twin] or next(iter(candidates))
    parts = groups(labels, class_names)
    first = _judged(
        candidates,
        data,
        baseline=main,
        splits=[] if parts is None else [judging.Groups(parts, "class")],
        seed=facts.seed,
    )
    metric = first.metrics[0]
    second = None
    if references[twin] not in (None, main):
        second = _judged(
            candidates,
            data,
            baseline=references[twin],
            metrics=[metric],
            task=first.task,
            seed=facts.seed,
        )
    notes |= {name: f"not judged: {why}" for name, why in first.failed.items()}
    verified = _verified(facts.records)
    clock = Clock(_first_row(x_test))
    rows: list[Row] = []
    found: list[LayerRow] = []
    for one in made:
        tell(one.name)
        source = models.get(_source(one, made) or "")
        rows.append(
            Row(
                name=one.name,
                line=one.line,
                stage=one.stage,
                file=Path(one.path).name,
                is_file=one.is_file,
                parameters=None if source is None else source.count_params(),
                seconds=one.seconds,
                outcome=one.outcome,
                **_figures(one.name, first, metric),
                agreement=_agreement(one.name, first, references[teacher]),
                from_teacher=_beside(one.name, first, metric, references[teacher]),
                from_twin=_beside(one.name, second or first, metric, references[twin]),
                **_costs(one, models.get(one.name), clock, notes.get(one.name, "")),
                verified=verified.get(file_sha256(one.path)) if one.is_file else None,
            )
        )
        if one.is_file and one.name not in notes:
            found += layers(one.name, Path(one.path), source, x_test)
    shown = first.figure(first.baseline, metric)
    return RunReport(
        title=facts.title,
        description=facts.description,
        command=facts.command,
        seed=facts.seed,
        environment=dict(facts.environment),
        data=dict(facts.data),
        recipe=facts.recipe,
        metric=metric,
        share=shown.share,
        better=shown.better,
        task=first.task,
        confidence=first.confidence,
        test_rows=first.rows,
        teacher=references[teacher],
        twin=references[twin],
        rows=tuple(rows),
        classes=tuple(classes(first, metric, labels, class_names)),
        curves={one.name: _curves(one.history) for one in made if one.history},
        layers=tuple(found),
        robustness=tuple(robustness(facts.records)),
        host=clock.host,
        labelled=first.labelled,
    )


def _judged(candidates: Mapping[str, Any], data: Any, **options: Any) -> Judgement:
    # A model each is traced, of which TensorFlow would warn.
    with quiet_tensorflow():
        return judging.judge(candidates, data, verbose=False, **options)


def _check(made: Sequence[Made]) -> None:
    names = [one.name for one in made]
    if not made or len(set(names)) < len(names):
        raise ValueError(f"measure: expected things of different names, one at least; got {names}.")


def _candidates(
    made: Sequence[Made], models: Mapping[str, keras.Model]
) -> tuple[dict[str, Any], dict[str, str]]:
    """What the judge asks by name, and why a file can't be asked."""
    found: dict[str, Any] = {}
    notes: dict[str, str] = {}
    for one in made:
        try:
            found[one.name] = load_tflite(one.path) if one.is_file else models[one.name]
        except CrashError as error:
            notes[one.name] = f"not judged: {one_line(error)}"
    if not found:
        raise ValueError(f"measure: none of the files can be run: {'; '.join(notes.values())}")
    return found, notes


def _source(one: Made, made: Sequence[Made]) -> str | None:
    """The name of the model that something is, or was exported from."""
    if not one.is_file:
        return one.name
    if one.source is not None:
        return one.source
    before = made[: list(made).index(one)]
    return next((o.name for o in reversed(before) if o.line == one.line and not o.is_file), None)


def _figures(name: str, judged: Judgement, metric: str) -> dict[str, Any]:
    if name not in judged.models:
        return {}
    found = judged.figure(name, metric)
    others = {one: known(judged.figure(name, one).value) for one in judged.metrics if one != metric}
    return {
        "value": known(found.value),
        "low": known(found.low),
        "high": known(found.high),
        "figures": others,
    }


def _agreement(name: str, judged: Judgement, teacher: str | None) -> float | None:
    if teacher is None or name not in judged.models:
        return None
    return judged.agreement[name]


def _beside(name: str, judged: Judgement, metric: str, other: str | None) -> Beside | None:
    if other is None or name == other or name not in judged.models or judged.baseline != other:
        return None
    found = judged.figure(name, metric)
    return Beside(found.difference, found.difference_low, found.difference_high, found.verdict)


def _costs(one: Made, model: keras.Model | None, clock: Clock, note: str) -> dict[str, Any]:
    """Bytes, times and what is inside."""
    path = Path(one.path)
    if model is not None:
        timed = clock.of_model(model)
        size = path.stat().st_size if path.is_file() else _bytes_below(path)
        found: dict[str, Any] = {
            "bytes": size,
            "bytes_zipped": size,
            "keras_p50_ms": clock.in_keras(model),
        }
    else:
        content = read_content(path)
        found = {
            "bytes": content.bytes,
            "bytes_zipped": content.bytes_zipped,
            "sparsity": content.sparsity,
            "dtypes": content.dtypes,
        }
        if note:
            return found | {"note": note}
        timed = clock.of_file(path)
    return found | {
        "litert_p50_ms": timed.p50_ms,
        "litert_bytes": timed.bytes,
        "note": timed.why,
    }


def _bytes_below(folder: Path) -> int:
    return sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())


def _first_row(x: Any) -> Any:
    return keras.tree.map_structure(lambda leaf: np.asarray(leaf)[:1], x)


def _verified(records: Mapping[str, Any]) -> dict[str, bool]:
    """By the digest of a file whether it passed."""
    return {
        record["file_sha256"]: bool(record["passed"])
        for record in records.values()
        if isinstance(record, Mapping) and record.get("file_sha256") and "passed" in record
    }


def _curves(history: Mapping[str, Sequence[float]]) -> dict[str, tuple[float | None, ...]]:
    return {key: tuple(map(known, values)) for key, values in history.items()}
