"""When does distillation pay? Students with and without a teacher, gains and losses alike.

    python benchmarks/when_it_pays.py            run, or go on where an earlier run stopped
    python benchmarks/when_it_pays.py --table    print the tables from the JSON
    python benchmarks/when_it_pays.py --smoke    a minute, tiny settings, its own JSON

Every comparison is paired: for one seed the label-only twin (`student.fit`) and the distilled
students have the same split, initial weights, batch size and number of updates (Adam, a cosine to
zero). Each method picks its learning rate from one grid, by validation accuracy with the first
seed, so neither lives on the other's. Final weights count, no epoch is picked.

The teacher is fixed and sees the images as they are, so its answers are computed once and read by
row: a callable on row numbers is the Distiller's teacher. Only the bfloat16 rows run it online.
Trainers are compiled once for a size and a method, and set back to the seed's initial weights, a
zeroed optimiser and the wanted rate before each run.

The arithmetic, from single runs on two cores that others used, too: a student's run takes 2 s on
digits and 10 s on Fashion-MNIST. A row is 3 methods x (3 rates + the other seeds): 21 runs on
digits, 15 on Fashion-MNIST, and there are 8 rows of each: 168 x 2 s + 120 x 10 s = 6 + 20 minutes.
Teachers: 5 x 10 s, and 4,220 steps of 91 ms = 6 minutes for Fashion-MNIST's one. 33 in all.
"""

import argparse
import dataclasses
import functools
import statistics
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
import tensorflow as tf

import keras_distill as kd
from keras_distill.data import load_digits, load_fashion_mnist

LABEL_WEIGHT = 0.1
METHODS = {"labels": None, "T=2": 2.0, "T=4": 4.0}
SETTINGS = {
    "all": "all labels",
    "unlabelled": "1/10 of the labels, other images unlabelled",
    "tenth": "1/10 of the labels, other images dropped",
    "wrong": "1/5 of the labels wrong",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """One data set's share of the benchmark.

    Args:
      name: of the data set.
      load: from a seed to its splits.
      seeds: how many.
      batch, steps: of every student's training.
      widths: of the students, by size.
      stem_stride: of their first convolution.
      grid: the learning rates to pick from.
      teacher_width, teacher_epochs: of the teacher.
      teachers: how many splits, each with a teacher; the seeds take them in turn.
      flip: whether the teacher trains on mirrored images, too.
    """

    name: str
    load: Callable
    seeds: int
    batch: int
    steps: int
    widths: dict[str, int]
    stem_stride: int
    grid: tuple[float, ...]
    teacher_width: int
    teacher_epochs: int
    teachers: int
    flip: bool

    def splits(self, seed: int) -> Any:
        """The images of the seed's split."""
        return _loaded(self.load, seed % self.teachers)


DIGITS = Plan(
    "digits", load_digits, 5, 64, 600, {"small": 12, "large": 25}, 1, (3e-3, 1e-2, 3e-2), 32, 40, 5,
    False,
)  # fmt: skip
FASHION = Plan(
    "fashion_mnist", functools.partial(load_fashion_mnist, download=True), 3, 128, 1000,
    {"small": 8, "large": 20}, 2, (3e-3, 1e-2, 3e-2), 24, 10, 1, True,
)  # fmt: skip


def smoke(plan: Plan) -> Plan:
    """The same plan in seconds."""
    return dataclasses.replace(
        plan, seeds=2, steps=12, grid=plan.grid[:2], teacher_width=4, teacher_epochs=1
    )


# --- models -------------------------------------------------------------------------------------


def student_cnn(shape: tuple, width: int, stem_stride: int) -> keras.Model:
    """Three convolutions down to 4x4 or 2x2, and a linear head; gives logits."""
    image = x = keras.Input(shape)
    for stride in (stem_stride, 2, 2):
        x = keras.layers.Conv2D(width, 3, stride, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(image, keras.layers.Dense(10)(x), name="student")


def teacher_cnn(shape: tuple, width: int) -> keras.Model:
    """Five normalised convolutions, strides in the second and the fourth; gives logits."""
    image = x = keras.Input(shape)
    for factor, stride in ((1, 1), (2, 2), (2, 1), (4, 2), (4, 1)):
        x = keras.layers.Conv2D(factor * width, 3, stride, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.3)(x)
    return keras.Model(image, keras.layers.Dense(10)(x), name="teacher")


# --- data ---------------------------------------------------------------------------------------


@functools.cache
def _loaded(load: Callable, seed: int) -> Any:
    return load(seed)


@functools.cache
def images_of(plan: Plan, split: int) -> tf.Tensor:
    """The training images, once in memory."""
    return tf.constant(plan.splits(split).x_train)


def training_data(plan: Plan, setting: str, seed: int, distilled: bool) -> tuple:
    """The rows of the training images that a student sees, and all rows' labels; -1 is none."""
    labels = plan.splits(seed).y_train
    every = np.arange(len(labels))
    if setting == "wrong":
        return every, with_wrong_labels(labels, 0.2, seed)
    if setting == "all":
        return every, labels
    kept = keep_labels(labels, 0.1, seed)
    return every if setting == "unlabelled" and distilled else np.flatnonzero(kept >= 0), kept


def keep_labels(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """All but `fraction` of each class's labels set to -1."""
    random = np.random.default_rng([seed, 1])
    kept = np.full_like(labels, -1)
    for value in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == value))
        kept[rows[: max(1, round(fraction * len(rows)))]] = value
    return kept


def with_wrong_labels(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """`fraction` of the labels replaced by another class, uniformly."""
    random = np.random.default_rng([seed, 2])
    rows = random.permutation(len(labels))[: round(fraction * len(labels))]
    noisy = labels.copy()
    noisy[rows] = (noisy[rows] + random.integers(1, 10, len(rows))) % 10
    return noisy


def batches(
    images: tf.Tensor, labels: np.ndarray, rows: np.ndarray, batch: int, steps: int, seed: int
) -> tf.data.Dataset:
    """`steps` full batches of `rows` from memory, each row once before any comes again.

    Yields `({"image": ..., "row": ...}, label)`.
    """
    # A stream of its own: the order must not follow the choice of the wrong labels.
    random = np.random.default_rng([seed, 3])
    epochs = -(-steps * batch // len(rows))
    order = np.concatenate([random.permutation(rows) for _ in range(epochs)])
    order = order[: steps * batch].reshape(steps, batch)
    y = tf.constant(labels)
    return tf.data.Dataset.from_tensor_slices(order).map(
        lambda row: ({"image": tf.gather(images, row), "row": row}, tf.gather(y, row))
    )


def images_only(data: tf.data.Dataset) -> tf.data.Dataset:
    return data.map(lambda x, y: (x["image"], y))


# --- training -----------------------------------------------------------------------------------


class Cosine(keras.optimizers.schedules.LearningRateSchedule):
    """From `rate`, a variable that can be set between two trainings, to zero over `steps`."""

    def __init__(self, rate: float, steps: int):
        self.rate = tf.Variable(rate, dtype="float32", trainable=False)
        self.steps = steps

    def __call__(self, step: Any) -> Any:
        done = tf.minimum(tf.cast(step, "float32") / self.steps, 1.0)
        return self.rate * 0.5 * (1.0 + tf.cos(np.pi * done))


def compile_adam(model: keras.Model, schedule: Cosine) -> None:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(schedule), loss)


def logits(model: keras.Model, x: np.ndarray) -> np.ndarray:
    parts = np.array_split(x, max(1, len(x) // 2000))
    return np.concatenate([np.asarray(model(part, training=False)) for part in parts])


def accuracy(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean(np.argmax(logits(model, x), -1) == y))


@dataclasses.dataclass(frozen=True, eq=False)
class Guide:
    """A trained teacher and its answers to its split's training images, by row."""

    model: keras.Model
    answers: np.ndarray

    def distiller(
        self, student: keras.Model, *, temperature: float, label_weight: float
    ) -> kd.Distiller:
        """`student` under these answers, for batches of images and their rows."""
        answers = tf.constant(self.answers)
        by_row = kd.teachers.Model(
            lambda row: tf.gather(answers, row), input_spec=keras.KerasTensor((None,), "int64")
        )
        return kd.Distiller(
            student,
            by_row,
            [kd.SoftTargets(temperature=temperature)],
            label_weight=label_weight,
            student_preprocess=lambda x: x["image"],
            teacher_preprocess=lambda x: x["row"],
        )


def guide_of(plan: Plan, seed: int, folder: Path) -> Guide:
    """The teacher of the seed's split."""
    model = teacher_of(plan, seed, folder)
    return Guide(model, logits(model, plan.splits(seed).x_train))


def teacher_of(plan: Plan, seed: int, folder: Path) -> keras.Model:
    """A teacher trained on all clean labels of the seed's training images. Kept in `folder`."""
    data = plan.splits(seed)
    keras.utils.set_random_seed(1000 + seed)
    model = teacher_cnn(data.x_train.shape[1:], plan.teacher_width)
    file = folder / f"{plan.name}-{seed}-{plan.teacher_width}x{plan.teacher_epochs}.weights.h5"
    if file.exists():
        model.load_weights(file)
        return model
    steps = plan.teacher_epochs * len(data.x_train) // plan.batch
    rows = np.arange(len(data.x_train))
    train = images_only(
        batches(tf.constant(data.x_train), data.y_train, rows, plan.batch, steps, seed)
    )
    if plan.flip:
        train = train.map(lambda x, y: (tf.image.random_flip_left_right(x, seed=seed), y))
    compile_adam(model, Cosine(3e-3, steps))
    model.fit(train.prefetch(4), shuffle=False, verbose=0)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_weights(file)
    return model


class Trainer:
    """A compiled student, alone or in a Distiller, that can start anew.

    Args:
      plan, size, method: of the student.
      online: a teacher that answers in the step, in place of answers by row.
    """

    def __init__(self, plan: Plan, size: str, method: str, online: Any = None):
        data = plan.splits(0)
        self.plan, self.size, self.temperature = plan, size, METHODS[method]
        self.student = self.trained = new_student(plan, size, seed=0)
        self.answers = tf.Variable(tf.zeros((len(data.x_train), 10)), trainable=False)
        if self.temperature is not None:
            self.trained = self._distiller(online)
        self.schedule = Cosine(0.0, plan.steps)
        compile_adam(self.trained, self.schedule)

    def fit(self, train: tf.data.Dataset, seed: int, rate: float, guide: Guide) -> None:
        """Train from the seed's initial weights."""
        self.student.set_weights(new_student(self.plan, self.size, seed).get_weights())
        for variable in self.trained.optimizer.variables:
            variable.assign(keras.ops.zeros_like(variable))
        self.schedule.rate.assign(rate)
        self.answers.assign(guide.answers)
        train = images_only(train) if self.temperature is None else train
        self.trained.fit(train.prefetch(4), shuffle=False, verbose=0)

    def _distiller(self, online: Any) -> kd.Distiller:
        return kd.Distiller(
            self.student,
            online or self._by_row(),
            [kd.SoftTargets(temperature=self.temperature)],
            label_weight=LABEL_WEIGHT,
            student_preprocess=lambda x: x["image"],
            teacher_preprocess=lambda x: x["image" if online else "row"],
        )

    def _by_row(self) -> kd.teachers.Model:
        # The plain call reads the variable anew; a frozen one would keep its first value.
        return kd.teachers.Model(
            lambda row: tf.gather(self.answers, row),
            input_spec=keras.KerasTensor((None,), "int64"),
            engine="keras",
        )


def new_student(plan: Plan, size: str, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    shape = plan.splits(0).x_train.shape[1:]
    return student_cnn(shape, plan.widths[size], plan.stem_stride)


@functools.cache
def trainer_of(plan: Plan, size: str, method: str) -> Trainer:
    return Trainer(plan, size, method)


@dataclasses.dataclass(frozen=True)
class Run:
    """One student's training."""

    plan: Plan
    setting: str
    size: str
    method: str
    seed: int
    learning_rate: float
    online: Trainer | None = None

    def train(self, guide: Guide) -> keras.Model:
        """The trained student; the next run of its size and method trains it anew."""
        plan = self.plan
        trainer = self.online or trainer_of(plan, self.size, self.method)
        distilled = trainer.temperature is not None
        rows, labels = training_data(plan, self.setting, self.seed, distilled)
        images = images_of(plan, self.seed % plan.teachers)
        train = batches(images, labels, rows, plan.batch, plan.steps, self.seed)
        trainer.fit(train, self.seed, self.learning_rate, guide)
        return trainer.student

    def measure(self, guide: Guide) -> tuple[float, float]:
        """Validation and test accuracy."""
        student, data = self.train(guide), self.plan.splits(self.seed)
        return (
            accuracy(student, data.x_validation, data.y_validation),
            accuracy(student, data.x_test, data.y_test),
        )


def measure_method(run: Run, guides: list[Guide]) -> dict[str, Any]:
    """Pick the learning rate with the first seed, then go through the others."""
    tried = {
        rate: dataclasses.replace(run, seed=0, learning_rate=rate).measure(guides[0])
        for rate in run.plan.grid
    }
    best = max(tried, key=lambda rate: tried[rate][0])
    found = [tried[best]]
    for seed in range(1, run.plan.seeds):
        found.append(
            dataclasses.replace(run, seed=seed, learning_rate=best).measure(
                guides[seed % len(guides)]
            )
        )
    return {
        "learning_rate": best,
        "grid_validation": {str(rate): value[0] for rate, value in tried.items()},
        "validation": [value[0] for value in found],
        "test": [value[1] for value in found],
    }


# --- rows of the results ------------------------------------------------------------------------


def teacher_row(plan: Plan, guides: list[Guide]) -> dict[str, Any]:
    data = [plan.splits(seed) for seed in range(plan.teachers)]
    found = [accuracy(g.model, d.x_test, d.y_test) for g, d in zip(guides, data, strict=True)]
    return {"parameters": guides[0].model.count_params(), "test": found}


def comparison_row(plan: Plan, setting: str, size: str, guides: list[Guide]) -> dict[str, Any]:
    """Label-only and distilled students of one size in one setting."""
    return {
        "parameters": new_student(plan, size, seed=0).count_params(),
        "methods": {
            method: measure_method(Run(plan, setting, size, method, 0, 0.0), guides)
            for method in METHODS
        },
    }


def bfloat16_row(plan: Plan, rows: dict, guides: list[Guide]) -> dict[str, Any]:
    """The same runs as all labels, small, T=4, under the teacher in bfloat16."""
    single = rows[f"{plan.name}/all/small"]["methods"]["T=4"]
    found = []
    for seed in range(plan.seeds):
        guide = guides[seed % len(guides)]
        online = kd.teachers.Model(guide.model, precision="bfloat16")
        trainer = Trainer(plan, "small", "T=4", online)
        run = Run(plan, "all", "small", "T=4", seed, single["learning_rate"], trainer)
        found.append(run.measure(guide)[1])
    return {"float32": single["test"], "bfloat16": found}


def int8_row(plan: Plan, rows: dict, guides: list[Guide]) -> dict[str, Any]:
    """Train the best distilled student of all labels again and ask its files."""
    run = best_run(plan, rows)
    student, data = run.train(guides[run.seed % len(guides)]), plan.splits(run.seed)
    calibration = data.x_train[:2000]
    found: dict[str, Any] = {"run": f"{run.size}, {run.method}, seed {run.seed}"}
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("float32", "int8"):
            export = kd.edge.export_tflite(
                student,
                Path(folder, f"{precision}.tflite"),
                precision=precision,
                representative_data=calibration if precision == "int8" else None,
            )
            report = kd.edge.verify(export, student, (data.x_test, data.y_test), max_drop=1.0)
            found[precision] = {
                "test": report.accuracy_file,
                "bytes": export.bytes,
                "agreement_with_keras": report.agreement,
            }
    return found | {"calibration_images": len(calibration)}


def best_run(plan: Plan, rows: dict) -> Run:
    """The distilled run with the best validation accuracy among all labels' rows."""
    candidates = [
        (value, Run(plan, "all", size, method, seed, found["learning_rate"]))
        for size in plan.widths
        for method, found in rows[f"{plan.name}/all/{size}"]["methods"].items()
        if METHODS[method] is not None
        for seed, value in enumerate(found["validation"])
    ]
    return max(candidates, key=lambda pair: pair[0])[1]


# --- the whole run ------------------------------------------------------------------------------


def jobs(plans: list[Plan], rows: dict, guides: Callable) -> Iterator[tuple[str, Callable]]:
    """Names and work of the rows, those that say most first."""
    for plan in plans:
        yield f"{plan.name}/teacher", lambda p=plan: teacher_row(p, guides(p))
    for setting in SETTINGS:
        for size in ("small", "large"):
            for plan in plans:
                yield (
                    f"{plan.name}/{setting}/{size}",
                    lambda p=plan, s=setting, z=size: comparison_row(p, s, z, guides(p)),
                )
        if setting == "all":
            for plan in plans:
                yield f"{plan.name}/int8", lambda p=plan: int8_row(p, rows, guides(p))
            yield f"{plan.name}/bfloat16", lambda p=plan: bfloat16_row(p, rows, guides(p))


def run_all(plans: list[Plan], output: Path, cache: Path) -> dict[str, Any]:
    """Every row that `output` does not hold yet; it is written after each."""
    stored = check_same_plans(_common.read_json(output), plans) | {"host": _common.host()}
    rows = stored.setdefault("rows", {})

    @functools.cache
    def guides(plan: Plan) -> list[Guide]:
        return [guide_of(plan, seed, cache) for seed in range(plan.teachers)]

    for name, work in jobs(plans, rows, guides):
        if name in rows:
            continue
        begin = time.monotonic()
        rows[name] = work()
        rows[name]["seconds"] = round(time.monotonic() - begin, 1)
        _common.write_json(output, stored)
        print(f"{rows[name]['seconds']:7.1f} s  {name}", flush=True)
    return stored


def check_same_plans(stored: dict, plans: list[Plan]) -> dict:
    """The stored results, if they are these plans'; a changed plan would mix two benchmarks."""
    wanted = [plain(plan) for plan in plans]
    if stored.setdefault("plans", wanted) != wanted:
        raise SystemExit("The JSON holds a run with other plans. Name another with --output.")
    return stored


def plain(plan: Plan) -> dict[str, Any]:
    fields = {**vars(plan)}
    del fields["load"]
    return {**fields, "grid": list(plan.grid)}


# --- tables -------------------------------------------------------------------------------------


def mean_and_spread(values: list[float]) -> tuple[float, float]:
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def points(values: list[float]) -> str:
    mean, spread = mean_and_spread(values)
    return f"{100 * mean:.2f} ± {100 * spread:.2f}"


def gain(ours: list[float], twins: list[float]) -> str:
    """The paired difference in points; bold where it is beyond the spread, and in what sense."""
    differences = [a - b for a, b in zip(ours, twins, strict=True)]
    mean, spread = mean_and_spread(differences)
    words = f"{100 * mean:+.2f} ± {100 * spread:.2f}"
    if abs(mean) <= 2 * spread / len(differences) ** 0.5:
        return words
    return f"**{words} {'gain' if mean > 0 else 'LOSS'}**"


def tables(stored: dict[str, Any]) -> str:
    rows = stored["rows"]
    parts = [header(stored), comparison_table(rows), int8_table(rows), bfloat16_table(rows)]
    return "\n\n".join(part for part in parts if part)


def header(stored: dict[str, Any]) -> str:
    lines = [f"{_common.host_line(stored['host'])}.", ""]
    for plan in stored["plans"]:
        teacher = stored["rows"].get(f"{plan['name']}/teacher")
        if teacher:
            lines.append(
                f"- {plan['name']}: {plan['seeds']} seeds, {plan['steps']} updates of "
                f"{plan['batch']} images, learning rates {plan['grid']}. Teacher: "
                f"{teacher['parameters']:,} weights, test accuracy "
                f"{', '.join(f'{100 * v:.2f}' for v in teacher['test'])} %."
            )
    return "\n".join([*lines, "", RULES])


RULES = """\
Test accuracy in %, mean ± sample standard deviation over the seeds. A seed draws the initial
weights, the order of the batches and which labels are kept or wrong, and on digits the validation
split and the teacher, too (Fashion-MNIST has one split and one teacher); the test images are
always the same. **In every setting the teacher was trained on all the clean labels of the
student's training images**: the usual case, a good teacher exists and labels for the student are
few or noisy. Label-only twins of "unlabelled" see their labelled images alone, for as many
updates. The validation split, which only picks learning rates, stays whole and clean for all
methods alike. Gains are paired by seed and bold only beyond the spread: |mean| > 2 sd / sqrt(n) of
the paired differences, a mild test at so few seeds. A loss is called a loss."""


def comparison_table(rows: dict) -> str:
    lines = []
    for name, row in rows.items():
        if "methods" not in row:
            continue
        data, setting, _ = name.split("/")
        found = {method: values["test"] for method, values in row["methods"].items()}
        twins = found["labels"]
        cells = [f"{data}, {SETTINGS[setting]}", f"{row['parameters']:,}", points(twins)]
        for method in ("T=2", "T=4"):
            cells += [points(found[method]), gain(found[method], twins)]
        rates = [f"{values['learning_rate']:g}" for values in row["methods"].values()]
        lines.append((data, list(SETTINGS).index(setting), [*cells, " / ".join(rates)]))
    if not lines:
        return ""
    head = ["setting", "student", "labels only", "T=2", "gain", "T=4", "gain", "rates picked"]
    return _common.markdown(head, [cells for _, _, cells in sorted(lines, key=lambda r: r[:2])])


def int8_table(rows: dict) -> str:
    lines = []
    for name, row in rows.items():
        if name.endswith("/int8"):
            single, small = row["float32"], row["int8"]
            difference = 100 * (small["test"] - single["test"])
            lines.append([
                f"{name.split('/')[0]} ({row['run']})", f"{100 * single['test']:.2f}",
                f"{100 * small['test']:.2f}", f"{difference:+.2f}",
                f"{single['bytes']:,}", f"{small['bytes']:,}",
            ])  # fmt: skip
    head = ["best distilled student", "float32 file", "int8 file", "difference", "bytes", "int8"]
    return _common.markdown(head, lines) if lines else ""


def bfloat16_table(rows: dict) -> str:
    lines = [
        [f"{name.split('/')[0]}, all labels, small, T=4", points(row["float32"]),
         points(row["bfloat16"]), gain(row["bfloat16"], row["float32"])]
        for name, row in rows.items() if name.endswith("/bfloat16")
    ]  # fmt: skip
    head = ["teacher's precision", "float32", "bfloat16", "paired difference"]
    return _common.markdown(head, lines) if lines else ""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny settings, another JSON")
    parser.add_argument("--table", action="store_true", help="print the tables, train nothing")
    parser.add_argument("--output", type=Path, help="the JSON")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir(), "keras_distill_when_it_pays"),
        help="where trained teachers are kept",
    )  # fmt: skip
    return parser.parse_args()


def main() -> None:
    args = arguments()
    name = "when_it_pays_smoke.json" if args.smoke else "when_it_pays.json"
    folder = args.cache if args.smoke else _common.RESULTS
    output = args.output or folder / name
    if args.table:
        print(tables(_common.read_json(output)))
        return
    _common.set_threads(args.threads)
    plans = [DIGITS, FASHION]
    stored = run_all([smoke(p) for p in plans] if args.smoke else plans, output, args.cache)
    print("\n" + tables(stored))


if __name__ == "__main__":
    main()
