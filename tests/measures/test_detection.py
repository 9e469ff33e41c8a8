"""The mean average precision: COCO's own evaluation of the same boxes, whatever the weights."""

import contextlib
import io
import sys

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import keras_distill as kd
from keras_distill import judging
from keras_distill.measures.metric import NUMBERS, Answered

ROWS, BOXES = 8, 5


@pytest.fixture
def answered():
    """Objects of three classes; boxes are near them, of another class, or of nothing."""
    rng = np.random.default_rng(0)
    labels = np.full((ROWS, BOXES, 6), np.nan)
    for row in range(1, ROWS):  # The first example holds nothing.
        for n in range(rng.integers(1, BOXES)):
            labels[row, n, :5] = [*rng.uniform(0, 50, 2), *rng.uniform(20, 40, 2), n % 3]
    answers = np.nan_to_num(labels) + 0.0
    answers[..., :4] += rng.normal(0, 4, (ROWS, BOXES, 4))
    answers[..., 2:4] = np.abs(answers[..., 2:4]) + 1
    answers[::3, 0, 4] = 1
    answers[..., 5] = np.round(rng.uniform(0.1, 1, (ROWS, BOXES)), 1)
    answers[:, -1, 5] = 0
    return Answered(NUMBERS, answers, labels)


def by_coco(answered):
    truth, boxes = [], []
    for row in range(answered.rows):
        for *box, kind, _ in answered.labels[row]:
            if not np.isnan(kind):
                entry = {"id": len(truth) + 1, "image_id": row, "category_id": int(kind)}
                truth.append(entry | {"bbox": box, "area": box[2] * box[3], "iscrowd": 0})
        for *box, kind, score in answered.answers[row]:
            if score > 0:
                entry = {"image_id": row, "category_id": int(kind), "score": score}
                boxes.append(entry | {"bbox": list(box)})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": row} for row in range(answered.rows)],
            "annotations": truth,
            "categories": [{"id": kind} for kind in range(3)],
        }
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(boxes), "bbox")
        judge.evaluate(), judge.accumulate(), judge.summarize()
    return judge.stats[:2]


def test_it_is_coco_s(answered):
    mean, half = by_coco(answered)
    assert 0.05 < mean < half < 0.95
    assert judging.mean_average_precision()(answered) == pytest.approx(mean)
    assert judging.mean_average_precision(0.5)(answered) == pytest.approx(half)


def test_a_weight_is_so_many_examples(answered):
    weights = np.random.default_rng(1).integers(0, 3, (4, ROWS))
    found = judging.mean_average_precision().under(answered, weights.astype("float64"))
    for one, value in zip(weights, found, strict=True):
        places = np.repeat(np.arange(ROWS), one)
        drawn = Answered(NUMBERS, answered.answers[places], answered.labels[places])
        assert value == pytest.approx(by_coco(drawn)[0])


def test_the_judge_counts_it(answered):
    def detector(x):
        return answered.answers[np.asarray(x)[:, 0].astype(int)].astype("float32")

    x = np.arange(ROWS, dtype="float32")[:, None]
    record = kd.judge(
        {"boxes": detector},
        (x, answered.labels),
        metrics=[judging.mean_average_precision(0.5)],
        resamples=20,
        verbose=False,
    )
    found = record.figure("boxes", "mAP@0.5")
    assert found.value == pytest.approx(by_coco(answered)[1], abs=1e-6)
    assert found.low < found.value < found.high


def test_what_is_missing_or_wrong_is_said(answered, monkeypatch):
    with pytest.raises(ValueError, match=r"between 0 and 1; got 50"):
        judging.mean_average_precision(50)
    flat = Answered(NUMBERS, np.ones((3, 4)), np.ones((3, 4)))
    with pytest.raises(ValueError, match=r"boxes \(rows, boxes, 6\)"):
        judging.mean_average_precision()(flat)
    nothing = Answered(NUMBERS, answered.answers, np.full_like(answered.labels, np.nan))
    assert np.isnan(judging.mean_average_precision()(nothing))
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ModuleNotFoundError, match=r"counted by pycocotools: pip install"):
        judging.mean_average_precision()
