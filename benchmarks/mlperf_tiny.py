"""MLPerf Tiny's own networks as int8 files, beside the benchmark's own int8 files.

    python benchmarks/mlperf_tiny.py --models DIR        all three; the table
    python benchmarks/mlperf_tiny.py --models DIR --rows 200
    python benchmarks/mlperf_tiny.py --table             the table again, from the JSON

`DIR` holds MLCommons Tiny's trained references and their files: image_resnet.h5,
anomaly_autoencoder.h5, keyword_dscnn_savedmodel, and beside each NAME_int8.tflite.

Every file is asked the same rows as the float model, which calibration has not seen. The image
network's are CIFAR-10's test images, 0 to 255. The keyword network's are spoken digits, none of its
twelve keywords, through the reference's front end (one second at 16 kHz, divided by its loudest
sample, 49 windows of 30 ms, ten MFCCs of 40 mel bands from 20 to 4,000 Hz). The autoencoder has no
recordings here: smooth random spectra, five frames of 128 log-mel bands.

"follows": correlation of the numbers with those of the float model; "same class": the share of
rows with the same largest output; "error": the mean difference as part of the standard deviation of
the float model's outputs.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import _common
import keras
import numpy as np
import scipy.ndimage
import scipy.signal
import tensorflow as tf

import keras_distill as kd

OUTPUT = _common.RESULTS / "mlperf_tiny.json"
CALIBRATION = 500
_LAYERS = keras.layers
# Of nothing else is a network whose bytes Dense scales tell in.
PLAIN = (_LAYERS.InputLayer, _LAYERS.Dense, _LAYERS.BatchNormalization, _LAYERS.Activation)


def images(count: int) -> np.ndarray:
    x = kd.data.load_cifar10(download=True).x_test[: CALIBRATION + count]
    return (255 * x).astype("float32")


def keywords(count: int) -> np.ndarray:
    heard = kd.data.load_spoken_digits()
    chosen = np.random.default_rng(0).permutation(len(heard.samples))[: CALIBRATION + count]
    sounds = scipy.signal.resample_poly(heard.samples[chosen], 2, 1, axis=1)
    sounds = sounds / np.abs(sounds).max(axis=1, keepdims=True)
    spectra = tf.abs(tf.signal.stft(tf.constant(sounds, tf.float32), 480, 320, 512))
    bands = tf.signal.linear_to_mel_weight_matrix(40, 257, 16000, 20.0, 4000.0)
    mel = tf.math.log(tf.tensordot(spectra, bands, 1) + 1e-6)
    return tf.signal.mfccs_from_log_mel_spectrograms(mel)[..., :10].numpy()[..., None]


def spectra(count: int) -> np.ndarray:
    random = np.random.default_rng(0)
    noise = random.normal(size=(CALIBRATION + count, 5, 128))
    smooth = scipy.ndimage.gaussian_filter(noise, (0, 1, 6))
    smooth *= 6.0 / smooth.std(axis=(1, 2), keepdims=True)
    level = random.uniform(-45.0, -25.0, (len(noise), 1, 1)) - np.linspace(0, 15, 128)
    return (smooth + level).reshape(-1, 640).astype("float32")


NETWORKS: dict[str, tuple[str, Callable[[int], np.ndarray]]] = {
    "image_resnet": ("image_resnet.h5", images),
    "anomaly_autoencoder": ("anomaly_autoencoder.h5", spectra),
    "keyword_dscnn": ("keyword_dscnn_savedmodel", keywords),
}


def ways(model: keras.Model, rows: np.ndarray) -> Iterator[tuple[str, Callable[[], keras.Model]]]:
    """By name, what makes a quantised model."""

    def calibrated(bits: int = 8, scales: str = "channel") -> keras.Model:
        return kd.edge.quantize_aware(
            model, calibration_data=rows, weight_bits=bits, dense_scales=scales
        )

    def repaired(bits: int = 8) -> keras.Model:
        return kd.edge.correct_biases(calibrated(bits), rows)

    yield "calibrated", calibrated
    yield "biases corrected", repaired
    if hasattr(kd.edge, "reconstruct"):
        yield "reconstructed", lambda: kd.edge.reconstruct(calibrated(), data=rows)
    if all(isinstance(one, PLAIN) for one in model.layers):
        yield "one scale a Dense", lambda: calibrated(scales="tensor")
        yield (
            "one scale a Dense, reconstructed",
            lambda: kd.edge.reconstruct(calibrated(scales="tensor"), data=rows),
        )
    yield "4 bits, biases corrected", lambda: repaired(4)
    if hasattr(kd.edge, "reconstruct"):
        yield "4 bits, reconstructed", lambda: kd.edge.reconstruct(calibrated(4), data=rows)


def figures(answers: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    apart = answers.astype("float64") - truth
    return {
        "follows": float(np.corrcoef(answers.ravel(), truth.ravel())[0, 1]),
        "same_class": float(np.mean(answers.argmax(-1) == truth.argmax(-1))),
        "error": float(np.abs(apart).mean() / truth.std()),
    }


def network(name: str, models: Path, count: int) -> dict[str, Any]:
    file, make = NETWORKS[name]
    model, data = kd.load_model(models / file), make(count)
    rows, asked = data[:CALIBRATION], data[CALIBRATION:]
    truth = model.predict(asked, verbose=0)
    reference = models / f"{name}_int8.tflite"
    answers = kd.edge.load_tflite(reference).predict(asked)
    found = {"reference's own int8 file": {"bytes": reference.stat().st_size}}
    found["reference's own int8 file"] |= figures(answers, truth)
    for way, made in ways(model, rows):
        begin = time.perf_counter()
        small = made()
        seconds = time.perf_counter() - begin
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "small.tflite"
            export = kd.edge.export_tflite(small, path, precision="int8", input_type="int8")
            answers = kd.edge.load_tflite(path).predict(asked)
        found[way] = {"bytes": export.bytes, "seconds": seconds, **figures(answers, truth)}
        print(name, way, found[way], flush=True)
    return found


def table(stored: dict[str, Any]) -> str:
    lines = [
        [
            name if number == 0 else "",
            way,
            f"{row['bytes']:,}",
            f"{row['follows']:.5f}",
            f"{100 * row['same_class']:.2f}" if name != "anomaly_autoencoder" else "",
            f"{100 * row['error']:.2f}",
        ]
        for name, ways in stored["networks"].items()
        for number, (way, row) in enumerate(ways.items())
    ]
    head = ["network", "file", "bytes", "follows", "same class, %", "error, %"]
    return f"{_common.host_line(stored['host'])}; {stored['rows']:,} rows.\n\n" + _common.markdown(
        head, lines
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, help="the folder of the networks")
    parser.add_argument("--rows", type=int, default=2000, help="rows that files are asked")
    parser.add_argument("--only", choices=NETWORKS, action="append", help="all by default")
    parser.add_argument("--table", action="store_true", help="print the table, ask nothing")
    args = parser.parse_args()
    if not args.table:
        if args.models is None:
            parser.error("--models DIR names the folder of the networks")
        stored = _common.read_json(OUTPUT) | {"host": _common.host(), "rows": args.rows}
        for name in args.only or NETWORKS:
            stored.setdefault("networks", {})[name] = network(name, args.models, args.rows)
            _common.write_json(OUTPUT, stored)
    print(table(_common.read_json(OUTPUT)))


if __name__ == "__main__":
    main()
