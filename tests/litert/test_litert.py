"""A runner gives the interpreter's own answers in real units, whatever the batch and dtype."""

import json
import os
import subprocess
import sys
import threading
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from keras_distill import litert
from keras_distill.litert import converter, session


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Two little files of a Dense layer: int8 throughout with a fixed batch of 2, float open."""
    folder = tmp_path_factory.mktemp("litert")
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="relu")])
    x = np.random.default_rng(0).uniform(-1, 3, (64, 4)).astype("float32")
    for name, batch, options in [
        ("int8", 2, {"precision": "int8", "calibration": {"x": x}, "input_type": "int8"}),
        ("open", None, {}),
    ]:
        saved = converter.write_saved_model(
            lambda tensors: {"y": model(tensors["x"])},
            {"x": tf.TensorSpec((batch, 4))},
            folder / name,
            model.variables,
        )
        path = folder / f"{name}.tflite"
        converter.convert(saved, path, batch_size=batch or 1, **options)
    return folder, model, x


def test_a_quantised_file_answers_in_real_units(files):
    folder, model, x = files
    runner = litert.load_tflite(folder / "int8.tflite")
    # The reference quantises by hand, from the interpreter's own details.
    raw = Interpreter(str(folder / "int8.tflite"))
    raw.allocate_tensors()
    (given,), (taken,) = raw.get_input_details(), raw.get_output_details()
    scale, zero = given["quantization"]
    stored = np.clip(np.round(x[:2] / scale) + zero, -128, 127).astype("int8")
    raw.set_tensor(given["index"], stored)
    raw.invoke()
    scale, zero = taken["quantization"]
    expected = (raw.get_tensor(taken["index"]).astype("float32") - zero) * scale
    np.testing.assert_allclose(runner.predict(x[:2]), expected, rtol=1e-6)
    reference = model.predict(x, verbose=0)
    assert np.abs(runner.predict(x) - reference).max() < 0.05 * reference.max()
    assert runner.inputs[0].name == "x"
    assert runner.inputs[0].dtype == "int8"
    assert runner.inputs[0].scale == pytest.approx(given["quantization"][0])


def test_values_beyond_the_range_are_clipped_not_wrapped(files):
    folder, _, _ = files
    runner = litert.load_tflite(folder / "int8.tflite")
    info = runner.inputs[0]
    top = np.full((1, 4), (127 - info.zero_point) * info.scale, "float32")
    np.testing.assert_array_equal(runner.predict(top * 100), runner.predict(top))
    with pytest.raises(ValueError, match="NaN"):
        runner.predict(top * np.nan)


@pytest.mark.parametrize("rows", [1, 2, 5, 64, 129])
def test_any_number_of_rows_goes_through_a_fixed_batch(files, rows):
    folder, _, x = files
    x = np.concatenate([x, x[::-1], x])
    runner = litert.load_tflite(folder / "int8.tflite")
    one_by_one = np.concatenate([runner.predict(x[i : i + 1]) for i in range(rows)])
    assert one_by_one.shape == (rows, 3)
    np.testing.assert_array_equal(runner.predict(x[:rows]), one_by_one)
    with pytest.raises(ValueError, match="2 row"):
        runner.predict(x, batch_size=3)


def test_an_open_batch_is_resized(files):
    folder, model, x = files
    runner = litert.load_tflite(folder / "open.tflite")
    assert runner.inputs[0].shape == (None, 4)
    expected = model.predict(x, verbose=0)
    for batch_size in (None, 1, 7, 64):
        np.testing.assert_allclose(runner.predict(x, batch_size), expected, atol=1e-5)
    np.testing.assert_allclose(runner.predict({"x": x}), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["int8", "open"])
@pytest.mark.parametrize(
    "laid",
    [
        lambda x: x[::-1],
        lambda x: np.asfortranarray(x),
        lambda x: np.broadcast_to(x[:1], x.shape),
        lambda x: x.astype(">f4"),
        lambda x: x.astype("float64"),
    ],
)
def test_rows_may_lie_in_memory_as_they_like(files, name, laid):
    runner = litert.load_tflite(files[0] / f"{name}.tflite")
    x = laid(files[2])
    np.testing.assert_array_equal(runner.predict(x), runner.predict(np.array(x, "float32")))


def test_what_numpy_does_it_does_for_many_runs_at_once(files, monkeypatch):
    folder, _, x = files
    runner = litert.load_tflite(folder / "int8.tflite", isolated=False)
    seen = []
    real = session.quantize
    monkeypatch.setattr(session, "quantize", lambda x, info: seen.append(len(x)) or real(x, info))
    runner.predict(np.concatenate([x, x, x[:3]]))
    # 65 runs of 2 rows, and one that is filled up.
    assert sum(seen) == 131
    assert len(seen) <= 4


def test_one_tensor_under_two_names_is_two_outputs(tmp_path):
    def both(tensors):
        return {"b": tensors["x"] * 2, "a": tensors["x"] * 2}

    saved = converter.write_saved_model(both, {"x": tf.TensorSpec((1, 2))}, tmp_path / "saved")
    converter.convert(saved, tmp_path / "both.tflite")
    answers = litert.load_tflite(tmp_path / "both.tflite").predict(np.ones((1, 2), "float32"))
    assert {name: value.tolist() for name, value in answers.items()} == {
        "a": [[2.0, 2.0]],
        "b": [[2.0, 2.0]],
    }


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros((2, 5), "float32"), r"\(4,\).*\(2, 5\)"),
        (np.zeros(4, "float32"), r"\(4,\)"),
        (np.zeros((0, 4), "float32"), "length"),
        ({"z": np.zeros((2, 4), "float32")}, r"\['x'\].*\['z'\]"),
    ],
)
def test_wrong_inputs_are_refused(files, x, words):
    with pytest.raises(ValueError, match=words):
        litert.load_tflite(files[0] / "open.tflite").predict(x)


def test_threads_take_turns(files):
    folder, model, x = files
    runner = litert.load_tflite(folder / "open.tflite")
    expected = model.predict(x, verbose=0)
    wrong = []

    def work(rows):
        for _ in range(100):
            if not np.allclose(runner.predict(x[:rows]), expected[:rows], atol=1e-5):
                wrong.append(rows)

    threads = [threading.Thread(target=work, args=(rows,)) for rows in (3, 11, 40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_foreign_missing_and_truncated_files_are_named(files, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.tflite"):
        litert.load_tflite(tmp_path / "none.tflite")
    foreign = tmp_path / "model.keras"
    foreign.write_bytes(b"PK\x03\x04 a zip")
    with pytest.raises(ValueError, match="TFL3"):
        litert.load_tflite(foreign)
    whole = (files[0] / "open.tflite").read_bytes()
    for size in (0, 8, 100, len(whole) // 2):
        cut = tmp_path / "cut.tflite"
        cut.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut\.tflite"):
            litert.load_tflite(cut)


@pytest.mark.slow
def test_no_damaged_file_ends_the_process(files, tmp_path):
    whole = (files[0] / "int8.tflite").read_bytes()
    rng = np.random.default_rng(0)
    archive = tmp_path / "archive.keras"
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(archive)
    damaged = {
        "empty": b"",
        "random": rng.bytes(1000),
        "random_behind_its_identifier": whole[:8] + rng.bytes(1000),
        "archive": archive.read_bytes(),
        **{f"cut_{size}": whole[:size] for size in range(1, len(whole), len(whole) // 20)},
    }
    for name, content in damaged.items():
        (tmp_path / f"{name}.tflite").write_bytes(content)
    program = (
        "import pathlib, sys\nfrom keras_distill import litert\n"
        "for path in pathlib.Path(sys.argv[1]).glob('*.tflite'):\n"
        "    try:\n        litert.load_tflite(path)\n"
        "    except ValueError as error:\n        print(path.stem, str(path) in str(error))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert dict(line.split() for line in done.stdout.splitlines()) == dict.fromkeys(damaged, "True")


def test_a_signature_that_points_nowhere_is_refused(files):
    # LiteRT opens such a file and fails only when the tensor is asked for.
    class Astray:
        def __init__(self, **options):
            pass

        def get_signature_list(self):
            return {"serving_default": {}}

        def get_signature_runner(self, name):
            raise TypeError("TensorName(): incompatible function arguments")

    path = files[0] / "int8.tflite"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ai_edge_litert.interpreter.Interpreter", Astray)
        with pytest.raises(ValueError, match=r"int8\.tflite.*damaged"):
            litert.load_tflite(path, isolated=False)


@pytest.fixture(scope="session")
def foreign(tmp_path_factory):
    """A file of four signatures, converted as others do: by TensorFlow alone."""

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 4])])
        def double(self, x):
            return {"twice": x * 2}

        @tf.function(input_signature=[tf.TensorSpec([None, 3]), tf.TensorSpec([])])
        def scaled(self, z, by):
            return {"sum": tf.reduce_sum(z) * by, "z": z * by}

        @tf.function(input_signature=[tf.TensorSpec([3, 4])])
        def anchors(self, x):
            return {"boxes": tf.tile(x, [16, 1])}

        @tf.function(input_signature=[tf.TensorSpec([2, 4]), tf.TensorSpec([5, 4])])
        def pairs(self, a, b):
            return {"products": tf.matmul(a, b, transpose_b=True)}

    folder, module = tmp_path_factory.mktemp("foreign"), Module()
    names = ("double", "scaled", "anchors", "pairs")
    signatures = {name: getattr(module, name) for name in names}
    tf.saved_model.save(module, str(folder / "saved"), signatures=signatures)
    path = folder / "foreign.tflite"
    with litert.quiet_stderr():
        path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved")).convert())
    return path


@pytest.mark.parametrize("isolated", [False, True])
def test_every_signature_of_a_foreign_file_answers_whole(foreign, isolated):
    def load(signature=None):
        return litert.load_tflite(foreign, signature=signature, isolated=isolated)

    rng = np.random.default_rng(0)
    assert sorted(load().signatures) == ["anchors", "double", "pairs", "scaled"]
    x = rng.random((40, 4), "float32")
    np.testing.assert_array_equal(load("double").predict(x), 2 * x)
    # Scalars go in and out; the sum belongs to no row.
    z = rng.random((2, 3), "float32")
    answers = load("scaled").predict({"z": z, "by": np.float32(3)})
    assert answers["sum"].shape == ()
    np.testing.assert_allclose(answers["sum"], 3 * z.sum(), rtol=1e-6)
    np.testing.assert_allclose(answers["z"], 3 * z, rtol=1e-6)
    # First sizes that differ: nothing of it is a batch.
    a, b = rng.random((2, 4), "float32"), rng.random((5, 4), "float32")
    products = load("pairs").predict({"a": a, "b": b})
    np.testing.assert_allclose(products, a @ b.T, rtol=1e-5)
    with pytest.raises(ValueError, match=r"'b' expects an array of shape \(5, 4\)"):
        load("pairs").predict({"a": a, "b": a})
    # 16 boxes a row: of three rows 48, of a batch that was filled up those of its rows.
    boxes = load("anchors")
    assert boxes.predict(x[:3]).shape == (48, 4)
    assert boxes.predict(x[:6]).shape == (96, 4)
    np.testing.assert_array_equal(boxes.predict(x[:3])[:3], x[:3])
    with pytest.raises(ValueError, match=r"has the signatures .*'pairs'.* got 'nothing'"):
        load("nothing")


def test_an_output_that_belongs_to_no_row_is_not_joined(foreign, tmp_path):
    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 3])])
        def total(self, x):
            return {"sum": tf.reduce_sum(x), "x": x}

    module = Module()
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures={"total": module.total})
    path = tmp_path / "total.tflite"
    with litert.quiet_stderr():
        converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved"))
        path.write_bytes(converter.convert())
    runner = litert.load_tflite(path)
    x = np.ones((40, 3), "float32")
    assert runner.predict(x[:20])["sum"] == 60
    with pytest.raises(ValueError, match=r"'sum'.*batch_size=40"):
        runner.predict(x)
    assert runner.predict(x, batch_size=40)["sum"] == 120


def test_damaged_labels_are_refused(files, tmp_path):
    path = tmp_path / "labelled.tflite"
    path.write_bytes((files[0] / "int8.tflite").read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(litert.LABELS_FILE, "cat\ndog\n")
    assert litert.load_tflite(path).labels == ("cat", "dog")
    path.write_bytes(path.read_bytes().replace(b"cat\ndog", b"cat\ndot"))
    with pytest.raises(ValueError, match=r"labelled\.tflite"):
        litert.load_tflite(path)


def test_benchmark_measures_this_host(files):
    report = litert.load_tflite(files[0] / "open.tflite").benchmark(runs=20, warmup=1)
    assert 0 < report.latency_p50_ms <= report.latency_p90_ms < 1000
    assert report.peak_memory_bytes > 0
    assert (report.runs, report.num_threads) == (20, 1)
    assert json.loads(report.to_json())["host"] == report.host
    assert f"{report.latency_p50_ms:.3f} ms" in str(report)
    with pytest.raises(ValueError, match="runs"):
        litert.load_tflite(files[0] / "open.tflite").benchmark(runs=0)


def test_latency_and_memory_grow_with_the_model(files, tmp_path):
    wide = keras.Sequential([keras.Input((1024,)), keras.layers.Dense(4096)])
    saved = converter.write_saved_model(
        lambda tensors: {"y": wide(tensors["x"])},
        {"x": tf.TensorSpec((1, 1024))},
        tmp_path / "saved",
        wide.variables,
    )
    converter.convert(saved, tmp_path / "wide.tflite")
    large = litert.load_tflite(tmp_path / "wide.tflite").benchmark(runs=20)
    small = litert.load_tflite(files[0] / "open.tflite").benchmark(runs=20)
    # Its weights alone are 1024 x 4096 x 4 bytes.
    assert large.peak_memory_bytes - small.peak_memory_bytes > 8_000_000
    assert large.latency_p50_ms > 10 * small.latency_p50_ms


def test_nothing_reaches_the_terminal_but_what_others_write(files, capfd):
    runner = litert.load_tflite(files[0] / "open.tflite")
    runner.predict(np.zeros((1, 4), "float32"))
    assert capfd.readouterr() == ("", "")
    with litert.quiet_stderr():
        os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\nfrom elsewhere\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "from elsewhere\nafter\n"


@pytest.mark.slow
def test_a_closed_stderr_does_no_harm(files):
    program = (
        "import os, sys; os.close(2); import numpy as np; from keras_distill import litert; "
        "print(litert.load_tflite(sys.argv[1]).predict(np.zeros((1, 4), 'float32')).shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(files[0] / "open.tflite")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.stdout.strip() == "(1, 3)"
