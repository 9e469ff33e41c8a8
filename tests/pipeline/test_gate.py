"""The gate's exit status is what its checks say, and bad input is one line."""

import json
import pickle
import subprocess
import sys
import sysconfig
import types
from pathlib import Path
from xml.etree import ElementTree

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from keras_distill import edge, litert
from keras_distill.cli import app
from keras_distill.pipeline.junit import Check, write_junit

SCRIPT = str(Path(sysconfig.get_path("scripts")) / "keras-distill")


@pytest.fixture(scope="module")
def folder(digits, tmp_path_factory):
    """A trained model, its .tflite, another model that knows nothing, and data as .npz."""
    folder = tmp_path_factory.mktemp("gate")
    keras.utils.set_random_seed(0)
    model, other = (
        keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
        for _ in range(2)
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    model.fit(digits.x_train, digits.y_train, epochs=8, verbose=0)
    model.save(folder / "model.keras")
    other.save(folder / "other.keras")
    wide = keras.Sequential(
        [keras.Input((9, 9, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    wide.save(folder / "wide.keras")
    edge.export_tflite(model, folder / "model.tflite")
    np.savez(folder / "data.npz", x=digits.x_test, y=digits.y_test)
    np.savez(folder / "unlabelled.npz", x=digits.x_test)
    np.savez(folder / "objects.npz", x=np.array([{"a": 1}], dtype=object))
    np.savez(folder / "nameless.npz", images=digits.x_test)
    (folder / "damaged.npz").write_bytes((folder / "data.npz").read_bytes()[:5000])
    (folder / "pickled.npz").write_bytes(pickle.dumps({"x": 1}))
    (folder / "cut.tflite").write_bytes((folder / "model.tflite").read_bytes()[:1000])
    (folder / "cut.keras").write_bytes((folder / "model.keras").read_bytes()[:1000])
    (folder / "notes.json").write_text('{"accuracy": 1}')
    return folder


@pytest.fixture
def command(folder, monkeypatch):
    """Runs a command in the folder, in this process."""
    monkeypatch.chdir(folder)

    def run(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def verify(command):
    def run(*arguments, file="model.tflite", model="model.keras", data="data.npz"):
        return command("verify", file, "--model", model, "--data", data, *arguments)

    return run


def cases(path):
    root = ElementTree.parse(path).getroot()
    assert root.tag == "testsuites"
    (suite,) = root
    found = {case.get("name"): [child.tag for child in case] for case in suite.iter("testcase")}
    for element in (root, suite):
        assert element.get("tests") == str(len(found))
        assert element.get("failures") == str(sum("failure" in tags for tags in found.values()))
        assert element.get("errors") == str(sum("error" in tags for tags in found.values()))
    return found


def test_a_file_that_answers_as_its_model_passes(verify, tmp_path):
    done = verify(
        *("--teacher", "other.keras", "--min-agreement", 1.0, "--max-bytes", 100_000),
        *("--max-latency-ms", 1000, "--junit", tmp_path / "j.xml", "--json", tmp_path / "r.json"),
    )
    assert done.exit_code == 0, done.output
    assert "accuracy of the file" in done.stdout
    assert "agreement with the teacher" in done.stdout
    names = ["file runs", "accuracy against the model", "the model's numbers"]
    names += ["agreement with the model", "bytes", "p50 latency"]
    assert cases(tmp_path / "j.xml") == {name: [] for name in names}
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["passed"]
    assert written["agreement"] == 1.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["j.xml", "r.json"]


def test_every_missed_tolerance_is_a_failure(verify, tmp_path):
    done = verify(
        *("--min-agreement", 0.9, "--max-bytes", 10, "--max-latency-ms", 1e-9),
        *("--junit", tmp_path / "j.xml", "--json", tmp_path / "r.json"),
        model="other.keras",
    )
    assert done.exit_code == 1
    assert cases(tmp_path / "j.xml") == {
        "file runs": [],
        # The file is better than this model by far: no drop.
        "accuracy against the model": [],
        "the model's numbers": ["failure"],
        "agreement with the model": ["failure"],
        "bytes": ["failure"],
        "p50 latency": ["failure"],
    }
    failures = list(ElementTree.parse(tmp_path / "j.xml").iter("failure"))
    assert "90.00% demanded" in failures[1].get("message")
    assert "10 allowed" in failures[2].get("message")
    assert "passed" in done.stdout
    assert "FAILED  bytes" in done.stdout
    assert json.loads((tmp_path / "r.json").read_text())["passed"] is False


def test_the_baseline_takes_the_models_place(verify, digits, tmp_path):
    first, junit = tmp_path / "first.json", tmp_path / "j.xml"
    assert verify("--limit", 100, "--json", first).exit_code == 0
    report = json.loads(first.read_text())
    model = keras.saving.load_model("model.keras")
    right = model.predict(digits.x_test[:100], verbose=0).argmax(-1) == digits.y_test[:100]
    assert report["accuracy_file"] == pytest.approx(right.mean())
    better = report | {"accuracy_file": report["accuracy_file"] + 0.05}
    (tmp_path / "better.json").write_text(json.dumps(better))
    done = verify("--limit", 100, "--baseline", tmp_path / "better.json", "--junit", junit)
    assert done.exit_code == 1
    assert cases(junit)["accuracy against the baseline"] == ["failure"]
    # The model keeps its say beside it.
    assert cases(junit)["accuracy against the model"] == []
    assert "a drop of 5.00 points, 1.00 allowed" in done.stdout
    baseline = ("--limit", 100, "--baseline", tmp_path / "better.json")
    # Just met is met.
    assert verify(*baseline, "--max-drop", 0.05).exit_code == 0
    assert verify(*baseline, "--max-drop", 0.04).exit_code == 1


def test_a_baseline_that_does_not_compare_is_refused(verify, tmp_path):
    first, other = tmp_path / "first.json", tmp_path / "other.json"
    assert verify("--limit", 100, "--json", first).exit_code == 0
    report = json.loads(first.read_text())
    assert report["rows"] == 100
    for change, words in (
        ({"passed": False}, "did not pass"),
        ({"rows": 99}, "its rows is 99, and here it is 100"),
        ({"data_sha256": "0" * 64}, "other data"),
    ):
        other.write_text(json.dumps(report | change))
        done = verify("--limit", 100, "--baseline", other)
        assert done.exit_code == 2
        assert words in done.stderr
    # An older report says neither.
    older = {"accuracy_file": report["accuracy_file"], "passed": True}
    other.write_text(json.dumps(older))
    assert verify("--limit", 100, "--baseline", other).exit_code == 0


@pytest.mark.parametrize("when", ["__init__", "predict", "benchmark"])
def test_a_crash_is_a_failed_verdict(verify, monkeypatch, tmp_path, when):
    def crashed(*arguments, **options):
        raise litert.CrashError("LiteRT ran model.tflite and crashed (SIGSEGV)")

    monkeypatch.setattr(litert.TFLiteRunner, when, crashed)
    junit, report = tmp_path / "j.xml", tmp_path / "r.json"
    done = verify("--junit", junit, "--json", report)
    assert done.exit_code == 1, done.output
    assert "FAILED  file runs: LiteRT ran model.tflite and crashed (SIGSEGV)" in done.stdout
    assert cases(junit) == {"file runs": ["failure"]}
    written = json.loads(report.read_text())
    assert (written["passed"], written["correlation"]) == (False, None)


def test_unlabelled_data(verify, tmp_path):
    done = verify("--min-agreement", 0.99, "--json", tmp_path / "r.json", data="unlabelled.npz")
    assert done.exit_code == 0, done.output
    assert "accuracy against" not in done.stdout
    for option in (("--max-drop", 0.1), ("--baseline", tmp_path / "r.json")):
        refused = verify(*option, data="unlabelled.npz")
        assert refused.exit_code == 2


def test_our_own_data_sets(verify):
    done = verify("--limit", 20, data="digits")
    assert done.exit_code == 0, done.output
    assert "answered 20 rows" in done.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"file": "none.tflite"}, "none.tflite"),
        ({"file": "cut.tflite"}, "cut.tflite"),
        ({"file": "model.keras"}, "TFL3"),
        ({"model": "none.keras"}, "no model at none.keras"),
        ({"model": "cut.keras"}, "cut.keras does not load"),
        ({"model": "model.tflite"}, "model.tflite does not load"),
        ({"model": "wide.keras"}, "(9, 9, 1)"),
        ({"data": "none.npz"}, "no data file at none.npz"),
        ({"data": "digitz"}, "digits, fashion_mnist or a .npz"),
        ({"data": "objects.npz"}, "plain arrays"),
        ({"data": "pickled.npz"}, "plain arrays"),
        ({"data": "damaged.npz"}, "plain arrays"),
        ({"data": "nameless.npz"}, "['images']"),
        ({"--teacher": "none.keras"}, "none.keras"),
        ({"--baseline": "none.json"}, "none.json"),
        ({"--baseline": "notes.json"}, "notes.json"),
        ({"--json": "nowhere/r.json"}, "nowhere/r.json"),
        ({"--json": "n" * 300}, "File name too long"),
        ({"--junit": "."}, "it is a folder"),
        ({"file": "n" * 300}, "File name too long"),
        ({"--limit": "0"}, "--limit"),
        ({"--min-agreement": "2"}, "--min-agreement"),
    ],
    ids=lambda value: " ".join(value.values()) if isinstance(value, dict) else "",
)
def test_bad_input_is_said_and_ends_with_2(verify, options, words):
    named = {k: v for k, v in options.items() if not k.startswith("--")}
    rest = [part for k, v in options.items() if k.startswith("--") for part in (k, v)]
    done = verify(*rest, **named)
    assert done.exit_code == 2
    assert words in done.stderr
    if done.stderr.startswith("Error: "):
        assert len(done.stderr.splitlines()) == 1
    else:
        assert "Usage:" in done.stderr


def test_bad_input_does_not_leave_the_last_verdict_behind(verify, tmp_path):
    junit, report = tmp_path / "j.xml", tmp_path / "r.json"
    outputs = ("--junit", junit, "--json", report)
    assert verify(*outputs).exit_code == 0
    before = report.read_bytes()
    assert verify(*outputs, file="cut.tflite").exit_code == 2
    assert cases(junit) == {"verify": ["error"]}
    assert report.read_bytes() == before


def test_a_lambda_in_a_model_is_not_run(verify, tmp_path):
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, keras.layers.Lambda(lambda x: x[:, 0, :, 0])(inputs))
    model.save(tmp_path / "lambda.keras")
    done = verify(model=tmp_path / "lambda.keras")
    assert done.exit_code == 2
    assert "lambda.keras does not load" in done.stderr


def test_interruption_ends_with_130(verify, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(edge, "verify", interrupted)
    done = verify()
    assert done.exit_code == 130
    assert "Interrupted." in done.stderr


@pytest.mark.parametrize(
    "command_and_ending", [("export", ".tflite"), ("quantize", ".keras")], ids=lambda it: it[0]
)
def test_what_is_in_the_way_is_found_before_the_work(command, command_and_ending, tmp_path):
    name, ending = command_and_ending
    (tmp_path / f"folder{ending}").mkdir()
    data = ("--data", "data.npz") if name == "quantize" else ()
    for output, words in (("n" * 300, "File name too long"), ("folder", "it is a folder")):
        done = command(name, "model.keras", *data, "--output", tmp_path / f"{output}{ending}")
        assert done.exit_code == 2, done.output
        assert words in done.stderr


def test_benchmark(command):
    done = command("benchmark", "model.tflite", "--runs", 3, "--warmup", 0)
    assert done.exit_code == 0
    assert "p50 latency" in done.stdout
    done = command("benchmark", "model.tflite", "--runs", 3, "--threads", 2, "--json")
    assert json.loads(done.stdout)["num_threads"] == 2
    done = command("benchmark", "cut.tflite")
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
    assert command("benchmark", "model.tflite", "--runs", 0).exit_code == 2


class Found:
    """Stands for what `edge.inspect` returns."""

    def __str__(self):
        return "a table"

    def to_json(self):
        return "{}"


def test_inspect_prints_the_record(command, monkeypatch):
    seen = []
    fake = types.SimpleNamespace(inspect=lambda model: seen.append(model) or Found())
    monkeypatch.setitem(sys.modules, "keras_distill.edge.inspection", fake)
    assert command("inspect", "model.keras").stdout == "a table\n"
    assert command("inspect", "model.keras", "--json").stdout == "{}\n"
    assert [type(model) for model in seen] == [keras.Sequential] * 2
    done = command("inspect", "none.keras")
    assert (done.exit_code, done.stderr) == (2, "Error: there is no model at none.keras.\n")


def test_inspect_says_what_inspect_says(command):
    done = command("inspect", "model.keras")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{edge.inspect(keras.saving.load_model('model.keras'))}\n"


def test_the_console_prints_the_table_and_nothing_else(folder):
    options = ("--model", "other.keras", "--data", "data.npz", "--min-agreement", "0.9")
    done = subprocess.run(
        [SCRIPT, "verify", "model.tflite", *options], capture_output=True, text=True, cwd=folder
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("accuracy of the file")
    assert "FAILED  agreement with the model" in done.stdout


def test_junit_holds_any_text(tmp_path):
    check = Check("a <b>", "\x00 & \ud800 ]]>", False)
    write_junit(tmp_path / "j.xml", "dir/\x1b.tflite", [check], 1.0, output="<>\x07")
    (case,) = ElementTree.parse(tmp_path / "j.xml").iter("testcase")
    assert case.get("name") == "a <b>"
    assert case[0].text == "? & ? ]]>"
