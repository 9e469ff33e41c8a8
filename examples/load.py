"""How many people tomorrow: a week ahead in quantiles, for one station of Chicago's railway.

Shows: several steps and quantiles at once, a teacher that sees more, an ensemble, regression.
Needs: pip install -e ".[demo]" rdata; a table out of a Debian package, by the lines below.
Takes: two to three minutes on one core; --smoke a few seconds, on a series that is made up.

    apt-get download r-cran-modeldata
    dpkg-deb -x r-cran-modeldata*.deb "$KERAS_DISTILL_DATA/r"
    python examples/load.py

Who enters at Clark/Lake in the seven days to come: the tenth, half and nine tenths of the
distribution of each. The teacher, three networks, reads eight weeks of that station, a week of
nineteen others and the season, and learned from eleven years. The student reads four weeks of its
station and the calendar, and has the last of these years, with ten holidays. To windows that never
were, mixed of two, with holidays strewn over the week to come, there is no label, but the teacher
answers. The twin has the year alone. Numbers are parts of the four weeks' mean. 2012 and 2013 are
validation, what follows is the test.
"""

from pathlib import Path

from _shared import arguments, draw, in_folder, table

import keras
import numpy as np
from _reading import chicago, data_folder
from keras import layers, ops

import keras_distill as kd

BACK, LONG, AHEAD = 28, 56, 7
QUANTILES, BATCH = (0.1, 0.5, 0.9), 64
TWIN = "network, one year"


def made_up(days: int = 1500) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    at, holiday = np.arange(days), rng.random(days) < 0.03
    own = 10 + 4 * (at % 7 < 5) + 2 * np.sin(at / 58) - 5 * holiday + rng.normal(size=days)
    calendar = {"weekday": at % 7, "holiday": holiday, "year": 2010 + at * 5 // days}
    return {"own": own, "others": own[:, None] * rng.uniform(0.5, 1.5, (days, 3)), **calendar}


def windows(data: dict) -> dict[str, np.ndarray]:
    """A row a day: `x` with the student's columns first, `y` `(rows, 7)`, `level`, `year`."""
    starts = np.arange(LONG, len(data["own"]) - AHEAD + 1)
    week, month, long = (starts[:, None] + np.arange(-back, 0) for back in (AHEAD, BACK, LONG))
    ahead = starts[:, None] + np.arange(AHEAD)
    level = data["own"][month].mean(axis=1, keepdims=True)
    others = data["others"][week] / data["others"][month].mean(axis=1, keepdims=True)
    season = 2 * np.pi * starts[:, None] / 365.25
    columns = [
        data["holiday"][ahead],
        np.eye(7)[data["weekday"][starts]],
        data["holiday"][month],
        data["own"][month] / level - 1,
        data["own"][long] / level - 1,
        others.reshape(len(starts), -1) - 1,
        np.sin(season),
        np.cos(season),
    ]
    x, y = np.concatenate(columns, axis=1).astype("f"), (data["own"][ahead] / level).astype("f")
    return {"x": x, "y": y, "level": level, "year": data["year"][starts]}


def that_never_were(x: np.ndarray, times: int) -> np.ndarray:
    """Mixtures of two windows of one weekday, every twentieth day to come a holiday."""
    rng, weekday = np.random.default_rng(0), x[:, AHEAD : AHEAD + 7].argmax(axis=1)
    first = np.tile(np.arange(len(x)), times)
    second = np.array([rng.choice(np.flatnonzero(weekday == weekday[row])) for row in first])
    share = rng.random((len(first), 1), "float32")
    made = share * x[first] + (1 - share) * x[second]
    made[:, :AHEAD] = np.maximum(made[:, :AHEAD], rng.random((len(first), AHEAD)) < 0.05)
    return made


def for_student(x):
    return x[:, : 2 * BACK + 7 + AHEAD]


def pinball(y_true, y_pred):
    """`(batch,)`: q for all above the quantile, 1 - q for all below; a mean over both axes."""
    over = y_true[..., None] - y_pred
    quantiles = ops.convert_to_tensor(QUANTILES, over.dtype)
    return ops.mean(ops.maximum(quantiles * over, (quantiles - 1) * over), axis=(-2, -1))


def network(features: int, width: int, dropout: float, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((features,))])
    for _ in range(2):
        model.add(layers.Dense(width, activation="relu"))
        model.add(layers.Dropout(dropout))
    model.add(layers.Dense(AHEAD * len(QUANTILES), bias_initializer="ones"))
    model.add(layers.Reshape((AHEAD, len(QUANTILES))))
    return model


def trained(model: keras.Model, x: np.ndarray, y: np.ndarray | None, steps: int) -> keras.Model:
    adam = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.003, steps))
    model.compile(adam, None if y is None else pinball)
    epochs = np.tile(np.arange(len(x)), (-(-steps * BATCH // len(x)), 1))
    rows = np.random.default_rng(0).permuted(epochs, axis=1).ravel()[: steps * BATCH]
    model.fit(x[rows], None if y is None else y[rows], batch_size=BATCH, shuffle=False, verbose=0)
    return model


def measured(answers: np.ndarray, rows: dict) -> dict[str, float]:
    """In thousands of people; and how far the middle four fifths are from holding 80 %."""
    y, level = rows["y"], rows["level"]
    inside = (answers[..., 0] <= y) & (y <= answers[..., 2])
    return {
        "pinball": np.mean(np.asarray(pinball(y, answers)) * level[:, 0]),
        "MAE": np.mean(np.abs(answers[..., 1] - y) * level),
        "off 80 %": abs(100 * np.mean(inside) - 80),
    }


def run(seed: int, rows: dict, steps: int, folder: Path, held: tuple) -> dict:
    x, y, years = rows["x"], rows["y"], rows["year"]
    eleven, one, held = years < 2012, years == 2011, np.isin(years, held)
    teachers = [
        trained(network(x.shape[1], 128, 0.1, 10 * seed + k), x[eleven], y[eleven], steps // 2)
        for k in range(3)
    ]
    known = for_student(x)
    twin, student = (network(known.shape[1], 32, 0.0, seed) for _ in range(2))
    trained(twin, known[one], y[one], steps)
    teacher, learned = kd.teachers.Ensemble(teachers), kd.objectives.RegressionTargets()
    distiller = kd.Distiller(student, teacher, learned, student_preprocess=for_student)
    trained(distiller, np.concatenate([x[one], that_never_were(x[one], 20)]), None, steps)

    small = kd.edge.quantize_aware(student, calibration_data=known[one])
    export = kd.edge.export_tflite(small, folder / f"load{seed}.tflite", precision="int8")
    kd.edge.verify(export, student, known[held], quantized=small)
    of_each = [member.predict(x[held], verbose=0) for member in teachers]
    found = {
        "three that see more, eleven years": np.mean(of_each, axis=0),
        TWIN: twin.predict(known[held], verbose=0),
        "the same, distilled": student.predict(known[held], verbose=0),
        "its int8 file": kd.edge.load_tflite(export.path).predict(known[held]),
    }
    truth = {key: rows[key][held] for key in ("y", "level")}
    return {name: measured(answers, truth) for name, answers in found.items()}


def main() -> None:
    args = arguments(__doc__, seeds=3)
    data = made_up() if args.smoke else chicago(data_folder("r", "load"))
    with in_folder(args.output) as folder:
        rows, steps = windows(data), 40 if args.smoke else 3000
        found = [run(seed, rows, steps, folder, (2014, 2015, 2016)) for seed in range(args.seeds)]
        print(table(found, TWIN, better={"pinball": -1, "MAE": -1, "off 80 %": -1}))
        draw(found, "pinball", folder / "load.png", "pinball loss, thousands of people")


if __name__ == "__main__":
    main()
