"""What judging costs: 10,000 rows, one model and three files, beside their plain predictions.

    python benchmarks/judge.py            prints a table; about three minutes
    python benchmarks/judge.py --smoke    few rows

Both are timed in turn, several times over; the ratio is that of medians, with the spread of the
paired ratios. Memory is what the process has at its peak under one condition and under nine.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent)]

import keras
import numpy as np

import keras_distill as kd
from keras_distill import judging

TARGET = 1.2


def network(seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((32, 32, 3))
    for width in (16, 32, 64):
        x = keras.layers.Conv2D(width, 3, 2, padding="same", activation="relu")(x)
        x = keras.layers.Conv2D(width, 3, padding="same", activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x), name="model")


def candidates(folder: Path, x: np.ndarray) -> dict:
    model = network(0)
    small = kd.edge.quantize_aware(model, calibration_data=x[:100])
    found = {"model": model}
    for precision, source in (("float32", model), ("float16", model), ("int8", small)):
        path = folder / f"{precision}.tflite"
        found[precision] = kd.edge.export_tflite(source, path, precision=precision)
    return found


def plain(found: dict, x: np.ndarray) -> None:
    for name, one in found.items():
        if name == "model":
            one.predict(x, batch_size=64, verbose=0)
        else:
            runner = kd.edge.load_tflite(one.path)
            for start in range(0, len(x), 64):
                runner.predict(x[start : start + 64])


def judged(found: dict, x: np.ndarray, y: np.ndarray, conditions=()) -> None:
    kd.judge(found, (x, y), conditions=conditions, verbose=False)


def seconds(work, *arguments) -> float:
    begin = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - begin


def data(rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.uniform(size=(rows, 32, 32, 3)).astype("float32"), rng.integers(0, 10, rows)


def peak(conditions: int, rows: int) -> int:
    """MB at the peak of a process of its own that judges under so many conditions."""
    command = [sys.executable, __file__, "--memory", str(conditions), "--rows", str(rows)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    rows = args.rows or (500 if args.smoke else 10_000)
    x, y = data(rows)
    with tempfile.TemporaryDirectory() as folder:
        found = candidates(Path(folder), x)
        if args.memory is not None:
            severities = judging.ImageNoise.all() + judging.Contrast.all()
            judged(found, x, y, severities[: args.memory])
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
            return
        plain(found, x[:64])
        times = [
            (seconds(plain, found, x), seconds(judged, found, x, y))
            for _ in range(2 if args.smoke else 5)
        ]
    ratios = [after / before for before, after in times]
    ratio = statistics.median(b for _, b in times) / statistics.median(a for a, _ in times)
    print("| rows | plain, s | judged, s | ratio | conditions: 1 | 9 |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    print(
        f"| {rows:,} | {statistics.median(a for a, _ in times):.1f} "
        f"| {statistics.median(b for _, b in times):.1f} "
        f"| {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}; at most {TARGET} wanted) "
        f"| {peak(1, rows)} MB | {peak(9, rows)} MB |"
    )


if __name__ == "__main__":
    main()
