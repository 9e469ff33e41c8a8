"""Models of every kind become files that answer as they do, and failures cost nothing."""

import os
import signal
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from keras_distill import edge
from keras_distill.litert import converter, process

DEAD_WORKER = "import os, signal; os.kill(os.getpid(), signal.{})"
HALF_WORKER = """
import sys
sys.path.insert(0, {!r})
import serve
request, _ = serve.receive(sys.stdin.buffer)
open(request["output"], "w").write("half")
serve.send(sys.stdout.buffer, {{"failure": None}}, [])
"""


@pytest.fixture
def worker_of(tmp_path_factory, monkeypatch):
    """Lets a script of the test's stand in for the converter's process."""
    workers = process.Processes("converter_worker", converter._child_environment)

    def start(code):
        script = tmp_path_factory.mktemp("worker") / "worker.py"
        script.write_text(code)
        monkeypatch.setattr(process, "_SCRIPT", script)
        monkeypatch.setattr(converter, "WORKER", workers)

    yield start
    workers.end()


class TwoHeads(keras.Model):
    """Subclassed, a dict in and out, with keys that do not come in alphabetical order."""

    def __init__(self):
        super().__init__()
        self.first, self.second = keras.layers.Dense(2), keras.layers.Dense(2)

    def call(self, x):
        return {"up": self.first(x["right"]), "down": self.second(x["left"])}


class MatrixInverse(keras.layers.Layer):
    def call(self, x):
        return tf.linalg.inv(x)


class Loop(keras.layers.Layer):
    def call(self, x):
        return tf.map_fn(tf.cumsum, x)


def tiny(*layers):
    return keras.Sequential([keras.Input((3, 3)), *(layers or [keras.layers.Dense(2)])])


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("precision", "tolerance"),
    # float32: another order of sums. float16: 11 bits of mantissa. int8 and int16x8: 8-bit weights.
    [("float32", 1e-5), ("float16", 1e-2), ("dynamic_int8", 0.02), ("int8", 0.1), ("int16x8", 0.1)],
)
def test_each_precision_answers_as_the_model(exported, digits, digits_model, precision, tolerance):
    expected = digits_model.predict(digits.x_test, verbose=0)
    answers = edge.load_tflite(exported(precision).path).predict(digits.x_test)
    assert np.abs(answers - expected).max() <= tolerance * np.abs(expected).max()
    right = [np.mean(a.argmax(-1) == digits.y_test) for a in (expected, answers)]
    assert right[0] > 0.8
    assert right[0] - right[1] <= 0.01


def test_precisions_are_what_they_say(exported):
    records = {p: exported(p) for p in ("float32", "float16", "int8", "int16x8", "dynamic_int8")}
    assert records["int8"].float_ops == {}
    assert records["int16x8"].float_ops == {}
    assert records["int16x8"].dtypes["int16"] > 0
    assert records["float16"].dtypes["float16"] > 0
    assert records["dynamic_int8"].dtypes["int8"] > 0
    assert "int8" not in records["float32"].dtypes
    assert records["float32"].bytes > records["float16"].bytes > records["int8"].bytes
    for record in records.values():
        assert record.bytes == record.path.stat().st_size
        assert [info.name for info in record.inputs] == ["image"]
        assert [info.name for info in record.outputs] == ["logits"]
        assert record.inputs[0].dtype == "float32"
        assert record.inputs[0].shape == (1, 8, 8, 1)
        assert record.labels == tuple("0123456789")


def test_uint8_in_and_out(exported, digits, digits_model):
    export = exported("int8", input_type="uint8")
    assert {info.dtype for info in (*export.inputs, *export.outputs)} == {"uint8"}
    assert set(export.ops) & {"CONV_2D"}
    answers = edge.load_tflite(export.path).predict(digits.x_test)
    expected = digits_model.predict(digits.x_test, verbose=0)
    assert np.mean(answers.argmax(-1) == expected.argmax(-1)) > 0.95


def test_the_file_has_one_signature_in_the_models_names_and_order(tmp_path):
    # Neither side is in alphabetical order, and one name is none that TensorFlow takes.
    z, a = keras.Input((3,), name="z-1"), keras.Input((2,), name="a")
    merged = keras.layers.Concatenate()([z, a])
    outputs = [keras.layers.Dense(4, name="wide")(merged), keras.layers.Dense(2, name="slim")(a)]
    model = keras.Model([z, a], outputs)
    export = edge.export_tflite(model, tmp_path / "two.tflite", batch_size=None)
    interpreter = Interpreter(str(export.path))
    assert list(interpreter.get_signature_list()) == ["serving_default"]
    assert set(interpreter.get_signature_list()["serving_default"]["inputs"]) == {"z-1", "a"}
    assert [(info.name, info.shape) for info in export.inputs] == [
        ("z-1", (None, 3)),
        ("a", (None, 2)),
    ]
    assert [info.name for info in export.outputs] == ["wide", "slim"]
    x = [np.random.default_rng(0).random((5, n), "float32") for n in (3, 2)]
    expected = model.predict(x, verbose=0)
    for given in (x, {"a": x[1], "z-1": x[0]}):
        answers = edge.load_tflite(export.path).predict(given)
        np.testing.assert_allclose(answers["wide"], expected[0], atol=1e-5)
        np.testing.assert_allclose(answers["slim"], expected[1], atol=1e-5)


def test_a_subclassed_model_calibrates_under_other_names(tmp_path):
    model = TwoHeads()
    rng = np.random.default_rng(0)
    # A hundred times apart: calibrating one input with the other's data would show.
    x = {"right": rng.random((40, 3), "float32"), "left": 100 * rng.random((40, 3), "float32")}
    expected = model(x)
    export = edge.export_tflite(
        model,
        tmp_path / "heads.tflite",
        precision="int8",
        representative_data=x,
        input_names=["r", "l"],
        output_names=["u", "d"],
    )
    assert export.float_ops == {}
    answers = edge.load_tflite(export.path).predict({"r": x["right"], "l": x["left"]})
    for name, own in {"u": "up", "d": "down"}.items():
        reference = expected[own].numpy()
        assert np.abs(answers[name] - reference).max() < 0.03 * np.abs(reference).max()


def test_a_half_precision_model_is_exported_in_float32(tmp_path):
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, dtype="mixed_float16")(inputs)
    inner = keras.Sequential([keras.Input((6, 6, 4)), keras.layers.ReLU(dtype="mixed_float16")])
    x = keras.layers.Flatten()(inner(x))
    model = keras.Model(inputs, keras.layers.Dense(3, dtype="mixed_bfloat16")(x))
    export = edge.export_tflite(model, tmp_path / "mixed.tflite")
    assert {k for k in export.dtypes if "float" in k} == {"float32"}
    assert "CAST" not in export.ops
    images = np.random.default_rng(0).random((4, 8, 8, 1), "float32")
    answers = edge.load_tflite(export.path).predict(images)
    # bfloat16 keeps 8 bits of mantissa.
    np.testing.assert_allclose(answers, model.predict(images, verbose=0), atol=0.03)
    assert model.layers[1].compute_dtype == "float16"

    class Mixed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2, dtype="mixed_float16")

        def call(self, x):
            return self.dense(x)

    subclassed = Mixed()
    subclassed(np.ones((1, 3), "float32"))
    with pytest.raises(ValueError, match="set_dtype_policy"):
        edge.export_tflite(subclassed, tmp_path / "no.tflite")


def test_a_missing_kernel_is_named_and_the_old_file_stays(tmp_path):
    path = tmp_path / "old.tflite"
    path.write_bytes(b"what was there")
    with pytest.raises(edge.ConversionError, match=r"MatrixInverse.*allow_flex=True") as caught:
        edge.export_tflite(tiny(MatrixInverse()), path)
    assert "MatrixInverse" in str(caught.value.__cause__)
    assert path.read_bytes() == b"what was there"
    assert leftovers(tmp_path) == ["old.tflite"]


def test_allow_flex_lets_tensorflow_operations_in(tmp_path):
    export = edge.export_tflite(tiny(MatrixInverse()), tmp_path / "f.tflite", allow_flex=True)
    assert export.ops == {"FlexMatrixInverse": 1}
    x = 2 * np.eye(3, dtype="float32")[None]
    refusal, given = "", x / 4
    try:  # TensorFlow 2.19 has the delegate in its process, 2.21 has not
        given = edge.load_tflite(export.path).predict(x)
    except ValueError as error:
        refusal = str(error)
    assert not refusal or "Flex delegate" in refusal
    np.testing.assert_allclose(given, x / 4)


def test_a_real_crash_of_the_converter_leaves_the_session_and_the_file(tmp_path):
    path = tmp_path / "old.tflite"
    path.write_bytes(b"what was there")
    x = np.random.default_rng(0).random((4, 3, 3), "float32")
    with pytest.raises(edge.ConversionError, match="SIGSEGV"):
        edge.export_tflite(tiny(Loop()), path, precision="int8", representative_data=x)
    assert path.read_bytes() == b"what was there"


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV"])
def test_a_killed_worker_is_an_error_of_ours(tmp_path, worker_of, name):
    path = tmp_path / "old.tflite"
    path.write_bytes(b"what was there")
    worker_of(DEAD_WORKER.format(name))
    with pytest.raises(edge.ConversionError, match=f"killed by {name}"):
        edge.export_tflite(tiny(), path)
    assert path.read_bytes() == b"what was there"
    assert leftovers(tmp_path) == ["old.tflite"]


def test_a_file_that_does_not_run_never_takes_the_place_of_a_good_one(tmp_path, worker_of):
    path = tmp_path / "old.tflite"
    path.write_bytes(b"what was there")
    worker_of(HALF_WORKER.format(str(Path(process.__file__).parent)))
    with pytest.raises(edge.ConversionError):
        edge.export_tflite(tiny(), path)
    assert path.read_bytes() == b"what was there"


def test_ctrl_c_ends_the_worker(tmp_path, worker_of):
    note = tmp_path / "pid"
    worker_of(
        f"import os, sys, time; sys.stdin.buffer.read(8)\n"
        f"open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    )

    def interrupt():
        while not (note.exists() and note.read_text()):
            pass
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        edge.export_tflite(tiny(), tmp_path / "never.tflite")
    thread.join()
    assert leftovers(tmp_path) == ["pid"]
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def exported(model, path):
    edge.export_tflite(model, path)
    return path.read_bytes()


@pytest.mark.slow
def test_conversions_share_a_process_and_know_nothing_of_each_other(tmp_path, monkeypatch):
    model, other = tiny(), tiny(keras.layers.Dense(5))
    converter.WORKER.end()
    first = exported(model, tmp_path / "a.tflite")
    worker = converter.WORKER.current()
    monkeypatch.chdir(tmp_path)
    exported(other, Path("b.tflite"))
    assert exported(model, tmp_path / "c.tflite") == first
    assert converter.WORKER.current() is worker
    # One that was killed while it had nothing to do is no loss.
    worker._child.kill()
    worker._child.wait()
    assert exported(model, tmp_path / "d.tflite") == first


@pytest.mark.slow
def test_a_worker_that_leaves_when_its_work_comes_is_replaced(tmp_path, worker_of):
    note, server = tmp_path / "left", process._SCRIPT
    worker_of(
        f"import os, runpy, sys\n"
        f"if not os.path.exists({str(note)!r}):\n"
        f"    open({str(note)!r}, 'w')\n"
        f"    sys.stdin.buffer.read(8)\n"
        f"    sys.exit(0)\n"
        f"runpy.run_path({str(server)!r}, run_name='__main__')\n"
    )
    assert exported(tiny(), tmp_path / "a.tflite")
    assert note.exists()


def test_the_worker_does_not_inherit_legacy_keras(monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    environment = converter._child_environment()
    assert "TF_USE_LEGACY_KERAS" not in environment
    assert os.environ["TF_USE_LEGACY_KERAS"] == "1"


def test_an_export_is_silent_and_changes_nothing(tmp_path, capfd):
    model = tiny()
    before = [weight.copy() for weight in model.get_weights()], dict(os.environ)
    capfd.readouterr()
    edge.export_tflite(model, tmp_path / "quiet.tflite")
    assert capfd.readouterr() == ("", "")
    for old, new in zip(before[0], model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert dict(os.environ) == before[1]
    assert leftovers(tmp_path) == ["quiet.tflite"]


ROWS = np.zeros((2, 3, 3), "float32")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "int4"}, "int16x8"),
        ({"precision": "int8"}, "needs representative_data"),
        ({"precision": "int16x8"}, "needs representative_data"),
        ({"representative_data": ROWS}, "used only at"),
        ({"input_type": "uint8"}, "precision='int8'"),
        ({"input_type": "float16"}, "input_type None"),
        ({"batch_size": 0}, "batch_size"),
        ({"labels": ["a", "b", "c"]}, "3 labels"),
        ({"labels": ["a", "b\nc"]}, "one line"),
        ({"input_names": ["a", "b"]}, "1 different names"),
        ({"output_names": "logits"}, "1 different names"),
        ({"precision": "int8", "representative_data": ROWS[:0]}, "0 rows"),
        ({"precision": "int8", "representative_data": ROWS[:, :2]}, r"\(3, 3\).*\(2, 2, 3\)"),
        ({"precision": "int8", "representative_data": ROWS + np.nan}, "NaN"),
        ({"precision": "int8", "representative_data": {"x": ROWS, "y": ROWS}}, "inputs"),
    ],
)
def test_bad_arguments_are_refused_before_any_conversion(tmp_path, monkeypatch, options, words):
    monkeypatch.setattr(converter.WORKER, "ask", None)
    with pytest.raises(ValueError, match=words):
        edge.export_tflite(tiny(), tmp_path / "no.tflite", **options)
    assert leftovers(tmp_path) == []


def test_models_that_cannot_be_exported_are_named(tmp_path):
    with pytest.raises(TypeError, match="function"):
        edge.export_tflite(lambda x: x, tmp_path / "no.tflite")
    with pytest.raises(ValueError, match="built"):
        edge.export_tflite(TwoHeads(), tmp_path / "no.tflite")


def test_an_unwritable_folder_is_found_before_the_conversion(tmp_path, monkeypatch):
    monkeypatch.setattr(converter.WORKER, "ask", None)
    with pytest.raises(FileNotFoundError, match="create"):
        edge.export_tflite(tiny(), tmp_path / "missing" / "a.tflite")
    with pytest.raises(IsADirectoryError):
        edge.export_tflite(tiny(), tmp_path)
    if Path("/proc/self").exists():
        with pytest.raises(PermissionError, match="/proc"):
            edge.export_tflite(tiny(), "/proc/a.tflite")
