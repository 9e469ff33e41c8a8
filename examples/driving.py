"""Things in a scene, by pixel and by box: one network with three heads learns from a larger one.

Shows: segmentation and an anchor-free detector distilled together, few labels, mAP and mean IoU.
Needs: pip install -e ".[demo]" pycocotools; CIFAR-10 and Fashion-MNIST (docs/examples.md).
Takes: some ten minutes on two cores; --smoke ten seconds.

    python examples/driving.py

A scene is a photograph of CIFAR-10 with one to three garments of Fashion-MNIST in it, of any size
and tint: real things, composed, so that every pixel and box is known. A hundred of
the 3,000 scenes have labels for the student, as where a fleet records far more than anyone draws
outlines on; the teacher has learned from all labels. The twin is the same network, from the same
first weights and by as many updates, on the labelled scenes alone.
"""

import contextlib
import io
from pathlib import Path

from _shared import arguments, draw, in_folder, table

import keras
import numpy as np
from _scenes import COARSE, SIZE, THINGS, scenes
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import keras_distill as kd

BATCH = 32
BASELINE = "student, a hundred labelled scenes"


def network(width: int, seed: int, name: str) -> keras.Model:
    """A small U-net: a class for each second pixel; for each fourth, centres and four distances."""
    keras.utils.set_random_seed(seed)
    layers, image = keras.layers, keras.Input((SIZE, SIZE, 3), name="image")

    def block(x, channels: int, stride: int = 1):
        x = layers.Conv2D(channels, 3, stride, padding="same", use_bias=False)(x)
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))

    fine = block(image, width, 2)
    coarse = block(block(fine, 2 * width, 2), 2 * width)
    deep = block(block(coarse, 4 * width, 2), 4 * width)
    coarse = block(layers.Concatenate()([layers.UpSampling2D()(deep), coarse]), 2 * width)
    fine = block(layers.Concatenate()([layers.UpSampling2D()(coarse), fine]), width)
    heads = {
        "mask": layers.Conv2D(len(THINGS) + 1, 1, name="mask")(fine),
        "heat": layers.Conv2D(len(THINGS), 1, name="heat")(coarse),
        "box": layers.Conv2D(4, 1, name="box")(coarse),
    }
    return keras.Model(image, heads, name=name)


def distance(y_true, y_pred):
    """The boxes' error where there is a thing; a little of it elsewhere (-1), where 0 is wanted.

    So what the teacher says of nothing is nothing, too, and can be learned. -2 is no label.
    """
    weight = keras.ops.where(y_true > -1, 10.0, keras.ops.where(y_true == -1, 0.2, 0.0))
    return keras.ops.sum(weight * keras.ops.abs(keras.ops.maximum(y_true, 0.0) - y_pred), -1)


def trained(model: keras.Model, x: np.ndarray, y: dict, steps: int) -> None:
    losses = {
        "mask": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "heat": keras.losses.BinaryFocalCrossentropy(from_logits=True, gamma=1.0),
        "box": distance,
    }
    rate = keras.optimizers.schedules.CosineDecay(0.004, steps)
    options = {"unlabelled": {"mask": -1, "heat": -1}} if isinstance(model, kd.Distiller) else {}
    weights = {"mask": 1.0, "heat": 5.0, "box": 1.0}
    options["run_eagerly"] = steps < 10  # a trial is done before a graph would be traced
    model.compile(keras.optimizers.Adam(rate), losses, loss_weights=weights, **options)
    rows = np.resize(np.random.default_rng(0).permutation(len(x)), steps * BATCH)
    y = {head: labels[rows] for head, labels in y.items()}
    model.fit(x[rows], y, batch_size=BATCH, shuffle=False, verbose=0)


def found(heat: np.ndarray, box: np.ndarray) -> list[dict]:
    """The twenty best centres of each scene, a maximum among its neighbours each."""
    # Neighbours of 8 bits are often equal: the one among the higher is the centre.
    near = keras.ops.average_pool(heat, 3, 1, "same")
    scores = np.array(keras.ops.sigmoid(heat + 0.001 * near))
    peaks = np.array(keras.ops.max_pool(scores, 3, 1, "same")) == scores
    boxes = []
    for number, (score, distances) in enumerate(zip(scores * peaks, box * SIZE, strict=True)):
        for flat in np.argsort(score.ravel())[:-21:-1]:
            row, column, k = np.unravel_index(flat, score.shape)
            left, top, right, bottom = map(float, distances[row, column])
            x, y = (float(i + 0.5) * SIZE / COARSE for i in (column, row))
            boxes.append(
                {"image_id": number, "category_id": int(k), "score": float(score[row, column, k])}
                | {"bbox": [x - left, y - top, left + right, top + bottom]}
            )
    return boxes


def measured(predict, x: np.ndarray, y: dict, boxes: list) -> dict[str, float]:
    """COCO's mAP of boxes at an IoU of 0.5, and the mean IoU over classes, by pixel."""
    answers = predict(x)
    union = keras.metrics.MeanIoU(len(THINGS) + 1)
    union.update_state(y["mask"], answers["mask"].argmax(-1))
    truth = [
        {"id": 10 * n + m + 1, "image_id": n, "category_id": int(k), "iscrowd": 0}
        | {"area": int(w * h), "bbox": [int(v) for v in (left, top, w, h)]}
        for n, scene in enumerate(boxes)
        for m, (k, left, top, w, h) in enumerate(scene)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"images": [{"id": n} for n in range(len(x))], "annotations": truth}
        coco.dataset["categories"] = [{"id": k} for k in range(len(THINGS))]
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(found(answers["heat"], answers["box"])), "bbox")
        judge.evaluate(), judge.accumulate(), judge.summarize()
    return {"mAP": 100 * float(judge.stats[1]), "mean IoU": 100 * float(union.result())}


def run(seed: int, args, folder: Path) -> dict[str, dict[str, float]]:
    count, steps = (64, 4) if args.smoke else (3000, 1500)
    x, y, _ = scenes("train", count, seed, args.smoke)
    test = scenes("test", count // 4, 100, args.smoke)
    few = {head: labels[: count // 30] for head, labels in y.items()}
    partly = {head: labels.copy() for head, labels in y.items()}
    for head, labels in partly.items():
        labels[count // 30 :] = -2 if head == "box" else -1
    widths = {"teacher": 24, "twin": 16, "student": 16}
    teacher, twin, student = (network(width, seed, name) for name, width in widths.items())
    trained(teacher, x, y, steps)
    trained(twin, x[: count // 30], few, steps)
    objectives = [
        kd.SoftTargets(output="mask", temperature=1.0),
        kd.objectives.MultiLabelTargets(output="heat", weight=20.0),
        kd.objectives.RegressionTargets(output="box", weight=20.0),
    ]
    trained(kd.Distiller(student, teacher, objectives, label_weight=0.1), x, partly, steps)
    small = kd.edge.quantize_aware(student, calibration_data=x[:256])
    export = kd.edge.export_tflite(small, folder / f"student{seed}.tflite", precision="int8")
    kd.edge.verify(export, student, test[0][:64], quantized=small)
    models = {"teacher, all labels": teacher, BASELINE: twin, "the same, distilled": student}
    results = {
        name: measured(lambda rows, model=model: model.predict(rows, verbose=0), *test)
        for name, model in models.items()
    }
    return results | {"its int8 file": measured(kd.edge.load_tflite(export.path).predict, *test)}


def main() -> None:
    args = arguments(__doc__, seeds=3)
    with in_folder(args.output) as folder:
        results = [run(seed, args, folder) for seed in range(args.seeds)]
        better = {"mAP": 1, "mean IoU": 1}
        print(table(results, BASELINE, better))
        draw(results, "mAP", folder / "driving.png", "mAP at an IoU of 0.5, in %")


if __name__ == "__main__":
    main()
