"""What a strong teacher and patient students gain: every objective against labels alone.

    python benchmarks/gains.py                       all data sets, where an earlier call stopped
    python benchmarks/gains.py --track fashion_mnist one of them
    python benchmarks/gains.py --plan                what is left, and how long it will take
    python benchmarks/gains.py --table               the tables from the JSON
    python benchmarks/gains.py --picture FILE        gains by budget and by teacher
    python benchmarks/gains.py --smoke               a minute or two, tiny, another JSON

Kill it whenever you like: the same command goes on. What is finished stands in the JSON; teachers
(every epoch is kept) and their caches lie in `--work`, outside of the repository.

A track is a data set. Its teacher is trained by its own recipe on views of the images (crops and
mirror images; each recording comes in variants of its voice), and then answers every training
example once, or some views of each (a `TeacherCache`). Every student of a size and seed begins with
the same weights and sees the same examples in the same order for the same number of updates (Adam,
one cycle of the rate, batches of 128), and its last weights count. The label-only twin reads them,
too, at its own best rate; all objectives share one rate, the best of SoftTargets at T = 2. Rates
and teachers are chosen on validation examples; the test examples are asked once, of finished
students. With a tenth of the labels (of each class) the objectives see all examples, -1 for a label
that is not there; the twin sees its labelled examples for as many updates.

Beside the table of a track stand two lines of runs of one size: the same students over fewer and
more epochs, at the table's rates, and under weaker teachers.

Objectives that look into layers have a label weight of 0.5 and the weight of their authors or of
the reference code, as their docstrings name it: label loss and objective are then in the authors'
proportion.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import _common
import keras
import numpy as np
import tensorflow as tf
import when_it_pays as pays

import keras_distill as kd
from keras_distill import objectives as o

BATCH = 128
TENTH = 0.1
BLOCKS = ["block1", "block2", "block3"]


# --- what is compared ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Method:
    """One row of the table.

    Args:
      label_weight: of the Distiller; None for labels alone.
      make: from the teacher's tapped shapes to the objectives.
      taps: the teacher's layers that they look into.
      mixed: whether every view is mixed with that of another example.
    """

    label_weight: float | None
    make: Callable[[dict[str, tuple]], list[kd.Objective]] = lambda shapes: []
    taps: tuple[str, ...] = ()
    mixed: bool = False


def soft(temperature: float, label_weight: float, **options: Any) -> Method:
    return Method(label_weight, lambda shapes: [o.SoftTargets(temperature=temperature, **options)])


def answers(label_weight: float, kind: Callable, **options: Any) -> Method:
    """An objective on logits."""
    return Method(label_weight, lambda shapes: [kind(**options)])


def layers(kind: Callable, taps: Any, weight: Any, **options: Any) -> Method:
    """An objective on layers of the same names; `weight` may be a function of their shapes."""
    names = tuple(taps) if isinstance(taps, list) else (taps,)

    def make(shapes: dict[str, tuple]) -> list[kd.Objective]:
        value = weight(*(math.prod(shapes[name]) for name in names)) if callable(weight) else weight
        return [kind(taps, taps, weight=value, **options)]

    return Method(0.5, make, names)


LABELS = "labels"
RATED = "SoftTargets, T=2, label weight 0.1"
SOFT = {
    f"SoftTargets, T={t}, label weight {w:g}": soft(t, w)
    for t in (1, 2, 4, 8)
    for w in ((0, 0.1, 0.5) if t in (2, 4) else (0.1,))
}
# What a label weight of 0.1 was where the labels' weight did not shrink with their number.
ALL_TO_LABELS = "SoftTargets, T=2, label weight 1"
LOGITS = {
    "SoftTargets, standardised": soft(2, 0.1, standardize=True),
    "DKD": answers(0.5, o.DKD),
    "NormalizedKD": answers(0.5, o.NormalizedKD),
    "DIST": answers(0.5, o.DIST),
    "GeneralizedJSD": answers(0.1, o.GeneralizedJSD),
    "WeightedSoftTargets": answers(0.5, o.WeightedSoftTargets, temperature=2.0, weight=2.5),
}
LAYERS = {
    "FeatureHint": layers(o.FeatureHint, "block2", 100.0),
    "AttentionTransfer": layers(o.AttentionTransfer, BLOCKS, 1000.0),
    "SimilarityPreserving": layers(o.SimilarityPreserving, "block3", 3000.0),
    "RelationalKD": layers(o.RelationalKD, "pool", 1.0),
    "ContrastiveRepresentation": layers(o.ContrastiveRepresentation, "pool", 0.8),
    "ReviewKD": layers(o.ReviewKD, BLOCKS, 1.0),
    "VariationalInformation": layers(o.VariationalInformation, "block2", 1.0),
    "InterChannelCorrelation": layers(o.InterChannelCorrelation, "block3", 2.5),
    "FactorTransfer": layers(o.FactorTransfer, "block3", 200.0),
    "Overhaul": layers(o.Overhaul, "norm2", lambda numbers: 1e-3 * numbers),
    "MaskedGeneration": layers(
        o.MaskedGeneration,
        "block3",
        lambda numbers: 7e-5 * numbers,
        masked="channels",
        mask_ratio=0.15,
    ),
    "AffinityTransfer": layers(o.AffinityTransfer, "block2", 1.0),
}
# On validation examples the best on answers and, with a tenth of the labels, the best on layers.
TOGETHER = "SoftTargets and ContrastiveRepresentation"
DEEP = {
    **LAYERS,
    TOGETHER: Method(
        0.5,
        lambda shapes: [
            o.SoftTargets(temperature=2),
            o.ContrastiveRepresentation("pool", "pool", weight=0.8),
        ],
        ("pool",),
    ),
}
MIXED = "SoftTargets, T=2, mixed images, no labels"
METHODS = {
    LABELS: Method(None),
    **SOFT,
    ALL_TO_LABELS: soft(2, 1.0),
    MIXED: dataclasses.replace(soft(2, 0), mixed=True),
    **LOGITS,
    **DEEP,
}
TEMPERATURES = [f"SoftTargets, T={t}, label weight 0.1" for t in (1, 2, 4, 8)]


# --- the tracks ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Track:
    """A data set, its teacher and its students.

    Args:
      load: its splits.
      augment: `(image, seed)` to a view; of the teacher's training, and of the students' where
        they see views.
      teacher: makes it.
      student: from a size's widths.
      sizes: widths, by name.
      main: the size of which all is tried: layers, budgets, teachers.
      others: what is tried of the other sizes.
      shares: of the labels that are there.
      layers: whether layers are learned from.
      seeds: students of each row.
      teacher_epochs, teacher_rate: its recipe; weight decay is 5e-4 of the rate's SGD.
      views: of each example that the teacher answers; 0 for the examples as they are.
      copies: rows in turn that are one example and have one label.
      epochs: of a student.
      budgets: other numbers of epochs.
      weaker: teachers besides, by name: what makes them, and their epochs.
      rates: to choose from.
    """

    load: Callable[[], kd.data.ImageSplits]
    augment: Callable[[Any, Any], Any]
    teacher: Callable[[], keras.Model]
    student: Callable[[tuple[int, ...]], keras.Model]
    sizes: dict[str, tuple[int, ...]]
    main: str
    others: tuple[str, ...]
    layers: bool
    seeds: int
    teacher_epochs: int
    teacher_rate: float
    views: int
    epochs: int
    shares: tuple[float, ...] = (1, TENTH)
    copies: int = 1
    budgets: tuple[int, ...] = ()
    weaker: dict[str, tuple[Callable[[], keras.Model], int]] = dataclasses.field(
        default_factory=dict
    )
    rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2)


def shifted(margin: int) -> Callable[[Any, Any], Any]:
    def augment(x: Any, seed: Any) -> Any:
        padded = tf.pad(x, [[margin, margin], [margin, margin], [0, 0]])
        x = tf.image.stateless_random_crop(padded, x.shape, seed)
        return tf.image.stateless_random_flip_left_right(x, seed)

    return augment


def as_it_is(x: Any, seed: Any) -> Any:
    return x


def mixed(images: np.ndarray, augment: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Views that are partly of another image: mixup (Zhang et al. 2018) with Beta(1, 1).

    The teacher answers the mixture itself, so neither labels nor their mixing are asked for
    (Beyer et al. 2022).
    """
    pool = tf.constant(images)

    def view(x: Any, seed: Any) -> Any:
        which, share, ours, others = tf.unstack(tf.random.split(seed, 4))
        other = pool[tf.random.stateless_uniform([], which, maxval=len(images), dtype="int32")]
        part = tf.random.stateless_uniform([], share)
        return part * augment(x, ours) + (1 - part) * augment(other, others)

    return view


def residual_teacher(shape: tuple, widths: tuple[int, ...], depth: int) -> keras.Model:
    """A residual network; the three stages after the first halve what they see."""
    image = keras.Input(shape)
    x = convolved(image, widths[0], 1)
    for number, width in enumerate(widths[1:], 1):
        for index in range(depth):
            last = index == depth - 1
            x = residual(x, width, 2 if index == 0 else 1, number if last else None)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, keras.layers.Dense(10, name="logits")(x), name="teacher")


def residual(x: Any, width: int, stride: int, number: int | None) -> Any:
    shortcut = x
    if stride != 1 or x.shape[-1] != width:
        shortcut = keras.layers.Conv2D(width, 1, stride, padding="same", use_bias=False)(x)
        shortcut = keras.layers.BatchNormalization()(shortcut)
    x = keras.layers.ReLU()(convolved(x, width, stride, activate=False))
    x = keras.layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
    x = keras.layers.BatchNormalization()(x)
    # What a layer tells before its ReLU and after it: the objectives look at either.
    x = keras.layers.Add(name=f"norm{number}" if number else None)([x, shortcut])
    return keras.layers.ReLU(name=f"block{number}" if number else None)(x)


def convolved(x: Any, width: int, stride: int, *, activate: bool = True) -> Any:
    x = keras.layers.Conv2D(width, 3, stride, padding="same", use_bias=False)(x)
    x = keras.layers.BatchNormalization()(x)
    return keras.layers.ReLU()(x) if activate else x


def plain_student(shape: tuple, widths: tuple[int, ...]) -> keras.Model:
    """Three convolutions, each of which halves what it sees."""
    image = x = keras.Input(shape)
    for number, width in enumerate(widths, 1):
        x = keras.layers.Conv2D(width, 3, 2, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization(name=f"norm{number}")(x)
        x = keras.layers.ReLU(name=f"block{number}")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, keras.layers.Dense(10, name="logits")(x), name="student")


def resnet8(shape: tuple, widths: tuple[int, ...]) -> keras.Model:
    """MLPerf Tiny's network for CIFAR-10 at widths 16, 32 and 64: 78 thousand weights."""
    image = keras.Input(shape)
    x = convolved(image, widths[0], 1)
    for number, width in enumerate(widths, 1):
        x = residual(x, width, 1 if number == 1 else 2, number)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, keras.layers.Dense(10, name="logits")(x), name="student")


COPIES = 20


def spoken_digits() -> kd.data.ImageSplits:
    """Log-mel spectrograms: four speakers to learn from, one each to choose and to test.

    What tests has another voice than what was learned, so the learned voices are varied: each
    recording comes `COPIES` times, faster or slower and so higher or lower, anywhere in its
    second, with noise.
    """
    heard, random = kd.data.load_spoken_digits(), np.random.default_rng(0)

    def part(speakers: tuple[int, ...], copies: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.flatnonzero(np.isin(heard.speakers, speakers))
        clips = [heard.samples[row][: heard.lengths[row]] for row in np.repeat(rows, copies)]
        heard_so = [said(clip, random if copies > 1 else None) for clip in clips]
        return spectrograms(np.stack(heard_so)), np.repeat(heard.labels[rows], copies)

    return kd.data.ImageSplits(
        "spoken_digits",
        *part((0, 1, 2, 3), COPIES),
        *part((4,), 1),
        *part((5,), 1),
        class_names=heard.class_names,
    )


def said(clip: np.ndarray, random: np.random.Generator | None, length: int = 8000) -> np.ndarray:
    """In the middle of a second; or anywhere, 0.8 to 1.25 times as fast, 10 to 40 dB over noise."""
    speed = 1.0 if random is None else np.exp(random.uniform(np.log(0.8), np.log(1.25)))
    clip = np.interp(np.arange(int(len(clip) / speed)) * speed, np.arange(len(clip)), clip)[:length]
    room = length - len(clip)
    filled, begin = np.zeros(length), room // 2 if random is None else random.integers(room + 1)
    filled[begin : begin + len(clip)] = clip
    if random is not None:
        noise = np.sqrt(np.mean(clip**2)) * 10 ** (-random.uniform(10, 40) / 20)
        filled += noise * random.normal(size=length)
    return filled.astype("float32")


def spectrograms(sounds: np.ndarray) -> np.ndarray:
    """Decibels under the loudest, the last 70 of them as [-1, 1]: (n, 51, 32, 1)."""
    mel = keras.layers.MelSpectrogram(
        fft_length=512, sequence_length=320, sequence_stride=160, num_mel_bins=32,
        sampling_rate=8000, min_freq=60, max_freq=4000,
    )  # fmt: skip
    found = np.concatenate([mel(some) for some in np.array_split(sounds, len(sounds) // 500 + 1)])
    under = np.maximum(found - found.max((1, 2), keepdims=True), -70.0)
    return np.moveaxis(under / 35 + 1, 1, 2)[..., None].astype("float32")


def ds_cnn(shape: tuple, widths: tuple[int, ...]) -> keras.Model:
    """Zhang et al.'s network for keywords: one convolution, then depthwise separable ones."""
    sound = keras.Input(shape)
    x = keras.layers.Conv2D(widths[0], (10, 4), (2, 2), padding="same", use_bias=False)(sound)
    x = normalised(x)
    for width in widths[1:]:
        x = normalised(keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x))
        x = normalised(keras.layers.Conv2D(width, 1, use_bias=False)(x))
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(sound, keras.layers.Dense(10, name="logits")(x), name="student")


def normalised(x: Any) -> Any:
    # Some hundred updates: means over the last ten batches, not over a hundred.
    return keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))


GRAY, COLOUR, SOUND = (28, 28, 1), (32, 32, 3), (51, 32, 1)
TRACKS = {
    "fashion_mnist": Track(
        load=functools.partial(kd.data.load_fashion_mnist, download=True),
        augment=shifted(2),
        teacher=lambda: residual_teacher(GRAY, (24, 48, 96, 192), 2),
        student=functools.partial(plain_student, GRAY),
        sizes={"3k": (6, 11, 22), "11k": (11, 21, 42), "35k": (20, 38, 76)},
        main="11k",
        others=(LABELS, *TEMPERATURES, *LOGITS),
        layers=True,
        seeds=3,
        teacher_epochs=16,
        teacher_rate=0.1,
        views=0,
        epochs=24,
        budgets=(8, 72),
        weaker={
            "35k": (lambda: plain_student(GRAY, (20, 38, 76)), 16),
            "narrow": (lambda: residual_teacher(GRAY, (8, 16, 32, 64), 1), 16),
        },
    ),
    "cifar10": Track(
        load=functools.partial(kd.data.load_cifar10, download=True),
        augment=shifted(4),
        teacher=lambda: residual_teacher(COLOUR, (32, 64, 128, 256), 1),
        student=functools.partial(resnet8, COLOUR),
        sizes={"ResNet8": (16, 32, 64), "half": (8, 16, 32)},
        main="ResNet8",
        others=(
            LABELS,
            RATED,
            MIXED,
            "SoftTargets, standardised",
            "GeneralizedJSD",
            TEMPERATURES[2],
        ),
        layers=False,
        seeds=2,
        shares=(1,),
        teacher_epochs=24,
        teacher_rate=0.1,
        views=8,
        epochs=24,
        rates=(3e-3, 1e-2),
    ),
    "spoken_digits": Track(
        load=spoken_digits,
        augment=as_it_is,
        teacher=lambda: residual_teacher(SOUND, (16, 32, 64, 128), 1),
        student=functools.partial(ds_cnn, SOUND),
        sizes={"DS-CNN": (48,) * 5, "third": (26,) * 5},
        main="DS-CNN",
        others=(LABELS, RATED, "GeneralizedJSD", "DIST"),
        layers=False,
        seeds=3,
        copies=COPIES,
        teacher_epochs=4,
        teacher_rate=0.1,
        views=0,
        epochs=3,
        rates=(3e-3, 1e-2),
    ),
}


def small(track: Track) -> Track:
    """A track to see that all of it runs."""

    def load() -> kd.data.ImageSplits:
        splits = track.load()
        parts = {f"{a}_{p}": 256 for a in "xy" for p in ("train", "validation", "test")}
        return dataclasses.replace(splits, **{k: getattr(splits, k)[:n] for k, n in parts.items()})

    sizes = {track.main: track.sizes[track.main]}
    weaker = {name: (make, 1) for name, (make, _) in list(track.weaker.items())[:1]}
    return dataclasses.replace(
        track, load=load, sizes=sizes, seeds=1, teacher_epochs=1, epochs=1,
        views=min(2, track.views),
        budgets=track.budgets[:1], weaker=weaker, rates=track.rates[:1],
    )  # fmt: skip


# --- one run ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Job:
    """A student to train.

    Args:
      track: its name.
      share: of the labels that are there, 1 or a tenth.
      size: of the student.
      method: its name.
      seed: of the weights, the order and the labels that are left.
      rate: the cycle's highest; None for the best that was found on validation examples.
      epochs: None for the track's.
      teacher: "" for the track's own, else one of the weaker.
    """

    track: str
    share: float
    size: str
    method: str
    seed: int
    rate: float | None = None
    epochs: int | None = None
    teacher: str = ""

    @property
    def key(self) -> str:
        key = f"{self.track}/{self.share:g}/{self.size}/{self.method}/{self.seed}"
        if self.rate is not None:
            key += f"/rate {self.rate:g}"
        if self.epochs is not None:
            key += f"/epochs {self.epochs}"
        return key + (f"/teacher {self.teacher}" if self.teacher else "")

    @property
    def rated_as(self) -> str:
        """The method whose best rate it takes."""
        return LABELS if self.method == LABELS else RATED


def cycle(rate: float, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Up to `rate` in the first tenth of the steps, and down to zero along a cosine."""
    up = steps // 10
    return keras.optimizers.schedules.CosineDecay(
        0.0, steps - up, warmup_target=rate, warmup_steps=up
    )


@functools.cache
def splits_of(track: str, smoke: bool) -> kd.data.ImageSplits:
    return track_of(track, smoke).load()


def track_of(name: str, smoke: bool) -> Track:
    return small(TRACKS[name]) if smoke else TRACKS[name]


def compiled(model: keras.Model, optimizer: Any, **options: Any) -> keras.Model:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss, **options)
    return model


def views(x: np.ndarray, y: np.ndarray, augment: Callable, seed: int) -> tf.data.Dataset:
    """Batches of new views for ever."""
    examples = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=seed).repeat()
    seeds = tf.data.Dataset.random(seed=seed).batch(2).map(lambda two: tf.cast(two, "int32"))
    seen = tf.data.Dataset.zip(examples, seeds).map(
        lambda example, one: (augment(example[0], one), example[1]), num_parallel_calls=2
    )
    return seen.batch(BATCH, drop_remainder=True).prefetch(2)


def teacher_of(name: str, smoke: bool, work: Path, weaker: str = "") -> keras.Model:
    """The trained teacher; a call that was killed goes on from its last epoch."""
    track, data = track_of(name, smoke), splits_of(name, smoke)
    stem = f"{name}_{weaker}" if weaker else name
    path = work / f"{stem}.keras"
    if path.exists():
        return keras.saving.load_model(path)
    keras.utils.set_random_seed(0)
    make, epochs = track.weaker[weaker] if weaker else (track.teacher, track.teacher_epochs)
    teacher = make()
    steps = max(1, len(data.x_train) // BATCH)
    rate = cycle(track.teacher_rate, steps * epochs)
    compiled(teacher, keras.optimizers.SGD(rate, momentum=0.9, nesterov=True))
    for layer in teacher.layers:
        if isinstance(layer, keras.layers.Conv2D):
            layer.kernel.regularizer = keras.regularizers.L2(2.5e-4)
    teacher.fit(
        views(data.x_train, data.y_train, track.augment, 0),
        steps_per_epoch=steps,
        epochs=epochs,
        validation_data=(data.x_validation, data.y_validation),
        validation_batch_size=500,
        verbose=2,
        callbacks=[keras.callbacks.BackupAndRestore(work / f"{stem}_backup")],
    )
    teacher.save(work / f"new_{stem}.keras")
    os.replace(work / f"new_{stem}.keras", path)
    return teacher


def kinds(track: Track, weaker: str) -> list[str]:
    """The caches under a teacher: its logits, those beside layers, those for mixed views."""
    deep, mixes = track.layers and not weaker, track.views and not weaker
    return ["logits", *["layers"] * bool(deep), *["mixed"] * bool(mixes)]


def cache_folder(name: str, work: Path, kind: str, weaker: str) -> Path:
    return work / "_".join(filter(None, (name, weaker, kind)))


def cache_of(
    name: str, smoke: bool, work: Path, kind: str, y: Any = None, weaker: str = ""
) -> kd.TeacherCache:
    """The teacher's answers to the track's views, made where they are not there yet."""
    track, data = track_of(name, smoke), splits_of(name, smoke)
    folder = cache_folder(name, work, kind, weaker)
    deep = kind == "layers"
    taps = sorted({tap for method in DEEP.values() for tap in method.taps}) if deep else []
    rows = data.x_train, data.y_train if y is None else y
    augment = track.augment if track.views else None
    if kind == "mixed":
        augment = mixed(data.x_train, track.augment)
    if y is not None:
        return kd.TeacherCache.open(folder, rows, augment=augment)
    return kd.TeacherCache.build(
        teacher_of(name, smoke, work, weaker), rows, folder, layers=taps, layer_dtype="int8",
        augment=augment, epochs=max(1, track.views),
    )  # fmt: skip


def run(job: Job, rate: float, smoke: bool, work: Path) -> dict[str, float]:
    """Train the student of a job: its accuracy on the validation and the test images."""
    begin, data = time.monotonic(), splits_of(job.track, smoke)
    student = trained(job, rate, smoke, work)
    return {
        "rate": rate,
        "validation": pays.accuracy(student, data.x_validation, data.y_validation),
        "test": pays.accuracy(student, data.x_test, data.y_test),
        "parameters": student.count_params(),
        "seconds": round(time.monotonic() - begin, 1),
    }


def trained(job: Job, rate: float, smoke: bool, work: Path) -> keras.Model:
    """The student of a job, with its last weights."""
    track, data, method = (
        track_of(job.track, smoke),
        splits_of(job.track, smoke),
        METHODS[job.method],
    )
    keras.utils.set_random_seed(job.seed)
    student = model = track.student(track.sizes[job.size])
    steps = max(1, len(data.x_train) // BATCH) * (job.epochs or track.epochs)
    y = data.y_train
    if job.share < 1:
        kept = pays.keep_labels(y[:: track.copies], job.share, job.seed)
        y = np.repeat(kept, track.copies)[: len(y)]
    if method.label_weight is None and job.share < 1:
        known = y >= 0
        augment = track.augment if track.views else as_it_is
        batches = views(data.x_train[known], y[known], augment, job.seed)
    else:
        kind = "mixed" if method.mixed else "layers" if method.taps else "logits"
        cache = cache_of(job.track, smoke, work, kind, y, job.teacher)
        batches = cache.dataset(BATCH, seed=job.seed, drop_remainder=True).repeat()
        if method.label_weight is None:
            batches = batches.map(lambda batch, y: (batch.inputs, y))
        else:
            shapes = {tap: cache_shape(job.track, smoke, work, tap) for tap in method.taps}
            model = kd.Distiller(
                student, cache, method.make(shapes), label_weight=method.label_weight
            )
    compiled(model, keras.optimizers.Adam(cycle(rate, steps)), steps_per_execution=20)
    model.fit(batches.prefetch(2), steps_per_epoch=steps, shuffle=False, verbose=0)
    return student


def cache_shape(name: str, smoke: bool, work: Path, tap: str) -> tuple:
    return tuple(teacher_of(name, smoke, work).get_layer(tap).output.shape[1:])


# --- all of them --------------------------------------------------------------------------------


def rate_jobs(name: str, track: Track, sizes: Sequence[str]) -> Iterator[Job]:
    """What chooses the rates: with the first seed."""
    for share in track.shares:
        for size in sizes:
            for method in (LABELS, RATED):
                yield from (Job(name, share, size, method, 0, rate) for rate in track.rates)


def rows_of(
    name: str, share: float, sizes: Sequence[str], methods: Sequence[str], seeds: Sequence[int]
) -> Iterator[Job]:
    """Rows of the table, seed after seed."""
    for n in seeds:
        for size in sizes:
            for method in methods:
                if method != ALL_TO_LABELS or share < 1:
                    yield Job(name, share, size, method, n)


def lines_of(name: str, track: Track, seeds: Sequence[int]) -> Iterator[Job]:
    """Other budgets, the longest first, and weaker teachers."""
    main = track.main
    for epochs in sorted(track.budgets, reverse=True):
        for n in seeds:
            yield from (Job(name, 1, main, m, n, epochs=epochs) for m in (LABELS, RATED))
    for weaker in track.weaker:
        yield from (Job(name, 1, main, RATED, n, teacher=weaker) for n in seeds)


def waves(name: str, track: Track) -> list[list[Job]]:
    """All runs, those that say most first; the rates of a wave are known before it."""
    main, others = [track.main], [size for size in track.sizes if size != track.main]
    methods = [m for m in METHODS if m not in DEEP] if track.layers else list(track.others)
    deep = list(DEEP) if track.layers else []
    if MIXED in methods and not track.views:
        methods.remove(MIXED)

    def rows(
        methods: Sequence[str], seeds: Sequence[int], sizes: Sequence[str] = main
    ) -> list[Job]:
        # The smallest share first: there is most to gain.
        shares = sorted(track.shares)
        return [j for share in shares for j in rows_of(name, share, sizes, methods, seeds)]

    found = [list(rate_jobs(name, track, main))]
    # Two seeds of all come before the third of any.
    for seeds in (range(min(2, track.seeds)), range(2, track.seeds)):
        found += [
            rows((LABELS, RATED), seeds),
            rows(methods, seeds),
            rows(deep, seeds),
            list(lines_of(name, track, seeds)),
        ]
    return [
        *found,
        list(rate_jobs(name, track, others)),
        rows(track.others, range(track.seeds), others),
    ]


def best_rate(rows: dict[str, dict], job: Job, track: Track) -> float:
    """By validation examples, of the method that the job's is rated as."""
    rated = Job(job.track, job.share, job.size, job.rated_as, 0)
    tried = {r: rows[dataclasses.replace(rated, rate=r).key] for r in track.rates}
    return max(tried, key=lambda rate: tried[rate]["validation"])


def run_track(name: str, smoke: bool, work: Path, output: Path, workers: int) -> dict[str, Any]:
    """Every job that the JSON does not hold yet; it is written after each."""
    track = track_of(name, smoke)
    stored = _common.read_json(output) | {"host": _common.host()}
    rows = stored.setdefault("rows", {})
    teachers = stored.setdefault("teachers", {})
    for wanted in waves(name, track):
        left = [job for job in wanted if job.key not in rows]
        for weaker in sorted({job.teacher for job in left}):
            stem = f"{name}/{weaker}" if weaker else name
            file = work / f"{stem.replace('/', '_')}.keras"
            folders = [cache_folder(name, work, kind, weaker) for kind in kinds(track, weaker)]
            # Also one that is told in the JSON and is not on this machine.
            if stem not in teachers or not all(path.exists() for path in (file, *folders)):
                with _process(1) as pool:
                    teachers[stem] = pool.submit(teacher_job, name, smoke, work, weaker).result()
                _common.write_json(output, stored)
                print(f"teacher of {stem}: {teachers[stem]}", flush=True)
        with _process(workers) as pool:
            running = {}
            for job in left:
                rate = job.rate or best_rate(rows, job, track)
                same = dataclasses.replace(job, rate=rate).key
                if same in rows:  # it was run to choose the rate
                    rows[job.key] = rows[same]
                    continue
                running[pool.submit(run, job, rate, smoke, work)] = job
            for done in concurrent.futures.as_completed(running):
                rows[running[done].key] = done.result()
                _common.write_json(output, stored)
                print(
                    f"{rows[running[done].key]['seconds']:7.1f} s  {running[done].key}", flush=True
                )
        _common.write_json(output, stored)
    return stored


def _process(workers: int) -> concurrent.futures.ProcessPoolExecutor:
    """Processes that share nothing; of several each computes in one thread."""
    if workers > 1:
        os.environ["TF_NUM_INTRAOP_THREADS"] = "1"
    else:
        os.environ.pop("TF_NUM_INTRAOP_THREADS", None)
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(workers, context, _end_with_parent)


def _end_with_parent() -> None:
    """A process whose parent was killed ends, too."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def teacher_job(name: str, smoke: bool, work: Path, weaker: str) -> dict[str, float]:
    """Train the teacher and ask it; its accuracy on the validation and the test examples."""
    teacher, data = teacher_of(name, smoke, work, weaker), splits_of(name, smoke)
    for kind in kinds(track_of(name, smoke), weaker):
        cache_of(name, smoke, work, kind, weaker=weaker)
    return {
        "parameters": teacher.count_params(),
        "validation": pays.accuracy(teacher, data.x_validation, data.y_validation),
        "test": pays.accuracy(teacher, data.x_test, data.y_test),
    }


# --- the tables ---------------------------------------------------------------------------------


def tables(stored: dict[str, Any]) -> str:
    parts = [f"{_common.host_line(stored['host'])}.", RULES]
    for name in [name for name in stored["teachers"] if "/" not in name]:
        teacher, rows = stored["teachers"][name], stored["rows"]
        parts.append(
            f"**{name}**: teacher {teacher['parameters']:,} weights, "
            f"{100 * teacher['test']:.2f} %; "
            f"{seeds_said(name, rows)} seeds, {TRACKS[name].epochs} epochs where none is named."
        )
        parts += [table(name, share, rows) for share in TRACKS[name].shares]
        parts += [budgets(name, rows), strengths(name, stored)]
    return "\n\n".join(part for part in parts if part)


_Rows = dict[int, dict]


def by_budget(name: str, rows: dict[str, dict]) -> list[tuple[int, _Rows, _Rows]]:
    """Epochs, and what RATED and its twin of the same budget gave, by seed."""
    track, found = TRACKS[name], []
    for epochs in sorted({track.epochs, *track.budgets}):
        other = None if epochs == track.epochs else epochs
        ours, twins = (
            seeds_of(Job(name, 1, track.main, method, 0, epochs=other), rows)
            for method in (RATED, LABELS)
        )
        if ours.keys() & twins.keys():
            found.append((epochs, ours, twins))
    return found


def by_teacher(name: str, stored: dict[str, Any]) -> list[tuple[dict, _Rows, _Rows]]:
    """Teachers, the weakest first, and what RATED under each and its twin gave, by seed."""
    main, found = TRACKS[name].main, []
    twins = seeds_of(Job(name, 1, main, LABELS, 0), stored["rows"])
    teachers = {s.partition("/")[2]: t for s, t in stored["teachers"].items() if named(s, name)}
    for weaker, teacher in sorted(teachers.items(), key=lambda item: item[1]["test"]):
        ours = seeds_of(Job(name, 1, main, RATED, 0, teacher=weaker), stored["rows"])
        if ours.keys() & twins.keys():
            found.append((teacher, ours, twins))
    return found


def named(stem: str, name: str) -> bool:
    return stem.split("/")[0] == name


def budgets(name: str, rows: dict[str, dict]) -> str:
    lines = [
        [f"{epochs}", cell(twins, twins, LABELS), cell(ours, twins, RATED)]
        for epochs, ours, twins in by_budget(name, rows)
    ]
    head = [f"{TRACKS[name].main}, epochs", LABELS, RATED]
    return _common.markdown(head, lines) if len(lines) > 1 else ""


def strengths(name: str, stored: dict[str, Any]) -> str:
    lines = [
        [
            f"{100 * teacher['test']:.2f} % ({teacher['parameters']:,} weights)",
            cell(ours, twins, RATED),
        ]
        for teacher, ours, twins in by_teacher(name, stored)
    ]
    head = [f"{TRACKS[name].main}, teacher", RATED]
    return _common.markdown(head, lines) if len(lines) > 1 else ""


def picture(stored: dict[str, Any], name: str, path: Path) -> None:
    """Gains against the students' epochs and against the teacher's accuracy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs, *students = zip(*by_budget(name, stored["rows"]), strict=True)
    for rows, label, style in zip(
        students, ("distilled, T = 2", LABELS), ("o-", "s--"), strict=True
    ):
        values = [[100 * row["test"] for row in one.values()] for one in rows]
        left.errorbar(epochs, *means_and_spreads(values), fmt=style, capsize=3, label=label)
    left.set(xlabel="epochs of the student", ylabel="test accuracy, %", xscale="log")
    left.set_xticks(epochs, [str(one) for one in epochs], minor=False)
    left.minorticks_off()
    left.legend(frameon=False)
    teachers, ours, twins = zip(*by_teacher(name, stored), strict=True)
    gains = [
        [100 * (a[n]["test"] - b[n]["test"]) for n in sorted(a.keys() & b.keys())]
        for a, b in zip(ours, twins, strict=True)
    ]
    strength = [100 * teacher["test"] for teacher in teachers]
    right.errorbar(strength, *means_and_spreads(gains), fmt="o-", capsize=3)
    right.axhline(0, color="0.6", linewidth=1)
    right.set(xlabel="test accuracy of the teacher, %", ylabel="gain over labels alone, points")
    figure.savefig(path, dpi=150)


def means_and_spreads(values: Sequence[list[float]]) -> tuple:
    return tuple(zip(*map(pays.mean_and_spread, values), strict=True))


def seeds_said(name: str, rows: dict[str, dict]) -> int:
    """How many seeds of the main size's twin there are."""
    return len(seeds_of(Job(name, 1, TRACKS[name].main, LABELS, 0), rows))


def seeds_of(job: Job, rows: dict[str, dict]) -> dict[int, dict]:
    """What a job gave, by seed."""
    keys = {n: dataclasses.replace(job, seed=n).key for n in range(TRACKS[job.track].seeds)}
    return {seed: rows[key] for seed, key in keys.items() if key in rows}


RULES = """\
Percent of the test examples, mean ± sample standard deviation over the seeds. A gain is paired by
seed with the label-only twin of the same budget, and bold only beyond the spread: |mean| > 2 sd /
sqrt(n), a mild test at so few seeds. A loss is called a loss."""


def table(name: str, share: float, rows: dict[str, dict]) -> str:
    sizes = [s for s in TRACKS[name].sizes if seeds_of(Job(name, share, s, LABELS, 0), rows)]
    if not sizes:
        return ""
    twins = {size: seeds_of(Job(name, share, size, LABELS, 0), rows) for size in sizes}
    weights = {s: next(iter(twins[s].values()))["parameters"] for s in sizes}
    lines = []
    for method in METHODS:
        ours = {size: seeds_of(Job(name, share, size, method, 0), rows) for size in sizes}
        if any(ours.values()):
            lines.append([method, *(cell(ours[size], twins[size], method) for size in sizes)])
    words = "all labels" if share == 1 else "a tenth of the labels"
    return _common.markdown([words, *(f"{s}: {weights[s]:,} weights" for s in sizes)], lines)


def cell(ours: dict[int, dict], twins: dict[int, dict], method: str) -> str:
    seeds = sorted(ours.keys() & twins.keys())
    if not seeds:
        return ""
    values, twin = ([one[seed]["test"] for seed in seeds] for one in (ours, twins))
    if len(seeds) == 1:
        gain = "" if method == LABELS else f" ({100 * (values[0] - twin[0]):+.2f})"
        return f"{100 * values[0]:.2f}{gain}, one seed"
    words = pays.points(values)
    if method == LABELS:
        return words
    fewer = f", {len(seeds)} seeds" if len(seeds) < len(twins) else ""
    return f"{words} ({pays.gain(values, twin)}){fewer}"


def plan(stored: dict[str, Any], names: list[str], smoke: bool, workers: int) -> str:
    lines = []
    for name in names:
        track, rows = track_of(name, smoke), stored.get("rows", {})
        wanted = [job for wave in waves(name, track) for job in wave]
        left = [job for job in wanted if job.key not in rows]
        known = [row["seconds"] for key, row in rows.items() if key.startswith(f"{name}/")]
        hours = statistics.mean(known) * len(left) / workers / 3600 if known else math.nan
        lines.append(f"{name}: {len(left)} of {len(wanted)} students left, {hours:.1f} hours")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--track", choices=TRACKS, action="append", help="all by default")
    parser.add_argument("--plan", action="store_true", help="what is left")
    parser.add_argument("--table", action="store_true", help="print the tables, train nothing")
    parser.add_argument("--picture", type=Path, help="draw the first track's lines into this file")
    parser.add_argument("--smoke", action="store_true", help="tiny, another JSON")
    parser.add_argument("--workers", type=int, default=2, help="students at a time")
    parser.add_argument("--output", type=Path, help="the JSON")
    parser.add_argument(
        "--work", type=Path, default=Path.home() / ".cache" / "keras_distill_gains",
        help="where teachers and caches are kept",
    )  # fmt: skip
    args = parser.parse_args()
    name = "gains_smoke.json" if args.smoke else "gains.json"
    output = args.output or (Path(tempfile.gettempdir()) if args.smoke else _common.RESULTS) / name
    names = args.track or list(TRACKS)
    if args.plan:
        print(plan(_common.read_json(output), names, args.smoke, args.workers))
    elif args.table:
        print(tables(_common.read_json(output)))
    elif args.picture:
        picture(_common.read_json(output), names[0], args.picture)
    else:
        args.work.mkdir(parents=True, exist_ok=True)
        for name in names:
            stored = run_track(name, args.smoke, args.work, output, args.workers)
        print("\n" + tables(stored))


if __name__ == "__main__":
    main()
