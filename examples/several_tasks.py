"""What is said, and by whom: a teacher for each, one student for both.

Shows: `teachers.MultiTask`, one student of two heads, labels that most rows lack for either head.
Needs: pip install -e ".[demo]"; spoken_digits.npz, or the recordings of the Free Spoken Digit
    Dataset, in a folder that KERAS_DISTILL_DATA names (keras_distill.data.load_spoken_digits);
    git clone https://github.com/Jakobovski/free-spoken-digit-dataset
    export KERAS_DISTILL_DATA=$PWD/free-spoken-digit-dataset
Takes: three minutes of one core; --smoke makes its own sounds and takes seconds.

    python examples/several_tasks.py

One teacher knows digits, another voices; each was trained for its task alone, on all of its labels.
The student is one small network with two heads. A tenth of the recordings say which digit they
hold, another tenth who speaks: no recording has both labels. The twin is the same network, trained
on these two tenths; the student has every recording, and each head its own teacher.
"""

from _shared import arguments, draw, in_folder, table

import keras
import numpy as np

import keras_distill as kd

HEADS, BATCH = {"digit": 10, "speaker": 6}, 64
layers = keras.layers


def sounds(smoke: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Log-mel spectrograms `(n, 61, 32, 1)`, and what they are labelled with."""
    if smoke:
        names = {"digit": np.arange(120) % 10, "speaker": np.arange(120) // 10 % 6}
        tones = np.arange(8000) * (200 + 100 * names["digit"] + 20 * names["speaker"])[:, None]
        samples = np.sin(tones * 2 * np.pi / 8000).astype("float32")
    else:
        found = kd.data.load_spoken_digits()
        samples, names = found.samples, {"digit": found.labels, "speaker": found.speakers}
    mel = layers.MelSpectrogram(
        256, sequence_stride=128, sampling_rate=8000, num_mel_bins=32, min_freq=60
    )
    parts = [mel(samples[at : at + 500]) for at in range(0, len(samples), 500)]
    x = np.concatenate(parts).transpose(0, 2, 1)[..., None]
    return (x - x.mean()) / x.std(), {name: y.astype("int32") for name, y in names.items()}


def convolution(x, width: int, strides: int = 1):
    x = layers.Conv2D(width, 3, strides, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))


def separable(x, width: int, strides: int = 1):
    x = layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Conv2D(width, 1, use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))


def teacher_of(name: str, shape: tuple, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input(shape)
    for width, strides in ((32, 2), (64, 2), (64, 1), (96, 2)):
        x = convolution(x, width, strides)
    x = layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(HEADS[name], name=name)(x))


def network(shape: tuple, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(shape)
    x = convolution(inputs, 12, 2)
    for width, strides in ((24, 2), (32, 1), (48, 2)):
        x = separable(x, width, strides)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, {name: layers.Dense(n, name=name)(x) for name, n in HEADS.items()})


def compiled(model: keras.Model, steps: int, rate: float, heads=HEADS) -> keras.Model:
    falling = keras.optimizers.schedules.CosineDecay(rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    # A trial's few steps are done before a graph would be traced.
    eagerly = steps < 10
    model.compile(keras.optimizers.Adam(falling), dict.fromkeys(heads, loss), run_eagerly=eagerly)
    return model


def taught(student: keras.Model, cache: kd.TeacherCache, steps: int, rate: float) -> None:
    distiller = kd.Distiller(student, cache, kd.SoftTargets(temperature=2.0))
    batches = cache.dataset(BATCH).repeat()
    compiled(distiller, steps, rate).fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0)


def measured(answers: dict, y: dict) -> dict[str, float]:
    """Accuracy in %, of each head."""
    return {name: 100 * float(np.mean(np.argmax(answers[name], -1) == y[name])) for name in HEADS}


def split(names: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train and to test, a fifth, where every speaker says every digit; of all seeds."""
    order = np.random.default_rng(2012).permutation(len(names["digit"]))
    order = order[np.argsort((10 * names["speaker"] + names["digit"])[order], kind="stable")]
    test = np.arange(len(order)) % 5 == 0
    return order[~test], order[test]


def run(seed: int, train: tuple, test: tuple, steps: int, folders: tuple) -> dict:
    (folder, scratch), rng = folders, np.random.default_rng(seed)
    order = rng.permutation(len(train[0]))
    x, y = train[0][order], {name: labels[order] for name, labels in train[1].items()}
    x_test, y_test = test
    tenth = np.arange(len(x)) % 10
    few = {name: np.where(tenth == place, y[name], -1) for place, name in enumerate(HEADS)}

    teachers = {}
    for name in HEADS:
        teacher = compiled(teacher_of(name, x.shape[1:], seed), steps // 3, 0.003, [name])
        epochs = max(1, steps // 3 * BATCH // len(x))
        teacher.fit(x, y[name], batch_size=BATCH, epochs=epochs, verbose=0)
        teachers[name] = teacher

    twin, student = network(x.shape[1:], seed), network(x.shape[1:], seed)
    rows = np.flatnonzero(tenth < len(HEADS))
    rows = np.resize(rng.permutation(rows), steps * BATCH)
    mine = {name: labels[rows] for name, labels in few.items()}
    compiled(twin, steps, 0.01).fit(x[rows], mine, batch_size=BATCH, verbose=0)
    cache = kd.TeacherCache.build(
        kd.teachers.MultiTask(teachers), (x, few), scratch / f"cache{seed}", verbose=False
    )
    taught(student, cache, steps, 0.01)
    # Steps of eight bits cost the digits two points of a hundred; the teachers mend that.
    small = kd.edge.quantize_aware(student, calibration_data=x[:500])
    taught(small, cache, steps // 4, 0.001)
    export = kd.edge.export_tflite(small, folder / f"student{seed}.tflite", precision="int8")
    kd.edge.verify(export, student, (x, y), quantized=small)
    answers = {
        "a teacher each, all labels": {
            k: t.predict(x_test, verbose=0) for k, t in teachers.items()
        },
        "one network, a tenth of the labels each": twin.predict(x_test, verbose=0),
        "the same, distilled": student.predict(x_test, verbose=0),
        "its int8 file": kd.edge.load_tflite(export.path).predict(x_test),
    }
    return {model: measured(found, y_test) for model, found in answers.items()}


def main() -> None:
    args = arguments(__doc__, seeds=3)
    x, names = sounds(args.smoke)
    train, test = ((x[r], {name: y[r] for name, y in names.items()}) for r in split(names))
    steps = 6 if args.smoke else 500
    with in_folder(args.output) as folder, in_folder(None) as scratch:
        found = [run(seed, train, test, steps, (folder, scratch)) for seed in range(args.seeds)]
        baseline = "one network, a tenth of the labels each"
        print(table(found, baseline, better=dict.fromkeys(HEADS, 1)))
        draw(found, "digit", folder / "several_tasks.png", "digits heard right, %")


if __name__ == "__main__":
    main()
