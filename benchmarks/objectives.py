"""Every objective on real data under one budget: what it gains over the labels, what it costs.

    python benchmarks/objectives.py                        accuracies, where an earlier run stopped
    python benchmarks/objectives.py --labelled 0.1         a tenth of the labels, another JSON
    python benchmarks/objectives.py --dataset digits       one data set; the other may run beside it
    python benchmarks/objectives.py --time                 steps timed; a quiet machine
    python benchmarks/objectives.py --crd                  CRD's memory, 10,000 and 1,000,000 rows
    python benchmarks/objectives.py --table                the tables from the JSON
    python benchmarks/objectives.py --smoke                tiny, another JSON

Within a task (benchmarks/_tasks.py) every row has the same students (one a seed), batches, updates
and learning rate, Adam on a cosine to zero. With `--labelled` a share of the images of each class
has a label: the labels-only student sees these alone, the others see all images; tasks whose labels
are no classes are left out. One rule weighs all objectives, so that none is tuned: label loss and
objective have the same share (`label_weight=0.5`), and the objective's weight is `GradientNorm()`:
it pulls at the student as hard as the label loss does; two rows that this harms are there with the
authors' weight, too. Other arguments are the classes' defaults,
but where the table says so. Accuracy is the final weights' on the test images. SharedVocabulary
needs text: benchmarks/vocabulary.py.

Extra memory is what the objective's adapters and queues hold, Adam's two moments included; the
student's activations are not counted.

A step's time is taken of `[SoftTargets(), objective]` and set against the step of `[SoftTargets()]`
plus the objective alone, value and gradients, on signals that are there already.
"""

import argparse
import dataclasses
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import _common
import keras
import numpy as np
import tensorflow as tf
import when_it_pays as pays
from _tasks import TASKS, Task, part, scored
from step_time import Stamps

import keras_distill as kd
from keras_distill import objectives as o
from keras_distill.data import load_digits, load_fashion_mnist
from keras_distill.schedules import GradientNorm, TeacherEntropy

DATASETS = {"digits": load_digits, "fashion_mnist": load_fashion_mnist}
BLOCKS = ["block1", "block2", "block3"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What was run.

    Args:
      seeds: students of each row.
      batch: images.
      steps: updates of a student, by data set.
      teacher_steps: of a teacher, by data set.
      rate: the learning rate to begin with.
      labelled: share of the images that have a label; the teacher knows all.
    """

    seeds: int = 3
    batch: int = 64
    steps: tuple = (("digits", 300), ("fashion_mnist", 600))
    teacher_steps: tuple = (("digits", 600), ("fashion_mnist", 2000))
    rate: float = 3e-3
    labelled: float = 1.0


SMOKE = Settings(
    1, 16, (("digits", 3), ("fashion_mnist", 3)), (("digits", 3), ("fashion_mnist", 3))
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One objective.

    Args:
      task: the task's name.
      make: with `weight=`, from the training labels' counts to the objective.
      taps: whether it looks into layers.
    """

    task: str
    make: Callable[..., kd.Objective]
    taps: bool = False


def on(task: str, kind: Callable, *layers: Any, **options: Any) -> Row:
    """A row of a class with these layers and arguments."""
    return Row(task, lambda **given: kind(*layers, **{**given, **options}), bool(layers))


def both(kind: Callable, layer: Any, **options: Any) -> Row:
    """A row of the CNNs, the same layers in both models."""
    return on("class", kind, layer, layer, **options)


ROWS = {
    "SoftTargets": on("class", o.SoftTargets),
    "SoftTargets, standardize": on("class", o.SoftTargets, standardize=True),
    "SoftTargets, TeacherEntropy(1, 6)": on(
        "class", o.SoftTargets, temperature=TeacherEntropy(1, 6)
    ),
    "HardTargets": on("class", o.HardTargets),
    "LogitsMSE": on("class", o.LogitsMSE),
    "GeneralizedJSD, beta 0.9": on("class", o.GeneralizedJSD, beta=0.9),
    "DKD": on("class", o.DKD),
    "NormalizedKD": on("class", o.NormalizedKD),
    "DIST, T = 4": on("class", o.DIST, temperature=4.0),
    "HardExamples": on("class", o.HardExamples),
    "HardExamples, margin": on("class", o.HardExamples, focus="margin"),
    "BalancedTargets, equal": on("class", o.BalancedTargets, class_weights=[1.0] * 10),
    "BootstrappedLabels": on("class", o.BootstrappedLabels),
    "FeatureHint": both(o.FeatureHint, "block2"),
    "VariationalInformation": both(o.VariationalInformation, "block2"),
    "AttentionTransfer": both(o.AttentionTransfer, "block2"),
    "NeuronSelectivity": both(o.NeuronSelectivity, "block3"),
    "InterChannelCorrelation": both(o.InterChannelCorrelation, "block3"),
    "FlowOfSolution": both(o.FlowOfSolution, ["block1", "block2"]),
    "FactorTransfer": both(o.FactorTransfer, "block3"),
    "ActivationBoundaries": both(o.ActivationBoundaries, "norm2"),
    "Overhaul": both(o.Overhaul, "norm2"),
    "MaskedGeneration": both(o.MaskedGeneration, "block3", masked="channels", mask_ratio=0.15),
    "ReviewKD": both(o.ReviewKD, BLOCKS),
    "LayerFusion": on("class", o.LayerFusion, "block3", ["block2", "block3"]),
    "SimilarityPreserving": both(o.SimilarityPreserving, "block3"),
    "RelationalKD": both(o.RelationalKD, "pool"),
    "ProbabilisticTransfer": both(o.ProbabilisticTransfer, "pool"),
    "CorrelationCongruence": both(o.CorrelationCongruence, "pool", width=64),
    "ContrastiveRepresentation": both(o.ContrastiveRepresentation, "pool", queue_size=1024),
    "SoftTargets (rows)": on("rows", o.SoftTargets),
    "HiddenStates": on("rows", o.HiddenStates, "hidden1", "hidden2"),
    "PatientStates": on("rows", o.PatientStates, "pool", "pool"),
    "AttentionMaps": on("rows", o.AttentionMaps, "attention1", "attention2"),
    "AttentionMaps, weight 1": on("rows", o.AttentionMaps, "attention1", "attention2", weight=1.0),
    "ValueRelations": on("rows", o.ValueRelations, "value1", "value2", heads=4),
    "ValueRelations, weight 1": on(
        "rows", o.ValueRelations, "value1", "value2", heads=4, weight=1.0
    ),
    "RegressionTargets": on("values", o.RegressionTargets),
    "BoundedRegression": on("values", o.BoundedRegression),
    "AttentiveRegression": on("values", o.AttentiveRegression, max_teacher_error=0.1),
    "MultiLabelTargets": on("sigmoid", o.MultiLabelTargets),
    "SoftTargets (pixels)": on("pixels", o.SoftTargets),
    "ChannelWiseTargets": on("pixels", o.ChannelWiseTargets),
}
LABELS = "labels only"


class Bench:
    """One data set's teachers, and students trained under them.

    Args:
      dataset: its name.
      settings: of the run.
    """

    def __init__(self, dataset: str, settings: Settings):
        self.dataset, self.settings = dataset, settings
        self.splits = DATASETS[dataset]()
        self.steps = dict(settings.steps)[dataset]
        labels = self.splits.y_train
        self.known = pays.keep_labels(labels, settings.labelled, 0) >= 0
        self._teachers: dict[str, keras.Model] = {}

    def teacher(self, name: str) -> keras.Model:
        """A task's teacher, trained on the labels once."""
        if name not in self._teachers:
            steps = dict(self.settings.teacher_steps)[self.dataset]
            model = self.model(name, large=True, seed=1000)
            every = np.ones_like(self.known)
            self._fit(model, self.batches(TASKS[name], steps, 1000, every, every), steps, name)
            self._teachers[name] = model
        return self._teachers[name]

    def model(self, name: str, *, large: bool, seed: int) -> keras.Model:
        return TASKS[name].model(self.splits.x_train.shape[1:], large, seed)

    def run(self, task: str, make: Callable | None, seed: int) -> dict[str, Any]:
        """A student on the labels alone, or with an objective; what it is worth and holds."""
        student = self.model(task, large=False, seed=seed)
        memory = 0
        if make is None:
            data = self.batches(TASKS[task], self.steps, seed, self.known, self.known)
            self._fit(student, data, self.steps, task)
        else:
            objective = make(weight=GradientNorm())
            distiller = kd.Distiller(student, self.teacher(task), [objective], label_weight=0.5)
            every = np.ones_like(self.known)
            data = self.batches(TASKS[task], self.steps, seed, every, self.known)
            self._fit(distiller, data, self.steps, task)
            memory = held(distiller)
        return {"accuracy": self.score(student, task), "bytes": memory}

    def score(self, model: keras.Model, task: str) -> float:
        return scored(model, TASKS[task], *part(self.splits, "test"))

    def batches(
        self, task: Task, steps: int, seed: int, seen: np.ndarray, known: np.ndarray
    ) -> tf.data.Dataset:
        """`steps` full batches of the images `seen`, each once before any comes again.

        Labels that are not `known` are -1.
        """
        x, y = part(self.splits, "train")
        rows, batch = np.flatnonzero(seen), self.settings.batch
        random = np.random.default_rng([seed, 7])
        epochs = -(-steps * batch // len(rows))
        order = np.concatenate([random.permutation(rows) for _ in range(epochs)])
        targets = task.targets(x, y)
        targets[~known] = -1
        images, targets = tf.constant(x), tf.constant(targets)
        return tf.data.Dataset.from_tensor_slices(order[: steps * batch].reshape(steps, batch)).map(
            lambda row: (tf.gather(images, row), tf.gather(targets, row))
        )

    def _fit(self, model: keras.Model, data: tf.data.Dataset, steps: int, task: str) -> None:
        rate = keras.optimizers.schedules.CosineDecay(self.settings.rate, steps)
        model.compile(keras.optimizers.Adam(rate), TASKS[task].loss())
        model.fit(data.prefetch(4), shuffle=False, verbose=0)


def held(distiller: kd.Distiller) -> int:
    """Bytes of adapters and queues, Adam's moments included, the weight's own state left out."""
    layers = [a for key, a in distiller._adapters.items() if not key.endswith("_weight")]
    trained = sum(np.asarray(v).nbytes for a in layers for v in a.trainable_variables)
    return 2 * trained + sum(np.asarray(v).nbytes for a in layers for v in a.variables)


# --- the runs -----------------------------------------------------------------------------------


def jobs(settings: Settings) -> Iterator[tuple[str, str, Callable | None, int]]:
    """(row, task, objective or None, seed)."""
    tasks = tasks_of(settings.labelled)
    for seed in range(settings.seeds):
        for task in tasks:
            yield f"{LABELS}: {task}", task, None, seed
        for name, row in ROWS.items():
            if row.task in tasks:
                yield name, row.task, row.make, seed


def tasks_of(labelled: float) -> list[str]:
    """Where labels are missing, those whose labels are classes: -1 is a value elsewhere."""
    return [name for name, task in TASKS.items() if labelled == 1.0 or task.classes]


def run_all(settings: Settings, datasets: Sequence[str], output: Path) -> None:
    """Every run that is not in the JSON yet; another data set's run may write beside."""
    stored = _common.read_json(output)
    known = stored.setdefault("settings", plain(settings))
    if known != plain(settings):
        raise SystemExit("The JSON holds a run with other settings. Name another with --output.")
    stored["host"] = _common.host()
    _common.write_json(output, stored)
    for dataset in datasets:
        bench = Bench(dataset, settings)
        for task in tasks_of(settings.labelled):
            found = bench.score(bench.teacher(task), task)
            store(output, dataset, f"teacher: {task}", 0, {"accuracy": found})
        for name, task, make, seed in jobs(settings):
            if str(seed) in _common.read_json(output).get(dataset, {}).get(name, {}):
                continue
            begin = time.monotonic()
            found = bench.run(task, make, seed)
            store(output, dataset, name, seed, found)
            seconds = time.monotonic() - begin
            print(f"{seconds:6.1f} s  {dataset}, seed {seed}, {name}: {found['accuracy']:.4f}",
                  flush=True)  # fmt: skip
            keras.backend.clear_session()


def store(output: Path, dataset: str, row: str, seed: int, found: dict) -> None:
    stored = _common.read_json(output)
    stored.setdefault(dataset, {}).setdefault(row, {})[str(seed)] = found
    _common.write_json(output, stored)


def plain(settings: Settings) -> dict[str, Any]:
    """As the JSON gives it back."""
    return {
        key: [list(pair) for pair in value] if isinstance(value, tuple) else value
        for key, value in dataclasses.asdict(settings).items()
    }


# --- time ---------------------------------------------------------------------------------------


class Contest:
    """Steps with and without one objective, and the objective alone, in turns.

    Args:
      bench: of the data set.
      row: the objective.
      steps: of a block.
    """

    def __init__(self, bench: Bench, row: Row, steps: int):
        self._steps = steps
        task = TASKS[row.task]
        every = np.ones_like(bench.known)
        self._data = bench.batches(task, steps, 0, every, every).cache().repeat().prefetch(4)
        self._without = self._distiller(bench, row, [])
        self._with = self._distiller(bench, row, [row.make(name="timed")])
        self._alone = alone(self._with, next(iter(self._data)))

    def _distiller(self, bench: Bench, row: Row, more: list) -> kd.Distiller:
        first = o.RegressionTargets if row.task == "values" else o.SoftTargets
        student = bench.model(row.task, large=False, seed=0)
        distiller = kd.Distiller(student, bench.teacher(row.task), [first(name="first"), *more])
        distiller.compile("adam", TASKS[row.task].loss())
        self._block(distiller)
        return distiller

    def round(self) -> dict[str, float]:
        """Median milliseconds of a step of each."""
        return {
            "without": self._block(self._without),
            "with": self._block(self._with),
            "alone": self._block_alone(),
        }

    def _block(self, model: keras.Model) -> float:
        stamps = Stamps()
        model.fit(self._data, steps_per_epoch=self._steps, shuffle=False, verbose=0,
                  callbacks=[stamps])  # fmt: skip
        return statistics.median(1e3 * np.diff(stamps.ends))

    def _block_alone(self) -> float:
        times = []
        for _ in range(self._steps):
            begin = time.perf_counter()
            self._alone()
            times.append(1e3 * (time.perf_counter() - begin))
        return statistics.median(times)


def alone(distiller: kd.Distiller, batch: tuple) -> Callable[[], Any]:
    """The last objective's value, and its gradients by the student's tensors and its adapters."""
    x, y = batch
    student, _ = distiller._student_signals(x)
    objective = distiller.objectives[-1]
    ours, theirs, labels = kd.training.step.pairs_of_heads(
        objective, *distiller._pairs(x, y, student)[0], y
    )[0]
    keys = list(ours.taps)
    given = [tf.Variable(tensor) for tensor in (ours.logits, *ours.taps.values())]
    adapters = [v for a in distiller._adapters.values() for v in a.trainable_variables]

    @tf.function(autograph=False)
    def call() -> Any:
        with tf.GradientTape() as tape:
            tensors = [tf.convert_to_tensor(v) for v in given]
            tape.watch(tensors)
            signals = kd.Signals(tensors[0], dict(zip(keys, tensors[1:], strict=True)))
            value = tf.reduce_mean(objective.seeing(theirs)(signals, theirs, labels))
        gradients = tape.gradient(value, [*tensors, *(v.value for v in adapters)])
        # A sum of all, so that nothing is pruned away.
        return tf.add_n([tf.reduce_sum(g) for g in gradients if g is not None])

    call()
    return lambda: call().numpy()


def time_all(output: Path, rounds: int, smoke: bool) -> None:
    """The ratio of each objective that is not in the JSON yet, on Fashion-MNIST."""
    dataset = "digits" if smoke else "fashion_mnist"
    settings = dataclasses.replace(Settings(), teacher_steps=((dataset, 3),))
    bench = Bench(dataset, settings)
    for name, row in ROWS.items():
        if name in _common.read_json(output).get("time", {}).get("rows", {}):
            continue
        contest = Contest(bench, row, 5 if smoke else 40)
        found = [contest.round() for _ in range(rounds)]
        stored = _common.read_json(output)
        stored.setdefault("time", {"host": _common.host(), "rows": {}})["rows"][name] = found
        _common.write_json(output, stored)
        print(f"{name}: {statistics.median(ratios(found)):.3f}", flush=True)
        keras.backend.clear_session()


def ratios(rounds: list[dict[str, float]]) -> list[float]:
    """(step with it) / (step without it + it alone), by round."""
    return [r["with"] / (r["without"] + r["alone"]) for r in rounds]


# --- memory of CRD ------------------------------------------------------------------------------


def crd_child(examples: int) -> None:
    """Train on that many synthetic vectors, and print how far the memory rose, in MiB."""
    keras.utils.set_random_seed(0)

    def model(width: int) -> keras.Model:
        layers = [keras.layers.Dense(width, "relu", name="hidden"), keras.layers.Dense(10)]
        return keras.Sequential([keras.Input((32,)), *layers])

    objective = o.ContrastiveRepresentation("hidden", "hidden", queue_size=4096)
    distiller = kd.Distiller(model(32), model(128), [objective])
    distiller.compile("adam")
    rows = tf.data.Dataset.range(examples).batch(256, drop_remainder=True)
    data = rows.map(lambda row: tf.random.stateless_normal((256, 32), [0, row[0]]))
    distiller.fit(data.take(20), verbose=0, shuffle=False)
    before = _common.peak_mib()
    distiller.fit(data.prefetch(2), verbose=0, shuffle=False)
    print(before, _common.peak_mib())


def crd_all(output: Path, sizes: Sequence[int]) -> None:
    """One process a size."""
    for examples in sizes:
        command = [sys.executable, __file__, "--crd-child", str(examples)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        before, after = map(float, printed.split()[-2:])
        stored = _common.read_json(output)
        stored.setdefault("crd", {})[str(examples)] = {"before": before, "after": after}
        _common.write_json(output, stored)


# --- tables -------------------------------------------------------------------------------------


def tables(stored: dict[str, Any]) -> str:
    parts = []
    if any(name in stored for name in DATASETS):
        parts += [header(stored), accuracy_table(stored)]
    if "time" in stored:
        parts.append(time_words(stored["time"]))
    if "crd" in stored:
        parts.append(crd_words(stored["crd"]))
    return "\n\n".join(parts)


def header(stored: dict[str, Any]) -> str:
    s = stored["settings"]
    steps = ", ".join(f"{name} {count} updates" for name, count in s["steps"] if name in stored)
    return (
        f"{_common.host_line(stored['host'])}.\n\nTest accuracy in %, mean ± sample standard "
        f"deviation over {s['seeds']} seeds; gain in points over the labels-only student of the "
        f"same seed, bold where its mean is beyond two standard errors, (-) where it is not above "
        f"zero by that. {steps} of {s['batch']} images; {s['labelled']:.0%} of the images have a "
        f"label. No argument was tuned."
    )


def accuracy_table(stored: dict[str, Any]) -> str:
    datasets = [name for name in DATASETS if name in stored]
    head = ["objective"]
    for name in datasets:
        head += [name, "gain"]
    head += ["extra memory, kB"]
    if "time" in stored:
        head += ["a step costs, ms", "ratio"]
    lines = []
    for task in tasks_of(stored["settings"]["labelled"]):
        teachers = [
            value
            for name in datasets
            for value in (percent(stored, name, f"teacher: {task}"), "teacher")
        ]
        lines.append(
            [f"**{TASKS[task].label}**", *teachers, *[""] * (len(head) - 1 - len(teachers))]
        )
        names = [f"{LABELS}: {task}", *(n for n, row in ROWS.items() if row.task == task)]
        lines += [line(stored, datasets, name, task) for name in names]
    return _common.markdown(head, lines)


def line(stored: dict[str, Any], datasets: Sequence[str], name: str, task: str) -> list[str]:
    cells = [LABELS if name.startswith(LABELS) else name]
    for dataset in datasets:
        cells += [percent(stored, dataset, name), gain(stored, dataset, name, task)]
    found = stored[datasets[-1]].get(name, {}).get("0", {}).get("bytes", 0)
    cells.append(f"{found / 1000:,.1f}" if found else "0")
    if "time" in stored:
        cells += timed(stored["time"]["rows"].get(name))
    return cells


def timed(rounds: list[dict[str, float]] | None) -> list[str]:
    if rounds is None:
        return ["", ""]
    more = statistics.median(r["with"] - r["without"] for r in rounds)
    found = ratios(rounds)
    spread = f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})"
    return [f"{more:+.2f}", spread]


def accuracies(stored: dict[str, Any], dataset: str, name: str) -> list[float]:
    by_seed = stored[dataset].get(name, {})
    return [100 * by_seed[seed]["accuracy"] for seed in sorted(by_seed)]


def percent(stored: dict[str, Any], dataset: str, name: str) -> str:
    values = accuracies(stored, dataset, name)
    if len(values) < 2:
        return f"{values[0]:.2f}" if values else ""
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def gain(stored: dict[str, Any], dataset: str, name: str, task: str) -> str:
    ours, theirs = (accuracies(stored, dataset, n) for n in (name, f"{LABELS}: {task}"))
    if name.startswith(LABELS) or len(ours) != len(theirs) or len(ours) < 2:
        return ""
    gains = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean, spread = statistics.mean(gains), statistics.stdev(gains)
    words = f"{mean:+.2f} ± {spread:.2f}"
    return f"**{words}**" if mean > 2 * spread / len(gains) ** 0.5 else f"{words} (-)"


def time_words(found: dict[str, Any]) -> str:
    tapping = {name: rounds for name, rounds in found["rows"].items() if ROWS[name].taps}
    worst = {name: statistics.median(ratios(rounds)) for name, rounds in tapping.items()}
    over = [f"{name} {value:.2f}" for name, value in worst.items() if value > 1.10]
    verdict = f"MISSED by {', '.join(over)}" if over else "met by all"
    return (
        f"- Step with `[SoftTargets(), objective]` over (step with `[SoftTargets()]` + the "
        f"objective alone), Fashion-MNIST, {_common.host_line(found['host'])}: largest median of "
        f"those that look into layers {max(worst.values()):.2f}; wanted at most 1.10: {verdict}."
    )


def crd_words(found: dict[str, Any]) -> str:
    sizes = sorted(found, key=int)
    grown = {size: found[size]["after"] - found[size]["before"] for size in sizes}
    return "- CRD, queue of 4,096, peak memory beyond 20 updates: " + "; ".join(
        f"{int(size):,} examples {grown[size]:+.1f} MiB (to {found[size]['after']:.0f})"
        for size in sizes
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=DATASETS, help="this data set only")
    parser.add_argument("--labelled", type=float, default=1.0, help="share of labels, with a JSON")
    parser.add_argument("--time", action="store_true", help="time the steps, train nothing")
    parser.add_argument("--rounds", type=int, default=5, help="of the timing")
    parser.add_argument("--crd", action="store_true", help="memory of CRD's queue")
    parser.add_argument("--crd-child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--table", action="store_true", help="print the tables, run nothing")
    parser.add_argument("--smoke", action="store_true", help="tiny settings, another JSON")
    parser.add_argument("--output", type=Path, help="the JSON")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    folder = Path(tempfile.gettempdir()) if args.smoke else _common.RESULTS
    share = "" if args.labelled == 1.0 else f"_{args.labelled:g}"
    output = args.output or folder / f"objectives{share}{'_smoke' * args.smoke}.json"
    settings = dataclasses.replace(SMOKE if args.smoke else Settings(), labelled=args.labelled)
    if args.crd_child:
        crd_child(args.crd_child)
        return
    if not args.table:
        _common.set_threads(args.threads)
        if args.time:
            time_all(output, 1 if args.smoke else args.rounds, args.smoke)
        elif args.crd:
            crd_all(output, (1_000, 10_000) if args.smoke else (10_000, 1_000_000))
        else:
            datasets = [args.dataset] if args.dataset else list(DATASETS)
            run_all(settings, datasets, output)
    stored = _common.read_json(output)
    shown = [args.dataset] if args.dataset else list(DATASETS)
    print("\n" + tables({k: v for k, v in stored.items() if k in shown or k not in DATASETS}))


if __name__ == "__main__":
    main()
