"""What a file saves where scales and shifts fold into the kernel behind them, and what it loses.

    python benchmarks/folding.py            trains two small networks; the table
    python benchmarks/folding.py --table    the table again, from the JSON

Scikit-learn's digits, 1,078 images of 8 by 8 to train on and 360 to ask: a convolutional network
and one of Dense layers, either with a Rescaling in front and a BatchNormalization behind each
activation. Each is trained once and becomes three files with the folding and three without:
float32, int8 calibrated on 500 training images, and int8 as the converter makes it of the float
model and the same images.

"operations": of the file, without those that bring numbers in and out; "follows": correlation of
the test answers with those of the float model.
"""

import argparse
import sys
import tempfile
import unittest.mock
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import _common
import keras
import numpy as np

import keras_distill as kd
from keras_distill.edge.export import prepare
from keras_distill.edge.quantize import folded_plans

OUTPUT = _common.RESULTS / "folding.json"
EPOCHS = 20
layers = keras.layers


def images() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(1 / 16),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(16, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.BatchNormalization(),
            layers.Dense(10),
        ]
    )


def rows() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Flatten(),
            layers.Rescaling(1 / 16),
            layers.Dense(64, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.2),
            layers.Dense(64, activation="relu"),
            layers.BatchNormalization(),
            layers.Dense(10),
        ]
    )


NETWORKS = {"convolutions": images, "dense layers": rows}


def unfolded() -> ExitStack:
    """Inside, nothing folds forward."""
    stack = ExitStack()
    stay = unittest.mock.patch.object
    stack.enter_context(stay(folded_plans, "planned", lambda model, plans, *_: dict(plans)))
    stack.enter_context(stay(prepare, "folded", lambda model, precision: model))
    return stack


def files(model: keras.Model, x: np.ndarray, asked: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    truth, found = model.predict(asked, verbose=0), {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        for kind in ("float32", "int8", "int8, by the converter"):
            small = kd.edge.quantize_aware(model, calibration_data=x) if kind == "int8" else model
            data = x if "converter" in kind else None
            export = kd.edge.export_tflite(
                small, path, precision=kind.split(",")[0], representative_data=data
            )
            answers = kd.edge.load_tflite(path).predict(asked)
            inner = {op: n for op, n in export.ops.items() if "QUANTIZE" not in op}
            found[kind] = {
                "bytes": export.bytes,
                "operations": sum(inner.values()),
                "follows": float(np.corrcoef(answers.ravel(), truth.ravel())[0, 1]),
                "accuracy": float(np.mean(answers.argmax(-1) == y)),
            }
    return found


def network(name: str) -> dict[str, Any]:
    keras.utils.set_random_seed(0)
    digits = kd.data.load_digits()
    # As they are on their way to a phone, 0 to 16.
    x, asked = 16 * digits.x_train, 16 * digits.x_test
    y, labels = digits.y_train, digits.y_test
    model = NETWORKS[name]()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, jit_compile=False)
    model.fit(x, y, epochs=EPOCHS, batch_size=32, verbose=0)
    found = {"folded": files(model, x[:500], asked, labels)}
    with unfolded():
        found["kept"] = files(model, x[:500], asked, labels)
    print(name, found, flush=True)
    return found


def table(stored: dict[str, Any]) -> str:
    header = ["network", "file", "", "operations", "bytes", "follows", "accuracy, %"]
    lines = []
    for name, ways in stored["networks"].items():
        for kind in ways["kept"]:
            for way in ("kept", "folded"):
                one = ways[way][kind]
                lines.append(
                    [
                        name if (kind, way) == ("float32", "kept") else "",
                        kind if way == "kept" else "",
                        way,
                        str(one["operations"]),
                        f"{one['bytes']:,}",
                        f"{one['follows']:.5f}",
                        f"{100 * one['accuracy']:.2f}",
                    ]
                )
    return f"{_common.host_line(stored['host'])}\n\n{_common.markdown(header, lines)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="print the table from the JSON")
    if not parser.parse_args().table:
        networks = {name: network(name) for name in NETWORKS}
        _common.write_json(OUTPUT, {"host": _common.host(), "networks": networks})
    print(table(_common.read_json(OUTPUT)))


if __name__ == "__main__":
    main()
