"""Input that is damaged or meant to harm costs a bounded effort and is an error in words."""

import json
import struct
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from typer.testing import CliRunner

from keras_distill import cli, litert
from keras_distill.litert import runner
from keras_distill.pipeline import inputs
from keras_distill.pipeline.gate import load_baseline
from keras_distill.training.stages import RECORD, Folder, UsageError


def endless():
    """A .tflite whose loop never ends."""

    @tf.function(input_signature=[tf.TensorSpec((1, 2))])
    def loop(x):
        return tf.while_loop(lambda y: tf.reduce_sum(y) < 1e30, lambda y: [y * 0.5], [x])

    concrete = loop.get_concrete_function()
    return tf.lite.TFLiteConverter.from_concrete_functions([concrete], loop).convert()


@pytest.fixture(scope="module")
def endless_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("files") / "endless.tflite"
    file.write_bytes(endless())
    return file


def test_a_file_that_never_ends_is_given_up(endless_file):
    with pytest.raises(RuntimeError, match=r"within 0\.5 seconds.*run_limit_s="):
        litert.load_tflite(endless_file).benchmark(runs=1, warmup=0, run_limit_s=0.5)


def test_the_command_gives_up_too(endless_file):
    words = ["benchmark", str(endless_file), "--runs", "1", "--run-limit", "0.5"]
    answer = CliRunner().invoke(cli.app, words)
    assert answer.exit_code == 2
    assert "--run-limit" in answer.output


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf")])
def test_a_limit_is_a_positive_number(limit, endless_file):
    with pytest.raises(ValueError, match="run_limit_s > 0"):
        litert.load_tflite(endless_file).benchmark(run_limit_s=limit)


def test_labels_that_unpack_to_gigabytes_are_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "MAX_LABELS_BYTES", 1000)
    file = tmp_path / "bomb.tflite"
    for length in (1000, 1001):
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(litert.LABELS_FILE, "a" * length)
        if length == 1000:
            assert litert.read_labels(file) == ("a" * 1000,)
    with pytest.raises(ValueError, match="longer than 1,000 bytes"):
        litert.read_labels(file)


def npy(header, content=b""):
    text = repr(header).encode() if isinstance(header, dict) else header
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def claim(shape, descr="<f8"):
    return {"descr": descr, "fortran_order": False, "shape": shape}


MEMBERS = {
    "2^50 elements": npy(claim((1 << 50,))),
    "more than can be counted": npy(claim((1 << 62, 1 << 62))),
    "fewer than none": npy(claim((-3,))),
    "cut short": npy(claim((4, 4)), b"\0" * 5),
    "objects": npy(claim((1,), "|O"), b"cos\nsystem\n."),
    "no header": npy(b"{'descr'"),
    "a deep header": npy(b"(" * 9000 + b")" * 9000),
    "code for a header": npy(b"__import__('os').abort()"),
    "nothing": b"",
    "text": b"hello",
    "a single number": npy(claim(()), b"\0" * 8),
}


@pytest.mark.parametrize("what", MEMBERS)
def test_a_damaged_npz_is_a_usage_error(what, tmp_path):
    file = tmp_path / "data.npz"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", MEMBERS[what])
    with pytest.raises(UsageError, match=r"data\.npz"):
        inputs.read_npz(file)


@pytest.mark.parametrize("change", ["checksum", "compression", "password", "cut"])
def test_a_damaged_archive_is_a_usage_error(change, tmp_path):
    file = tmp_path / "data.npz"
    np.savez_compressed(file, x=np.arange(2000.0))
    content = bytearray(file.read_bytes())
    central = content.index(b"PK\x01\x02")
    if change == "checksum":
        content[central // 2] ^= 0xFF
    elif change == "compression":
        content[central + 10 : central + 12] = b"\x63\x00"
    elif change == "password":
        content[central + 8] |= 1
    else:
        content = content[: central + 20]
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"data\.npz"):
        inputs.read_npz(file)


def test_a_damaged_npz_ends_a_command_with_status_2_and_is_in_the_junit_file(
    tmp_path, endless_file
):
    data, junit = tmp_path / "data.npz", tmp_path / "junit.xml"
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("x.npy", MEMBERS["2^50 elements"])
    words = ["verify", endless_file, "--model", "none.keras", "--data", data, "--junit", junit]
    answer = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert answer.exit_code == 2, answer.output
    assert "<error" in junit.read_text()


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"accuracy_file": NaN}', '{"accuracy_file": -1}', "[]", "7"]
)
def test_a_damaged_baseline_is_a_usage_error(text, tmp_path):
    file = tmp_path / "report.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=r"report\.json"):
        load_baseline(file)


def open_stages(folder):
    with Folder(folder).open({}, ()):
        pass


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        json.dumps({"settings": {}, "finished": []})[:-1],
        '{"settings": ' + '{"a": ' * 500 + "1" + "}" * 501,
    ],
)
def test_a_damaged_record_of_stages_is_a_usage_error(text, tmp_path):
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(UsageError, match=r"stages\.json"):
        open_stages(tmp_path)
