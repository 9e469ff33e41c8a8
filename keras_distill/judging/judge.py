"""Models and files on the same examples, under everything that can happen to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from keras_distill.judging import choices
from keras_distill.judging.conditions import Clean, Condition, Corruption
from keras_distill.judging.court import Court
from keras_distill.judging.record import CLEAN, Figure, Gap, Judgement, SplitFigures
from keras_distill.judging.splits import Split
from keras_distill.measures.agreement import correlation
from keras_distill.measures.metric import NUMBERS, Answered, Metric
from keras_distill.measures.paired import drawn, interval, mcnemar

__all__ = ["judge"]

TASKS = ("auto", "classes", "yes or no", "numbers")


def judge(
    candidates: Mapping[str, Any],
    data: Any,
    *,
    baseline: str | None = None,
    metrics: Sequence[str | Metric] | None = None,
    conditions: Sequence[Condition] = (),
    splits: Sequence[Split] = (),
    train: Any = None,
    task: str = "auto",
    output: str | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    batch_size: int = 64,
    verbose: bool = True,
) -> Judgement:
    """Judges any number of models and files on the same examples, side by side.

    Each candidate answers once for every example under every condition; intervals, folds, groups
    and paired differences are weights on those answers. Memory holds one condition's answers.

    Args:
      candidates: by name a Keras model, the path of a `.tflite`, what `export_tflite` or
        `load_tflite` returned, a `Teacher`, or a callable on a batch.
      data: any data argument. Labels are class numbers or one-hot, 0 and 1, or numbers; -1 (of
        numbers NaN) for none. Without labels the baseline's answers stand for them.
      baseline: the name that others are compared with; None for the first.
      metrics: names ("accuracy", "top-5", "macro-F1", "NLL", "Brier", "ECE", "ROC-AUC", "mean IoU",
        "perplexity", "NDCG@10", "recall@10", "MAE", "RMSE", "R2") or `Metric`s, as
        `judging.quantile_loss((0.1, 0.5, 0.9))` and `judging.Metric.of(name, function)` make them;
        None for the task's usual ones. The first is shown under every condition.
      conditions: what may happen to the data, as `judging.image_corruptions()`, `judging.PGD(0.03)`
        or `judging.Unseen(other_data)`; the data as they are come first in any case.
      splits: as `judging.KFold(5)` or `judging.Groups(speakers)`, on the data as they are.
      train: what the models were trained on, for the gap between train and test.
      task: "classes", "yes or no", "numbers", or "auto", by the models' activations and the labels.
      output: the one to judge, of models with several.
      resamples: for the intervals.
      confidence: of the intervals, 0 to 1.
      seed: of the resamples.
      batch_size: rows a forward, for arrays.
      verbose: show progress.

    Returns:
      A `Judgement`: print it, `to_json`, `to_html`, `plot`. A file that ends the process which runs
      it is named in `failed`, and the others go on.

    Raises:
      TypeError: a candidate that can't be asked.
      ValueError: no candidates, other outputs, labels out of range, a metric of another task, a
        condition that does not fit the data, an option out of range; all but the last two before
        any work.

    Source: percentile bootstrap, Efron, Annals of Statistics, 1979; McNemar, Psychometrika, 1947;
    the mean corruption error of Hendrycks and Dietterich, ICLR 2019, with the baseline as the
    reference.

    >>> import keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> x, y = np.eye(4, dtype="float32"), np.array([0, 1, 2, 0])
    >>> found = judge({"a": model, "b": model}, (x, y), resamples=20, verbose=False)
    >>> found.figure("b", "accuracy").verdict, found.agreement["b"]
    ('not told apart', 1.0)
    """
    _check(candidates, baseline, task, resamples, confidence, batch_size)
    baseline = next(iter(candidates)) if baseline is None else baseline
    court = Court(candidates, data, baseline, task, output, batch_size)
    context = court.context
    asked = choices.chosen(metrics, context.task, len(context.shape) > 1, court.labelled)
    everything = (Clean(), *conditions)
    labels = [one.label for one in everything]
    if len(set(labels)) < len(labels):
        raise ValueError(f"Expected conditions of different names; got {labels[1:]}.")
    options: dict[str, Any] = {"resamples": resamples, "confidence": confidence, "seed": seed}
    figures: list[Figure] = []
    for condition in everything:
        found = court.heard(condition, data, verbose)
        figures += _figures(found, asked, baseline, condition.label, **options)
        if condition.label == CLEAN:
            clean = found
            parts = tuple(one for split in splits for one in _parts(split, found, asked))
    gaps: tuple[Gap, ...] = ()
    if train is not None:
        on_train = court.heard(Clean(), train, verbose, "training data")
        gaps = tuple(_gaps(on_train, clean, asked[0], **options))
    judged = [name for name in candidates if name in court.context.candidates]
    figures = [one for one in figures if one.model in judged]
    return Judgement(
        models=tuple(judged),
        baseline=baseline,
        task=context.task,
        rows=clean[baseline].rows,
        labelled=court.labelled,
        confidence=confidence,
        conditions=tuple(labels),
        metrics=tuple(metric.name for metric in asked),
        figures=tuple(figures),
        agreement={name: _agreement(clean[name], clean[baseline]) for name in judged},
        corruption_errors=_corruption_errors(figures, everything, judged, baseline),
        splits=tuple(one for one in parts if one.model in judged),
        gaps=tuple(one for one in gaps if one.model in judged),
        failed=court.failed,
        data_sha256=court.data_sha256,
    )


def _figures(
    models: Mapping[str, Answered],
    metrics: Sequence[Metric],
    baseline: str,
    condition: str,
    *,
    resamples: int,
    confidence: float,
    seed: int,
) -> Iterator[Figure]:
    draws = drawn(models, metrics, resamples, seed)
    values = {(name, m.name): m(models[name]) for name in models for m in metrics}
    for name, answered in models.items():
        for metric in metrics:
            value, other = values[name, metric.name], values[baseline, metric.name]
            own, theirs = draws[name, metric.name], draws[baseline, metric.name]
            figure = interval(value, own, confidence)
            apart = interval(value - other, own - theirs, confidence)
            yield Figure(
                model=name,
                condition=condition,
                metric=metric.name,
                value=figure.value,
                low=figure.low,
                high=figure.high,
                difference=apart.value,
                difference_low=apart.low,
                difference_high=apart.high,
                verdict=Figure.words(apart.told, metric.better),
                p_value=_p_value(answered, models[baseline], metric),
                better=metric.better,
                share=metric.share,
            )


def _p_value(answered: Answered, baseline: Answered, metric: Metric) -> float | None:
    if metric.name != "accuracy" or answered.labels.ndim > 1:
        return None
    known = answered.known
    hits = [(one.choices == one.labels)[known] for one in (answered, baseline)]
    return mcnemar(*hits)


def _parts(
    split: Split, models: Mapping[str, Answered], metrics: Sequence[Metric]
) -> Iterator[SplitFigures]:
    for name, answered in models.items():
        weights = split.weights(answered)
        stacked = np.stack(list(weights.values()))
        for metric in metrics:
            found = metric.under(answered, stacked).tolist()
            yield SplitFigures(
                name, metric.name, split.name, dict(zip(weights, found, strict=True))
            )


def _gaps(
    train: Mapping[str, Answered],
    test: Mapping[str, Answered],
    metric: Metric,
    *,
    resamples: int,
    confidence: float,
    seed: int,
) -> Iterator[Gap]:
    # Other examples: their draws have nothing in common.
    of_train = drawn(train, [metric], resamples, seed + 1)
    of_test = drawn(test, [metric], resamples, seed)
    for name in test:
        before, after = metric(train[name]), metric(test[name])
        draws = metric.better * (of_train[name, metric.name] - of_test[name, metric.name])
        gap = interval(metric.better * (before - after), draws, confidence)
        yield Gap(name, metric.name, before, after, gap.value, gap.low, gap.high)


def _agreement(answered: Answered, baseline: Answered) -> float:
    if answered.task == NUMBERS:
        return correlation(answered.answers, baseline.answers)
    return float(np.mean(answered.choices == baseline.choices))


def _corruption_errors(
    figures: Sequence[Figure], conditions: Sequence[Condition], models: Sequence[str], baseline: str
) -> dict[str, float]:
    """The mean over corruptions of errors, summed over severities, over the baseline's."""
    names = {one.label: one.name for one in conditions if isinstance(one, Corruption)}
    errors: dict[tuple[str, str], float] = {}
    for one in figures:
        if one.metric == "accuracy" and one.condition in names:
            key = one.model, names[one.condition]
            errors[key] = errors.get(key, 0.0) + 1 - one.value
    kinds = [kind for kind in dict.fromkeys(names.values()) if errors.get((baseline, kind), 0) > 0]
    if not kinds:
        return {}
    return {
        model: float(np.mean([errors[model, kind] / errors[baseline, kind] for kind in kinds]))
        for model in models
    }


def _check(
    candidates: Any,
    baseline: str | None,
    task: str,
    resamples: int,
    confidence: float,
    batch_size: int,
) -> None:
    if not isinstance(candidates, Mapping) or not candidates:
        raise ValueError(f"judge: expected candidates by name, one at least; got {candidates!r}.")
    if strange := [name for name in candidates if not isinstance(name, str) or not name]:
        raise ValueError(f"judge: names must be strings; got {strange}.")
    if baseline is not None and baseline not in candidates:
        raise ValueError(
            f"judge: baseline={baseline!r} is none of the candidates {', '.join(candidates)}."
        )
    if task not in TASKS:
        raise ValueError(f"judge: task must be one of {', '.join(TASKS)}; got {task!r}.")
    if resamples < 1 or not 0 < confidence < 1 or batch_size < 1:
        raise ValueError(
            f"judge: expected resamples and batch_size of 1 or more, and confidence between 0 and "
            f"1; got {resamples}, {batch_size} and {confidence}."
        )
