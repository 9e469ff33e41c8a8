"""Tables: forests and their ensembles teach small networks, of classes and of numbers.

Shows: scikit-learn's teachers, `predict_proba` and `predict`; few labels; a mean over teachers.
Needs: pip install -e ".[demo]" rdata; two tables out of Debian's packages, by the lines below.
Takes: two to three minutes on one core; --smoke a few seconds, on scikit-learn's own tables.

    apt-get download r-cran-mlbench r-cran-ggplot2
    for file in r-cran-*.deb; do dpkg-deb -x $file "$KERAS_DISTILL_DATA/r"; done
    python examples/tables.py

Letters are 20,000 printed capitals in 16 numbers each; diamonds are 53,940, of which the price is
asked for. The teachers have learned from all labels of the training part, the network has those of
few rows and the teachers' answers to all. The twin is the same network, with the same first weights
and as many updates, on its labels alone.
"""

from pathlib import Path

from _shared import arguments, draw, in_folder, table

import keras
import numpy as np
from _reading import data_folder, r_table
from sklearn import datasets, ensemble, model_selection, neighbors, preprocessing

import keras_distill as kd

BATCH = 128
CLASSES, PRICE = "letters, % right", "diamonds, % off"
TWIN = "network, few labels"


def tables(smoke: bool) -> dict[str, tuple[np.ndarray, np.ndarray, int]]:
    """By measure: rows, class numbers or logarithms of prices, how many labels the student has."""
    if smoke:
        digits, people = datasets.load_digits(), datasets.load_diabetes()
        return {
            CLASSES: (digits.data, digits.target, 100),
            PRICE: (people.data, np.log(people.target), 60),
        }
    folder = data_folder("r", "tables")
    letters, stones = r_table(folder, "mlbench", "LetterRecognition"), diamonds(folder)
    return {
        CLASSES: (letters.iloc[:, 1:].to_numpy(), letters.lettr.cat.codes.to_numpy(), 1000),
        PRICE: (stones.drop(columns="price").to_numpy(), np.log(stones.price.to_numpy()), 300),
    }


def diamonds(folder: Path):
    """Cut, colour and clarity are of an order: so a number each will do."""
    found = r_table(folder, "ggplot2", "diamonds").sample(20000, random_state=0)
    graded = found.select_dtypes("category").columns
    return found.assign(**{name: found[name].cat.codes for name in graded})


def parts(x: np.ndarray, y: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Train and test, in the units of the training part; the test part is that of every seed."""
    x, x_test, y, y_test = model_selection.train_test_split(x, y, test_size=0.25, random_state=0)
    rows = np.random.default_rng(seed).permutation(len(x))
    scale = preprocessing.StandardScaler().fit(x)
    # A stone 59 mm wide is a slip of the pen, and would take the range of all columns at int8.
    x, x_test = (np.clip(scale.transform(part), -4, 4).astype("f") for part in (x[rows], x_test))
    return [(x, y[rows]), (x_test, y_test)]


def teachers_of(x: np.ndarray, y: np.ndarray, classes: int, seed: int, steps: int) -> dict:
    """A forest, and the mean of it and of an estimator of another kind."""
    if classes:
        forest = ensemble.ExtraTreesClassifier(steps // 10, random_state=seed)
        near = neighbors.KNeighborsClassifier(weights="distance")
        both = ensemble.VotingClassifier([("forest", forest), ("near", near)], voting="soft")
    else:
        forest = ensemble.ExtraTreesRegressor(steps // 10, random_state=seed, min_samples_leaf=2)
        boosted = ensemble.GradientBoostingRegressor(max_depth=5, random_state=seed)
        both = ensemble.VotingRegressor([("forest", forest), ("boosted", boosted)])
    both.fit(x, y)
    return {"forest": both.estimators_[0], "ensemble": both}


def network(features: int, classes: int, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    hidden = [keras.layers.Dense(width, activation="relu") for width in (64, 32)]
    return keras.Sequential([keras.Input((features,)), *hidden, keras.layers.Dense(classes or 1)])


def compiled(model: keras.Model, classes: int, steps: int, **options) -> keras.Model:
    adam = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.01, steps))
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    loss = entropy if classes else keras.losses.MeanSquaredError()
    model.compile(adam, loss, **options)
    return model


def measured(answers: np.ndarray, y: np.ndarray, classes: int) -> float:
    if classes:
        return 100 * np.mean(answers.argmax(axis=-1) == y)
    return 100 * np.mean(np.abs(np.expm1(np.ravel(answers) - y)))


def one(rows, few: int, classes: int, seed: int, steps: int, folders: tuple) -> dict[str, float]:
    """The models' figures on one table."""
    (folder, scratch), ((x, y), (x_test, y_test)) = folders, parts(*rows, seed)
    fitted = teachers_of(x, y, classes, seed, steps)
    labels = np.where(np.arange(len(y)) < few, y, -1).astype(y.dtype)
    ask = "predict_proba" if classes else "predict"
    found = {f"{name}, all labels": getattr(each, ask)(x_test) for name, each in fitted.items()}

    twin = compiled(network(x.shape[1], classes, seed), classes, steps)
    chosen = np.resize(np.random.default_rng(seed).permutation(few), steps * BATCH)
    twin.fit(x[chosen], y[chosen], batch_size=BATCH, shuffle=False, verbose=0)
    found[TWIN] = twin.predict(x_test, verbose=0)
    for name, estimator in fitted.items():
        student, teacher = network(x.shape[1], classes, seed), kd.teachers.Estimator(estimator)
        kept = scratch / f"{name}{seed}{classes}"
        cache = kd.TeacherCache.build(teacher, (x, labels), kept, batch_size=2048, verbose=False)
        learned = kd.SoftTargets(temperature=1) if classes else kd.objectives.RegressionTargets()
        distiller = compiled(kd.Distiller(student, cache, learned), classes, steps, unlabelled=-1)
        batches = cache.dataset(BATCH, drop_remainder=True).repeat()
        distiller.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0)
        found[f"distilled, {name}"] = student.predict(x_test, verbose=0)

    # A table has tails: without them the steps of an int8 number are finer.
    small = kd.edge.calibrate(kd.edge.quantize_aware(student), x, method="percentile")
    export = kd.edge.export_tflite(small, folder / f"{seed}{classes}.tflite", precision="int8")
    kd.edge.verify(export, student, x_test, quantized=small)
    found["the latter's int8 file"] = kd.edge.load_tflite(export.path).predict(x_test)
    return {name: measured(answers, y_test, classes) for name, answers in found.items()}


def main() -> None:
    args = arguments(__doc__, seeds=3)
    steps = 100 if args.smoke else 1000
    with in_folder(args.output) as folder, in_folder(None) as scratch:
        found = []
        for seed in range(args.seeds):
            by_table = {}
            for measure, (x, y, few) in tables(args.smoke).items():
                classes = len(np.unique(y)) if measure == CLASSES else 0
                by_table[measure] = one((x, y), few, classes, seed, steps, (folder, scratch))
            models = by_table[CLASSES]
            found.append({m: {key: by_table[key][m] for key in by_table} for m in models})
        print(table(found, TWIN, better={CLASSES: 1, PRICE: -1}))
        draw(found, CLASSES, folder / "tables.png", CLASSES)


if __name__ == "__main__":
    main()
