"""The console's entry: quietens the terminal before TensorFlow loads, then runs the commands.

TensorFlow, XLA and LiteRT write log lines straight to file descriptor 2, from C++, some of them
before any setting is read. A small filter process stands between that descriptor and the
terminal: it drops their log lines and passes all else, so that a fatal error is seen even when
this process dies of it. Python's own `sys.stderr` goes to the terminal directly.

`KERAS_DISTILL_LOGS=1` shows every line.
"""

import importlib.util
import logging
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

NOISE = re.compile(
    "|".join(
        [
            r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IW] ",
            r"[IW]\d{4} \d\d:\d\d:\d+\.\d+ ",
            # Without a usable GPU, XLA's and TensorFlow's probes report its absence as an error.
            r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: )?E[ \d].*"
            r"(cuda|cudnn|cublas|cufft|computation_placer|CUDA_ERROR)",
            r"WARNING: All log messages before absl::InitializeLog\(\)",
            r"To enable the following instructions: ",
            r"(INFO|WARNING): (Created|Initialized|Applying|Replacing|Attempting)\b.*"
            r"(TensorFlow Lite|LiteRT|delegate|XNNPACK)",
            r"INFO:tensorflow:|WARNING:tensorflow:|WARNING:absl:|INFO:absl:",
            r"fully_quantize: \d+, inference_type: ",
        ]
    ).encode()
)


def main():
    """Run the command line; the console script `keras-distill`."""
    quieten()
    app = load_app()
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)


def quieten():
    """Silence the libraries' logs, for this process and its children, before they load."""
    if os.environ.get("KERAS_DISTILL_LOGS") == "1":
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", category=UserWarning, module="keras_distill")
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    filter_descriptor_2()


def filter_descriptor_2():
    """Put the filter between file descriptor 2 and the terminal; `sys.stderr` stays on that."""
    if sys.stderr is None:
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    reading, writing = os.pipe()
    # A session of its own, so that Ctrl-C ends us and the filter still carries our last words.
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, "--filter"],
        stdin=reading,
        stdout=subprocess.DEVNULL,
        stderr=terminal,
        start_new_session=True,
    )
    process.returncode = 0  # It outlives us on purpose: nobody waits for it.
    os.dup2(writing, 2)
    os.close(reading)
    os.close(writing)
    sys.stderr = os.fdopen(terminal, "w", buffering=1, errors="backslashreplace")


def load_app():
    """The typer application, read from its folder: importing the package would load TensorFlow."""
    path = Path(__file__).with_name("keras_distill") / "cli" / "__init__.py"
    spec = importlib.util.spec_from_file_location(
        "keras_distill.cli", path, submodule_search_locations=[str(path.parent)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.app


def filter_lines(read, write):
    """Copy lines from `read()` to `write(bytes)` until it returns none, dropping `NOISE`."""
    rest = b""
    while chunk := read():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if not NOISE.match(line):
                write(line + b"\n")
    if rest and not NOISE.match(rest):
        write(rest)


if __name__ == "__main__":
    if sys.argv[1:] == ["--filter"]:
        filter_lines(lambda: os.read(0, 65536), lambda line: os.write(2, line))
    else:
        main()
