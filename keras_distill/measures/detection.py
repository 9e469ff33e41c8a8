"""The mean average precision of boxes, counted by pycocotools."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np

from keras_distill._extras import install_hint
from keras_distill.measures.metric import NUMBERS, Answered, Metric

__all__ = ["mean_average_precision"]

_MOST = 100


def mean_average_precision(iou: float | None = None) -> Metric:
    """COCO's mean average precision of boxes, over classes, of at most a hundred an example.

    Answers are `(rows, boxes, 6)`: left, top, width, height, class, score; a box of score 0 or less
    is none. Labels have the same shape, NaN in rows that hold no object; their score is not looked
    at. A detector that answers otherwise is judged as a function that turns its answers into these.

    Args:
      iou: how much boxes must overlap, between 0 and 1; None for the mean over 0.5, 0.55, ... 0.95.

    Raises:
      ModuleNotFoundError: pycocotools is missing, which the extra "detection" brings.
      ValueError: `iou` is out of range.

    Source: Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; pycocotools matches
    and counts.
    """
    if iou is not None and not 0 < iou < 1:
        raise ValueError(f"mean_average_precision: iou must lie between 0 and 1; got {iou}.")
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"The mean average precision is counted by pycocotools: {install_hint('detection')}"
        ) from error

    def under(answered: Answered, weights: np.ndarray) -> np.ndarray:
        shape = answered.answers.shape
        if len(shape) != 3 or shape[-1] != 6 or answered.labels.shape[2:] != (6,):
            raise ValueError(
                f"mAP is of boxes (rows, boxes, 6): left, top, width, height, class, score; got "
                f"answers of {shape} and labels of {answered.labels.shape}."
            )
        # Printing is how the library says what it does.
        with contextlib.redirect_stdout(io.StringIO()):
            matched = _matched(answered, iou)
            return np.array([_precision(matched, one) for one in weights])

    name = "mAP" if iou is None else f"mAP@{iou:g}"
    return Metric(name, under, share=True, tasks=(NUMBERS,))


def _matched(answered: Answered, iou: float | None) -> Any:
    """The library's evaluation of boxes and objects, matched example by example."""
    from pycocotools.cocoeval import COCOeval

    labels, answers = answered.labels, answered.answers
    objects = [(row, labels[row, n]) for row, n in np.argwhere(~np.isnan(labels[..., :5]).any(-1))]
    boxes = [(row, answers[row, n]) for row, n in np.argwhere(answers[..., 5] > 0)]
    classes = sorted({int(box[4]) for _, box in (*objects, *boxes)})
    judge = COCOeval(*(_listed(answered.rows, classes, one) for one in (objects, boxes)), "bbox")
    judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
    judge.params.maxDets = [_MOST]
    if iou is not None:
        judge.params.iouThrs = np.array([iou])
    judge.evaluate()
    return judge


def _listed(rows: int, classes: list[int], boxes: list[tuple[int, np.ndarray]]) -> Any:
    from pycocotools.coco import COCO

    found = COCO()
    found.dataset = {
        "images": [{"id": row} for row in range(rows)],
        "categories": [{"id": number} for number in classes],
        "annotations": [_entry(n, row, box) for n, (row, box) in enumerate(boxes, 1)],
    }
    found.createIndex()
    return found


def _entry(number: int, row: int, box: np.ndarray) -> dict[str, Any]:
    left, top, width, height, kind, score = map(float, box)
    entry = {"id": number, "image_id": int(row), "category_id": int(kind), "iscrowd": 0}
    return entry | {"bbox": [left, top, width, height], "area": width * height, "score": score}


def _precision(matched: Any, weights: np.ndarray) -> float:
    """The mean precision over examples that count as often as they weigh; NaN of no object."""
    from pycocotools.cocoeval import COCOeval

    drawn = np.repeat(np.arange(len(weights)), np.rint(weights).astype(int))
    classes, rows = matched.params.catIds, len(weights)

    class Drawn(COCOeval):
        """Takes what was matched before, for each example as often as it was drawn."""

        def computeIoU(self, imgId: int, catId: int) -> list[float]:  # noqa: N802, N803
            return []

        def evaluateImg(self, imgId: int, catId: int, *_: Any) -> Any:  # noqa: N802, N803
            return matched.evalImgs[classes.index(catId) * rows + drawn[imgId]]

    judge = Drawn(*(_listed(len(drawn), classes, []) for _ in range(2)), "bbox")
    for name in ("areaRng", "areaRngLbl", "maxDets", "iouThrs"):
        setattr(judge.params, name, getattr(matched.params, name))
    judge.evaluate()
    judge.accumulate()
    precision = judge.eval["precision"]
    there = precision > -1
    return float(precision[there].mean()) if there.any() else float("nan")
