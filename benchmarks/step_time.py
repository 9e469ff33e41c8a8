"""What a step costs: plain `student.fit`, the bare teacher, `keras.distillation` and ours.

    python benchmarks/step_time.py                     three pairs, 9 rounds
    python benchmarks/step_time.py --pair b --rounds 15
    python benchmarks/step_time.py --smoke             a minute, its own JSON

Steps: all contestants live in one process and take turns: a block of steps each, round after round,
the first in turn another each round. Within `fit` a step is the time from one batch's end to the
next's (a callback's stamps), so a block's first step, its start-up and its tracing never count;
the first block drops two more. The bare teacher's call is timed alone, on a batch that is there
already, up to its answer in memory. A ratio is taken within a round, of the two medians, and
reported as the median over the rounds with the least and the largest; of the processor's time as
well, which other work on the machine moves less.

First fits: the seconds of a `fit` of one step, nearly all of it tracing, and the most memory that
the process held in that and a few more, each in a process of its own, in turn.

One tf.data pipeline serves all: Fashion-MNIST (enlarged and tinted for the large pair) in whole
batches from memory, repeated, prefetched. No model is trained before; students of one pair start
from the same weights. Losses do the same work: KL at temperature 4 (keras.distillation is given
the `KLDivergence` object, since its default string applies no softmax), and one squared difference
of two layers of equal shape, which keras.distillation demands.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
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
import tensorflow as tf

import keras_distill as kd
from keras_distill.data import load_fashion_mnist

TEMPERATURE = 4.0
LABEL_WEIGHT = 0.1
PAIRS = {
    "a": "28x28, CNN -> small CNN",
    "b": "96x96, ResNet50V2 -> MobileNetV2 0.35",
    "c": "28x28, CNN -> the same at half its widths",
}

# Name, what is divided by what, target by pair. "sum" is the plain step plus the bare teacher.
RATIOS = (
    ("ours, logits / (plain + teacher)", "ours_logits", "sum", {"a": 0.86, "b": 0.86}, "at most"),
    ("ours, auto / (plain + teacher)", "ours_auto", "sum", {}, "at most"),
    ("ours, bfloat16 / (plain + teacher)", "ours_bfloat16", "sum", {"b": 0.70}, "at most"),
    ("keras / ours, logits", "keras_logits", "ours_logits", {"a": 1.15, "b": 1.15}, "at least"),
    ("keras / ours, feature", "keras_feature", "ours_feature", {"a": 1.25, "b": 1.25}, "at least"),
    ("keras logits / ours, bfloat16", "keras_logits", "ours_bfloat16", {"b": 1.5}, "at least"),
)
LABELS = {
    "plain": "student.fit",
    "teacher": "teacher(x, training=False) in a tf.function",
    "keras_logits": "keras.distillation, logits",
    "ours_logits": "keras_distill, logits",
    "ours_auto": 'keras_distill, logits, engine="auto"',
    "ours_bfloat16": "keras_distill, logits, bfloat16 teacher",
    "keras_feature": "keras.distillation, logits and a feature",
    "ours_feature": "keras_distill, logits and a feature",
}
FRESH = ("plain", "keras_logits", "ours_logits")


@dataclasses.dataclass(frozen=True)
class Pair:
    """What the contestants of one pair are made of.

    Args:
      teacher: the model, never trained here.
      make_teacher: makes one of the same layers.
      student: makes the student that is trained on logits.
      featured: makes the student whose layer "projection" has the shape of the tapped one.
      tap: the teacher's layer.
      data: endless batches `(image, label)`.
      batch, steps: images a step, steps a block.
    """

    teacher: keras.Model
    make_teacher: Callable[[], keras.Model]
    student: Callable[[], keras.Model]
    featured: Callable[[], keras.Model]
    tap: str
    data: tf.data.Dataset
    batch: int
    steps: int


# --- the pairs ----------------------------------------------------------------------------------


def small_pair(images: np.ndarray, steps: int) -> Pair:
    """A teacher of 139 k weights, at full resolution in its first two layers; a student of 3 k."""
    data = endless(images, (16, 128, 28, 28, 1), classes=10)
    students = small_student, small_student
    return Pair(small_teacher(), small_teacher, *students, "block3_relu", data, 128, steps)


def halving_pair(images: np.ndarray, steps: int) -> Pair:
    """The small pair's teacher, and a student of its layers at half their widths."""

    def student() -> keras.Model:
        return small_teacher(narrower=2)

    def featured() -> keras.Model:
        """With a 1x1 convolution as wide as the teacher's layer behind the one that learns it."""
        trunk = student()
        x = keras.layers.Conv2D(64, 1, name="projection")(trunk.get_layer("block3_relu").output)
        x = keras.layers.GlobalAveragePooling2D()(x)
        return keras.Model(trunk.input, keras.layers.Dense(10)(x), name="student")

    data = endless(images, (16, 128, 28, 28, 1), classes=10)
    return Pair(small_teacher(), small_teacher, student, featured, "block3_relu", data, 128, steps)


def large_pair(images: np.ndarray, steps: int) -> Pair:
    """ResNet50V2 and MobileNetV2 0.35 on 96x96, untrained, 100 classes."""
    data = endless(images, (8, 32, 96, 96, 3), classes=100)
    return Pair(resnet(), resnet, mobilenet, mobilenet_featured, "post_relu", data, 32, steps)


APPLICATION = {
    "weights": None,
    "input_shape": (96, 96, 3),
    "classes": 100,
    "classifier_activation": None,
}


def small_teacher(narrower: int = 1) -> keras.Model:
    """Five convolutions, their widths divided by `narrower`."""
    image = x = keras.Input((28, 28, 1))
    for index, width in enumerate((24, 32, 64, 64, 128)):
        x = keras.layers.Conv2D(width // narrower, 3, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.ReLU(name=f"block{index}_relu")(x)
        if index in (1, 2):
            x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(10)(x), name="teacher")


def small_student() -> keras.Model:
    """Two strided convolutions and a 1x1 one as wide as the teacher's layer."""
    image = x = keras.Input((28, 28, 1))
    for width in (8, 16):
        x = keras.layers.Conv2D(width, 3, 2, padding="same", activation="relu")(x)
    x = keras.layers.Conv2D(64, 1, activation="relu", name="projection")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(10)(x), name="student")


def resnet() -> keras.Model:
    return keras.applications.ResNet50V2(**APPLICATION)


def mobilenet() -> keras.Model:
    return keras.applications.MobileNetV2(alpha=0.35, **APPLICATION)


def mobilenet_featured() -> keras.Model:
    """MobileNetV2 with its last 1x1 convolution at ResNet50V2's width, 2048 for 1280."""
    trunk = mobilenet()
    x = trunk.get_layer("block_16_project_BN").output
    x = keras.layers.Conv2D(2048, 1, use_bias=False)(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.ReLU(6.0, name="projection")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(trunk.input, keras.layers.Dense(100)(x), name="student")


def endless(images: np.ndarray, shape: tuple, classes: int) -> tf.data.Dataset:
    """Images with random labels: whole batches from memory, repeated, prefetched.

    Args:
      images: `(examples, 28, 28, 1)`, as many as the batches have or more.
      shape: `(batches, batch, height, width, channels)`.
      classes: of the labels.
    """
    random = np.random.default_rng(0)
    images = tf.image.resize(images[: shape[0] * shape[1]], shape[2:4]).numpy()
    if shape[-1] == 3:
        images = images * random.random((len(images), 1, 1, 3), dtype="float32")
    labels = random.integers(0, classes, shape[:2]).astype("int32")
    batches = tf.data.Dataset.from_tensor_slices((images.reshape(shape), labels))
    return batches.repeat().prefetch(4)


def settled(teacher: keras.Model, data: tf.data.Dataset) -> keras.Model:
    """Give the untrained teacher's BatchNorms the statistics of the data: sane activations."""
    norms = [m for m in teacher.layers if isinstance(m, keras.layers.BatchNormalization)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.5
    for x, _ in data.take(6):
        teacher(x, training=True)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
    return teacher


# --- the contestants ----------------------------------------------------------------------------


class Stamps(keras.callbacks.Callback):
    """The time at each batch's end, and what the processor has spent on this process by then."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[float] = []
        self.spent: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stamp."""
        self.ends.append(time.perf_counter())
        self.spent.append(time.process_time())


# Milliseconds that passed and that the processor spent, of each step of a block.
Times = tuple[list[float], list[float]]


def fit_block(model: keras.Model, pair: Pair) -> Times:
    """All steps of a block but its first."""
    stamps = Stamps()
    model.fit(
        pair.data,
        steps_per_epoch=pair.steps,
        shuffle=False,
        verbose=0,
        callbacks=[stamps],
    )
    return list(1e3 * np.diff(stamps.ends)), list(1e3 * np.diff(stamps.spent))


def teacher_block(call: Callable, pair: Pair) -> Times:
    """Of each call but the first, the batch being there already."""
    times: Times = [], []
    for x, _ in pair.data.take(pair.steps):
        begin, spent = time.perf_counter(), time.process_time()
        call(x).numpy()
        times[0].append(1e3 * (time.perf_counter() - begin))
        times[1].append(1e3 * (time.process_time() - spent))
    return times[0][1:], times[1][1:]


def contestants(pair: Pair, auto: kd.teachers.Model) -> dict[str, Callable[[], Times]]:
    """Blocks to run, by name; `auto` chooses its engine."""
    logits, featured = [copies(make, n) for make, n in ((pair.student, 5), (pair.featured, 2))]
    models = {
        "plain": logits[0],
        "keras_logits": theirs(pair, logits[1], feature=False),
        "ours_logits": ours(pair, logits[2], pair.teacher, feature=False),
        "ours_auto": ours(pair, logits[4], auto, feature=False),
        "keras_feature": theirs(pair, featured[0], feature=True),
        "ours_feature": ours(pair, featured[1], pair.teacher, feature=True),
    }
    if (quick := in_bfloat16(pair)) is not None:
        models["ours_bfloat16"] = ours(pair, logits[3], quick, feature=False)
    for model in models.values():
        compiled(model)
    call = tf.function(lambda x: pair.teacher(x, training=False))
    blocks = {name: lambda m=model: fit_block(m, pair) for name, model in models.items()}
    return {"teacher": lambda: teacher_block(call, pair), **blocks}


def compiled(model: keras.Model) -> keras.Model:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss)
    return model


def copies(make: Callable[[], keras.Model], count: int) -> list[keras.Model]:
    """Models of the same initial weights."""
    made = []
    for _ in range(count):
        keras.utils.set_random_seed(0)
        made.append(make())
    return made


def theirs(pair: Pair, student: keras.Model, feature: bool) -> keras.Model:
    losses = [
        keras.distillation.LogitsDistillation(TEMPERATURE, loss=keras.losses.KLDivergence()),
        keras.distillation.FeatureDistillation(
            loss="mse", teacher_layer_name=pair.tap, student_layer_name="projection"
        ),
    ]
    # It freezes the teacher it is given: harmless here, no contestant trains it.
    return keras.distillation.Distiller(
        pair.teacher,
        student,
        losses if feature else losses[:1],
        student_loss_weight=LABEL_WEIGHT,
    )


def ours(pair: Pair, student: keras.Model, teacher: Any, feature: bool) -> keras.Model:
    objectives = [
        kd.SoftTargets(temperature=TEMPERATURE),
        kd.FeatureHint(student="projection", teacher=pair.tap),
    ]
    return kd.Distiller(
        student, teacher, objectives if feature else objectives[:1], label_weight=LABEL_WEIGHT
    )


# --- the run ------------------------------------------------------------------------------------


def run_pair(pair: Pair, rounds: int) -> dict[str, Any]:
    """Interleaved blocks; the medians by contestant and round, and what they amount to."""
    auto = kd.teachers.Model(pair.teacher, engine="auto")
    blocks = contestants(pair, auto)
    medians: dict[str, list[float]] = {name: [] for name in blocks}
    spent: dict[str, list[float]] = {name: [] for name in blocks}
    for index in range(rounds):
        for name in rotated(list(blocks), index):
            for times, kept in zip(blocks[name](), (medians, spent), strict=True):
                kept[name].append(float(statistics.median(times[2 if index == 0 else 0 :])))
            print(
                f"  round {index + 1}: {name} {medians[name][-1]:.2f} ms, "
                f"{spent[name][-1]:.2f} of the processor",
                flush=True,
            )
    return {
        "batch": pair.batch,
        "steps_a_block": pair.steps,
        "teacher_parameters": pair.teacher.count_params(),
        "student_parameters": pair.student().count_params(),
        "featured_student_parameters": pair.featured().count_params(),
        "median_ms_by_round": rounded(medians),
        "processor_ms_by_round": rounded(spent),
        "auto": auto.engine_used,
        "bfloat16_output": bfloat16_difference(pair),
    }


def rounded(columns: dict[str, list[float]]) -> dict[str, list[float]]:
    return {name: [round(value, 3) for value in each] for name, each in columns.items()}


def fresh_part(name: str, rounds: int) -> dict[str, dict[str, list[float]]]:
    """First fits, by contestant: seconds and MiB of each round."""
    found: dict[str, dict[str, list[float]]] = {
        label: {"seconds": [], "mib": []} for label in FRESH
    }
    for index in range(rounds):
        for label in rotated(list(FRESH), index):
            command = [sys.executable, __file__, "--child", name, label]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            one = json.loads(run.stdout.splitlines()[-1])
            for key, value in one.items():
                found[label][key].append(round(value, 2))
            print(f"  first fit: {label} {one['seconds']:.2f} s, {one['mib']:.0f} MiB", flush=True)
    return found


def fresh_child(name: str, label: str) -> dict[str, float]:
    """One contestant alone, on made-up images: reading real ones would take more memory."""
    images = np.random.default_rng(0).random((16 * 128, 28, 28, 1), dtype="float32")
    pair = MAKERS[name](images, 4)
    student = copies(pair.student, 1)[0]
    if label == "keras_logits":
        model = theirs(pair, student, feature=False)
    else:
        model = student if label == "plain" else ours(pair, student, pair.teacher, feature=False)
    compiled(model)
    begin = time.perf_counter()
    model.fit(pair.data, steps_per_epoch=1, shuffle=False, verbose=0)
    seconds = time.perf_counter() - begin
    fit_block(model, pair)
    return {"seconds": seconds, "mib": _common.peak_mib()}


def rotated(names: list[str], by: int) -> list[str]:
    by %= len(names)
    return names[by:] + names[:by]


def in_bfloat16(pair: Pair) -> Any:
    """The teacher in bfloat16; None on a processor that has no way to it."""
    quick = kd.teachers.Model(pair.teacher, precision="bfloat16")
    try:
        quick.prepare(None, ())
    except ValueError as error:
        print(f"  {error}", flush=True)
        return None
    return quick


def bfloat16_difference(pair: Pair) -> dict[str, dict[str, float]]:
    """How far a bfloat16 teacher's logits are from the float32 call's: ours, and Keras' own."""
    quick = in_bfloat16(pair)
    if quick is None:
        return {}
    x, _ = next(iter(pair.data))
    exact = np.asarray(pair.teacher(x, training=False))
    yardstick = in_mixed_bfloat16(pair)(x, training=False)
    return {
        "keras_distill": compared(quick(x).logits, exact),
        "keras mixed_bfloat16": compared(yardstick, exact),
    }


def in_mixed_bfloat16(pair: Pair) -> keras.Model:
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        twin = pair.make_teacher()
    finally:
        keras.config.set_dtype_policy(policy)
    twin.set_weights(pair.teacher.get_weights())
    return twin


def compared(logits: Any, exact: np.ndarray) -> dict[str, float]:
    errors = np.asarray(tf.cast(logits, "float32")) - exact
    root_mean_square = float(np.sqrt(np.mean(errors**2) / np.mean(exact**2)))
    largest = float(np.abs(errors).max())
    return {
        "max_abs": largest,
        "max_of_largest_logit": largest / float(np.abs(exact).max()),
        "rms_of_rms_logit": root_mean_square,
    }


def ratios(
    pair: str, medians: dict[str, list[float]], spent: dict[str, list[float]]
) -> list[dict[str, Any]]:
    """Every ratio of RATIOS in short, of the clock and of the processor's time."""
    columns, processor = (
        one | {"sum": [a + b for a, b in zip(one["plain"], one["teacher"], strict=True)]}
        for one in (medians, spent)
    )
    found = []
    for name, above, below, targets, sense in RATIOS:
        if above not in columns or below not in columns:
            continue
        each, cpu = (
            [a / b for a, b in zip(one[above], one[below], strict=True)]
            for one in (columns, processor)
        )
        found.append({
            "name": name,
            "median": statistics.median(each),
            "least": min(each),
            "largest": max(each),
            "processor": statistics.median(cpu),
            "target": f"{sense} {targets[pair]:g}" if pair in targets else "",
            "reached": reached(statistics.median(each), targets.get(pair), sense),
        })  # fmt: skip
    return found


def reached(value: float, target: float | None, sense: str) -> bool | None:
    if target is None:
        return None
    return bool(value <= target if sense == "at most" else value >= target)


# --- tables -------------------------------------------------------------------------------------


def tables(stored: dict[str, Any]) -> str:
    parts = [f"{_common.host_line(stored['host'])}. {stored['threads']} threads."]
    for name, pair in stored["pairs"].items():
        parts += [title(name, pair), times_table(pair), ratios_table(pair)]
        parts += [precision_table(pair)] if pair["bfloat16_output"] else []
        parts += [fresh_table(pair["fresh"])] if "fresh" in pair else []
    return "\n\n".join(parts)


def title(name: str, pair: dict[str, Any]) -> str:
    rounds = len(pair["median_ms_by_round"]["plain"])
    return (
        f"**({name}) {PAIRS[name]}**: teacher {pair['teacher_parameters']:,} weights, student "
        f"{pair['student_parameters']:,} ({pair['featured_student_parameters']:,} with the "
        f"projection), batch {pair['batch']}, {rounds} rounds of {pair['steps_a_block']} steps; "
        f"auto chose {pair['auto']}."
    )


def times_table(pair: dict[str, Any]) -> str:
    lines = []
    for name, label in LABELS.items():
        each = pair["median_ms_by_round"].get(name)
        if each is None:
            continue
        spent = statistics.median(pair["processor_ms_by_round"][name])
        spread = f"{min(each):.1f}-{max(each):.1f}"
        lines.append([label, f"{statistics.median(each):.1f}", spread, f"{spent:.1f}"])
    return _common.markdown(["a step, ms", "median", "over rounds", "processor"], lines)


def ratios_table(pair: dict[str, Any]) -> str:
    words = {True: "yes", False: "NO", None: ""}
    lines = [
        [r["name"], f"{r['median']:.3f}", f"{r['least']:.3f}-{r['largest']:.3f}",
         f"{r['processor']:.3f}", r["target"], words[r["reached"]]]
        for r in pair["ratios"]
    ]  # fmt: skip
    head = ["ratio", "median", "over rounds", "processor", "target", "reached"]
    return _common.markdown(head, lines)


def fresh_table(fresh: dict[str, dict[str, list[float]]]) -> str:
    lines = []
    for label, one in fresh.items():
        cells = [f"{statistics.median(one[k]):,.1f}" for k in ("seconds", "mib")]
        spreads = [f"{min(one[k]):,.1f}-{max(one[k]):,.1f}" for k in ("seconds", "mib")]
        lines.append([LABELS[label], cells[0], spreads[0], cells[1], spreads[1]])
    head = ["first fit, one step", "seconds", "over rounds", "peak, MiB", "over rounds"]
    return _common.markdown(head, lines)


def precision_table(pair: dict[str, Any]) -> str:
    lines = [
        [name, f"{v['max_abs']:.2g}", f"{v['max_of_largest_logit']:.2%}",
         f"{v['rms_of_rms_logit']:.2%}"]
        for name, v in pair["bfloat16_output"].items()
    ]  # fmt: skip
    head = ["untrained teacher in bfloat16", "largest error", "of the largest logit", "rms of rms"]
    return _common.markdown(head, lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--pair", choices=(*PAIRS, "all"), default="all")
    parser.add_argument("--part", choices=("steps", "fresh", "all"), default="all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="two short rounds, another JSON")
    parser.add_argument("--table", action="store_true", help="print the tables, time nothing")
    parser.add_argument("--output", type=Path, help="the JSON")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


MAKERS = {"a": small_pair, "b": large_pair, "c": halving_pair}


def main() -> None:
    args = arguments()
    if args.child:
        print(json.dumps(fresh_child(*args.child)))
        return
    name = "step_time_smoke.json" if args.smoke else "step_time.json"
    output = args.output or (Path(tempfile.gettempdir()) if args.smoke else _common.RESULTS) / name
    if args.table:
        print(tables(_common.read_json(output)))
        return
    _common.set_threads(args.threads)
    rounds = 2 if args.smoke else args.rounds
    steps = {"a": 10, "b": 5, "c": 5} if args.smoke else {"a": 50, "b": 12, "c": 20}
    chosen = MAKERS if args.pair == "all" else (args.pair,)
    # A run of one pair keeps the other's figures only where host and threads are the same.
    facts = {"host": _common.host(), "threads": args.threads}
    earlier = _common.read_json(output)
    kept = earlier.get("pairs", {}) if {k: earlier.get(k) for k in facts} == facts else {}
    stored = facts | {"pairs": dict(kept)}
    images = load_fashion_mnist(download=True).x_train[: 16 * 128]
    for key in chosen:
        print(PAIRS[key], flush=True)
        pair = MAKERS[key](images, steps[key])
        settled(pair.teacher, pair.data)
        found = stored["pairs"].setdefault(key, {})
        if args.part != "fresh":
            found |= run_pair(pair, rounds)
            times = found["median_ms_by_round"], found["processor_ms_by_round"]
            found["ratios"] = ratios(key, *times)
        if args.part != "steps":
            found["fresh"] = fresh_part(key, max(1, rounds // 2))
        _common.write_json(output, stored)
    print("\n" + tables(stored))


if __name__ == "__main__":
    main()
