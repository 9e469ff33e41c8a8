"""The console's entry: quick, quiet, and never quiet about a real error."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import keras_distill_cli

SCRIPT = str(Path(sysconfig.get_path("scripts")) / "keras-distill")
NOISE = [
    b"2026-01-31 12:00:00.123456: I tensorflow/core/util/port.cc:153] oneDNN custom operations",
    b"2026-01-31 12:00:00.123456: W tensorflow/core/kernels/data/x.cc:1] Local rendezvous",
    b"2026-01-31 12:00:00.123456: E external/local_xla/cuda/cuda_fft.cc:467] Unable to register",
    b"I0000 00:00:1769860800.123456  101 cuda_executor.cc:1] whatever",
    b"W0000 00:00:1769860800.123456  101 tf_tfl_flatbuffer_helpers.cc:365] Ignored output_format.",
    b"E0000 00:00:1769860800.123456  101 cuda_dnn.cc:8579] Unable to register cuDNN factory",
    b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    b"To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow",
    b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.",
]
REAL = [
    b"F0000 00:00:1769860800.123456  101 tensor.cc:1] Check failed: 1 == 2",
    b"2026-01-31 12:00:00.123456: F tensorflow/core/framework/tensor.cc:1] Check failed",
    b"2026-01-31 12:00:00.123456: E tensorflow/core/x.cc:1] Out of memory",
    b"Fatal Python error: Aborted",
    b"terminate called after throwing an instance of 'std::bad_alloc'",
    b"Traceback (most recent call last):",
    b"RuntimeError: In the middle: I0000 00:00:1769860800.123456",
    b"",
]


def filtered(*chunks):
    feed, out = iter([*chunks, b""]), []
    keras_distill_cli.filter_lines(lambda: next(feed), out.append)
    return b"".join(out)


def quiet_python(body):
    """Run Python behind the console's filter."""
    source = f"import keras_distill_cli\nkeras_distill_cli.quieten()\n{body}"
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)


def console(*arguments):
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("line", NOISE)
def test_the_filter_drops_log_lines(line):
    assert filtered(line + b"\n") == b""


@pytest.mark.parametrize("line", REAL)
def test_the_filter_passes_errors(line):
    assert filtered(line + b"\n") == line + b"\n"


def test_the_filter_sees_lines_whatever_the_chunks():
    text = b"\n".join([NOISE[0], REAL[0], NOISE[3], b"no newline at the end"])
    chunks = [text[i : i + 7] for i in range(0, len(text), 7)]
    assert filtered(*chunks) == REAL[0] + b"\nno newline at the end"


def test_tensorflow_loads_in_silence():
    done = quiet_python("import tensorflow as tf\ntf.constant([1.0]) + 1.0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_exception_gets_through():
    done = quiet_python("import tensorflow\nraise RuntimeError('the cause')")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("RuntimeError: the cause\n")


def test_a_fatal_message_survives_the_abort():
    done = quiet_python("import os\nos.write(2, b'F0000 00:00 the end\\n')\nos.abort()")
    assert done.returncode == -6
    assert done.stderr == "F0000 00:00 the end\n"


def test_the_last_words_of_the_interpreter_survive():
    done = quiet_python("import faulthandler, os\nfaulthandler.enable(2)\nos.abort()")
    assert done.stderr.startswith("Fatal Python error: Aborted")


def test_version():
    done = console("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("keras-distill 0.")


def test_help_names_the_commands_without_loading_tensorflow():
    source = (
        "import sys, keras_distill_cli\n"
        "sys.argv = ['keras-distill', 'demo', '--help']\n"
        "try:\n    keras_distill_cli.main()\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "assert not {'tensorflow', 'keras', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--labels" in done.stdout


@pytest.mark.parametrize(
    "arguments", [("demo", "--labels", "2"), ("demo", "--epochs", "0"), ("dmeo",)]
)
def test_wrong_arguments_are_refused(arguments):
    done = console(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
