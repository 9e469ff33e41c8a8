"""What is given in place of a saved model is named, and what is taken instead."""

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_distill as kd
from keras_distill.pipeline import inputs
from keras_distill.training.stages import UsageError


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a model and what people take for one."""
    folder = tmp_path_factory.mktemp("kinds")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.save(folder / "model.keras")
    model.save_weights(folder / "m.weights.h5")
    shutil.copy(folder / "m.weights.h5", folder / "hdf5.keras")
    shutil.copy(folder / "model.keras", folder / "model.zip")
    whole = (folder / "model.keras").read_bytes()
    for name, content in {
        "text.keras": b"not a model\n",
        "empty.keras": b"",
        "cut.keras": whole[: len(whole) // 2],
        "tflite.keras": b"\x1c\0\0\0TFL3" + bytes(20),
    }.items():
        (folder / name).write_bytes(content)
    np.savez(folder / "arrays.npz", x=np.zeros(2))
    (folder / "folder.keras").mkdir()
    return folder


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("text.keras", "no zip archive. Expected a .keras file"),
        ("empty.keras", "it is empty"),
        ("cut.keras", "cut off or damaged"),
        ("tflite.keras", "a .tflite file"),
        ("hdf5.keras", "an HDF5 file"),
        ("m.weights.h5", "weights alone"),
        ("arrays.npz", "a zip archive of something else"),
        ("model.zip", "must end in .keras"),
        ("folder.keras", "it is a folder"),
    ],
)
def test_what_a_file_is_is_said(files, name, words):
    with pytest.raises(UsageError):
        inputs.load_model(files / name)
    with pytest.raises(ValueError, match=words) as refusal:
        kd.load_model(files / name)
    assert f"{files / name} does not load as a Keras model: " in str(refusal.value)
    assert "not found" not in str(refusal.value)


def test_a_model_and_an_absent_file(files):
    assert inputs.load_model(files / "model.keras").count_params() == 3
    with pytest.raises(UsageError, match="there is no model at"):
        inputs.load_model(Path("nowhere.keras"))
