"""What is a teacher's weight worth to a student? Fashion-MNIST, a quarter of the teacher's FLOPs.

    python benchmarks/transfer.py              run, or go on where an earlier run stopped
    python benchmarks/transfer.py --seed 1     that seed alone; runs of other seeds may go beside it
    python benchmarks/transfer.py --latency    time the files of an earlier run again, train nothing
    python benchmarks/transfer.py --table      print the table and the targets from the JSON
    python benchmarks/transfer.py --smoke      tiny settings, another JSON

One teacher for all: residual blocks between depthwise-separable ones. Every row's student gets the
same number of updates in all (Adam, one learning rate, a cosine to zero), under a seed the same
batches, and, but for the labels-only row, the same teacher's answers at temperature 2 with the same
label weight. What the iterative row trains between its cuts is taken off its last training; there
the cosine goes to zero after each cut. Final weights count, no epoch is picked; the settings were
chosen on validation images.

"Scratch" and the copies are the teacher's architecture at half its widths, its stem at a third:
what `shrink` to a quarter of the FLOPs makes with widths that are multiples of 8. So the uniform
`shrink` begins with the very weights that `copy_important` by its criterion writes; that is
checked, and the row is trained once.

A seed draws the initial weights, the random channels and the order of the images. The rows that
choose by importance begin alike under every seed, and spread less for that.

Latency is one thread's on one image: the int8 files of the first seed take turns, and each file's
time is set against the teacher's file of the same round.
"""

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import _common
import keras
import numpy as np
import tensorflow as tf
import when_it_pays as pays

import keras_distill as kd
from keras_distill.transfer import (
    Recovery,
    copy_important,
    copy_random,
    profile,
    shrink,
    submodel,
)

TEMPERATURE, LABEL_WEIGHT = 2.0, 0.1
TEACHER, STUDENT = (24, 32, 64), (8, 16, 32)
CRITERION = "taylor"
CRITERIA = ("l1", "l2", "bn_scale", "activation", "taylor")
# Between whole groups of 8 channels, the global choice would be the uniform one.
TIMES_FEWER, MULTIPLE, FINE = 4, 8, 4


@dataclasses.dataclass(frozen=True)
class Settings:
    """What was run.

    Args:
      seeds: students of each row.
      teacher_epochs, teacher_rate: of the teacher's training, on mirrored images, too.
      batch, steps, rate: of every student's training.
      rounds, round_steps: of the iterative row, within `steps`.
      measured: images that importance is measured on.
      calibration: images.
      test: images.
      latency_rounds: how often each file has its turn.
    """

    seeds: int = 3
    teacher_epochs: int = 8
    teacher_rate: float = 3e-3
    batch: int = 64
    steps: int = 6000
    rate: float = 5e-3
    rounds: int = 4
    round_steps: int = 500
    measured: int = 1000
    calibration: int = 500
    test: int = 10_000
    latency_rounds: int = 50


SMOKE = Settings(
    1, 0, batch=32, steps=12, round_steps=2, measured=64, calibration=64, test=200, latency_rounds=2
)  # fmt: skip


# --- models -------------------------------------------------------------------------------------


def new_model(widths: tuple[int, int, int], seed: int, name: str) -> keras.Model:
    """Two residual blocks at 14x14, three at 7x7, and a linear head; gives logits.

    Args:
      widths: of the stem and of the two stages.
      seed: of the initial weights.
      name: of the model.
    """
    keras.utils.set_random_seed(seed)
    stem, wide, deep = widths
    image = keras.Input((28, 28, 1), name="image")
    x = _convolution(image, stem, 3, 2, "stem")
    x = _separable(x, wide, 1, "widen")
    for number in (1, 2):
        x = _residual(x, wide, f"wide{number}")
    x = _separable(x, deep, 2, "deepen")
    for number in (1, 2, 3):
        x = _residual(x, deep, f"deep{number}")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, keras.layers.Dense(10, name="logits")(x), name=name)


def _convolution(x: Any, width: int, size: int, stride: int, name: str) -> Any:
    layer = keras.layers.Conv2D(width, size, stride, padding="same", use_bias=False, name=name)
    return keras.layers.ReLU(name=f"{name}_relu")(_normalized(layer(x), name))


def _separable(x: Any, width: int, stride: int, name: str) -> Any:
    depthwise = keras.layers.DepthwiseConv2D(
        3, stride, padding="same", use_bias=False, name=f"{name}_depthwise"
    )
    x = _normalized(depthwise(x), f"{name}_depthwise")
    return _convolution(x, width, 1, 1, f"{name}_pointwise")


def _residual(x: Any, width: int, name: str) -> Any:
    layer = keras.layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"{name}_conv")
    x = keras.layers.Add(name=f"{name}_add")([x, _normalized(layer(x), f"{name}_conv")])
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def _normalized(x: Any, name: str) -> Any:
    return keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)


def guide_of(settings: Settings, cache: Path) -> pays.Guide:
    """The teacher, trained now or read from `cache`, and its answers to the training images."""
    data = pays.FASHION.splits(0)
    model = new_model(TEACHER, 1000, "teacher")
    file = cache / f"transfer-teacher-{settings.teacher_epochs}.weights.h5"
    if settings.teacher_epochs and file.exists():
        model.load_weights(file)
    elif settings.teacher_epochs:
        begin = time.monotonic()
        steps = settings.teacher_epochs * len(data.x_train) // settings.batch
        train = pays.images_only(batches_of(settings, steps, 0))
        train = train.map(lambda x, y: (tf.image.random_flip_left_right(x, seed=0), y))
        pays.compile_adam(model, pays.Cosine(settings.teacher_rate, steps))
        model.fit(train.prefetch(4), shuffle=False, verbose=0)
        cache.mkdir(parents=True, exist_ok=True)
        model.save_weights(file)
        print(f"{time.monotonic() - begin:7.1f} s  teacher", flush=True)
    return pays.Guide(model, pays.logits(model, data.x_train))


# --- training -----------------------------------------------------------------------------------


def batches_of(settings: Settings, steps: int, seed: int) -> tf.data.Dataset:
    """`({"image": ..., "row": ...}, label)`."""
    labels = pays.FASHION.splits(0).y_train
    rows = np.arange(len(labels))
    images = pays.images_of(pays.FASHION, 0)
    return pays.batches(images, labels, rows, settings.batch, steps, seed)


def label_loss() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Bench:
    """One seed's students and what they are made with.

    Args:
      settings: of the run.
      guide: the teacher and its answers to the training images.
      seed: of initial weights, random channels and order of the images.
      folder: where files are kept.
    """

    def __init__(self, settings: Settings, guide: pays.Guide, seed: int, folder: Path):
        self.settings, self.guide, self.seed, self.folder = settings, guide, seed, folder
        self.data = pays.FASHION.splits(0)
        self.budget = profile(guide.model).flops / TIMES_FEWER

    def scratch(self) -> keras.Model:
        return new_model(STUDENT, self.seed, "student")

    def measure(self, criterion: str) -> dict[str, Any]:
        """The arguments of a choice by importance."""
        count = self.settings.measured
        labelled = self.data.x_train[:count], self.data.y_train[:count]
        images = {"activation": labelled[0], "taylor": labelled}
        needs = {"data": images[criterion]} if criterion in images else {}
        loss = {"loss": label_loss()} if criterion == "taylor" else {}
        return {"criterion": criterion, **needs, **loss}

    def shrunk(self, model: keras.Model | None = None, **options: Any) -> keras.Model:
        """The teacher, or a part of it, within the budget."""
        options = {"multiple_of": MULTIPLE, **self.measure(CRITERION), **options}
        return shrink(model or self.guide.model, max_flops=self.budget, **options)[0]

    def iterative(self) -> keras.Model:
        """Cut and trained in turns."""
        s = self.settings
        rows = tf.data.Dataset.range(len(self.data.x_train))
        images, labels = pays.images_of(pays.FASHION, 0), tf.constant(self.data.y_train)
        # Shuffled anew each time it is gone through: every round sees other batches.
        order = rows.shuffle(len(self.data.x_train), seed=self.seed).batch(s.batch)
        train = order.take(s.round_steps).map(
            lambda row: (tf.gather(images, row), tf.gather(labels, row))
        )
        schedule = keras.optimizers.schedules.CosineDecay(s.rate, s.round_steps)
        recovery = Recovery(
            train,
            rounds=s.rounds,
            optimizer=keras.optimizers.Adam(schedule),
            loss=label_loss(),
            objectives=[kd.SoftTargets(temperature=TEMPERATURE)],
            label_weight=LABEL_WEIGHT,
            options={"verbose": 0, "shuffle": False},
        )
        return self.shrunk(iterative=recovery)

    def train(self, model: keras.Model, *, done: int, teacher: bool) -> None:
        """Distilled, or on the labels alone, for the updates that are left after `done`."""
        s = self.settings
        train = batches_of(s, s.steps, self.seed).skip(done)
        trained = model
        if teacher:
            trained = self.guide.distiller(
                model, temperature=TEMPERATURE, label_weight=LABEL_WEIGHT
            )
        pays.compile_adam(trained, pays.Cosine(s.rate, s.steps - done))
        train = train if teacher else pays.images_only(train)
        trained.fit(train.prefetch(4), shuffle=False, verbose=0)


# --- rows ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Row:
    """One way to begin.

    Args:
      label: in the table.
      make: the student before its (last) training, from a seed's bench.
      teacher: whether it learns from the teacher's answers.
      rounds: whether `make` trains it between cuts.
      twin: the row whose start must be the same, number by number, and whose training is taken.
    """

    label: str
    make: Callable[[Bench], keras.Model]
    teacher: bool = True
    rounds: bool = False
    twin: str = ""


def _random(bench: Bench) -> keras.Model:
    return copy_random(bench.guide.model, bench.scratch(), seed=bench.seed)[0]


def _important(criterion: str) -> Callable[[Bench], keras.Model]:
    def make(bench: Bench) -> keras.Model:
        model, options = bench.guide.model, bench.measure(criterion)
        return copy_important(model, bench.scratch(), **options)[0]

    return make


def _one_block(bench: Bench) -> keras.Model:
    return submodel(bench.guide.model, lambda block: not block.removable or block.name == "deep1")[
        0
    ]


def _every_second(bench: Bench) -> keras.Model:
    return submodel(bench.guide.model, slice(None, None, 2))[0]


ROWS = {
    "labels": Row("from scratch, labels only", Bench.scratch, teacher=False),
    "scratch": Row("from scratch", Bench.scratch),
    "random": Row("copy_random", _random),
    **{name: Row(f"copy_important, {name}", _important(name)) for name in CRITERIA},
    "blocks": Row("submodel, one residual block of five", _one_block),
    "blocks_shrunk": Row(
        "submodel, every second block, then shrink", lambda b: b.shrunk(_every_second(b))
    ),
    "shrink": Row("shrink", lambda b: b.shrunk(), twin=CRITERION),
    "global": Row(
        'shrink, scope="global", multiples of 4',
        lambda b: b.shrunk(scope="global", multiple_of=FINE),
    ),
    "iterative": Row("shrink, iterative", Bench.iterative, rounds=True),
}


def measured(row: Row, name: str, bench: Bench) -> dict[str, Any]:
    """One row of one seed: made, trained, exported and asked."""
    s = bench.settings
    model = row.make(bench)
    x, y = bench.data.x_test[: s.test], bench.data.y_test[: s.test]
    before = None if row.rounds else pays.accuracy(model, x, y)
    bench.train(model, done=s.rounds * s.round_steps if row.rounds else 0, teacher=row.teacher)
    return {
        "before": before,
        "validation": pays.accuracy(model, bench.data.x_validation, bench.data.y_validation),
        **exported(model, file_of(bench.folder, name, bench.seed), s),
    }


def same_as(start: keras.Model, twin: keras.Model, found: dict[str, Any]) -> dict[str, Any]:
    """What was found of the twin, once it is certain that both begin alike."""
    pairs = zip(start.get_weights(), twin.get_weights(), strict=True)
    if not all(np.array_equal(a, b) for a, b in pairs):
        raise RuntimeError(f"{start.name} and {twin.name} do not begin alike: train both.")
    return found


def exported(model: keras.Model, file: Path, settings: Settings) -> dict[str, Any]:
    """What the model and its int8 file answer, and their price."""
    data, count = pays.FASHION.splits(0), settings.test
    x, y = data.x_test[:count], data.y_test[:count]
    export = kd.edge.export_tflite(
        model, file, precision="int8", representative_data=data.x_train[: settings.calibration]
    )
    answers = kd.edge.load_tflite(export.path).predict(x).argmax(-1)
    price = profile(model)
    return {
        "accuracy": pays.accuracy(model, x, y),
        "accuracy_int8": float(np.mean(answers == y)),
        "parameters": price.parameters,
        "flops": price.flops,
        "bytes_int8": export.bytes,
    }


def file_of(folder: Path, name: str, seed: int) -> Path:
    return folder / f"{name}-{seed}.tflite"


# --- the whole run ------------------------------------------------------------------------------


def folder_of(settings: Settings, cache: Path) -> Path:
    """Files of other settings must not be taken for these."""
    return cache / f"transfer-{zlib.crc32(repr(settings).encode()):08x}"


def run_all(settings: Settings, seeds: Sequence[int], output: Path, cache: Path) -> dict[str, Any]:
    """Every row that `output` does not hold yet; it is written after each."""
    stored = _common.read_json(output)
    if stored.setdefault("settings", vars(settings)) != vars(settings):
        raise SystemExit("The JSON holds a run with other settings. Name another with --output.")
    stored["host"] = _common.host()
    stored.setdefault("rows", {name: {} for name in ROWS})
    folder = folder_of(settings, cache)
    folder.mkdir(parents=True, exist_ok=True)
    guide = guide_of(settings, cache)
    if "teacher" not in stored or not file_of(folder, "teacher", 0).exists():
        stored["teacher"] = exported(guide.model, file_of(folder, "teacher", 0), settings)
    _common.write_json(output, stored)
    for seed in seeds:
        bench = Bench(settings, guide, seed, folder)
        for name, row in ROWS.items():
            rows = _common.read_json(output)["rows"]
            done = rows.setdefault(name, {})
            if str(seed) in done and (row.twin or file_of(folder, name, seed).exists()):
                continue
            found = timed_row(name, bench, rows)
            # Another seed's run may have written meanwhile.
            stored = _common.read_json(output)
            stored["rows"].setdefault(name, {})[str(seed)] = found
            _common.write_json(output, stored)
    return stored


def timed_row(name: str, bench: Bench, rows: dict[str, Any]) -> dict[str, Any]:
    begin, row = time.monotonic(), ROWS[name]
    if row.twin:
        twin = ROWS[row.twin].make(bench)
        found = same_as(row.make(bench), twin, {**rows[row.twin][str(bench.seed)]})
    else:
        found = measured(row, name, bench)
    found["seconds"] = round(time.monotonic() - begin, 1)
    print(
        f"{found['seconds']:7.1f} s  seed {bench.seed}  {row.label}: "
        f"{100 * found['accuracy']:.2f} %, validation {100 * found['validation']:.2f} %",
        flush=True,
    )
    return found


def latencies(settings: Settings, cache: Path) -> dict[str, Any]:
    """Median milliseconds of a run in each round, all files of the first seed in turns."""
    from ai_edge_litert.interpreter import Interpreter

    folder = folder_of(settings, cache)
    names = ["teacher", *(name for name, row in ROWS.items() if not row.twin)]
    files = {name: file_of(folder, name, 0) for name in names}
    if missing := [name for name, file in files.items() if not file.exists()]:
        raise SystemExit(f"No files of {', '.join(missing)} in {folder}: run without --latency.")
    ready = {name: Interpreter(str(file), num_threads=1) for name, file in files.items()}
    for interpreter in ready.values():
        interpreter.allocate_tensors()
    rounds: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(settings.latency_rounds):
        for name, interpreter in ready.items():
            rounds[name].append(round(1000 * _median_seconds(interpreter), 5))
    return {"host": _common.host(), "p50_ms": rounds}


def _median_seconds(interpreter: Any, runs: int = 100) -> float:
    seconds = []
    for _ in range(5):
        interpreter.invoke()
    for _ in range(runs):
        begin = time.perf_counter()
        interpreter.invoke()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


# --- table and targets --------------------------------------------------------------------------


def values(stored: dict[str, Any], name: str, key: str) -> list[float]:
    """A figure of each seed."""
    return [found[key] for _, found in sorted(stored["rows"].get(name, {}).items())]


def speedups(stored: dict[str, Any], name: str) -> list[float]:
    """How many times faster than the teacher's file, in each round."""
    rounds = stored["latency"]["p50_ms"]
    return [a / b for a, b in zip(rounds["teacher"], rounds[name], strict=True)]


def table(stored: dict[str, Any]) -> str:
    head = ["student", "before training, %", "accuracy, %", "over scratch", "int8 file, %"]
    head += ["parameters", "FLOPs", "share", "int8 bytes", "p50, ms", "times faster"]
    lines = [_teacher_line(stored)]
    lines += [_line(stored, name) for name in ROWS if values(stored, name, "accuracy")]
    return f"{header(stored)}\n\n{_common.markdown(head, lines)}\n\n{targets(stored)}"


def _teacher_line(stored: dict[str, Any]) -> list[str]:
    found = stored["teacher"]
    accuracy, int8 = (f"{100 * found[key]:.2f}" for key in ("accuracy", "accuracy_int8"))
    return ["the teacher", "", accuracy, "", int8, *_price(stored, "teacher", found)]


def _line(stored: dict[str, Any], name: str) -> list[str]:
    row, accuracy = ROWS[name], values(stored, name, "accuracy")
    scratch = values(stored, "scratch", "accuracy")
    compared = name != "scratch" and len(scratch) == len(accuracy)
    return [
        row.label,
        "-" if row.rounds else pays.points(values(stored, name, "before")),
        pays.points(accuracy),
        pays.gain(accuracy, scratch) if compared else "",
        pays.points(values(stored, name, "accuracy_int8")),
        *_price(stored, row.twin or name, next(iter(stored["rows"][name].values()))),
    ]


def _price(stored: dict[str, Any], name: str, found: dict[str, Any]) -> list[str]:
    rounds = stored.get("latency", {}).get("p50_ms", {}).get(name)
    share = found["flops"] / stored["teacher"]["flops"]
    timed = ["-", "-"]
    if rounds:
        times = speedups(stored, name)
        spread = f"{statistics.median(times):.2f} ({min(times):.2f}-{max(times):.2f})"
        timed = [f"{statistics.median(rounds):.4f}", "" if name == "teacher" else spread]
    counts = [f"{found[key]:,}" for key in ("parameters", "flops")]
    return [*counts, f"{100 * share:.1f} %", f"{found['bytes_int8']:,}", *timed]


def header(stored: dict[str, Any]) -> str:
    s = stored["settings"]
    timed = stored.get("latency", {}).get("host")
    where = "" if timed in (None, stored["host"]) else f" Latency: {_common.host_line(timed)}."
    return (
        f"{_common.host_line(stored['host'])}.{where}\n\n"
        f"Fashion-MNIST, {s['seeds']} seeds, {s['test']:,} test images: means, ± sample standard "
        f"deviation over the seeds. Every student: {s['steps']:,} updates of {s['batch']} images "
        f"in all, Adam from {s['rate']:g} to zero, but for the labels-only row distilled at "
        f"T = {TEMPERATURE:g} with label weight {LABEL_WEIGHT}; the iterative one {s['rounds']} "
        f"cuts with {s['round_steps']} updates after each, then the rest. shrink and the rows "
        f"beyond it choose by {CRITERION}. The gain over scratch is paired by seed, and bold "
        f"beyond 2 sd / sqrt(n). Times faster: than the teacher's int8 file, the median of "
        f"{s['latency_rounds']} rounds and in brackets the least and the most; one thread, one "
        f"image, seed 0."
    )


def targets(stored: dict[str, Any]) -> str:
    """Each target, met or missed, with its figures."""
    lines = []
    for name in ("shrink", "global", "iterative"):
        if len(values(stored, name, "accuracy")) < stored["settings"]["seeds"]:
            return "The targets need more rows."
        lines += _targets_of(stored, name)
    return "\n".join(f"- {'met' if met else 'MISSED'}: {words}" for met, words in lines)


def _targets_of(stored: dict[str, Any], name: str) -> list[tuple[bool, str]]:
    row, teacher = ROWS[name], stored["teacher"]
    lost, lost_int8 = (
        [100 * (teacher[key] - value) for value in values(stored, name, key)]
        for key in ("accuracy", "accuracy_int8")
    )
    fewer = teacher["flops"] / max(values(stored, name, "flops"))
    found = [
        (fewer >= TIMES_FEWER and statistics.mean(lost) <= 0.5,
         f"{row.label}, distilled, at {fewer:.2f} times fewer FLOPs loses "
         f"{statistics.mean(lost):.2f} points of the teacher (each seed "
         f"{', '.join(f'{value:.2f}' for value in lost)}), allowed 0.5; its int8 file loses "
         f"{statistics.mean(lost_int8):.2f} of the teacher's int8 file"),
    ]  # fmt: skip
    if "latency" in stored:
        times = statistics.median(speedups(stored, row.twin or name))
        words = f"{row.label}: its int8 file is {times:.2f} times faster, wanted 2.5"
        found.append((times >= 2.5, words))
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny settings, another JSON")
    parser.add_argument("--table", action="store_true", help="print the table, train nothing")
    parser.add_argument("--latency", action="store_true", help="time the files again, no training")
    parser.add_argument("--seed", type=int, help="train this seed's students only")
    parser.add_argument("--output", type=Path, help="the JSON")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir(), "keras_distill_when_it_pays"),
        help="where the teacher and the files are kept",
    )  # fmt: skip
    return parser.parse_args()


def main() -> None:
    args = arguments()
    name = "transfer_smoke.json" if args.smoke else "transfer.json"
    output = args.output or (args.cache if args.smoke else _common.RESULTS) / name
    settings = SMOKE if args.smoke else Settings()
    if args.table:
        print(table(_common.read_json(output)))
        return
    _common.set_threads(args.threads)
    if args.latency:
        stored = _common.read_json(output) | {"latency": latencies(settings, args.cache)}
        _common.write_json(output, stored)
    else:
        every = range(settings.seeds) if args.seed is None else [args.seed]
        stored = run_all(settings, every, output, args.cache)
        if args.seed is None:
            stored["latency"] = latencies(settings, args.cache)
            _common.write_json(output, stored)
    print("\n" + table(stored))


if __name__ == "__main__":
    main()
