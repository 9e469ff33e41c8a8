"""What repairs a quantised network: a depthwise one whose channels lie far apart.

    python benchmarks/repair.py            the table; some ten minutes
    python benchmarks/repair.py --smoke    a minute, tiny, another JSON
    python benchmarks/repair.py --table    the table again, from the JSON

A network of depthwise separable blocks is trained on Fashion-MNIST. Then every channel between two
kernels is multiplied by a number of its own, from 0.1 to 10 and even in its logarithm, and what
reads it divided by it: nothing changes in float, and an int8 tensor has one range for all channels.
This network goes to int8 in several ways, all on the same 500 training images, and to kernels of 4
bits. "QAT" is one epoch of quantisation-aware training of a Distiller under the float network.
Accuracy on the test images is that of the file; seeds are those of the multipliers, the images and
the training.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import _common
import keras
import numpy as np
import when_it_pays as pays

import keras_distill as kd

BATCH, ROWS, SEEDS = 128, 500, 3
layers = keras.layers


def network() -> keras.Model:
    """Depthwise separable blocks, each kernel with BatchNormalization and ReLU: 35 thousand."""
    image = keras.Input((28, 28, 1))
    x = _joined(layers.Conv2D(24, 3, 2, padding="same", use_bias=False), image)
    for width, stride in ((48, 1), (96, 2), (96, 1), (128, 2)):
        x = _joined(layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False), x)
        x = _joined(layers.Conv2D(width, 1, use_bias=False), x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10, name="logits")(x), name="network")


def _joined(kernel: keras.Layer, x: Any) -> Any:
    return layers.ReLU()(layers.BatchNormalization()(kernel(x)))


def trained(data: kd.data.ImageSplits, rows: int, epochs: int) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = network()
    steps = epochs * (rows // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(1e-2, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    model.fit(data.x_train[:rows], data.y_train[:rows], BATCH, epochs, verbose=2)
    return model


def spread(model: keras.Model, seed: int) -> keras.Model:
    """The same function, its channels 0.1 to 10 times as large."""
    random, copy = np.random.default_rng(seed), keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    kernels = [layer for layer in copy.layers if hasattr(layer, "kernel")]
    norms = [layer for layer in copy.layers if isinstance(layer, layers.BatchNormalization)]
    for norm, reader in zip(norms, kernels[1:], strict=True):
        by = np.exp(random.uniform(np.log(0.1), np.log(10.0), norm.gamma.shape[0]))
        norm.gamma.assign(norm.gamma * by)
        norm.beta.assign(norm.beta * by)
        kernel = np.asarray(reader.kernel)
        # (..., in, out), and of a depthwise one (height, width, in, 1).
        reader.kernel.assign(kernel / by[:, None])
    return copy


Way = Callable[[keras.Model, np.ndarray, kd.data.ImageSplits], keras.Model]


def calibrated(model: keras.Model, x: np.ndarray, bits: int = 8) -> keras.Model:
    return kd.edge.quantize_aware(model, calibration_data=x, weight_bits=bits)


def taught(small: keras.Model, model: keras.Model, data: kd.data.ImageSplits) -> keras.Model:
    distiller = kd.Distiller(small, model)
    distiller.compile(
        keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(1e-3, len(data.x_train) // 128)
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    distiller.fit(data.x_train, data.y_train, batch_size=BATCH, verbose=0)
    return small


def ways(bits: int) -> dict[str, Way]:
    def plain(model: keras.Model, x: np.ndarray, data: Any) -> keras.Model:
        return calibrated(model, x, bits)

    def without_data(model: keras.Model, x: np.ndarray, data: Any) -> keras.Model:
        small = kd.edge.quantize_aware(kd.edge.equalize(model), weight_bits=bits)
        return kd.edge.correct_biases(kd.edge.calibrate(small, None), None)

    def equalized(model: keras.Model, x: np.ndarray, data: Any) -> keras.Model:
        return calibrated(kd.edge.equalize(model), x, bits)

    def corrected(model: keras.Model, x: np.ndarray, data: Any) -> keras.Model:
        return kd.edge.correct_biases(equalized(model, x, data), x)

    def reconstructed(model: keras.Model, x: np.ndarray, data: Any) -> keras.Model:
        return kd.edge.reconstruct(equalized(model, x, data), data=x, verbose=False)

    def qat(model: keras.Model, x: np.ndarray, data: Any) -> keras.Model:
        return taught(equalized(model, x, data), model, data)

    return {
        "calibrated": plain,
        "equalised, without data": without_data,
        "equalised": equalized,
        "equalised, biases corrected": corrected,
        "equalised, reconstructed": reconstructed,
        "equalised, QAT with the teacher": qat,
    }


def measured(
    model: keras.Model, data: kd.data.ImageSplits, seed: int
) -> dict[str, dict[str, float]]:
    """Accuracies, bytes and seconds by way."""
    keras.utils.set_random_seed(seed)
    x = data.x_train[np.random.default_rng(seed).permutation(len(data.x_train))[:ROWS]]
    far = spread(model, seed)
    apart = np.abs(far.predict(x, verbose=0) - model.predict(x, verbose=0)).max()
    assert apart < 1e-2, apart
    found = {"float": {"accuracy": pays.accuracy(far, data.x_test, data.y_test)}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.tflite"
        kd.edge.export_tflite(far, path, precision="int8", representative_data=x)
        found["8 bits: the converter's own"] = asked(path, data, 0.0)
        for bits in (8, 4):
            for name, way in ways(bits).items():
                begin = time.perf_counter()
                small = way(far, x, data)
                seconds = time.perf_counter() - begin
                kd.edge.export_tflite(small, path, precision="int8")
                found[f"{bits} bits: {name}"] = asked(path, data, seconds)
                print(f"  {bits} bits: {name}", found[f"{bits} bits: {name}"], flush=True)
    return found


def asked(path: Path, data: kd.data.ImageSplits, seconds: float) -> dict[str, float]:
    answers = kd.edge.load_tflite(path).predict(data.x_test)
    right = float(np.mean(answers.argmax(-1) == data.y_test))
    return {"accuracy": right, "bytes": path.stat().st_size, "seconds": seconds}


def table(stored: dict[str, Any]) -> str:
    runs = [stored["seeds"][seed] for seed in sorted(stored["seeds"])]
    floats = [run["float"]["accuracy"] for run in runs]
    lines = []
    for name in runs[0]:
        accuracies = [run[name]["accuracy"] for run in runs]
        lost = [100 * (a - b) for a, b in zip(accuracies, floats, strict=True)]
        mean, sd = pays.mean_and_spread(lost)
        size = f"{runs[0][name]['bytes']:,}" if "bytes" in runs[0][name] else ""
        seconds = np.mean([run[name].get("seconds", 0.0) for run in runs])
        told = "" if name == "float" else f"{mean:+.2f} ± {sd:.2f}"
        lines.append([name, f"{100 * np.mean(accuracies):.2f}", told, size, f"{seconds:.0f}"])
    head = ["Fashion-MNIST, channels spread", "test, %", "beside float, points", "bytes", "seconds"]
    words = f"{_common.host_line(stored['host'])}; {len(runs)} seeds."
    return words + "\n\n" + _common.markdown(head, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny, another JSON")
    parser.add_argument("--table", action="store_true", help="print the table, train nothing")
    args = parser.parse_args()
    folder = Path(tempfile.gettempdir()) if args.smoke else _common.RESULTS
    output = folder / ("repair_smoke.json" if args.smoke else "repair.json")
    if not args.table:
        data = kd.data.load_fashion_mnist(download=True)
        rows, epochs = (2048, 1) if args.smoke else (len(data.x_train), 6)
        model = trained(data, rows, epochs)
        stored: dict[str, Any] = {"host": _common.host(), "seeds": {}}
        for seed in range(1 if args.smoke else SEEDS):
            stored["seeds"][str(seed)] = measured(model, data, seed)
            _common.write_json(output, stored)
    print(table(_common.read_json(output)))


if __name__ == "__main__":
    main()
