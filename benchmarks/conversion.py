"""What an export, a verification and ranges cost beside the parts that nobody can do without.

    python benchmarks/conversion.py            # some five minutes, on a quiet machine
    python benchmarks/conversion.py --table    # the tables again, from the JSON

Each round asks all contestants one after the other; a ratio is one of a round, and a table shows
its median and quartiles. CPU seconds are those of this process and of all that it has started:
an export converts in a process of its own, which an untimed export has started before.

- From a Keras model to a .tflite of one row a run: `export_tflite`; `model.export` and
  `TFLiteConverter.from_saved_model(...).convert()` in this process; and that last step alone.
- 10,000 rows through a file, one thread, the same rows a run: `TFLiteRunner.predict` and the
  interpreter's own loop. `verify` asks the Keras model the same rows and times the file, so it
  stands beside the loop, `model.predict` and `kd.edge.benchmark`, which starts a process.
- `quantize_aware` and `calibrate` of MobileNetV2.
"""

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import _common
import _models
import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

import keras_distill as kd
from keras_distill.litert.quiet import quiet_stderr

PATH = _common.RESULTS / "conversion.json"
ROWS, CALIBRATION_ROWS = 10_000, 32
_TICK = 1 / os.sysconf("SC_CLK_TCK")
Cost = dict[str, float]


def small_cnn() -> keras.Model:
    """Three convolutions on 28x28 pixels."""
    image = x = keras.Input((28, 28, 1))
    for width in (8, 16, 32):
        x = keras.layers.Conv2D(width, 3, 2, "same", use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    return keras.Model(image, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x)))


def mobile(size: int, width: float) -> keras.Model:
    """MobileNetV2, untrained."""
    return keras.applications.MobileNetV2(
        (size, size, 3), alpha=width, weights=None, classes=10, classifier_activation=None
    )


EXPORTED: dict[str, Callable[[], keras.Model]] = {
    "small CNN": small_cnn,
    "MobileNetV2, 96 pixels": lambda: _models.application("MobileNetV2", 96),
}
# The model, and rows a run: fixed at 1, or 64 at once of an open batch.
VERIFIED: dict[str, tuple[Callable[[], keras.Model], int | None]] = {
    "small CNN, 1 row a run": (small_cnn, 1),
    "small CNN, 64 rows a run": (small_cnn, None),
    "MobileNetV2 0.35, 48 pixels, 1 row a run": (lambda: mobile(48, 0.35), 1),
}


# --- costs --------------------------------------------------------------------------------------


def others_seconds() -> float:
    """CPU of this process's children: of those it has waited for, and of those that live."""
    gone = resource.getrusage(resource.RUSAGE_CHILDREN)
    return gone.ru_utime + gone.ru_stime + sum(map(_seconds_of, _children()))


def _children() -> list[list[str]]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # It has ended meanwhile.
            continue
        if int(fields[1]) == os.getpid():
            found.append(fields)
    return found


def _seconds_of(fields: list[str]) -> float:
    return (int(fields[11]) + int(fields[12])) * _TICK


def cost(work: Callable[[], Any]) -> Cost:
    """Seconds of CPU and by the clock."""
    others, own, begin = others_seconds(), time.process_time(), time.perf_counter()
    work()
    wall, own = time.perf_counter() - begin, time.process_time() - own
    return {"wall": wall, "cpu": own + others_seconds() - others}


def rounds_of(contestants: dict[str, Callable[[], Any]], count: int) -> list[dict[str, Cost]]:
    """What each costs, round by round; one more, before, is not counted."""
    found = []
    for _ in range(count + 1):
        found.append({name: cost(work) for name, work in contestants.items()})
    return found[1:]


# --- contestants --------------------------------------------------------------------------------


def images(model: keras.Model, count: int) -> np.ndarray:
    return np.random.default_rng(0).random((count, *model.input_shape[1:]), "float32")


def exports(model: keras.Model, precision: str, folder: Path) -> dict[str, Callable[[], Any]]:
    rows, saved = images(model, CALIBRATION_ROWS), str(folder / "saved")
    spec = [tf.TensorSpec((1, *model.input_shape[1:]), tf.float32)]
    data = {"representative_data": rows} if precision == "int8" else {}

    def convert() -> bytes:
        converter = tf.lite.TFLiteConverter.from_saved_model(saved)
        if precision == "int8":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.representative_dataset = lambda: ([row[None]] for row in rows)
        with quiet_stderr():
            return converter.convert()

    return {
        "save": lambda: model.export(saved, verbose=False, input_signature=spec),
        "convert": convert,
        "ours": lambda: kd.edge.export_tflite(
            model, folder / "ours.tflite", precision=precision, **data
        ),
    }


def verifications(
    model: keras.Model, rows_a_run: int | None, count: int, folder: Path
) -> dict[str, Callable[[], Any]]:
    x, step = images(model, count), rows_a_run or 64
    export = kd.edge.export_tflite(model, folder / "verified.tflite", batch_size=rows_a_run)
    runner = kd.edge.load_tflite(export.path)
    with quiet_stderr():
        interpreter = Interpreter(str(export.path), num_threads=1)
        interpreter.allocate_tensors()
    return {
        "loop": lambda: loop(interpreter, x, step),
        "rows": lambda: runner.predict(x, None if rows_a_run else step),
        "model": lambda: model.predict(x, batch_size=64, verbose=0),
        "latency": lambda: kd.edge.benchmark(export),
        "verify": lambda: kd.edge.verify(export, model, x),
    }


def loop(interpreter: Any, x: np.ndarray, step: int) -> np.ndarray:
    """A file's answers as its interpreter, opened before, gives them to who asks it directly."""
    (given,), (taken,) = interpreter.get_input_details(), interpreter.get_output_details()
    size, given, taken = given["shape"][0], given["index"], taken["index"]
    found = []
    for start in range(0, len(x), step):
        rows = x[start : start + step]
        if len(rows) != size:
            size = len(rows)
            interpreter.resize_tensor_input(given, rows.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(given, rows)
        interpreter.invoke()
        found.append(interpreter.get_tensor(taken))
    return np.concatenate(found)


def ranges(model: keras.Model) -> dict[str, Callable[[], Any]]:
    x = images(model, 128)
    return {"ranges": lambda: kd.edge.calibrate(kd.edge.quantize_aware(model), x)}


# --- the whole run ------------------------------------------------------------------------------


def run_all(rounds: int, rows: int, smoke: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"host": _common.host(), "rounds": rounds, "count": rows}
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        # TensorFlow's, of its interpreter that calibrates.
        warnings.simplefilter("ignore")
        folder = Path(name)
        for what, make in list(EXPORTED.items())[: 1 if smoke else None]:
            model = make()
            for precision in ("float32", "int8"):
                measured = rounds_of(exports(model, precision, folder), rounds)
                found.setdefault("export", {})[f"{what}, {precision}"] = measured
        for what, (make, rows_a_run) in list(VERIFIED.items())[: 1 if smoke else None]:
            contestants = verifications(make(), rows_a_run, rows, folder)
            # By themselves: a loop of a tenth of a second is half as slow again behind a `verify`.
            alone = {name: contestants[name] for name in ("loop", "rows")}
            found.setdefault("rows", {})[what] = rounds_of(alone, 3 * rounds)
            del contestants["rows"]
            found.setdefault("verify", {})[what] = rounds_of(contestants, rounds)
        what, make = list(EXPORTED.items())[0 if smoke else -1]
        found["ranges"] = {what: rounds_of(ranges(make()), rounds)}
    return found


# --- tables -------------------------------------------------------------------------------------


def spread(values: list[float], digits: int = 2) -> str:
    """The median, and the quartiles."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def total(one: dict[str, Cost], names: tuple[str, ...], kind: str) -> float:
    return sum(one[name][kind] for name in names)


def compared(
    measured: list[dict[str, Cost]], ours: str, plain: tuple[str, ...], kind: str
) -> list[float]:
    return [one[ours][kind] / total(one, plain, kind) for one in measured]


def judged(
    what: str, measured: list[dict[str, Cost]], ours: str, plain: tuple[str, ...], most: float
) -> list[str]:
    """A row: seconds of CPU, and the ratio in them and by the clock beside the target."""
    ratios = {kind: compared(measured, ours, plain, kind) for kind in ("cpu", "wall")}
    reached = all(statistics.median(values) <= most for values in ratios.values())
    seconds = [spread([total(one, names, "cpu") for one in measured]) for names in ((ours,), plain)]
    return [
        *(what, *seconds, spread(ratios["cpu"]), spread(ratios["wall"])),
        *(f"{most:g}", "yes" if reached else "NO"),
    ]


def table(stored: dict[str, Any]) -> str:
    columns = ["ratio of CPU", "by the clock", "at most", "reached"]
    exported = [
        judged(f"{what}, {of}", measured, "ours", plain, 1.5)
        for what, measured in stored["export"].items()
        for of, plain in (
            ("with model.export", ("save", "convert")),
            ("the conversion alone", ("convert",)),
        )
    ]
    verified = [
        judged(f"{what}: {words}", stored[part][what], ours, plain, 1.2)
        for what in stored["verify"]
        for part, words, ours, plain in (
            ("rows", "predict / loop", "rows", ("loop",)),
            (
                *("verify", "verify / loop, model.predict, benchmark"),
                *("verify", ("loop", "model", "latency")),
            ),
        )
    ]
    ((what, measured),) = stored["ranges"].items()
    ranges_cpu = [one["ranges"]["cpu"] for one in measured]
    head = f"{_common.host_line(stored['host'])}; {stored['rounds']} rounds, median (quartiles)"
    return "\n\n".join([
        head,
        _common.markdown(["export to bytes", "ours, CPU s", "plain, CPU s", *columns], exported),
        _common.markdown(
            [f"{stored['count']:,} rows", "ours, CPU s", "plain, CPU s", *columns], verified
        ),
        f"`quantize_aware` and `calibrate`, {what}: {spread(ranges_cpu)} s of CPU, of 15 allowed.",
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="the smallest model, few rows")
    parser.add_argument("--table", action="store_true", help="print the tables, measure nothing")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="the JSON")
    args = parser.parse_args()
    output = args.output or (None if args.smoke else PATH)
    if args.table:
        print(table(_common.read_json(output or PATH)))
        return
    stored = run_all(1, 200, True) if args.smoke else run_all(args.rounds, ROWS, False)
    if output:
        _common.write_json(output, stored)
    print(table(stored))


if __name__ == "__main__":
    main()
