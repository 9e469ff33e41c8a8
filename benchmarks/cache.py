"""What a teacher cache costs and saves: plain fit, a teacher at hand, and its answers on disk.

    python benchmarks/cache.py                    everything, or what an earlier run left
    python benchmarks/cache.py --part steps       one part: steps, build, memory, accuracy
    python benchmarks/cache.py --stream           10 million synthetic examples, out of their cache
    python benchmarks/cache.py --table            the tables and targets, from the JSON
    python benchmarks/cache.py --smoke            a few minutes, its own JSON

**Steps.** All contestants live in one process. For each ratio its two take turns, a short block of
steps each, so that they meet the same moods of the machine; who is first changes from round to
round. A step is the time from one batch's end to the next's inside `fit`, so that start-up, tracing
and a block's first two steps don't count; a ratio is taken within a round, of two medians, and
reported as the median over the rounds with the quartiles. Plain fit and the online contestants read
whole batches from memory, repeated and prefetched, the cheapest data there is; the caches read
shuffled examples. Only augmentation has a plain twin of its own, which augments the same examples
by the same function.

**Build.** `TeacherCache.build` against the frozen teacher's own forward over the same arrays, its
answers taken to NumPy. Both have a start-up (freezing, tracing): over n examples and over a part of
them each is timed, and what is compared is the difference, the cost of the examples alone, by the
clock and in CPU seconds.

**Memory.** The largest resident set of a process that makes and fits one contestant alone.

**Stream.** Records of 10 of 100 classes, 48 bytes each, read shuffled in batches of 128 with
nothing done to them: one whole pass over the large cache, in which every example must come once,
for the memory; then blocks of batches of a large and a small cache in turns. Once as `dataset` does
it by itself, with the records in memory, and once with none of them there. Then whole passes over
the large one both ways in turns, because of a block some is read from disk ahead in vain, beside
tf.data's own way with the same arrays: no answers, shuffled within a buffer.

**Accuracy.** A teacher trained on Fashion-MNIST; students of the same initial weights, batches and
number of updates: labels alone, the teacher at hand, its cached logits.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import _common
import _models
import keras
import numpy as np
import step_time
import tensorflow as tf
from _common import peak_mib

import keras_distill as kd
from keras_distill.data import load_fashion_mnist

TEMPERATURE, LABEL_WEIGHT = 4.0, 0.1
PAIRS = {
    "a": "Fashion-MNIST 28x28, CNN -> MobileNetV2's blocks",
    "b": "96x96, ResNet50V2 -> MobileNetV2 0.35",
    "c": "Fashion-MNIST 28x28, CNN -> the same at half its widths",
}
PARTS = ("steps", "build", "memory", "accuracy")
LABELS = {
    "plain": "student.fit",
    "plain_views": "student.fit, augmented",
    "online": "Distiller, frozen teacher",
    "keras": "keras.distillation",
    "cached": "cached, whole logits",
    "cached_top_k": "cached, top k",
    "cached_views": "cached, whole logits, augmented",
    "cached_layer": "cached, whole logits and a layer",
}
MEASURED = ("plain", "online", "keras", "cached")
# Name, what is divided by what, and the target by pair.
RATIOS = (
    ("cached / plain", "cached", "plain", {"a": 1.05, "b": 1.05, "c": 1.05}, "at most"),
    ("keras.distillation / cached", "keras", "cached", {"a": 1.3, "b": 2.3, "c": 1.3}, "at least"),
    ("cached, top k / plain", "cached_top_k", "plain", {}, "at most"),
    ("cached, augmented / plain, augmented", "cached_views", "plain_views", {}, "at most"),
    ("cached, with a layer / plain", "cached_layer", "plain", {}, "at most"),
    ("online / plain", "online", "plain", {}, "at most"),
    ("keras.distillation / plain", "keras", "plain", {}, "at most"),
)
BUILD_TARGETS = {"cached": 1.10, "cached_top_k": 1.05}


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much is run.

    Args:
      rounds, steps: of a ratio, and of a block, by pair.
      examples: in a cache, by pair.
      few, many, build_rounds: examples of the builds whose difference is taken, and how often, by
        pair. The third pair has the first one's teacher.
      seeds, budget, teacher_steps: of the accuracies.
      test: images.
      streamed, small: examples of the synthetic caches.
    """

    rounds: dict
    steps: dict
    examples: dict
    few: dict
    many: dict
    build_rounds: dict
    seeds: int = 3
    budget: int = 800
    teacher_steps: int = 1200
    test: int = 10_000
    streamed: int = 10_000_000
    small: int = 100_000


FULL = Settings(
    {"a": 21, "b": 11, "c": 21}, {"a": 14, "b": 8, "c": 20},
    {"a": 32768, "b": 1024, "c": 32768}, {"a": 2048, "b": 128}, {"a": 12288, "b": 640},
    {"a": 15, "b": 3},
)  # fmt: skip
SMOKE = Settings(
    {"a": 2, "b": 1, "c": 2}, {"a": 6, "b": 4, "c": 6},
    {"a": 1024, "b": 128, "c": 1024}, {"a": 256, "b": 32}, {"a": 1024, "b": 128},
    {"a": 1, "b": 1}, seeds=1, budget=6, teacher_steps=6, test=200, streamed=200_000, small=100_000,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Pair:
    """What the contestants of one pair are made of.

    Args:
      teacher, student: make them, always of the same weights.
      tap: the teacher's layer that is cached.
      top_k: logits kept.
      x, y: the data.
      batch: examples a step.
    """

    teacher: Callable[[], keras.Model]
    student: Callable[[], keras.Model]
    tap: str
    top_k: int
    x: np.ndarray
    y: np.ndarray
    batch: int

    def batches(self) -> tf.data.Dataset:
        """Whole batches from memory, endless."""
        steps = len(self.x) // self.batch
        shaped = [
            a[: steps * self.batch].reshape(steps, self.batch, *a.shape[1:])
            for a in (self.x, self.y)
        ]
        return tf.data.Dataset.from_tensor_slices(tuple(shaped)).repeat().prefetch(8)

    def views(self) -> tf.data.Dataset:
        """Shuffled examples, each augmented by itself, in batches; endless."""
        examples = tf.data.Dataset.from_tensor_slices((self.x, self.y)).shuffle(2048).repeat()
        seeds = tf.data.Dataset.random(seed=0).batch(2).map(lambda two: tf.cast(two, "int32"))
        seen = tf.data.Dataset.zip(examples, seeds).map(
            lambda example, seed: (augment(example[0], seed), example[1]),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        return seen.batch(self.batch, drop_remainder=True).prefetch(8)

    def first(self, examples: int) -> "Pair":
        """The pair on fewer examples."""
        return dataclasses.replace(self, x=self.x[:examples], y=self.y[:examples])


def augment(x: Any, seed: Any) -> Any:
    """Mirrored by chance, and cropped out of a margin of four pixels."""
    x = tf.image.stateless_random_flip_left_right(x, seed)
    margin = tf.pad(x, ((4, 4), (4, 4), (0, 0)))
    return tf.image.stateless_random_crop(margin, x.shape, seed)


# --- the pairs ----------------------------------------------------------------------------------


def data_of(name: str, examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Fashion-MNIST; for the large pair enlarged, tinted and labelled by chance."""
    images = load_fashion_mnist(download=True)
    x, y = images.x_train[:examples].copy(), images.y_train[:examples].copy()
    if name != "b":
        return x, y
    random = np.random.default_rng(0)
    large = [tf.image.resize(x[at : at + 128], (96, 96)) for at in range(0, len(x), 128)]
    tints = random.random((len(x), 1, 1, 3), dtype="float32")
    return np.concatenate(large) * tints, random.integers(0, 100, len(x)).astype("int32")


def pair_of(name: str, data: tuple[np.ndarray, np.ndarray], *, settle: bool = True) -> Pair:
    x, y = data
    make = step_time.resnet if name == "b" else step_time.small_teacher
    teacher = settled(make, x) if settle else make
    if name != "b":
        student = small_student if name == "a" else half_teacher
        return Pair(teacher, student, "block3_relu", 5, x, y, 64)
    return Pair(teacher, step_time.mobilenet, "post_relu", 10, x, y, 32)


def small_student() -> keras.Model:
    return _models.small_network("MobileNetV2", (28, 28, 1))


def half_teacher() -> keras.Model:
    return step_time.small_teacher(narrower=2)


def settled(make: Callable[[], keras.Model], x: np.ndarray) -> Callable[[], keras.Model]:
    def teacher():
        keras.utils.set_random_seed(0)
        data = tf.data.Dataset.from_tensor_slices((x[:192], np.zeros(len(x[:192])))).batch(32)
        return step_time.settled(make(), data)

    return teacher


# --- the contestants ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Contestant:
    """A compiled model and the data that it is fitted to."""

    model: keras.Model
    data: tf.data.Dataset

    def block(self, steps: int) -> float:
        """Milliseconds of a step: the median of a block without its first two."""
        stamps = step_time.Stamps()
        self.model.fit(
            self.data, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[stamps]
        )
        return float(np.median(1e3 * np.diff(stamps.ends)[1:]))


def kinds(pair: Pair) -> dict[str, dict[str, Any]]:
    """Each cache's own arguments of `TeacherCache.build`."""
    return {
        "cached": {},
        "cached_top_k": {"top_k": pair.top_k},
        "cached_views": {"augment": augment},
        "cached_layer": {"layers": [pair.tap]},
    }


def built(pair: Pair, kind: str, folder: Path, teacher: Any) -> kd.TeacherCache:
    return kd.TeacherCache.build(
        teacher, (pair.x, pair.y), folder, batch_size=pair.batch, verbose=False,
        **kinds(pair)[kind],
    )  # fmt: skip


def contestant(pair: Pair, name: str, folder: Path, teacher: Any) -> Contestant:
    """One by its name.

    Args:
      folder: of the caches, a folder each.
      teacher: a model, for those that need one.
    """
    student, data = pair.student(), pair.batches()
    if name == "plain_views":
        data = pair.views()
    if name == "online":
        student = distiller(student, teacher)
    if name == "keras":
        student = keras.distillation.Distiller(
            teacher,
            student,
            keras.distillation.LogitsDistillation(TEMPERATURE, loss=keras.losses.KLDivergence()),
            student_loss_weight=LABEL_WEIGHT,
        )
    if name.startswith("cached"):
        cache = kd.TeacherCache.open(
            folder / name, (pair.x, pair.y), augment=kinds(pair)[name].get("augment")
        )
        hints = [kd.FeatureHint(last_map(student), pair.tap)] if name == "cached_layer" else []
        student, data = distiller(student, cache, *hints), cache.dataset(pair.batch)
    return Contestant(compiled(student), data)


def distiller(student: keras.Model, teacher: Any, *more: Any) -> kd.Distiller:
    objectives = [kd.SoftTargets(temperature=TEMPERATURE), *more]
    return kd.Distiller(student, teacher, objectives, label_weight=LABEL_WEIGHT)


def last_map(student: keras.Model) -> str:
    """The name of the last layer that gives a map."""
    maps = [layer.name for layer in student.layers if len(layer.output.shape) == 4]
    return maps[-1]


def compiled(model: keras.Model, rate: Any = 1e-3) -> keras.Model:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    return model


# --- the parts ----------------------------------------------------------------------------------


def steps_part(name: str, settings: Settings, folder: Path) -> dict[str, Any]:
    """Interleaved blocks; the caches, which later parts read, are built on the way."""
    pair = pair_of(name, data_of(name, settings.examples[name]))
    teacher = pair.teacher()
    sizes = {
        kind: bytes_an_example(built(pair, kind, folder / kind, teacher)) for kind in kinds(pair)
    }
    everyone = {label: contestant(pair, label, folder, teacher) for label in LABELS}
    for one in everyone.values():
        one.block(settings.steps[name])
    duels = {}
    for words, above, below, *_ in RATIOS:
        two = everyone[above], everyone[below]
        duels[words] = duel(*two, settings.rounds[name], settings.steps[name])
        middle, *span = paired(*zip(*duels[words], strict=True))
        print(f"  {words} {middle:.3f} ({span[0]:.3f}-{span[1]:.3f})", flush=True)
    return {
        "batch": pair.batch,
        "examples": len(pair.x),
        "top_k": pair.top_k,
        "teacher_parameters": teacher.count_params(),
        "student_parameters": pair.student().count_params(),
        "duels": duels,
        "bytes_an_example": sizes,
    }


def duel(above: Contestant, below: Contestant, rounds: int, steps: int) -> list[list[float]]:
    """Milliseconds of a step of both, round by round."""
    found = []
    for index in range(rounds):
        first, second = (above, below) if index % 2 else (below, above)
        times = {first: first.block(steps), second: second.block(steps)}
        found.append([round(times[above], 3), round(times[below], 3)])
    return found


def bytes_an_example(cache: kd.TeacherCache) -> float:
    info = cache.info()
    size = sum(path.stat().st_size for path in info.directory.iterdir())
    return size / (info.examples or 1)


def build_part(name: str, settings: Settings, folder: Path) -> dict[str, Any]:
    """Seconds of forwards and builds over a part of the examples and over all, round by round."""
    pair = pair_of(name, data_of(name, settings.many[name]))
    teacher = pair.teacher()
    forward = forward_of(pair, teacher)
    sizes = {"few": settings.few[name], "all": settings.many[name]}
    forward(pair.first(pair.batch))
    clocks = {"seconds": time.perf_counter, "CPU seconds": time.process_time}
    rounds: dict[str, list] = {clock: [] for clock in clocks}
    for index in range(settings.build_rounds[name]):
        found: dict[str, dict] = {clock: {} for clock in clocks}
        for label in step_time.rotated(["forward", *BUILD_TARGETS], index):
            for size, examples in sizes.items():
                part = pair.first(examples)
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    begin = {clock: read() for clock, read in clocks.items()}
                    if label == "forward":
                        forward(part)
                    else:
                        built(part, label, Path(place) / "c", teacher)
                    for clock, read in clocks.items():
                        found[clock].setdefault(label, {})[size] = read() - begin[clock]
        for clock, times in found.items():
            rounds[clock].append(times)
        print(f"  round {index + 1}: {found['seconds']}", flush=True)
    return {"examples": sizes, **rounds}


def forward_of(pair: Pair, teacher: keras.Model) -> Callable[[Pair], None]:
    """The frozen teacher over all of a pair's examples."""
    frozen = kd.teachers.Model(teacher)
    frozen.prepare(None, ())
    call = tf.function(lambda x: frozen(x).logits, reduce_retracing=True)

    def forward(part: Pair) -> None:
        for at in range(0, len(part.x), part.batch):
            call(tf.constant(part.x[at : at + part.batch])).numpy()

    return forward


def memory_part(name: str, settings: Settings, folder: Path) -> dict[str, float]:
    """MiB, each contestant in a process of its own."""
    pair = pair_of(name, data_of(name, settings.examples[name]))
    built(pair, "cached", folder / "cached", pair.teacher())
    for part in ("x", "y"):
        np.save(folder / part, getattr(pair, part))
    found = {}
    for label in MEASURED:
        found[label] = child(settings, "memory", name, label, str(folder))
        print(f"  {label} {found[label]:.0f} MiB", flush=True)
    return found


def child(settings: Settings, *words: str) -> Any:
    """What a process of its own prints."""
    command = [sys.executable, __file__, *(["--smoke"] if settings is SMOKE else [])]
    run = subprocess.run(
        [*command, "--child", *words], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(run.stdout.splitlines()[-1])


def memory_child(settings: Settings, name: str, label: str, folder: str) -> float:
    # Read as they are: making them would take more memory than fitting does.
    x, y = (np.load(Path(folder) / f"{part}.npy") for part in ("x", "y"))
    # Settling a teacher takes more than fitting, too.
    pair = pair_of(name, (x, y), settle=False)
    teacher = pair.teacher() if label in ("online", "keras") else None
    contestant(pair, label, Path(folder), teacher).block(settings.steps[name])
    return peak_mib()


def accuracy_part(settings: Settings, folder: Path) -> dict[str, Any]:
    """Percent of the test images, by contestant and seed."""
    images = load_fashion_mnist(download=True)
    pair = Pair(step_time.small_teacher, small_student, "", 1, images.x_train, images.y_train, 64)
    keras.utils.set_random_seed(0)
    teacher = trained(step_time.small_teacher(), pair.views(), settings.teacher_steps)
    cache = built(pair, "cached", folder / "trained", teacher)
    test = images.x_test[: settings.test], images.y_test[: settings.test]
    found: dict[str, Any] = {"teacher": accuracy(teacher, *test), "budget": settings.budget}
    for seed in range(settings.seeds):
        for label, guide in (("plain", None), ("online", teacher), ("cached", cache)):
            student = _models.small_network("MobileNetV2", (28, 28, 1), seed)
            model = student if guide is None else distiller(student, guide)
            # One order for all: the cache's own, its answers left out where they aren't wanted.
            data = cache.dataset(pair.batch, seed=seed, drop_remainder=True).repeat()
            if label != "cached":
                data = data.map(lambda batch, y: (batch.inputs, y))
            trained(model, data, settings.budget)
            found.setdefault(label, []).append(accuracy(student, *test))
            print(f"  seed {seed}: {label} {found[label][-1]:.2f} %", flush=True)
    return found


def trained(model: keras.Model, data: tf.data.Dataset, steps: int) -> keras.Model:
    compiled(model, keras.optimizers.schedules.CosineDecay(5e-3, steps))
    model.fit(data, steps_per_epoch=steps, shuffle=False, verbose=0)
    return model


def accuracy(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    return float(100 * np.mean(model.predict(x, batch_size=500, verbose=0).argmax(1) == y))


# --- the stream ---------------------------------------------------------------------------------

LEAST_RATE, MOST_MIB = 0.90, 1536
MODES = {"memory": "records in memory (the default)", "disk": "records on disk (memory_bytes=0)"}
IN_TURNS = (("disk", "memory", 0.95), ("memory", "tf.data", None))
STREAM_BATCH, STREAM_BLOCK, STREAM_ROUNDS = 128, 6_000, 5
PASS_ROUNDS = 3


def stream_part(settings: Settings, folder: Path) -> dict[str, Any]:
    """The large cache's making, its whole pass and its rate beside a small one's."""
    found: dict[str, Any] = {"examples": settings.streamed, "small": settings.small}
    for label in ("large", "small"):
        found[f"fill {label}"] = child(settings, "fill", label, str(folder))
    for mode in MODES:
        found[mode] = child(settings, "stream", mode, str(folder))
        print(f"  {mode}: {found[mode]}", flush=True)
    found["in turns"] = child(settings, "turns", str(folder))
    print(f"  {found['in turns']}", flush=True)
    return found


def synthetic(settings: Settings, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Four bytes an example, and its number for a label."""
    count = settings.streamed if label == "large" else settings.small
    x = np.random.default_rng(0).integers(0, 256, (count, 4), "uint8")
    return x, np.arange(count, dtype="int32")


def fill_child(settings: Settings, label: str, folder: str) -> dict[str, float]:
    weights = tf.constant(np.random.default_rng(1).standard_normal((4, 100)) / 64, "float32")
    begin = time.perf_counter()
    cache = kd.TeacherCache.build(
        lambda x: tf.cast(x, "float32") @ weights, synthetic(settings, label),
        Path(folder) / label, top_k=10, batch_size=8192, verbose=False,
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    size = bytes_an_example(cache)
    return {"seconds": seconds, "bytes_an_example": size, "peak_mib": peak_mib()}


def stream_child(settings: Settings, mode: str, folder: str) -> dict[str, Any]:
    options = {"memory_bytes": 0} if mode == "disk" else {}
    sources = {}
    found: dict[str, Any] = {"bare_mib": peak_mib()}
    for label in ("large", "small"):
        cache = kd.TeacherCache.open(Path(folder) / label, synthetic(settings, label))
        sources[label] = cache.dataset(STREAM_BATCH, **options)
        if label == "large":
            found |= whole_pass(sources[label], settings.streamed) | {"peak_mib": peak_mib()}
    return found | {"examples_a_second": rates(sources, STREAM_BLOCK, STREAM_ROUNDS)}


def turns_child(settings: Settings, folder: str) -> dict[str, list[float]]:
    arrays = synthetic(settings, "large")
    cache = kd.TeacherCache.open(Path(folder) / "large", arrays)
    plain = tf.data.Dataset.from_tensor_slices(arrays).shuffle(2048).batch(STREAM_BATCH)
    sources = {
        "memory": cache.dataset(STREAM_BATCH),
        "disk": cache.dataset(STREAM_BATCH, memory_bytes=0),
        "tf.data": plain.prefetch(8),
    }
    return rates(sources, cache.steps(STREAM_BATCH), PASS_ROUNDS)


def rates(sources: dict[str, tf.data.Dataset], batches: int, rounds: int) -> dict[str, list[float]]:
    """Examples a second of each, round by round, once each has begun."""
    for dataset in sources.values():
        next(iter(dataset))
    found: dict[str, list[float]] = {label: [] for label in sources}
    for index in range(rounds):
        for label in step_time.rotated(list(sources), index):
            found[label].append(block_rate(sources[label], batches))
    return found


def whole_pass(dataset: tf.data.Dataset, examples: int) -> dict[str, float]:
    """Seconds of an epoch; every example comes once, and not as it lies."""
    seen, in_place, at = np.zeros(examples, "bool"), 0, 0
    begin = time.perf_counter()
    for _, numbers in dataset:
        rows = numbers.numpy()
        seen[rows] = True
        in_place += int(np.count_nonzero(rows == np.arange(at, at + len(rows))))
        at += len(rows)
    seconds = time.perf_counter() - begin
    if at != examples or not seen.all() or in_place > 20:
        raise AssertionError(f"{at} of {examples} examples, {seen.sum()} of them different")
    return {"epoch_seconds": seconds}


def block_rate(dataset: tf.data.Dataset, batches: int) -> float:
    """Examples a second, the making of the iterator included."""
    begin = time.perf_counter()
    block = iter(dataset.repeat())
    for _ in range(batches):
        next(block)
    return batches * STREAM_BATCH / (time.perf_counter() - begin)


def stream_table(found: dict[str, Any]) -> str:
    lines = []
    for mode, words in MODES.items():
        rates = found[mode]["examples_a_second"]
        middle, *span = paired(rates["large"], rates["small"])
        lines.append(judged(f"{words}: rate, large / small", middle, span, LEAST_RATE, "at least"))
        peak = found[mode]["peak_mib"]
        lines.append(judged(f"{words}: peak MiB", peak, [peak, peak], MOST_MIB, "at most"))
    # An earlier run's JSON has none.
    turns = found.get("in turns", {})
    for above, below, target in IN_TURNS if turns else ():
        middle, *span = paired(turns[above], turns[below])
        words = f"the large one: rate, {above} / {below}"
        lines.append(judged(words, middle, span, target, "at least"))
    fill, memory = found["fill large"], found["memory"]
    title = (
        f"**{found['examples']:,} synthetic examples** against {found['small']:,}: "
        f"{fill['bytes_an_example']:.2f} bytes an example, built in {fill['seconds']:.0f} s and "
        f"{fill['peak_mib']:,.0f} MiB; an epoch of the large one "
        f"{memory['epoch_seconds']:.0f} s out of memory, {found['disk']['epoch_seconds']:.0f} s "
        f"from disk; a process without a cache {memory['bare_mib']:,.0f} MiB."
    )
    head = ["stream", "median", "quartiles", "target", ""]
    return f"{title}\n\n{_common.markdown(head, lines)}"


# --- tables -------------------------------------------------------------------------------------


def tables(stored: dict[str, Any]) -> str:
    parts = [f"{_common.host_line(stored['host'])}. {stored['threads']} threads."]
    for name in PAIRS:
        if f"steps {name}" in stored["parts"]:
            parts += steps_tables(name, stored["parts"])
        if f"build {name}" in stored["parts"]:
            parts.append(build_table(name, stored["parts"][f"build {name}"]))
    if "accuracy" in stored["parts"]:
        parts.append(accuracy_table(stored["parts"]["accuracy"]))
    if "stream" in stored["parts"]:
        parts.append(stream_table(stored["parts"]["stream"]))
    return "\n\n".join(parts)


def steps_tables(name: str, parts: dict[str, Any]) -> list[str]:
    pair = parts[f"steps {name}"]
    memory = parts.get(f"memory {name}", {})
    duels = pair["duels"]
    title = (
        f"**({name}) {PAIRS[name]}**: teacher {pair['teacher_parameters']:,} weights, student "
        f"{pair['student_parameters']:,}; batch {pair['batch']}, {len(duels['cached / plain'])} "
        f"rounds; {pair['examples']:,} examples, k = {pair['top_k']}."
    )
    lines = []
    for label, words in LABELS.items():
        size = pair["bytes_an_example"].get(label)
        lines.append([
            words, f"{milliseconds(label, duels):.2f}",
            "" if size is None else f"{size:.2f}",
            f"{memory[label]:,.0f}" if label in memory else "",
        ])  # fmt: skip
    head = ["contestant", "ms a step", "bytes an example", "peak MiB"]
    return [title, _common.markdown(head, lines), ratios_table(name, duels)]


def milliseconds(label: str, duels: dict[str, list]) -> float:
    """The median over all duels of a contestant."""
    places = [(words, two.index(label)) for words, *two, _, _ in RATIOS if label in two]
    return statistics.median(times[place] for words, place in places for times in duels[words])


def ratios_table(name: str, duels: dict[str, list]) -> str:
    lines = []
    for words, _, _, targets, sense in RATIOS:
        middle, *span = paired(*zip(*duels[words], strict=True))
        lines.append(judged(words, middle, span, targets.get(name), sense))
    return _common.markdown(["ratio", "median", "quartiles", "target", ""], lines)


def build_table(name: str, build: dict[str, Any]) -> str:
    def examples_alone(clock: str, label: str) -> list[float]:
        return [found[label]["all"] - found[label]["few"] for found in build[clock]]

    lines = []
    for label, target in BUILD_TARGETS.items():
        for clock in ("seconds", "CPU seconds"):
            if clock in build:
                times = examples_alone(clock, label), examples_alone(clock, "forward")
                middle, *span = paired(*times)
                words = f"build, {LABELS[label]} / the teacher's forward, {clock}"
                lines.append(judged(words, middle, span, target, "at most"))
    more = build["examples"]["all"] - build["examples"]["few"]
    seconds = statistics.median(examples_alone("seconds", "forward"))
    head = [
        f"({name}) {more:,} examples, {seconds:.2f} s forward",
        "median",
        "quartiles",
        "target",
        "",
    ]
    return _common.markdown(head, lines)


def accuracy_table(found: dict[str, Any]) -> str:
    lines = []
    for label in ("plain", "online", "cached"):
        mean, spread = statistics.mean(found[label]), _spread(found[label])
        gaps = [a - b for a, b in zip(found[label], found["online"], strict=True)]
        lines.append(
            [LABELS[label], f"{mean:.2f} ± {spread:.2f}",
             f"{statistics.mean(gaps):+.2f} ± {_spread(gaps):.2f}"]
        )  # fmt: skip
    head = [f"{found['budget']} updates, teacher {found['teacher']:.2f} %", "test accuracy, %",
            "to online, paired"]  # fmt: skip
    return _common.markdown(head, lines)


def judged(words: str, middle: float, span: list[float], target: float | None, sense: str) -> list:
    if target is None:
        return [words, f"{middle:.3f}", f"{span[0]:.3f}-{span[1]:.3f}", "", ""]
    met = middle <= target if sense == "at most" else middle >= target
    verdict = "met" if met else "**MISSED**"
    return [words, f"{middle:.3f}", f"{span[0]:.3f}-{span[1]:.3f}", f"{sense} {target:g}", verdict]


def paired(above: Sequence[float], below: Sequence[float]) -> tuple[float, float, float]:
    """The rounds' ratios: median and quartiles."""
    each = np.divide(above, below)
    return tuple(float(x) for x in np.quantile(each, (0.5, 0.25, 0.75)))


def _spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


# --- the run ------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, help="that part alone")
    parser.add_argument("--pair", choices=tuple(PAIRS), help="that pair alone")
    parser.add_argument("--stream", action="store_true", help="the synthetic caches alone")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="short, another JSON")
    parser.add_argument("--again", action="store_true", help="run what the JSON has, too")
    parser.add_argument("--table", action="store_true", help="print the tables, run nothing")
    parser.add_argument("--output", type=Path, help="the JSON")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


CHILDREN = {
    "memory": memory_child,
    "fill": fill_child,
    "stream": stream_child,
    "turns": turns_child,
}


def jobs(args: argparse.Namespace, settings: Settings, folder: Path) -> dict[str, Callable]:
    """What is to be run, by the name it is stored under."""
    if args.stream:
        return {"stream": lambda: stream_part(settings, folder)}
    found: dict[str, Callable] = {}
    for name in [args.pair] if args.pair else PAIRS:
        place = folder / name
        place.mkdir()
        for part, run in (("steps", steps_part), ("build", build_part), ("memory", memory_part)):
            if args.part in (None, part) and (part != "build" or name in settings.build_rounds):
                found[f"{part} {name}"] = lambda run=run, name=name, place=place: run(
                    name, settings, place
                )
    if args.part in (None, "accuracy") and not args.pair:
        found["accuracy"] = lambda: accuracy_part(settings, folder)
    return found


def main() -> None:
    args = arguments()
    settings = SMOKE if args.smoke else FULL
    name = "cache_smoke.json" if args.smoke else "cache.json"
    output = args.output or (Path(tempfile.gettempdir()) if args.smoke else _common.RESULTS) / name
    if args.table:
        print(tables(_common.read_json(output)))
        return
    _common.set_threads(args.threads)
    if args.child:
        kind, *words = args.child
        print(json.dumps(CHILDREN[kind](settings, *words)))
        return
    # Figures of another host, or other settings, are not kept beside new ones.
    facts = {"host": _common.host(), "threads": args.threads}
    facts["settings"] = json.loads(json.dumps(dataclasses.asdict(settings)))
    earlier = _common.read_json(output)
    kept = earlier.get("parts", {}) if {k: earlier.get(k) for k in facts} == facts else {}
    stored = facts | {"parts": dict(kept)}
    with tempfile.TemporaryDirectory() as folder:
        for key, run in jobs(args, settings, Path(folder)).items():
            if key in stored["parts"] and not args.again:
                continue
            print(key, flush=True)
            begin = time.perf_counter()
            stored["parts"][key] = run()
            print(f"  {time.perf_counter() - begin:.0f} s", flush=True)
            _common.write_json(output, stored)
    print("\n" + tables(stored))


if __name__ == "__main__":
    main()
