"""A small run: a teacher, a twin, a student and its two files, measured once."""

import json

import keras
import numpy as np
import pytest

import keras_distill as kd
from keras_distill.pipeline.reports import Facts, Made, measure

HOSTILE = "<script>alert('x')</script> | $x_{ & `y`"


def trained(width, digits, labels, teacher=None):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(width, 3, strides=2, activation="relu", name="low"),
            keras.layers.Flatten(name="flat"),
            keras.layers.Dense(10, name="logits"),
        ],
        name=f"cnn_{width}",
    )
    trained = model if teacher is None else kd.Distiller(model, teacher, [kd.SoftTargets()])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained.compile("adam", loss, metrics=["accuracy"])
    held = (digits.x_validation, digits.y_validation)
    found = trained.fit(
        digits.x_train, labels, validation_data=held, epochs=2, batch_size=64, verbose=0
    )
    return model, found.history


@pytest.fixture(scope="session")
def made(digits, tmp_path_factory):
    """By the names that the report has them under; one class and the twin's name are hostile."""
    folder = tmp_path_factory.mktemp("run")
    labels = np.where(np.arange(len(digits.y_train)) % 4, -1, digits.y_train)
    teacher, of_teacher = trained(16, digits, digits.y_train)
    twin, of_twin = trained(4, digits, digits.y_train)
    student, of_student = trained(4, digits, labels, teacher)
    found = []
    for name, line, model, history in (
        ("train teacher", "teacher", teacher, of_teacher),
        (HOSTILE, "twin", twin, of_twin),
        ("distil", "student", student, of_student),
    ):
        path = folder / f"{line}.keras"
        model.save(path)
        found.append(Made(name, line, "train", path, history, 1.5, "two epochs"))
    for precision in ("float32", "int8"):
        path = folder / f"{precision}.tflite"
        rows = {} if precision == "float32" else {"representative_data": digits.x_train[:50]}
        kd.edge.export_tflite(student, path, precision=precision, **rows)
        found.append(Made(f"export {precision}", "student", "export", path, outcome="a file"))
    return found


@pytest.fixture(scope="session")
def records(made, digits):
    """What stages verify and judge found."""
    files = {one.name: one.path for one in made if one.is_file}
    student = kd.load_model(made[2].path)
    checked = kd.edge.verify(
        files["export int8"], student, (digits.x_test, digits.y_test), max_drop=1.0
    )
    conditions = kd.judging.image_corruptions(range=(0, 1))[:2]
    judged = kd.judge(
        {"student": student, "file": files["export int8"]},
        (digits.x_test, digits.y_test),
        conditions=conditions,
        resamples=10,
        verbose=False,
    )
    return {"verify": checked, "judge": judged}


@pytest.fixture(scope="session")
def report(made, records, digits):
    """The run's report."""

    names = [HOSTILE if number == 3 else f"digit {number}" for number in range(10)]
    facts = Facts(
        title="a small run",
        description=HOSTILE,
        command="keras-distill run small.yaml",
        seed=0,
        environment={"keras": keras.__version__},
        data={"name": "digits", "rows": {"train": 1078}, "labelled": 270, "sha256": {"test": "0f"}},
        recipe="name: small\nstages: []\n",
        records={name: json.loads(record.to_json()) for name, record in records.items()},
    )
    return measure(made, facts, digits.x_test, digits.y_test, names)
