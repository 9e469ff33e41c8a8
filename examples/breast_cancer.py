"""Tumours, benign or not: an ensemble of scikit-learn's teaches a network for a small device.

Shows: a scikit-learn teacher, few labels, calibration, a threshold by cost, a verified int8 file.
Needs: pip install -e ".[demo]"; the data (569 patients, 30 numbers each) come with scikit-learn.
Takes: two to three minutes on two cores; --smoke a few seconds.

    python examples/breast_cancer.py

A tenth of the patients has a label for the student; the teacher has learned from all labels of the
training part, as where a hospital shares a model and keeps its records. The twin is the same
network, with the same first weights and as many updates, on its labels alone. To miss a malignant
tumour costs ten times as much as a false alarm; each model's threshold is the cheapest one on the
validation part, and what it costs is counted on the test part.
"""

from pathlib import Path

from _shared import arguments, draw, in_folder, table

import keras
import numpy as np
from sklearn import ensemble, linear_model, metrics, model_selection, preprocessing
from sklearn.datasets import load_breast_cancer

import keras_distill as kd

MISSED, BATCH = 10.0, 64


def parts(seed: int) -> dict:
    """Train, validation and test, 60, 20 and 20 %, in the units of the training part."""
    x, benign = load_breast_cancer(return_X_y=True)
    split = model_selection.train_test_split
    x, x_test, y, y_test = split(
        x, 1 - benign, test_size=0.2, stratify=1 - benign, random_state=seed
    )
    x, x_val, y, y_val = split(x, y, test_size=0.25, stratify=y, random_state=seed)
    scale = preprocessing.StandardScaler().fit(x)
    x, x_val, x_test = (scale.transform(part).astype("float32") for part in (x, x_val, x_test))
    return {"train": (x, y), "val": (x_val, y_val), "test": (x_test, y_test)}


def teacher_of(x: np.ndarray, y: np.ndarray, seed: int) -> ensemble.VotingClassifier:
    members = [
        ("linear", linear_model.LogisticRegression(C=0.5)),
        ("trees", ensemble.ExtraTreesClassifier(300, random_state=seed)),
        ("boosted", ensemble.GradientBoostingClassifier(random_state=seed)),
    ]
    return ensemble.VotingClassifier(members, voting="soft").fit(x, y)


def network(seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((30,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dense(1, activation="sigmoid", name="malignant"),
        ]
    )


def trained(model: keras.Model, x: np.ndarray, y: np.ndarray, steps: int) -> None:
    rate = keras.optimizers.schedules.CosineDecay(0.01, steps)
    model.compile(keras.optimizers.Adam(rate), keras.losses.BinaryCrossentropy())
    rows = np.random.default_rng(0).permutation(len(x))
    rows = np.resize(rows, steps * BATCH)
    model.fit(x[rows], y[rows], batch_size=BATCH, shuffle=False, verbose=0)


def measured(predict, data: dict) -> dict[str, float]:
    """On the test part: ROC-AUC, expected calibration error, cost a hundred patients."""
    (x_val, y_val), (x, y) = data["val"], data["test"]
    known, found = np.ravel(predict(x_val)), np.ravel(predict(x))
    threshold = min(np.unique([0.0, *known]), key=lambda t: cost(y_val, known >= t))
    edges = np.clip((found * 10).astype(int), 0, 9)
    gaps = [abs(np.sum((found - y)[edges == e])) for e in range(10)]
    return {
        "AUC": metrics.roc_auc_score(y, found),
        "ECE": sum(gaps) / len(y),
        "cost": 100 * cost(y, found >= threshold) / len(y),
    }


def cost(y: np.ndarray, alarm: np.ndarray) -> float:
    return float(MISSED * np.sum((y == 1) & ~alarm) + np.sum((y == 0) & alarm))


def run(seed: int, steps: int, folder: Path, scratch: Path) -> dict[str, dict[str, float]]:
    data = parts(seed)
    x, y = data["train"]
    estimator = teacher_of(x, y, seed)
    rng = np.random.default_rng(seed)
    kept = np.concatenate(
        [rng.permutation(np.flatnonzero(y == k))[: np.sum(y == k) // 10] for k in (0, 1)]
    )
    few = np.full(len(y), -1)
    few[kept] = y[kept]

    twin, student = network(seed), network(seed)
    trained(twin, x[kept], y[kept], steps)
    teacher = kd.teachers.Estimator(estimator, output="sigmoid")
    cache = kd.TeacherCache.build(teacher, (x, few), scratch / f"cache{seed}", verbose=False)
    distiller = kd.Distiller(student, cache, kd.objectives.MultiLabelTargets(), label_weight=0.1)
    rate = keras.optimizers.schedules.CosineDecay(0.01, steps)
    distiller.compile(keras.optimizers.Adam(rate), keras.losses.BinaryCrossentropy())
    batches = cache.dataset(BATCH, drop_remainder=True).repeat()
    distiller.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0)

    small = kd.edge.quantize_aware(student, calibration_data=x)
    export = kd.edge.export_tflite(small, folder / f"student{seed}.tflite", precision="int8")
    kd.edge.verify(export, student, data["val"], quantized=small)
    return {
        "scikit-learn's ensemble, all labels": measured(
            lambda rows: estimator.predict_proba(rows)[:, 1], data
        ),
        "network, a tenth of the labels": measured(lambda r: twin.predict(r, verbose=0), data),
        "the same, distilled": measured(lambda r: student.predict(r, verbose=0), data),
        "its int8 file": measured(kd.edge.load_tflite(export.path).predict, data),
    }


def main() -> None:
    args = arguments(__doc__, seeds=10)
    steps = 40 if args.smoke else 600
    with in_folder(args.output) as folder, in_folder(None) as scratch:
        found = [run(seed, steps, folder, scratch) for seed in range(args.seeds)]
        baseline = "network, a tenth of the labels"
        print(table(found, baseline, better={"AUC": 1, "ECE": -1, "cost": -1}))
        draw(found, "cost", folder / "breast_cancer.png", "cost a hundred patients")


if __name__ == "__main__":
    main()
