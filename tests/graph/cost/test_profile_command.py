"""`keras-distill profile`: the record as a table or JSON, bad input in one line."""

import json

import keras
import pytest
from typer.testing import CliRunner

from keras_distill import transfer
from keras_distill.cli import app


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs the command in a folder with a model of known sizes and two of open ones."""
    monkeypatch.chdir(tmp_path)
    dense = keras.layers.Dense(3, name="dense")
    keras.Sequential([keras.Input((4,)), dense]).save("model.keras")
    image = keras.Input((None, None, 3), name="image")
    keras.Model(image, keras.layers.Conv2D(4, 3)(image)).save("open.keras")
    pair = [keras.Input((None, 4), name=name) for name in ("left", "right")]
    keras.Model(pair, keras.layers.Dot(axes=2)(pair)).save("pair.keras")

    def run(*arguments):
        return CliRunner().invoke(app, ["profile", *arguments])

    return run


def test_it_prints_what_profile_says(command):
    done = command("model.keras")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{transfer.profile(keras.saving.load_model('model.keras'))}\n"


def test_it_writes_json(command):
    done = command("model.keras", "--json")
    assert (done.exit_code, json.loads(done.stdout)["macs"]) == (0, 12)


def test_open_sizes_come_as_options(command):
    # 6 x 8 positions x 4 x 27
    done = command("open.keras", "--json", "--input-shape", "8,10,3")
    assert json.loads(done.stdout)["macs"] == 48 * 108
    shapes = ("--input-shape", "left=5,4", "--input-shape", "right=6,4")
    assert json.loads(command("pair.keras", "--json", *shapes).stdout)["macs"] == 120


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("none.keras",), "there is no model at none.keras"),
        (("open.keras",), "Give input_shape="),
        (("open.keras", "--input-shape", "8x8"), "takes sizes such as 224,224,3; got 8x8"),
        (("open.keras", "--input-shape", "8,,3"), "takes sizes such as"),
        (("pair.keras", "--input-shape", "5,4"), "has the inputs left, right"),
        (("pair.keras", "--input-shape", "left=5,4", "--input-shape", "6,4"), "once an input"),
        (("pair.keras", "--input-shape", "left=5,4", "--input-shape", "left=6,4"), "once an input"),
    ],
)
def test_bad_input_is_one_line(command, arguments, words):
    done = command(*arguments)
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
    assert words in done.stderr
