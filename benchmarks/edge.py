"""What do pruning, clustering and int8 cost on Fashion-MNIST, with the teacher's help and without?

    python benchmarks/edge.py            run, or go on where an earlier run stopped
    python benchmarks/edge.py --table    print the table and the targets from the JSON
    python benchmarks/edge.py --smoke    tiny settings, another JSON

One teacher for all (when_it_pays.py's, from its cache), and for each seed one float student, a
distilled one, from which every row of that seed starts. A row's training is `fine_tune` updates at
a cosine from `fine_rate` to zero, in labels-only and in distilled rows alike; pruned and clustered
rows have `prune` updates from `prune_rate` before it, and "trained on" says what as many more
updates, both together, give the float student. The first and the last layer stay dense, and the
others are pruned to 77%, so that three quarters of all prunable weights are zero. Final weights
count. Calibration sees the same 500 training images everywhere.

Every figure is the exported file's, as LiteRT answers the 10,000 test images.

Teacher 4 to 6 minutes, then some 8 minutes a seed.
"""

import argparse
import dataclasses
import functools
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import _common
import keras
import numpy as np
import when_it_pays as pays

import keras_distill as kd

TEMPERATURE, LABEL_WEIGHT = 2.0, 0.1
METHODS = ("minmax", "moving_average", "percentile", "kl", "mse")
SPARSITY, CLUSTERS = 0.77, 16


@dataclasses.dataclass(frozen=True)
class Settings:
    """What was run.

    Args:
      seeds: float students, each with all its variants.
      batch, steps, rate: of the float student's training.
      fine_tune, fine_rate: updates and first learning rate of each training after it.
      prune, prune_rate: the same for the training in which a student is pruned or clustered.
      calibration: images.
      test: images.
      latency_rounds: how often each file has its turn.
      methods: of calibration.
    """

    seeds: int = 3
    batch: int = 128
    steps: int = 2000
    rate: float = 1e-2
    fine_tune: int = 500
    fine_rate: float = 1e-3
    prune: int = 1500
    prune_rate: float = 5e-3
    calibration: int = 500
    test: int = 10_000
    latency_rounds: int = 25
    methods: tuple[str, ...] = METHODS


SMOKE = Settings(
    1, 64, 20, fine_tune=6, prune=6, calibration=64, test=200, latency_rounds=2, methods=("mse",)
)


def new_student(seed: int) -> keras.Model:
    """Convolutions, one of them depthwise-separable, and a linear head; gives logits.

    Most of its weights lie in 3x3 kernels: a file's overhead grows with its layers and channels
    (scales, biases, names), and would else hide what zeros save.
    """
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    image = keras.Input((28, 28, 1), name="image")
    x = _convolution(image, 16, 3, 2, "stem")
    x = _convolution(x, 32, 3, 1, "conv1")
    x = layers.DepthwiseConv2D(3, 2, padding="same", use_bias=False, name="depthwise2")(x)
    x = _normalized(x, "depthwise2")
    x = _convolution(x, 64, 1, 1, "pointwise2")
    x = _convolution(x, 64, 3, 1, "conv3")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(10, name="logits")(x), name="student")


def _convolution(x: Any, width: int, size: int, stride: int, name: str) -> Any:
    layer = keras.layers.Conv2D(width, size, stride, padding="same", use_bias=False, name=name)
    return _normalized(layer(x), name)


def _normalized(x: Any, name: str) -> Any:
    x = keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x)


class Bench:
    """One seed's students and what they are made with.

    Args:
      settings: of the run.
      guide: the teacher and its answers to the training images.
      seed: of initial weights and order of the images.
      folder: where weights and files are kept.
    """

    def __init__(self, settings: Settings, guide: pays.Guide, seed: int, folder: Path):
        self.settings, self.guide, self.seed, self.folder = settings, guide, seed, folder
        self.data = pays.FASHION.splits(0)
        self.calibration = self.data.x_train[: settings.calibration]

    @functools.cached_property
    def student(self) -> keras.Model:
        """The float student."""
        s = self.settings
        train = functools.partial(self.train, steps=s.steps, rate=s.rate)
        return self._kept("float", lambda: new_student(self.seed), train)

    @functools.cached_property
    def pruned(self) -> keras.Model:
        """The student, pruned over half of a distilled training."""
        s = self.settings
        train = functools.partial(self.train, steps=s.prune, rate=s.prune_rate)
        prune = functools.partial(
            kd.edge.prune, sparsity=SPARSITY, end_step=s.prune // 2, skip=("first", "last")
        )
        return self._kept("pruned", lambda: prune(self.student), train)

    def longer(self) -> keras.Model:
        """A copy of the student, trained for as long as any other row."""
        model = _copy(self.student)
        self.train(model, steps=self.settings.prune, rate=self.settings.prune_rate)
        return self.tuned(model)

    def clustered(self) -> keras.Model:
        """The student with 16 different weights a kernel, after a distilled training."""
        model = kd.edge.cluster(self.student, CLUSTERS)
        self.train(model, steps=self.settings.prune, rate=self.settings.prune_rate)
        return model

    def quantized(self, model: keras.Model) -> keras.Model:
        return kd.edge.quantize_aware(model, calibration_data=self.calibration)

    def tuned(self, model: keras.Model, *, teacher: bool = True) -> keras.Model:
        """The model, trained on in place."""
        s = self.settings
        self.train(model, steps=s.fine_tune, rate=s.fine_rate, teacher=teacher)
        return model

    def train(self, model: keras.Model, *, steps: int, rate: float, teacher: bool = True) -> None:
        """Distilled, or on the labels alone, `steps` updates."""
        labels = self.data.y_train
        train = pays.batches(
            pays.images_of(pays.FASHION, 0),
            labels, np.arange(len(labels)), self.settings.batch, steps, self.seed,
        )  # fmt: skip
        trained = model
        if teacher:
            trained = self.guide.distiller(
                model, temperature=TEMPERATURE, label_weight=LABEL_WEIGHT
            )
        pays.compile_adam(trained, pays.Cosine(rate, steps))
        train = train if teacher else pays.images_only(train)
        trained.fit(train.prefetch(4), shuffle=False, verbose=0)

    def _kept(self, name: str, make: Callable, train: Callable) -> keras.Model:
        """Trained now, or read from where an earlier run left it."""
        file = self.folder / f"{name}-{self.seed}.weights.h5"
        model = make()
        if file.exists():
            model.load_weights(file)
        else:
            train(model)
            self.folder.mkdir(parents=True, exist_ok=True)
            model.save_weights(file)
        return model


def _copy(model: keras.Model) -> keras.Model:
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def _by_method(method: str) -> Callable[[Bench], keras.Model]:
    def make(bench: Bench) -> keras.Model:
        model = kd.edge.quantize_aware(bench.student)
        return kd.edge.calibrate(model, bench.calibration, method=method)

    return make


@dataclasses.dataclass(frozen=True)
class Row:
    """One kind of file.

    Args:
      label: in the table.
      make: the model that is exported, from a seed's bench.
      precision: of the file.
      represented: whether the converter calibrates.
    """

    label: str
    make: Callable[[Bench], keras.Model]
    precision: str = "int8"
    represented: bool = False


ROWS = {
    "float": Row("float32 student", lambda b: b.student, "float32"),
    "longer": Row("float32, trained on", lambda b: b.longer(), "float32"),
    "converter": Row("int8, converter's calibration", lambda b: b.student, represented=True),
    **{method: Row(f"int8, calibrate {method}", _by_method(method)) for method in METHODS},
    "qat": Row("QAT, labels", lambda b: b.tuned(b.quantized(b.student), teacher=False)),
    "qat_distilled": Row("QAT, distilled", lambda b: b.tuned(b.quantized(b.student))),
    "pruned": Row("pruned 75%, float32", lambda b: b.pruned, "float32"),
    "pruned_calibrated": Row("pruned 75%, calibrated", lambda b: b.quantized(b.pruned)),
    "pruned_qat": Row(
        "pruned 75%, QAT, distilled", lambda b: b.tuned(b.quantized(b.pruned))
    ),
    "clustered_qat": Row(
        "16 clusters, QAT, distilled", lambda b: b.tuned(b.quantized(b.clustered()))
    ),
}  # fmt: skip


def measured(row: Row, name: str, bench: Bench) -> dict[str, Any]:
    """One file of one seed: made, exported and asked."""
    data, count = bench.data, bench.settings.test
    model = row.make(bench)
    export = kd.edge.export_tflite(
        model,
        file_of(bench.folder, name, bench.seed),
        precision=row.precision,
        representative_data=bench.calibration if row.represented else None,
    )
    answers = kd.edge.load_tflite(export.path).predict(data.x_test[:count]).argmax(-1)
    taught = pays.logits(bench.guide.model, data.x_test[:count]).argmax(-1)
    return {
        "accuracy": float(np.mean(answers == data.y_test[:count])),
        "keras_accuracy": pays.accuracy(model, data.x_test[:count], data.y_test[:count]),
        "teacher_agreement": float(np.mean(answers == taught)),
        "bytes": export.bytes,
        "bytes_zipped": export.bytes_zipped,
        "sparsity": export.sparsity,
        "float_ops": sum(export.float_ops.values()),
    }


def file_of(folder: Path, name: str, seed: int) -> Path:
    return folder / f"{name}-{seed}.tflite"


# --- the whole run ------------------------------------------------------------------------------


def run_all(settings: Settings, output: Path, cache: Path) -> dict[str, Any]:
    """Every row that `output` does not hold yet; it is written after each."""
    stored = _common.read_json(output)
    wanted = {**vars(settings), "methods": list(settings.methods)}
    if stored.setdefault("settings", wanted) != wanted:
        raise SystemExit("The JSON holds a run with other settings. Name another with --output.")
    stored["host"] = _common.host()
    rows = stored.setdefault("rows", {name: {} for name in ROWS})
    guide = guide_of(settings, cache)
    shown = settings.test
    stored["teacher"] = {
        "parameters": guide.model.count_params(),
        "accuracy": _teacher_accuracy(guide, shown),
    }
    stored["student_parameters"] = new_student(0).count_params()
    # Weights of other settings must not be taken for these.
    folder = cache / f"edge-{zlib.crc32(repr(settings).encode()):08x}"
    for seed in range(settings.seeds):
        bench = Bench(settings, guide, seed, folder)
        for name, row in ROWS.items():
            done = rows.setdefault(name, {}).get(str(seed), {})
            if name in set(METHODS) - set(settings.methods):
                continue
            if "accuracy" in done and file_of(folder, name, seed).exists():
                continue
            rows[name][str(seed)] = timed_row(row, name, bench)
            _common.write_json(output, stored)
    stored["latency_p50_ms"] = latencies(folder, settings)
    _common.write_json(output, stored)
    return stored


def timed_row(row: Row, name: str, bench: Bench) -> dict[str, Any]:
    """A measured row and its seconds; clustering that fails is a row that says so."""
    begin = time.monotonic()
    try:
        found = measured(row, name, bench)
    except Exception as error:
        if name != "clustered_qat":
            raise
        found = {"failed": f"{type(error).__name__}: {error}"}
    found["seconds"] = round(time.monotonic() - begin, 1)
    said = found.get("failed") or f"{100 * found['accuracy']:.2f} %"
    print(f"{found['seconds']:7.1f} s  seed {bench.seed}  {row.label}: {said}", flush=True)
    return found


def guide_of(settings: Settings, cache: Path) -> pays.Guide:
    """The teacher of when_it_pays.py, trained there or here; a poor one in smoke mode."""
    plan = pays.FASHION
    if settings == SMOKE:
        keras.utils.set_random_seed(0)
        model = pays.teacher_cnn((28, 28, 1), 4)
        return pays.Guide(model, pays.logits(model, plan.splits(0).x_train))
    begin = time.monotonic()
    guide = pays.guide_of(plan, 0, cache)
    print(f"{time.monotonic() - begin:7.1f} s  teacher", flush=True)
    return guide


def _teacher_accuracy(guide: pays.Guide, count: int) -> float:
    data = pays.FASHION.splits(0)
    return pays.accuracy(guide.model, data.x_test[:count], data.y_test[:count])


def latencies(folder: Path, settings: Settings) -> dict[str, float]:
    """Median milliseconds of a run on one thread; all files of the first seed take turns."""
    from ai_edge_litert.interpreter import Interpreter

    files = {name: file_of(folder, name, 0) for name in ROWS}
    ready = {
        name: Interpreter(str(file), num_threads=1) for name, file in files.items() if file.exists()
    }
    seconds: dict[str, list[float]] = {name: [] for name in ready}
    for interpreter in ready.values():
        interpreter.allocate_tensors()
        interpreter.invoke()
    for _ in range(settings.latency_rounds):
        for name, interpreter in ready.items():
            interpreter.invoke()
            for _ in range(40):
                begin = time.perf_counter()
                interpreter.invoke()
                seconds[name].append(time.perf_counter() - begin)
    return {name: round(1000 * statistics.median(found), 4) for name, found in seconds.items()}


# --- table and targets --------------------------------------------------------------------------


def values(stored: dict[str, Any], name: str, key: str) -> list[float]:
    """A figure of each seed."""
    return [found[key] for _, found in sorted(stored["rows"].get(name, {}).items()) if key in found]


def drops(stored: dict[str, Any], name: str) -> list[float]:
    """Points lost against the float student of the same seed; below zero is a gain."""
    pairs = zip(values(stored, "float", "accuracy"), values(stored, name, "accuracy"), strict=False)
    return [100 * (before - after) for before, after in pairs]


def spread(found: list[float]) -> float:
    return max(found) - min(found)


def table(stored: dict[str, Any]) -> str:
    lines = []
    for name, row in ROWS.items():
        if not values(stored, name, "accuracy"):
            why = [found["failed"] for found in stored["rows"][name].values() if "failed" in found]
            lines.append([row.label, *(["failed"] if why else ["-"]), *["-"] * 7])
            continue
        accuracy = [100 * value for value in values(stored, name, "accuracy")]
        mean = {
            key: statistics.mean(values(stored, name, key))
            for key in ("teacher_agreement", "bytes", "bytes_zipped", "sparsity")
        }
        lost = drops(stored, name)
        latency = stored.get("latency_p50_ms", {}).get(name)
        lines.append([
            row.label, f"{statistics.mean(accuracy):.2f} ({spread(accuracy):.2f})",
            "" if name == "float" else f"{0.0 - statistics.mean(lost):+.2f} ({spread(lost):.2f})",
            f"{100 * mean['teacher_agreement']:.2f}", f"{mean['bytes']:,.0f}",
            f"{mean['bytes_zipped']:,.0f}", f"{100 * mean['sparsity']:.1f}",
            "-" if latency is None else f"{latency:.3f}",
        ])  # fmt: skip
    head = ["file", "accuracy, %", "against the float student", "teacher's answer, %"]
    head += ["bytes", "zipped", "zeros, %", "p50, ms"]
    return f"{header(stored)}\n\n{_common.markdown(head, lines)}\n\n{targets(stored)}"


def header(stored: dict[str, Any]) -> str:
    s, teacher = stored["settings"], stored["teacher"]
    return (
        f"{_common.host_line(stored['host'])}.\n\n"
        f"Fashion-MNIST, {s['seeds']} seeds, {s['test']:,} test images, each figure the exported "
        f"file's: means, and in brackets largest minus smallest over the seeds. Teacher: "
        f"{teacher['parameters']:,} weights, {100 * teacher['accuracy']:.2f} %. Student: "
        f"{stored['student_parameters']:,} weights, distilled at T = {TEMPERATURE:g} with label "
        f"weight {LABEL_WEIGHT}, {s['steps']:,} updates of {s['batch']} images; pruning and "
        f"clustering {s['prune']:,} more, quantisation-aware training {s['fine_tune']}. Latency: "
        f"one thread, one image, seed 0, the files in turns."
    )


def targets(stored: dict[str, Any]) -> str:
    """Each target, met or missed, with its figures."""
    wanted = ("float", "qat", "qat_distilled", "pruned_qat")
    if not all(values(stored, name, "accuracy") for name in wanted):
        return "The targets need more rows."
    distilled, plain = drops(stored, "qat_distilled"), drops(stored, "qat")
    paired = [a - b for a, b in zip(distilled, plain, strict=False)]
    beyond, allowed = statistics.mean(paired), spread(paired)
    sparse = statistics.mean(drops(stored, "pruned_qat"))
    pairs = zip(
        values(stored, "pruned_qat", "bytes_zipped"),
        values(stored, "qat_distilled", "bytes_zipped"),
        strict=False,
    )
    share = max(small / dense for small, dense in pairs)
    lost = statistics.mean(distilled)
    lines = [
        (lost <= 0.3, f"distilled QAT loses {lost:+.2f} points, allowed 0.3"),
        (
            beyond <= allowed,
            f"distilled QAT loses {beyond:+.2f} points more than plain QAT, "
            f"the paired differences spread over {allowed:.2f}",
        ),
        (sparse <= 0.7, f"75% sparse and int8 loses {sparse:+.2f} points, allowed 0.7"),
        (
            share <= 0.5,
            f"its zipped file is {share:.1%} of the dense int8 file's at most, allowed 50%",
        ),
    ]
    return "\n".join(f"- {'met' if met else 'MISSED'}: {words}" for met, words in lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny settings, another JSON")
    parser.add_argument("--table", action="store_true", help="print the table, train nothing")
    parser.add_argument("--output", type=Path, help="the JSON")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir(), "keras_distill_when_it_pays"),
        help="where the teacher, the students' weights and the files are kept",
    )  # fmt: skip
    return parser.parse_args()


def main() -> None:
    args = arguments()
    name = "edge_smoke.json" if args.smoke else "edge.json"
    output = args.output or (args.cache if args.smoke else _common.RESULTS) / name
    if args.table:
        print(table(_common.read_json(output)))
        return
    _common.set_threads(args.threads)
    stored = run_all(SMOKE if args.smoke else Settings(), output, args.cache)
    print("\n" + table(stored))


if __name__ == "__main__":
    main()
