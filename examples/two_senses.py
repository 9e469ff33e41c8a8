"""Two senses: a teacher that sees the digit, a student that hears it.

Shows: teacher and student on other inputs, pairs nobody labelled, speakers held out, an int8 file.
Needs: pip install -e ".[demo]"; the recordings, by the commands below. --smoke makes its own.
Takes: five minutes on one core; --smoke some seconds.

    git clone --depth 1 https://github.com/Jakobovski/free-spoken-digit-dataset
    KERAS_DISTILL_DATA=free-spoken-digit-dataset python examples/two_senses.py

Somebody shows a card and says what is on it, and nobody writes down what: that gives pairs of an
image (scikit-learn's handwritten digits) and a recording (Free Spoken Digit Dataset). The teacher
has learned to read from other images, and has never heard a sound. It can teach where the student
has recordings without labels; where all are labelled it knows nothing that a label does not say,
and the table has that ceiling, too. The twin has labels of one recording in forty, the student the
same labels and the teacher's answers to every card. Each seed tests on another voice.
"""

from operator import itemgetter
from pathlib import Path

from _shared import arguments, draw, in_folder, judged, shuffled, some_labels, table, trained

import keras
import numpy as np
from _sounds import CHOOSES, TESTED, ds_cnn, recordings, spectrograms

import keras_distill as kd

BATCH = 64


def reader(seed: int) -> keras.Model:
    """A network that reads digits of 8x8 points."""
    keras.utils.set_random_seed(seed)
    layers = [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(32, 3, activation="relu"),
        keras.layers.Conv2D(64, 3, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(10, name="logits"),
    ]
    return keras.Sequential(layers, name="reader")


def cards(images: kd.data.ImageSplits, digits: np.ndarray, seed: int) -> np.ndarray:
    """For each recording an image of its digit, of those that the teacher has not learned from."""
    x = np.concatenate([images.x_validation, images.x_test])
    y = np.concatenate([images.y_validation, images.y_test])
    random = np.random.default_rng(seed)
    return x[[random.choice(np.flatnonzero(y == digit)) for digit in digits]]


def run(
    seed: int, said: kd.data.Recordings, views: np.ndarray, sizes: dict[str, int], folder: Path
) -> dict[str, dict[str, float]]:
    images = kd.data.load_digits(seed)
    teacher = reader(seed)
    trained(teacher, shuffled(images.x_train, images.y_train, 64, seed), sizes["steps"], 0.003)

    tested, copies = TESTED[seed], sizes["copies"]
    learned = said.of(*(set(TESTED) - {tested}))
    sounds = views[np.repeat(said.of(*TESTED).speakers != tested, copies)]
    y = np.repeat(learned.labels, copies)
    shown = np.repeat(cards(images, learned.labels, seed), copies, axis=0)
    few = np.repeat(some_labels(learned.labels, 0.025, seed), copies)
    known = few >= 0

    twin, student, ceiling = (ds_cnn(sizes["width"], sizes["blocks"], seed) for _ in range(3))
    trained(twin, shuffled(sounds[known], few[known], BATCH, seed), sizes["steps"], 0.01)
    trained(ceiling, shuffled(sounds, y, BATCH, seed), sizes["steps"], 0.01)
    distiller = kd.Distiller(
        student, teacher, kd.SoftTargets(temperature=2.0), label_weight=0.1,
        student_preprocess=itemgetter("sound"), teacher_preprocess=itemgetter("card"),
    )  # fmt: skip
    pairs = shuffled({"card": shown, "sound": sounds}, few, BATCH, seed)
    trained(distiller, pairs, sizes["steps"], 0.01)

    # One variant of each recording, and not the same of all.
    small = kd.edge.quantize_aware(student, calibration_data=sounds[:: copies + 1])
    export = kd.edge.export_tflite(
        small, folder / f"student{seed}.tflite", precision="int8", labels=said.class_names
    )
    # Of a trial's few updates: answers that hardly differ from row to row, which eight bits part.
    least = sizes.get("min_correlation")
    heard = spectrograms(said.of(CHOOSES))
    kd.edge.verify(export, student, heard, quantized=small, min_correlation=least)
    never = said.of(tested)
    x = spectrograms(never)
    found = {
        "teacher, that sees the card": judged(
            teacher.predict(cards(images, never.labels, seed), verbose=0), never.labels
        )
    }
    answers = {
        TWIN: twin.predict(x, verbose=0),
        "the same, taught by the one that sees": student.predict(x, verbose=0),
        "its int8 file": kd.edge.load_tflite(export.path).predict(x),
        "labels of all recordings": ceiling.predict(x, verbose=0),
    }
    return found | {name: judged(logits, never.labels) for name, logits in answers.items()}


TWIN = "DS-CNN that hears, labels of one in forty"
FULL = {"copies": 10, "width": 32, "blocks": 4, "steps": 600}
SMOKE = {"copies": 2, "width": 8, "blocks": 1, "steps": 10}
SMOKE["min_correlation"] = 0.3


def main() -> None:
    args = arguments(__doc__, seeds=3)
    said, sizes = recordings(args.smoke), SMOKE if args.smoke else FULL
    views = spectrograms(said.of(*TESTED), sizes["copies"])
    with in_folder(args.output) as folder:
        found = [run(seed, said, views, sizes, folder) for seed in range(args.seeds)]
        print(table(found, TWIN, better={"accuracy": 1, "cross-entropy": -1}))
        draw(found, "accuracy", folder / "two_senses.png", "accuracy of a voice never heard, %")


if __name__ == "__main__":
    main()
