"""On which processors a file of integers is the faster one: float32 and int8, run in turns.

    python benchmarks/int8_pays.py            some two minutes, on a quiet machine
    python benchmarks/int8_pays.py --table    the table again, from the JSON

Small networks with random weights, one thread of LiteRT's interpreter, batch 1. In each round both
files of a network are timed, one after the other; a ratio is the int8 file's median run over the
float one's of the same round. Below 1, int8 pays.
"""

import argparse
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import _common
import keras
import numpy as np

import keras_distill as kd

PATH = _common.RESULTS / "int8_pays.json"
ROUNDS, RUNS = 9, 60
layers = keras.layers


def cnn() -> keras.Model:
    """Two convolutions on 32x32 pixels."""
    parts = [layers.Conv2D(w, 3, s, "same", activation="relu") for w, s in ((32, 1), (64, 2))]
    return keras.Sequential(
        [keras.Input((32, 32, 3)), *parts, layers.GlobalAveragePooling2D(), layers.Dense(10)]
    )


def separable() -> keras.Model:
    """MobileNetV2 0.35 on 96x96 pixels."""
    return keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, weights=None, classes=10)


def dense() -> keras.Model:
    """Four layers of 512."""
    parts = [layers.Dense(512, activation="relu") for _ in range(4)]
    return keras.Sequential([keras.Input((256,)), *parts, layers.Dense(10)])


def lstm() -> keras.Model:
    """An LSTM of 64 over 32 embedded tokens."""
    return _text(layers.LSTM(64))


def gru() -> keras.Model:
    """A GRU of 64 over 32 embedded tokens, unrolled in the int8 file."""
    return _text(layers.GRU(64))


def attention() -> keras.Model:
    """One attention of 4 heads over 32 embedded tokens."""
    tokens = keras.Input((32,), dtype="int32")
    x = layers.Embedding(1000, 64)(tokens)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, 16)(x, x))
    x = layers.LayerNormalization()(x + layers.Dense(64)(layers.Dense(256, "relu")(x)))
    return keras.Model(tokens, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))


def _text(recurrent: keras.layers.Layer) -> keras.Model:
    tokens = keras.Input((32,), dtype="int32")
    x = recurrent(layers.Embedding(1000, 64)(tokens))
    return keras.Model(tokens, layers.Dense(10)(x))


NETWORKS = (cnn, separable, dense, lstm, gru, attention)


def measured(build: Callable[[], keras.Model], folder: Path) -> list[tuple[float, float]]:
    """Median milliseconds of the float32 and the int8 file, a pair a round."""
    keras.utils.set_random_seed(0)
    model, random = build(), np.random.default_rng(0)
    shape, whole = (64, *model.input_shape[1:]), "int" in str(model.inputs[0].dtype)
    rows = random.integers(0, 1000, shape) if whole else random.random(shape)
    rows = rows.astype(str(model.inputs[0].dtype))
    plain = kd.edge.export_tflite(model, folder / "float32.tflite")
    small = kd.edge.export_tflite(
        model, folder / "int8.tflite", precision="int8", representative_data=rows
    )
    return [
        tuple(kd.edge.benchmark(one, runs=RUNS, warmup=10).latency_p50_ms for one in (plain, small))
        for _ in range(ROUNDS)
    ]


def table(results: dict) -> str:
    """The table in markdown."""
    rows = []
    for build in NETWORKS:
        pairs = results["ms"][build.__name__]
        ratios = sorted(small / plain for plain, small in pairs)
        words = (build.__doc__ or "").rstrip(".")
        plain, small = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        rows.append([words, f"{plain:.3f}", f"{small:.3f}", ratio])
    header = ["network", "float32, ms", "int8, ms", "int8 / float32"]
    return f"{_common.host_line(results['host'])}\n\n{_common.markdown(header, rows)}"


def main() -> None:
    """Measure, or print what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--table", action="store_true", help="print the table of the last run")
    if not parser.parse_args().table:
        warnings.simplefilter("ignore")
        found = {}
        with tempfile.TemporaryDirectory() as folder:
            for build in NETWORKS:
                found[build.__name__] = measured(build, Path(folder))
                print(
                    build.__name__,
                    *(f"{a:.3f}/{b:.3f}" for a, b in found[build.__name__]),
                    flush=True,
                )
        _common.write_json(PATH, {"host": _common.host(), "ms": found})
    print(table(_common.read_json(PATH)))


if __name__ == "__main__":
    main()
