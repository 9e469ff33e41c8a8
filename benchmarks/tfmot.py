"""TFMOT's wrappers under a Distiller beside ours: what the files hold, and what an epoch costs.

    python benchmarks/tfmot.py            three seeds, some minutes
    python benchmarks/tfmot.py --table    the table again, from the JSON

The same trained student of scikit-learn's digits goes both ways: `to_legacy`, TFMOT's wrapper and
`wrap_legacy`; or `kd.edge`. Both train under the same teacher, epoch by epoch in turns, with the
same settings, and are exported. A ratio is TFMOT's seconds of an epoch over ours of the same turn,
the first turn, which traces, left out.
"""

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import _common
import _tasks
import keras
import numpy as np

import keras_distill as kd
from keras_distill.edge import legacy

BATCH = 32
SPARSITY, CLUSTERS = 0.75, 16
PATH = _common.RESULTS / "tfmot.json"
LABELS = {
    "pruned": f"pruned {SPARSITY:.0%}, float32",
    "clustered": f"{CLUSTERS} clusters, float32",
    "quantised": "QAT, int8",
    "pruned, quantised": f"pruned {SPARSITY:.0%}, QAT, int8",
}


def student(seed: int) -> keras.Model:
    """Two convolutions and a linear head, 6,234 numbers."""
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((8, 8, 1), name="image")]
    for width, stride in ((16, 1), (32, 2)):
        layers += [
            keras.layers.Conv2D(width, 3, stride, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
        ]
    layers += [keras.layers.Flatten(), keras.layers.Dense(10, name="logits")]
    return keras.Sequential(layers, name="student")


def compiled(model: Any, rate: float) -> Any:
    """By labels, beside whatever else it learns from."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, jit_compile=False)
    return model


def fitted(model: Any, data: Any, epochs: int, rate: float) -> Any:
    """Trained by labels, or by its teacher."""
    compiled(model, rate).fit(
        data.x_train, data.y_train, batch_size=BATCH, epochs=epochs, verbose=0
    )
    return model


def ways(kind: str, plain: Any, sparse: dict[str, Any], data: Any, steps: int) -> dict[str, Any]:
    """A model to train, by whose wrappers it has; `sparse` is each side's own pruned model."""
    tfmot = legacy.tfmot()
    quantization = tfmot.quantization.keras
    if kind == "pruned":
        schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, SPARSITY, 0, steps // 2, frequency=10)
        theirs = tfmot.sparsity.keras.prune_low_magnitude(kd.edge.to_legacy(plain), schedule)
        ours = kd.edge.prune(plain, schedule)
    elif kind == "clustered":
        clustering = tfmot.clustering.keras
        theirs = clustering.cluster_weights(
            kd.edge.to_legacy(plain),
            CLUSTERS,
            clustering.CentroidInitialization.KMEANS_PLUS_PLUS,
        )
        ours = kd.edge.cluster(plain, CLUSTERS)
    elif kind == "quantised":
        theirs = quantization.quantize_model(kd.edge.to_legacy(plain))
        ours = kd.edge.quantize_aware(plain, calibration_data=data.x_train[:500])
    else:
        annotated = quantization.quantize_annotate_model(kd.edge.to_legacy(sparse["TFMOT"]))
        scheme = quantization.collab_opts.Default8BitPrunePreserveQuantizeScheme()
        theirs = quantization.quantize_apply(annotated, scheme)
        ours = kd.edge.quantize_aware(sparse["ours"], calibration_data=data.x_train[:500])
    return {"TFMOT": kd.edge.wrap_legacy(theirs), "ours": ours}


def in_turns(distillers: dict[str, Any], data: Any, epochs: int) -> list[float]:
    """Trains both; TFMOT's seconds over ours, turn by turn."""
    ratios = []
    for turn in range(epochs):
        seconds = {}
        for side in sorted(distillers, reverse=bool(turn % 2)):
            begin = time.perf_counter()
            distillers[side].fit(data.x_train, data.y_train, batch_size=BATCH, verbose=0)
            seconds[side] = time.perf_counter() - begin
        ratios.append(seconds["TFMOT"] / seconds["ours"])
    return ratios[1:]


def measured(model: Any, kind: str, data: Any) -> dict[str, Any]:
    """What its file is and answers."""
    precision = "int8" if "quantised" in kind else "float32"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "student.tflite")
        export = kd.edge.export_tflite(model, path, precision=precision)
        answers = kd.edge.load_tflite(path).predict(data.x_test)
    return {
        "accuracy": 100 * float(np.mean(np.argmax(answers, -1) == data.y_test)),
        "zeros": 100 * export.sparsity,
        "bytes": export.bytes,
        "bytes_zipped": export.bytes_zipped,
        "numbers": max(len(np.unique(k)) for k in kernels(model)),
    }


def kernels(model: Any) -> list[np.ndarray]:
    """The kernels of the plain model inside."""
    weights = (layer.get_weights() for layer in kd.edge.strip(model).layers)
    return [held[0] for held in weights if held and held[0].ndim > 1]


def run(seed: int, teacher: Any, data: Any, epochs: int) -> dict[str, Any]:
    """One seed, all kinds."""
    plain = fitted(student(seed), data, 10, 3e-3)
    steps = epochs * -(-len(data.x_train) // BATCH)
    found: dict[str, Any] = {"plain": measured(plain, "plain", data)}
    sparse: dict[str, Any] = {}
    for kind in LABELS:
        models = ways(kind, plain, sparse, data, steps)
        rate = 2e-4 if "quantised" in kind else 1e-3
        distillers = {
            side: compiled(kd.Distiller(model, teacher), rate) for side, model in models.items()
        }
        ratios = in_turns(distillers, data, epochs)
        found[kind] = {side: measured(model, kind, data) for side, model in models.items()}
        found[kind]["ratios"] = ratios
        if kind == "pruned":
            sparse = {side: kd.edge.strip(model) for side, model in models.items()}
        print(f"seed {seed}, {kind}: {found[kind]}", flush=True)
    return found


def spread(values: list[float], form: Callable[[float], str]) -> str:
    """The mean, and in brackets largest minus smallest."""
    return f"{form(float(np.mean(values)))} ({form(max(values) - min(values))})"


def table(stored: dict[str, Any]) -> str:
    """The markdown of what was measured."""
    seeds = list(stored["seeds"].values())
    header = ["file", "wrappers", "accuracy, %", "zeros, %", "numbers a kernel"]
    header += ["bytes", "zipped", "an epoch, TFMOT's seconds over ours"]
    plain = [one["plain"] for one in seeds]
    rows = [_row("float32 student", "none", plain, "")]
    for kind, label in LABELS.items():
        ratios = [ratio for one in seeds for ratio in one[kind]["ratios"]]
        low, middle, high = np.percentile(ratios, [10, 50, 90])
        shown = f"{middle:.2f} ({low:.2f} to {high:.2f})"
        for side in ("TFMOT", "ours"):
            rows.append(_row(label, side, [one[kind][side] for one in seeds], shown))
            shown = ""
    described = (
        f"scikit-learn's digits, {len(seeds)} seeds, {stored['test_images']} test images, "
        f"{stored['epochs']} epochs under a teacher of {stored['teacher_accuracy']:.1f} %. Means, "
        f"in brackets largest minus smallest over the seeds; ratios: median, 10th to 90th "
        f"percentile of {len(seeds) * (stored['epochs'] - 1)} turns."
    )
    host = _common.host_line(stored["host"])
    return "\n\n".join([f"{host}.", described, _common.markdown(header, rows)])


def _row(label: str, side: str, found: list[dict[str, Any]], ratio: str) -> list[str]:
    accuracy, zeros = ([one[key] for one in found] for key in ("accuracy", "zeros"))
    bytes_, zipped = (np.mean([one[key] for one in found]) for key in ("bytes", "bytes_zipped"))
    numbers = max(one["numbers"] for one in found)
    figures = [spread(accuracy, "{:.2f}".format), f"{np.mean(zeros):.1f}", f"{numbers:,}"]
    return [label, side, *figures, f"{bytes_:,.0f}", f"{zipped:,.0f}", ratio]


def main() -> None:
    """Measures, stores after each seed, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--table", action="store_true", help="print the JSON's table")
    options = parser.parse_args()
    if not options.table:
        warnings.filterwarnings("ignore", message="The student|Gradients do not exist")
        data = kd.data.load_digits()
        teacher = fitted(_tasks.cnn((8, 8, 1), True, seed=100), data, 15, 2e-3)
        guesses = np.argmax(teacher.predict(data.x_test, verbose=0), -1)
        stored: dict[str, Any] = {
            "host": _common.host(),
            "epochs": options.epochs,
            "test_images": len(data.x_test),
            "teacher_accuracy": 100 * float(np.mean(guesses == data.y_test)),
            "seeds": {},
        }
        for seed in range(options.seeds):
            stored["seeds"][str(seed)] = run(seed, teacher, data, options.epochs)
            _common.write_json(PATH, stored)
    print(table(_common.read_json(PATH)))


if __name__ == "__main__":
    main()
