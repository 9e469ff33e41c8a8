"""Does every family of keras.applications become a file of integers, and does it answer alike?

    python benchmarks/int8.py                   all, or go on where an earlier run stopped
    python benchmarks/int8.py --only ResNet50 ConvNeXtTiny
    python benchmarks/int8.py --table           the tables again, from the JSON
    python benchmarks/int8.py --smoke           one family and one small network, another JSON

Two tables. First the families as they are, 96 x 96, ten logits of order one: calibrated on 32
images, ten steps of quantisation-aware training under the float model, BatchNorm frozen, exported
with int8 in and out. Then small networks of each family's blocks, trained on 20,000 images of
Fashion-MNIST, with the same treatment: whether the file chooses the class that the fake-quantised
model chooses.

The families' weights are random (`_models.application`), their BatchNorm statistics those of the
images. Two things follow. What the logits have in common over all images is most of them, so the
correlation is given twice: of the logits as they are, which is the target, and with each logit's
mean over the images taken off, which is the stricter. And a deep random network is chaotic: one
step of rounding early grows from layer to layer, in a trained one it does not. Statistics left
half-way between their initial values and the images' (60 passes at momentum 0.999) would hide that:
MobileNetV2 then gives the same logits for every image, and correlates at 0.99999.
"""

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import _common
import _models
import keras
import numpy as np

import keras_distill as kd
from keras_distill.data import load_fashion_mnist

STEPS, BATCH, RATE = 10, 8, 1e-4
ROWS = 32
CORRELATION, AGREEMENT = 0.995, 0.99


def quantized(model: keras.Model, calibration: np.ndarray, train: np.ndarray) -> keras.Model:
    """A quantised copy, taught by the model itself for ten steps."""
    student = kd.edge.quantize_aware(model, calibration_data=calibration, freeze_batch_norm_after=0)
    distiller = kd.Distiller(student, model)
    distiller.compile(keras.optimizers.Adam(RATE), loss=None)
    distiller.fit(train, batch_size=BATCH, epochs=1, verbose=0)
    return student


def exported(student: keras.Model, path: Path) -> tuple[Any, bool]:
    """The file, and whether it needed the data that the model was calibrated on."""
    # Without the rows export has nothing but the model's own ranges.
    rows, student.calibration_rows = student.calibration_rows, None
    export = functools.partial(
        kd.edge.export_tflite, student, path, precision="int8", input_type="int8"
    )
    try:
        alone = export()
        if not alone.float_ops:
            return alone, False
    except (ValueError, kd.edge.ConversionError) as error:
        print(f"  from its own ranges alone: {error}")
    student.calibration_rows = rows
    return export(), True


def family(name: str, size: int) -> tuple[keras.Model, keras.Model, float]:
    """A family's model, its quantised copy and the seconds that took."""
    model = _models.application(name, size)
    begin = time.perf_counter()
    student = quantized(
        model, _models.images(model, ROWS, seed=1), _models.images(model, STEPS * BATCH, seed=2)
    )
    return model, student, time.perf_counter() - begin


def family_row(name: str, size: int) -> dict[str, Any]:
    """One family's figures."""
    model, student, seconds = family(name, size)
    x = _models.images(model, ROWS, seed=3)
    return compared(student, model, x) | {"quantize_and_train_s": round(seconds, 1)}


def compared(student: keras.Model, model: keras.Model, x: np.ndarray) -> dict[str, Any]:
    """The exported file beside the fake-quantised and the float model."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        export, needed = exported(student, Path(folder, "int8.tflite"))
        seconds = time.perf_counter() - begin
        file = kd.edge.load_tflite(export.path).predict(x)
        plain = by_plain_kernels(export.path, x)
    rounded, single = (model.predict(x, batch_size=32, verbose=0) for model in (student, model))
    return {
        "float_tensors": sum(n for kind, n in export.dtypes.items() if kind.startswith("float")),
        "float_ops": sum(export.float_ops.values()),
        "correlation_quantized": correlation(file, rounded),
        "correlation_float": correlation(file, single),
        "correlation_quantized_centred": correlation(centred(file), centred(rounded)),
        "correlation_kernels": correlation(file, plain),
        "same_logits": float(np.mean(same(file, rounded))),
        "agreement_quantized": agreement(file, rounded),
        "agreement_float": agreement(file, single),
        "logits_deviation": float(single.std()),
        "logits_deviation_centred": float(centred(single).std()),
        "bytes": export.bytes,
        "bytes_zipped": export.bytes_zipped,
        "representative_data": needed,
        "export_s": round(seconds, 1),
    }


def by_plain_kernels(path: Path, x: np.ndarray) -> np.ndarray:
    """A file's logits by LiteRT's kernels without XNNPACK."""
    run = kd.edge.load_tflite(path).kept_run()
    (last,) = (tensor.index for tensor in run.tensors if tensor.output is not None)
    # Row by row: a Reshape holds the file's own batch of one.
    return np.concatenate([run.run([row[None]], [last])[0] for row in x])


def same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Which rows are alike in all columns, but for the last bits of a float32."""
    return np.isclose(a, b, rtol=0.0, atol=1e-5 * np.abs(b).max()).all(-1)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel().astype("float64"), b.ravel())[0, 1])


def centred(a: np.ndarray) -> np.ndarray:
    return a - a.mean(axis=0)


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean(a.argmax(-1) == b.argmax(-1)))


# --- small trained networks ---------------------------------------------------------------------


def block_row(name: str, rows: int, epochs: int, test: int) -> dict[str, Any]:
    """A small network's figures, on test images that nothing has seen."""
    data = load_fashion_mnist(download=True)
    model = _models.small_network(name, data.x_train.shape[1:])
    steps = max(1, epochs * rows // 128)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, steps)), loss)
    model.fit(data.x_train[:rows], data.y_train[:rows], batch_size=128, epochs=epochs, verbose=0)
    student = quantized(model, data.x_train[:500], data.x_train[: STEPS * BATCH])
    x, y = data.x_test[:test], data.y_test[:test]
    right = np.mean(model.predict(x, verbose=0).argmax(-1) == y)
    found = compared(student, model, x)
    return {"parameters": model.count_params(), "accuracy_float": float(right), **found}


# --- tables -------------------------------------------------------------------------------------


def tables(stored: dict[str, Any]) -> str:
    parts = [f"{_common.host_line(stored['host'])}."]
    if stored.get("families"):
        size = stored["settings"]["size"]
        parts += [f"{size}x{size}, {ROWS} held-back images.", family_table(stored["families"])]
    if stored.get("blocks"):
        test = stored["settings"]["test"]
        parts += [f"Fashion-MNIST, {test:,} test images.", block_table(stored["blocks"])]
    return "\n\n".join([*parts, targets(stored)])


def family_table(rows: dict[str, Any]) -> str:
    head = [
        "family",
        "float tensors",
        "float operations",
        "correlation, fake-quantised",
        "centred",
        "float",
    ]
    head += ["same class, fake-quantised", "float", "bytes", "needs data", "seconds"]
    return _common.markdown(head, [
        [name, str(row["float_tensors"]), str(row["float_ops"]),
         f"{row['correlation_quantized']:.4f}", f"{row['correlation_quantized_centred']:.4f}",
         f"{row['correlation_float']:.4f}",
         f"{row['agreement_quantized'] * ROWS:.0f}/{ROWS}",
         f"{row['agreement_float'] * ROWS:.0f}/{ROWS}", f"{row['bytes']:,}",
         "yes" if row["representative_data"] else "no",
         f"{row['quantize_and_train_s'] + row['export_s']:.0f}"]
        if "failed" not in row else [name, "FAILED", *[""] * 9]
        for name, row in rows.items()
    ])  # fmt: skip


def block_table(rows: dict[str, Any]) -> str:
    head = ["blocks of", "weights", "float model, %", "same class, fake-quantised, %", "float, %"]
    head += ["correlation", "float tensors", "bytes", "needs data"]
    return _common.markdown(head, [
        [name, f"{row['parameters']:,}", f"{100 * row['accuracy_float']:.2f}",
         f"{100 * row['agreement_quantized']:.2f}", f"{100 * row['agreement_float']:.2f}",
         f"{row['correlation_quantized']:.5f}", str(row["float_tensors"]), f"{row['bytes']:,}",
         "yes" if row["representative_data"] else "no"]
        if "failed" not in row else [name, "FAILED", *[""] * 7]
        for name, row in rows.items()
    ])  # fmt: skip


def missed(stored: dict[str, Any]) -> list[str]:
    """What is below a target, in words."""
    words = []
    for kind, key, least in (
        ("families", "correlation_quantized", CORRELATION),
        ("blocks", "agreement_quantized", AGREEMENT),
    ):
        for name, row in stored.get(kind, {}).items():
            if "failed" in row:
                words.append(f"{kind} {name}: {row['failed']}")
                continue
            if row[key] < least:
                words.append(f"{kind} {name}: {key} {row[key]:.4f}, wanted {least}")
            if row["float_tensors"]:
                words.append(f"{kind} {name}: {row['float_tensors']} float tensors")
    return words


def targets(stored: dict[str, Any]) -> str:
    wanted = (
        f"Targets: no float tensor inside; correlation with the fake-quantised model at least "
        f"{CORRELATION}; the same class on at least {AGREEMENT:.0%} of the test images."
    )
    return "\n".join([wanted, *(f"- MISSED: {one}" for one in missed(stored) or ())]) + (
        "" if missed(stored) else " All met."
    )


# --- the whole run ------------------------------------------------------------------------------


def run_all(jobs: dict[str, dict[str, Callable]], settings: dict, output: Path) -> dict[str, Any]:
    """Every row that `output` does not hold yet; it is written after each."""
    stored = _common.read_json(output)
    if stored.setdefault("settings", settings) != settings:
        raise SystemExit("The JSON holds a run with other settings. Name another with --output.")
    stored["host"] = _common.host()
    for kind, works in jobs.items():
        rows = stored.setdefault(kind, {})
        for name, work in works.items():
            if name in rows and "failed" not in rows[name]:
                continue
            begin = time.perf_counter()
            try:
                rows[name] = work()
            except Exception as error:  # One family must not cost the others their rows.
                rows[name] = {"failed": f"{type(error).__name__}: {error}"}
            row = rows[name]
            said = row.get("failed") or f"correlation {row['correlation_quantized']:.5f}"
            print(f"{time.perf_counter() - begin:7.1f} s  {name}: {said}", flush=True)
            _common.write_json(output, stored)
            keras.backend.clear_session()
    return stored


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    every = (*_models.FAMILIES, "blocks")
    parser.add_argument("--only", nargs="+", choices=every, default=every)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--smoke", action="store_true", help="two rows, another JSON")
    parser.add_argument("--table", action="store_true", help="print the tables, run nothing")
    parser.add_argument("--output", type=Path, help="the JSON")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    name = "int8_smoke.json" if args.smoke else "int8.json"
    output = args.output or (Path(tempfile.gettempdir()) if args.smoke else _common.RESULTS) / name
    if args.table:
        print(tables(_common.read_json(output)))
        return
    settings = {"size": args.size, "rows": 20_000, "epochs": 2, "test": 2000}
    families = [name for name in args.only if name != "blocks"]
    blocks = tuple(_models.BLOCKS) if "blocks" in args.only else ()
    if args.smoke:
        settings |= {"size": 32, "rows": 1280, "epochs": 1, "test": 200}
        families, blocks = ["MobileNetV2"], ("MobileNetV3",)
    chosen = {key: settings[key] for key in ("rows", "epochs", "test")}
    jobs = {
        "families": {n: functools.partial(family_row, n, settings["size"]) for n in families},
        "blocks": {n: functools.partial(block_row, n, **chosen) for n in blocks},
    }
    stored = run_all(jobs, settings, output)
    print("\n" + tables(stored))
    if missed(stored):
        sys.exit("A target was missed.")


if __name__ == "__main__":
    main()
