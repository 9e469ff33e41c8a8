"""What to watch next: a teacher that knows people and films, a student that keeps to the device.

Shows: a teacher with side features, views made on the fly, soft targets and ranking distillation.
Needs: pip install -e ".[demo]"; MovieLens-100K by the lines below (its terms forbid copies of it).
Takes: two to three minutes on one core; --smoke a few seconds, with people that are made up.

    pip download --no-deps recbole==1.2.1
    unzip -j recbole-*.whl 'recbole/dataset_example/ml-100k/*' -d "$KERAS_DISTILL_DATA/ml-100k"
    python examples/recommender.py

The teacher reads which films somebody has rated, the ratings, age, gender, trade, genres and years,
and has learned from all 943 people. The student runs on a device and reads which films were liked
there: a tower for that history, a vector a film. Every fifth person gave one for its training. A
part of it is shown, and the labels are what was liked in the rest, while the teacher has an opinion
on every film. The last fifth of a person's ratings is the test, the tenth before it validation.
"""

from _shared import arguments, draw, in_folder, table

import keras
import numpy as np
import tensorflow as tf
from _reading import data_folder, movielens
from keras import layers, ops

import keras_distill as kd

LIKED, BEST, BATCH = 4, 10, 64
TWIN = "two towers, a fifth of the people"


def made_up(people: int = 120, films: int = 100) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    person, film = rng.normal(size=(people, 4)), rng.normal(size=(films, 4))
    stars = np.clip(np.round(3 + person @ film.T), 1, 5)
    part = rng.choice(4, (people, films), p=(0.35, 0.1, 0.15, 0.4))
    ratings = np.stack([np.where(part == one, stars, 0) for one in range(3)])
    return {"ratings": ratings.astype("f"), "person": person.astype("f"), "film": film.astype("f")}


def views(data: dict, people: np.ndarray) -> tf.data.Dataset:
    """Without end: half to nine tenths of a history, and what was liked in the rest of it."""
    ratings, person = tf.constant(data["ratings"][0, people]), tf.constant(data["person"][people])

    def view(rows):
        shown = tf.random.uniform((BATCH, 1), 0.5, 0.9)
        known = tf.random.uniform((BATCH, ratings.shape[1])) < shown
        found = tf.gather(ratings, rows)
        wanted = tf.cast(~known & (found >= LIKED), "float32")
        x = {"ratings": tf.where(known, found, 0.0), "person": tf.gather(person, rows)}
        return x, wanted / tf.maximum(tf.reduce_sum(wanted, axis=1, keepdims=True), 1.0)

    rows = tf.data.Dataset.range(len(people)).shuffle(len(people)).repeat()
    return rows.batch(BATCH).map(view).prefetch(2)


def scaled(flags):
    flags = ops.cast(flags, "float32")
    return flags / ops.sqrt(ops.maximum(ops.sum(flags, axis=-1, keepdims=True), 1.0))


def history(x: dict):
    return scaled(x["ratings"] >= LIKED)  # what the device knows


def teacher_of(data: dict, seed: int, steps: int) -> keras.Model:
    """A network of all features, and which film goes with which (EASE, Steck, WWW 2019)."""
    keras.utils.set_random_seed(seed)
    films, features = data["film"].shape
    ratings = keras.Input((films,), name="ratings")
    person = keras.Input(data["person"].shape[1:], name="person")
    x = {"ratings": ratings, "person": person}
    y = layers.Dropout(0.5)(layers.Concatenate()([scaled(ratings > 0), history(x)]))
    y = ops.tanh(layers.Dense(400)(y) + layers.Dense(400, use_bias=False)(person))
    y = layers.Dropout(0.5)(y)
    by_feature = layers.Dense(films, use_bias=False, trainable=False)
    scores = layers.Dense(films)(y) + by_feature(layers.Dense(features)(y))
    by_feature.set_weights([data["film"].T])
    network = compiled(keras.Model(x, scores), steps, 0.003)
    everybody = views(data, np.arange(len(data["person"])))
    network.fit(everybody, steps_per_epoch=steps, verbose=0, shuffle=False)

    liked = (data["ratings"][0] >= LIKED).astype(float)
    inverse = np.linalg.inv(liked.T @ liked + 300 * np.eye(films))
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    together = layers.Dense(films, use_bias=False, trainable=False)
    scores = network(x) + together(ops.cast(ratings >= LIKED, "float32"))
    together.set_weights([4 * weights])
    return keras.Model(x, scores)


def student_of(films: int, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    towers = [layers.Dense(32, activation="tanh", name="person"), layers.Dense(films, name="films")]
    return keras.Sequential([keras.Input((films,), name="history"), *towers])


def compiled(model: keras.Model, steps: int, rate: float = 0.01) -> keras.Model:
    adam = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))
    model.compile(adam, keras.losses.CategoricalCrossentropy(from_logits=True))
    return model


def measured(scores: np.ndarray, data: dict, part: int) -> dict[str, float]:
    """Of the ten best films that somebody has not seen: how many were liked, and how high."""
    seen = (data["ratings"][:part] > 0).any(axis=0)
    wanted = data["ratings"][part] >= LIKED
    scores, wanted = np.where(seen, -np.inf, scores)[wanted.any(axis=1)], wanted[wanted.any(axis=1)]
    best = np.argsort(-scores, axis=1, kind="stable")[:, :BEST]
    hits, possible = np.take_along_axis(wanted, best, axis=1), np.minimum(wanted.sum(axis=1), BEST)
    gains = 1 / np.log2(np.arange(BEST) + 2)
    high = hits @ gains / np.cumsum(gains)[possible - 1]
    return {"NDCG@10": np.mean(high), "recall@10": np.mean(hits.sum(axis=1) / possible)}


def run(seed: int, data: dict, steps: int, folder, part: int = 2) -> dict[str, dict[str, float]]:
    teacher = teacher_of(data, seed, steps // 2)
    whole = {"ratings": data["ratings"][:part].sum(axis=0), "person": data["person"]}
    known, films = np.asarray(history(whole)), len(data["film"])
    some = np.random.default_rng(seed).permutation(len(known))[: len(known) // 5]

    batches, fit = views(data, some), {"steps_per_epoch": steps, "shuffle": False, "verbose": 0}
    twin = compiled(student_of(films, seed), steps)
    twin.fit(batches.map(lambda x, y: (history(x), y)), **fit)
    found = {"the teacher, all people": teacher.predict(whole, verbose=0)}
    found[TWIN] = twin.predict(known, verbose=0)
    how = {"top_k": 50, "position_scale": 20.0, "discrepancy_sharpness": None}
    order = kd.objectives.RankingDistillation(**how, weight=3.0)
    soft = kd.SoftTargets(temperature=1.0)
    for name, learned, by_labels in (("ranking", order, 0.5), ("soft targets", soft, 0.1)):
        student = student_of(films, seed)
        distiller = kd.Distiller(
            student, teacher, learned, student_preprocess=history, label_weight=by_labels
        )
        compiled(distiller, steps).fit(batches, **fit)
        found[f"distilled, {name}"] = student.predict(known, verbose=0)

    small = kd.edge.quantize_aware(student, calibration_data=known[some])
    export = kd.edge.export_tflite(small, folder / f"recommender{seed}.tflite", precision="int8")
    kd.edge.verify(export, student, known, quantized=small)
    found["the int8 file of the latter"] = kd.edge.load_tflite(export.path).predict(known)
    return {name: measured(scores, data, part) for name, scores in found.items()}


def main() -> None:
    args = arguments(__doc__, seeds=3)
    data = made_up() if args.smoke else movielens(data_folder("ml-100k", "recommender"))
    with in_folder(args.output) as folder:
        steps = 20 if args.smoke else 600
        found = [run(seed, data, steps, folder) for seed in range(args.seeds)]
        print(table(found, TWIN, better={"NDCG@10": 1, "recall@10": 1}))
        draw(found, "NDCG@10", folder / "recommender.png", "NDCG@10")


if __name__ == "__main__":
    main()
