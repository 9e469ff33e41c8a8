"""Spoken digits of a voice never heard, by a network for a microcontroller.

Shows: a log-mel front end, speakers held out, variants of each voice, few labels, an int8 file.
Needs: pip install -e ".[demo]"; the recordings, by the commands below. --smoke makes its own.
Takes: five minutes on one core; --smoke some seconds.

    git clone --depth 1 https://github.com/Jakobovski/free-spoken-digit-dataset
    KERAS_DISTILL_DATA=free-spoken-digit-dataset python examples/spoken_digits.py

Six people say each digit fifty times (Free Spoken Digit Dataset, CC BY-SA 4.0). Each seed tests on
another one of them; the settings were chosen on one who is never tested on, and whom nobody learns
from. A tenth of the recordings has a label for the student; the teacher has learned from all labels
of the same four people and answers every variant of every recording, labelled or not. The twin has
the same first weights and as many updates, on the variants of the labelled recordings.
"""

from _shared import arguments, draw, in_folder, judged, shuffled, some_labels, table, trained

import keras
import numpy as np
from _sounds import CHOOSES, TESTED, ds_cnn, normalised, recordings, spectrograms

import keras_distill as kd

BATCH = 64


def teacher_network(width: int, seed: int) -> keras.Model:
    """Convolutions, each of which halves what it sees."""
    keras.utils.set_random_seed(seed)
    sound = x = keras.Input((32, 32, 1))
    for times in (1, 2, 4, 8):
        x = keras.layers.Conv2D(times * width, 3, 2, padding="same", use_bias=False)(x)
        x = normalised(x)
    x = keras.layers.Dropout(0.3)(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(sound, keras.layers.Dense(10, name="logits")(x))


def run(
    seed: int, said: kd.data.Recordings, views: np.ndarray, sizes: dict[str, int], folders: tuple
) -> dict[str, dict[str, float]]:
    (folder, scratch), tested, copies = folders, TESTED[seed], sizes["copies"]
    learned = said.of(*(set(TESTED) - {tested}))
    x = views[np.repeat(said.of(*TESTED).speakers != tested, copies)]
    y = np.repeat(learned.labels, copies)
    few = np.repeat(some_labels(learned.labels, 0.1, seed), copies)
    known = few >= 0

    teacher = teacher_network(sizes["teacher"], seed)
    trained(teacher, shuffled(x, y, BATCH, seed), sizes["teacher_steps"], 0.003)
    twin, student = (ds_cnn(sizes["student"], sizes["blocks"], seed) for _ in range(2))
    trained(twin, shuffled(x[known], few[known], BATCH, seed), sizes["steps"], 0.01)
    cache = kd.TeacherCache.build(teacher, (x, few), scratch / f"cache{seed}", verbose=False)
    distiller = kd.Distiller(student, cache, kd.SoftTargets(temperature=2.0), label_weight=0.1)
    batches = cache.dataset(BATCH, seed=seed, drop_remainder=True).repeat()
    trained(distiller, batches, sizes["steps"], 0.01)

    # One variant of each recording, and not the same of all.
    small = kd.edge.quantize_aware(student, calibration_data=x[:: copies + 1])
    export = kd.edge.export_tflite(
        small, folder / f"student{seed}.tflite", precision="int8", labels=said.class_names
    )
    # Of a trial's few updates: answers that hardly differ from row to row, which eight bits part.
    least = sizes.get("min_correlation")
    heard = spectrograms(said.of(CHOOSES))
    kd.edge.verify(export, student, heard, quantized=small, min_correlation=least)
    never = said.of(tested)
    sounds = spectrograms(never)
    answers = {
        "teacher, all labels": teacher.predict(sounds, verbose=0),
        "DS-CNN, a tenth of the labels": twin.predict(sounds, verbose=0),
        "the same, distilled": student.predict(sounds, verbose=0),
        "its int8 file": kd.edge.load_tflite(export.path).predict(sounds),
    }
    return {name: judged(logits, never.labels) for name, logits in answers.items()}


FULL = {"copies": 10, "teacher": 24, "teacher_steps": 700, "student": 32, "blocks": 4, "steps": 600}
SMOKE = {"copies": 2, "teacher": 4, "teacher_steps": 10, "student": 8, "blocks": 1, "steps": 10}
SMOKE["min_correlation"] = 0.3


def main() -> None:
    args = arguments(__doc__, seeds=3)
    said, sizes = recordings(args.smoke), SMOKE if args.smoke else FULL
    views = spectrograms(said.of(*TESTED), sizes["copies"])
    with in_folder(args.output) as folder, in_folder(None) as scratch:
        found = [run(seed, said, views, sizes, (folder, scratch)) for seed in range(args.seeds)]
        baseline = "DS-CNN, a tenth of the labels"
        print(table(found, baseline, better={"accuracy": 1, "cross-entropy": -1}))
        draw(found, "accuracy", folder / "spoken_digits.png", "accuracy of a voice never heard, %")


if __name__ == "__main__":
    main()
