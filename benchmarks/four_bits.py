"""Kernels of 4 bits beside activations of 8: litert-quantizer's files and ours, of one network.

    python benchmarks/four_bits.py --quantizer-python PATH --models DIR    where a call stopped
    python benchmarks/four_bits.py --only student                          one network
    python benchmarks/four_bits.py --smoke --quantizer-python PATH         tiny, another JSON
    python benchmarks/four_bits.py --table                                 the table, from the JSON

litert-quantizer asks for versions of its own: give it an environment, and name its interpreter.

    python -m venv quantizer && quantizer/bin/pip install litert-quantizer==0.11.0
    ... --quantizer-python quantizer/bin/python

Three float networks go to files: one of depthwise separable blocks and a student of 11 thousand
weights, both trained here on Fashion-MNIST, and MLPerf Tiny's image_resnet.h5 (from --models, on
CIFAR-10). All ways get the same 500 training images to calibrate on, drawn by the seed. Both sides
put the same layers to 4 bits, Dense and Conv2D: litert-quantizer has no depthwise ones.

"QAT with the teacher" is one epoch of a Distiller over the training images, the float network its
own teacher, Adam with a cosine to zero. Its rate is the best of three on validation images with the
first seed (of image_resnet these are among the images that it was trained on). Accuracy is that of
the file, on test images.
"""

import argparse
import dataclasses
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import _common
import gains
import keras
import numpy as np
import repair
import when_it_pays as pays

import keras_distill as kd

BATCH, ROWS, SEEDS, RATES = 128, 500, 3, (3e-4, 1e-3, 3e-3)
OTHERS = Path(__file__).parent / "_other_quantizer.py"
# What litert-quantizer has at 4 bits.
BITS = {keras.layers.Conv2D: 4, keras.layers.Dense: 4}
THEIRS, OURS = "litert-quantizer, ", "ours, "


# --- networks -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Network:
    """A float network and its data.

    Args:
      load: its images.
      model: gives it, from the images and the folder of --models.
      from_logits: what it returns.
    """

    load: Callable[[], kd.data.ImageSplits]
    model: Callable[[kd.data.ImageSplits, Path | None], keras.Model]
    from_logits: bool = True


def trained(
    make: Callable[[], keras.Model], epochs: int, data: kd.data.ImageSplits, models: Path | None
) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = make()
    fit(model, data, rate=1e-2, epochs=epochs)
    return model


def fit(
    trainer: keras.Model,
    data: kd.data.ImageSplits,
    *,
    rate: float,
    epochs: int = 1,
    from_logits: bool = True,
) -> None:
    steps = epochs * -(-len(data.x_train) // BATCH)
    trainer.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits),
    )
    trainer.fit(data.x_train, data.y_train, batch_size=BATCH, epochs=epochs, verbose=0)


def reference(data: kd.data.ImageSplits, models: Path | None) -> keras.Model:
    if models is None:
        raise SystemExit("image_resnet: --models DIR names the folder of image_resnet.h5")
    return kd.load_model(models / "image_resnet.h5")


def cifar() -> kd.data.ImageSplits:
    """Images of 0 to 255, as the reference was trained."""
    data = kd.data.load_cifar10(download=True)
    scaled = {name: 255.0 * getattr(data, name) for name in ("x_train", "x_validation", "x_test")}
    return dataclasses.replace(data, **scaled)


FASHION = functools.partial(kd.data.load_fashion_mnist, download=True)
STUDENT = functools.partial(gains.plain_student, (28, 28, 1), (11, 21, 42))
NETWORKS = {
    "student": Network(FASHION, functools.partial(trained, STUDENT, 12)),
    "depthwise": Network(FASHION, functools.partial(trained, repair.network, 6)),
    "image_resnet": Network(cifar, reference, from_logits=False),
}


def less(data: kd.data.ImageSplits) -> kd.data.ImageSplits:
    """Enough of it to see that all runs."""
    parts = {f"{a}_{p}": 512 for a in "xy" for p in ("train", "validation", "test")}
    return dataclasses.replace(data, **{k: getattr(data, k)[:n] for k, n in parts.items()})


# --- ways to a file -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    """A network with the images of one seed, and where its files go."""

    network: Network
    model: keras.Model
    data: kd.data.ImageSplits
    rows: np.ndarray
    seed: int
    folder: Path


def calibrated(case: Case, **options: Any) -> keras.Model:
    return kd.edge.quantize_aware(
        case.model, calibration_data=case.rows, weight_bits=BITS, **options
    )


def corrected(case: Case) -> keras.Model:
    return kd.edge.correct_biases(calibrated(case), case.rows)


def reconstructed(case: Case, **options: Any) -> keras.Model:
    return kd.edge.reconstruct(calibrated(case, **options), data=case.rows, verbose=False)


def taught(start: Callable[[Case], keras.Model], rate: float, case: Case) -> keras.Model:
    keras.utils.set_random_seed(case.seed)
    small = start(case)
    tuner = kd.Distiller(small, case.model)
    fit(tuner, case.data, rate=rate, from_logits=case.network.from_logits)
    return small


# What one row is made by; those that are trained take a rate.
PLAIN: dict[str, Callable[[Case], keras.Model]] = {
    "calibrated": calibrated,
    "biases corrected": corrected,
    "reconstructed": reconstructed,
}
TRAINED: dict[str, Callable[[Case], keras.Model]] = {
    "QAT with the teacher": calibrated,
    "QAT with the teacher, learned steps": functools.partial(calibrated, learned_steps=True),
    "reconstructed, QAT with the teacher": reconstructed,
}


def file_of(small: keras.Model, case: Case) -> dict[str, float]:
    path = case.folder / "ours.tflite"
    kd.edge.export_tflite(small, path, precision="int8", input_type="int8")
    return asked(path, case.data)


def asked(path: Path, data: kd.data.ImageSplits) -> dict[str, float]:
    answers = kd.edge.load_tflite(path).predict(data.x_test)
    right = float(np.mean(answers.argmax(-1) == data.y_test))
    return {"accuracy": right, "bytes": path.stat().st_size}


def of_others(case: Case, python: Path) -> dict[str, dict[str, Any]]:
    """litert-quantizer's files of the float file, by recipe."""
    float_file, rows = case.folder / "float.tflite", case.folder / "rows.npy"
    kd.edge.export_tflite(case.model, float_file, precision="float32")
    np.save(rows, case.rows.astype("float32"))
    command = [str(python), "-P", str(OTHERS), str(float_file), str(rows), str(case.folder)]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {
        recipe: asked(Path(one["file"]), case.data) if "file" in one else one
        for recipe, one in json.loads(said).items()
    }


# --- what is run --------------------------------------------------------------------------------


def run(name: str, args: argparse.Namespace, stored: dict[str, Any], write: Callable) -> None:
    network = NETWORKS[name]
    data = less(network.load()) if args.smoke else network.load()
    model = float_model(name, data, args)
    found = stored.setdefault("networks", {}).setdefault(name, {})
    write()
    if "float" not in found:
        right = float(np.mean(model.predict(data.x_test, verbose=0).argmax(-1) == data.y_test))
        found["float"] = {"0": {"accuracy": right, "bytes": 0}}
        write()
    for seed in range(1 if args.smoke else SEEDS):
        keras.utils.set_random_seed(seed)
        picked = np.random.default_rng(seed).permutation(len(data.x_train))[:ROWS]
        with tempfile.TemporaryDirectory() as folder:
            case = Case(network, model, data, data.x_train[picked], seed, Path(folder))
            rows_of(case, args, found, write)


def rows_of(
    case: Case, args: argparse.Namespace, found: dict[str, Any], write: Callable[[], None]
) -> None:
    """The rows of one seed that are not there yet."""
    seed = str(case.seed)

    def due(row: str) -> bool:
        return (not args.row or row in args.row) and seed not in found.get(OURS + row, {})

    def keep(row: str, figures: dict[str, Any]) -> None:
        found.setdefault(row, {})[seed] = figures
        write()
        print(f"  {row}, seed {seed}: {figures}", flush=True)

    theirs = [row for row in found if row.startswith(THEIRS)]
    asked_for = args.quantizer_python and (not args.row or THEIRS in args.row)
    if asked_for and not (theirs and all(seed in found[row] for row in theirs)):
        for recipe, figures in of_others(case, args.quantizer_python).items():
            keep(THEIRS + recipe, figures)
    for row, make in PLAIN.items():
        if due(row):
            begin = time.perf_counter()
            small = make(case)
            seconds = time.perf_counter() - begin
            keep(OURS + row, {**file_of(small, case), "seconds": seconds})
    for row, start in TRAINED.items():
        if not due(row):
            continue
        if case.seed == 0:
            keep(OURS + row, best_of_rates(start, case))
        else:
            rate = found[OURS + row]["0"]["rate"]
            small = taught(start, rate, case)
            keep(OURS + row, {**file_of(small, case), "rate": rate})


def best_of_rates(start: Callable[[Case], keras.Model], case: Case) -> dict[str, Any]:
    data, tried = case.data, {}
    for rate in RATES:
        small = taught(start, rate, case)
        answers = small.predict(data.x_validation, verbose=0).argmax(-1)
        tried[rate] = float(np.mean(answers == data.y_validation)), small
    best = max(tried, key=lambda rate: tried[rate][0])
    validation = {str(rate): right for rate, (right, _) in tried.items()}
    return {**file_of(tried[best][1], case), "rate": best, "validation": validation}


def float_model(name: str, data: kd.data.ImageSplits, args: argparse.Namespace) -> keras.Model:
    """The float network, which a second call finds in the folder of --work."""
    path = args.work / f"{name}{'_smoke' if args.smoke else ''}.keras"
    if not path.exists():
        args.work.mkdir(parents=True, exist_ok=True)
        NETWORKS[name].model(data, args.models).save(path)
    return keras.saving.load_model(path)


def _place(row: str) -> int:
    """Where in the table: float, theirs, ours in order."""
    ours = [OURS + one for one in (*PLAIN, *TRAINED)]
    return 2 + ours.index(row) if row in ours else int(row.startswith(THEIRS))


def table(stored: dict[str, Any]) -> str:
    lines = []
    for name, found in stored["networks"].items():
        whole = found["float"]["0"]["accuracy"]
        rows = sorted(found.items(), key=lambda one: _place(one[0]))
        for number, (row, seeds) in enumerate(rows):
            if "error" in seeds["0"]:
                continue
            mean, spread = pays.mean_and_spread([one["accuracy"] for one in seeds.values()])
            spread_told = f" ± {100 * spread:.2f}" if len(seeds) > 1 else ""
            lost = "" if row == "float" else f"{100 * (mean - whole):+.2f}{spread_told}"
            size = f"{seeds['0']['bytes']:,}" if seeds["0"]["bytes"] else ""
            cells = [name if not number else "", row, size, f"{100 * mean:.2f}", lost]
            lines.append([*cells, str(len(seeds)) if row != "float" else ""])
    head = ["network", "way", "bytes", "test, %", "beside float, points", "seeds"]
    return f"{_common.host_line(stored['host'])}.\n\n" + _common.markdown(head, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quantizer-python", type=Path, help="of litert-quantizer's environment")
    parser.add_argument("--models", type=Path, help="the folder of image_resnet.h5")
    parser.add_argument("--only", choices=NETWORKS, action="append", help="all by default")
    rows = [THEIRS, *PLAIN, *TRAINED]
    parser.add_argument("--row", choices=rows, action="append", help="all by default")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "four_bits")
    parser.add_argument("--smoke", action="store_true", help="tiny, another JSON")
    parser.add_argument("--table", action="store_true", help="print the table, run nothing")
    args = parser.parse_args()
    print(table(_common.networks_run("four_bits", args, NETWORKS, run)))


if __name__ == "__main__":
    main()
