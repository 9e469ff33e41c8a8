"""Which metrics a task is judged by, unless others are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from keras_distill import measures
from keras_distill.measures.metric import CLASSES, NUMBERS, YES_OR_NO, Metric

__all__ = ["chosen"]

_NAMED: dict[str, Callable[[], Metric]] = {
    "accuracy": measures.accuracy,
    "top-5": measures.top_k,
    "macro-F1": measures.f1,
    "NLL": measures.nll,
    "Brier": measures.brier,
    "ECE": measures.expected_calibration_error,
    "ROC-AUC": measures.roc_auc,
    "mean IoU": measures.mean_iou,
    "perplexity": measures.perplexity,
    "NDCG@10": measures.ndcg,
    "recall@10": measures.recall,
    "MAE": measures.mae,
    "RMSE": measures.rmse,
    "R2": measures.r2,
}
_USUAL = {
    CLASSES: ("accuracy", "macro-F1", "NLL", "ECE"),
    YES_OR_NO: ("accuracy", "macro-F1", "ROC-AUC", "NLL", "ECE"),
    NUMBERS: ("MAE", "RMSE", "R2"),
}
# Of an answer for each position.
_USUAL_OF_MAPS = ("accuracy", "mean IoU")


def chosen(
    asked: Sequence[str | Metric] | None, task: str, positions: bool, labelled: bool
) -> tuple[Metric, ...]:
    """The metrics: those asked for, or a task's usual ones.

    Args:
      asked: names or metrics.
      task: what the models are asked.
      positions: whether there is a class for each of several positions.
      labelled: whether there are labels; without any the baseline's answers serve as such.

    Raises:
      ValueError: an unknown name, one twice, or a metric of another task.
    """
    if asked is None:
        usual = _USUAL_OF_MAPS if positions and task == CLASSES else _USUAL[task]
        asked = usual if labelled else usual[:1]
    found = tuple(one if isinstance(one, Metric) else _named(one) for one in asked)
    names = [one.name for one in found]
    if len(set(names)) < len(names) or not names:
        raise ValueError(f"Expected metrics of different names, one at least; got {names}.")
    for metric in found:
        if task not in metric.tasks:
            fits = ", ".join(n for n, make in _NAMED.items() if task in make().tasks)
            raise ValueError(
                f"{metric.name} is for {' and '.join(metric.tasks)}, and these models are asked "
                f"for {task}: {fits}."
            )
    return found


def _named(name: str) -> Metric:
    make = _NAMED.get(name)
    if make is None:
        raise ValueError(
            f"There is no metric {name!r}. Known are {', '.join(_NAMED)}; others are made with "
            f"keras_distill.judging.Metric.of(name, function)."
        )
    return make()
