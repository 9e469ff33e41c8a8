"""From two saved models to a verified file, in commands: distil, quantize, export, verify."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

import keras_distill as kd
from keras_distill.cli import app
from keras_distill.data import load_digits
from keras_distill.pipeline import distilling
from keras_distill.pipeline.images import load_images
from keras_distill.pipeline.inputs import load_model

OWN_LAYERS = """
import helper
import keras

class Doubled(keras.layers.Layer):
    def call(self, x):
        return helper.FACTOR * x

@keras.saving.register_keras_serializable("mine")
class Halved(keras.layers.Layer):
    def call(self, x):
        return x / helper.FACTOR

def cubed(x):
    return x * x * x
"""


def small(name, width, *extra):
    keras.utils.set_random_seed(width)
    layers = [keras.layers.Conv2D(width, 3, strides=2, activation="relu"), keras.layers.Flatten()]
    head = keras.layers.Dense(10, name="logits")
    return keras.Sequential([keras.Input((8, 8, 1)), *layers, *extra, head], name=name)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A trained teacher and a fresh student as files, and digits as a folder of images."""
    folder = tmp_path_factory.mktemp("models")
    digits = load_digits()
    teacher = small("teacher", 12)
    teacher.compile(
        keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    teacher.fit(digits.x_train, digits.y_train, epochs=6, verbose=0)
    teacher.save(folder / "teacher.keras")
    small("student", 4).save(folder / "student.keras")
    np.savez(folder / "data.npz", x=digits.x_train[:96], y=digits.y_train[:96])
    np.savez(folder / "unlabelled.npz", x=digits.x_train[:96])
    np.savez(folder / "real.npz", x=digits.x_train[:96], y=np.linspace(0.1, 0.9, 96))
    for image, label in zip(digits.x_train[:80], digits.y_train[:80], strict=True):
        place = folder / "images" / f"class_{label}"
        place.mkdir(parents=True, exist_ok=True)
        keras.utils.save_img(place / f"{len(list(place.iterdir()))}.png", 255 * image, scale=False)
    return folder


@pytest.fixture
def command(models, tmp_path, monkeypatch):
    """Runs a command in a copy of the models' folder, in this process."""
    folder = tmp_path / "work"
    shutil.copytree(models, folder)
    monkeypatch.chdir(folder)

    def run(*arguments, status=0):
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert done.exit_code == status, done.output
        if status == 2:
            assert len(done.stderr.splitlines()) == 1, done.stderr
        return done

    return run


@pytest.fixture
def forget(monkeypatch):
    """Forgets what was imported; it is called afterwards, too."""
    before, path = dict(keras.saving.get_custom_objects()), list(sys.path)

    def forget():
        keras.saving.get_custom_objects().clear()
        keras.saving.get_custom_objects().update(before)
        sys.path[:] = path
        for name in ("own_layers", "helper"):
            sys.modules.pop(name, None)

    yield forget
    forget()


@pytest.mark.slow
def test_from_two_models_to_a_verified_file(command, digits):
    pair = ("distil", "teacher.keras", "student.keras", "--data", "digits")
    done = command(*pair, "--epochs", 4, "--learning-rate", 0.01, "--output", "distilled.keras")
    assert "accuracy" in done.stdout.splitlines()[-1]
    again = ("teacher.keras", "quantized.keras", "--data", "digits", "--epochs", 1)
    command("quantize", "distilled.keras", "--data", "digits", "--output", "quantized.keras")
    command("distil", *again, "--output", "tuned.keras")
    command("export", "tuned.keras", "--precision", "int8", "--output", "tuned.tflite")
    gate = ("--teacher", "teacher.keras", "--data", "digits", "--max-drop", 0.05)
    done = command("verify", "tuned.tflite", "--model", "distilled.keras", *gate)
    assert "passed" in done.stdout
    # As good as the teacher's pupil can be: chance is 0.1.
    found = keras.models.load_model("distilled.keras").predict(digits.x_test, verbose=0)
    assert np.mean(found.argmax(-1) == digits.y_test) > 0.7


def test_it_is_the_distiller_that_trains(command, digits):
    options = ("--epochs", 2, "--temperature", 2, "--label-weight", 0.3, "--seed", 5)
    command("distil", "teacher.keras", "student.keras", "--data", "data.npz", *options,
            "--batch-size", 16, "--output", "out.keras")  # fmt: skip
    keras.utils.set_random_seed(5)
    student = keras.models.load_model("student.keras")
    distiller = kd.Distiller(
        student, keras.models.load_model("teacher.keras"), kd.SoftTargets(temperature=2.0),
        label_weight=0.3,
    )  # fmt: skip
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    distiller.fit(digits.x_train[:96], digits.y_train[:96], batch_size=16, epochs=2, verbose=0)
    for ours, theirs in zip(
        keras.models.load_model("out.keras").get_weights(), student.get_weights(), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_images_in_folders(command):
    data = ("--data", "images", "--rescale", "1/255")
    command("distil", "teacher.keras", "student.keras", *data, "--validation-data", "images",
            "--epochs", 1, "--output", "out.keras")  # fmt: skip
    command("export", "out.keras", *data, "--precision", "int8", "--output", "out.tflite")
    assert kd.edge.load_tflite("out.tflite").labels == tuple(f"class_{i}" for i in range(10))
    done = command("verify", "out.tflite", "--model", "out.keras", *data, "--max-drop", 1)
    assert "80 rows" in done.stdout


def test_the_images_are_the_digits(models, digits):
    model = load_model(models / "student.keras")
    batches, rows, names = load_images(models / "images", model, rescale=(1 / 255, 0.0))
    assert (rows, names) == (80, tuple(f"class_{i}" for i in range(10)))
    x, y = (np.concatenate(parts) for parts in zip(*batches.as_numpy_iterator(), strict=True))
    # Each of 16 greys was rounded to one of 256.
    for image, label in zip(x, y, strict=True):
        errors = np.abs(digits.x_train[:80] - image).max(axis=(1, 2, 3))
        assert errors.min() < 1 / 255
        assert digits.y_train[:80][errors.argmin()] == label


def test_a_limit_draws_from_all_classes(models):
    model = load_model(models / "student.keras")
    batches, rows, _ = load_images(models / "images", model, limit=40)
    labels = np.concatenate([y for _, y in batches.as_numpy_iterator()])
    assert len(labels) == rows == 40
    assert len(set(labels)) > 5


def test_images_without_classes_have_no_labels(command):
    Path("flat").mkdir()
    for picture in Path("images/class_0").iterdir():
        shutil.move(picture, Path("flat", picture.name))
    command("quantize", "student.keras", "--data", "flat", "--output", "small.keras")
    command("distil", "teacher.keras", "student.keras", "--data", "flat", "--epochs", 1,
            "--output", "out.keras")  # fmt: skip
    done = command("distil", "teacher.keras", "student.keras", "--data", "flat",
                   "--label-weight", 0.5, "--output", "no.keras", status=2)  # fmt: skip
    assert "no labels" in done.stderr


def test_layers_of_ones_own(command, forget):
    Path("helper.py").write_text("FACTOR = 2.0\n")
    Path("own_layers.py").write_text(OWN_LAYERS)
    sys.path.insert(0, str(Path.cwd()))
    own = importlib.import_module("own_layers")
    layers = [
        own.Doubled(),
        own.Halved(),
        keras.layers.Flatten(),
        keras.layers.Dense(10, own.cubed),
    ]
    keras.Sequential([keras.Input((8, 8, 1)), *layers]).save("own.keras")
    forget()
    done = command("inspect", "own.keras", status=2)
    assert "--import MODULE" in done.stderr
    assert "Doubled" in command("inspect", "own.keras", "--import", "own_layers").stdout
    command("distil", "teacher.keras", "own.keras", "--data", "data.npz", "--epochs", 1,
            "--import", "own_layers", "--output", "out.keras")  # fmt: skip
    # A file of the folder shadows nothing once the modules are there.
    assert sys.path[0] != str(Path.cwd())


def test_a_file_of_the_older_keras(command):
    tf_keras = kd.edge.legacy.tf_keras()
    layers = [tf_keras.layers.DepthwiseConv2D(3), tf_keras.layers.Flatten()]
    model = tf_keras.Sequential([tf_keras.Input((8, 8, 1)), *layers, tf_keras.layers.Dense(10)])
    model.save("old.h5")
    model.save("folder", save_format="tf")
    for name in ("old.h5", "folder"):
        done = command("inspect", name, "--json")
        # The record alone is on the standard output.
        assert json.loads(done.stdout)
        assert done.stderr.startswith(f"{name}: a ")
        assert "brought over to Keras 3" in done.stderr
    command("export", "old.h5", "--output", "old.tflite")
    command("verify", "old.tflite", "--model", "folder", "--data", "data.npz", "--max-drop", 1)


@pytest.mark.usefixtures("forget")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere", "No module named 'nowhere'"),
        ("own_layers.py", "--import own_layers."),
        ("broken", "ZeroDivisionError"),
    ],
)
def test_a_module_that_does_not_import(command, name, words):
    Path("broken.py").write_text("1 / 0\n")
    done = command("inspect", "student.keras", "--import", name, status=2)
    assert words in done.stderr


DISTIL = ("distil", "teacher.keras", "student.keras", "--output", "out.keras", "--data")
EXPORT = ("export", "student.keras", "--output", "a.tflite")
REFUSED = {
    "the output is there": ((*DISTIL[:3], "--data", "digits", "--output", "teacher.keras"),
                            "--overwrite"),
    "another ending": ((*DISTIL[:3], "--data", "digits", "--output", "out.h5"), ".keras"),
    "no such folder": ((*DISTIL[:3], "--data", "digits", "--output", "no/out.keras"), "no"),
    "no such data": ((*DISTIL, "nothing"), "nothing"),
    "no such objective": ((*DISTIL, "digits", "--objective", "Hints"), "SoftTargets"),
    "an objective on layers": ((*DISTIL, "digits", "--objective", "FeatureHint"), "layers"),
    "no temperature": ((*DISTIL, "digits", "--objective", "LogitsMSE", "--temperature", 2),
                       "LogitsMSE"),
    "no such loss": ((*DISTIL, "digits", "--loss", "hinge_and_bracket"), "hinge_and_bracket"),
    "numbers for labels": ((*DISTIL, "real.npz"), "--loss"),
    "nothing to weigh": ((*DISTIL, "unlabelled.npz", "--label-weight", 0.5), "no labels"),
    "no folder to rescale": ((*DISTIL, "digits", "--rescale", "1/255"), "folder of images"),
    "no scale": ((*DISTIL, "images", "--rescale", "a"), "1/255"),
    "another size": ((*DISTIL, "images", "--image-size", "9,9"), "9 x 9"),
    "int8 from nothing": ((*EXPORT, "--precision", "int8"), "--data"),
    "data that is not used": ((*EXPORT, "--data", "digits"), "leave it out"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_and_changes_nothing(command, case):
    arguments, words = REFUSED[case]
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    done = command(*arguments, status=2)
    assert words in done.stderr
    assert before == {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def test_folders_that_are_other_classes_are_refused(command):
    Path("images/class_10").mkdir()
    assert "11 classes" in command(*DISTIL, "images", status=2).stderr
    shutil.copytree("images", "validation")
    Path("images/class_10").rmdir()
    Path("validation/class_10").rmdir()
    Path("validation/class_9").rename("validation/class_nine")
    done = command(*DISTIL, "images", "--validation-data", "validation", status=2)
    assert "class_nine" in done.stderr


def test_overwriting_and_going_on(command):
    keep = ("--epochs", 1, "--output", "student.keras", "--overwrite", "--backup", "kept")
    command("distil", "teacher.keras", "student.keras", "--data", "data.npz", *keep)
    assert keras.models.load_model("student.keras").name == "student"


@pytest.mark.parametrize(
    ("kind", "labels", "units", "expected"),
    [
        ("logits", [1, 2], 3, ("SparseCategoricalCrossentropy", True)),
        ("probabilities", [[1], [2]], 3, ("SparseCategoricalCrossentropy", False)),
        ("logits", [1.0, -1.0], 3, ("SparseCategoricalCrossentropy", True)),
        ("logits", [[0, 1, 0]], 3, ("CategoricalCrossentropy", True)),
        ("sigmoid", [[0, 1, 1]], 3, ("BinaryCrossentropy", False)),
        ("sigmoid", [0, 1], 1, ("BinaryCrossentropy", False)),
        ("logits", [[0], [1]], 1, ("BinaryCrossentropy", True)),
    ],
)
def test_the_loss_suits_model_and_labels(kind, labels, units, expected):
    loss = distilling.label_loss(kind, np.array(labels), units)
    assert (type(loss).__name__, loss.get_config()["from_logits"]) == expected
