"""CRD with a memory of every example: what is compared, what is kept, and where rows come from."""

import operator
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill as kd
from keras_distill.objectives import ContrastiveMemory

rng = np.random.default_rng(0)
ROWS, WIDTH, T = 24, 3, 0.5
X = rng.normal(size=(ROWS, 6)).astype("float32")
NUMBERED = {"image": X, "row": np.arange(ROWS, dtype="int32")}


def network(width, seed):
    keras.utils.set_random_seed(seed)
    dense = keras.layers.Dense
    return keras.Sequential([keras.Input((6,)), dense(width, name="features"), dense(4)])


def numbered(model, shape=(), dtype="int32"):
    """A teacher that is told each example's row."""
    image = keras.Input(model.input_shape[1:], name="image")
    row = keras.Input(shape, dtype=dtype, name="row")
    return keras.Model({"image": image, "row": row}, model(image))


@keras.saving.register_keras_serializable("test_contrastive_memory")
def image_of(x):
    return x["image"]


def make(teacher=None, rows=ROWS, rate=0.01, **options):
    keras.utils.set_random_seed(0)
    arguments = {"negatives": 5, "width": WIDTH, "temperature": T, **options}
    objective = ContrastiveMemory("features", "features", index="row", rows=rows, **arguments)
    distiller = kd.Distiller(
        network(5, 1),
        numbered(network(9, 2)) if teacher is None else teacher,
        objective,
        student_preprocess=image_of,
    )
    distiller.compile(keras.optimizers.Adam(rate), loss=None, validate_objectives=True)
    return distiller


def memory(distiller):
    return distiller._adapters["contrastive_memory_memory"]


def sides(distiller):
    """What the memory has of student and teacher."""
    return [entries.numpy() for entries in memory(distiller).sides]


def embedded(distiller, x=X):
    """Both models' embeddings of `x` as they are now, by hand."""
    found = []
    for side, model in (("student", distiller.student), ("teacher", network(9, 2))):
        layer = distiller._adapters[f"contrastive_memory_{side}_embedding"]
        kernel, bias = (v.numpy() for v in layer.variables)
        features = model.layers[0](x).numpy() @ kernel + bias
        found.append(features / np.linalg.norm(features, axis=1, keepdims=True))
    return found


def batch(rows):
    return {"image": X[rows], "row": np.array(rows, "int32")}


def fit(distiller, x=NUMBERED, batch_size=8, epochs=1):
    history = distiller.fit(x, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0)
    return history.history["contrastive_memory"]


def test_a_step_moves_the_rows_of_its_batch_and_no_others():
    distiller, rows = make(momentum=0.25), [7, 2, 19]
    before, now = sides(distiller), embedded(distiller)
    np.testing.assert_allclose(np.linalg.norm(before[0], axis=1), 1.0, rtol=1e-5)
    assert np.abs(before[0] - before[1]).max() > 0.1
    fit(distiller, batch(rows))
    for had, has, new in zip(before, sides(distiller), now, strict=True):
        expected = had.copy()
        expected[rows] = 0.25 * had[rows] + 0.75 * new[rows]
        expected[rows] /= np.linalg.norm(expected[rows], axis=1, keepdims=True)
        np.testing.assert_allclose(has, expected, atol=1e-5)


def loss(anchors, partners, others, constant, rows):
    """The authors' formula, one way; of every example the others are the same."""
    own, other = (np.exp(np.sum(anchors * p, axis=1) / T) / constant for p in (partners, others))
    noise = 5 / rows
    return -np.log(own / (own + noise)) - 5 * np.log(noise / (other + noise))


def test_the_loss_is_that_of_the_memory_before_the_step_in_both_directions():
    # Of two examples each has the other for all of its negatives, whatever is drawn.
    distiller = make(rows=2, rate=0.0)
    constants = None
    for _ in range(2):
        now, had = embedded(distiller, X[:2]), sides(distiller)
        if constants is None:
            # A mean over the example's own and its five negatives, times two rows.
            constants = [
                2
                * np.mean(
                    (np.exp(np.sum(a * m, 1) / T) + 5 * np.exp(np.sum(a * m[::-1], 1) / T)) / 6
                )
                for a, m in zip(now, had[::-1], strict=True)
            ]
        expected = sum(
            loss(a, m, m[::-1], constant, 2)
            for a, m, constant in zip(now, had[::-1], constants, strict=True)
        )
        assert fit(distiller, batch([0, 1]))[0] == pytest.approx(expected.mean(), rel=1e-4)
    # The second step's scores are others, and the constants those of the first.
    found = [np.exp(c.numpy()) for c in memory(distiller).constants]
    np.testing.assert_allclose(found, constants, rtol=1e-4)


def test_negatives_are_drawn_among_the_others_all_alike():
    drawn = memory(make(rows=5)).draw(3, 4000, tf.constant([0, 4, 2])).numpy()
    counts = np.array([np.bincount(row, minlength=5) for row in drawn])
    assert counts[[0, 1, 2], [0, 4, 2]].tolist() == [0, 0, 0]
    others = counts[counts > 0]
    # A thousand each on average, with a binomial's deviation.
    assert len(others) == 12
    assert np.abs(others - 1000).max() < 4 * np.sqrt(4000 * 0.25 * 0.75)


@pytest.mark.parametrize("epochs", [0, 1])
def test_evaluation_reads_no_rows_and_moves_nothing(epochs):
    distiller = make()
    if epochs:
        fit(distiller)
    before = [v.numpy() for v in memory(distiller).variables]
    other = {"image": X, "row": np.full(ROWS, 10**6, "int32")}
    values = [distiller.evaluate(x, verbose=0, return_dict=True) for x in (NUMBERED, other)]
    assert values[0] == values[1]
    assert np.isfinite(values[0]["contrastive_memory"])
    for variable, value in zip(memory(distiller).variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_in_evaluation_an_example_is_compared_with_its_own_embedding_of_now():
    distiller = make(rows=2, rate=0.0)
    fit(distiller, batch([0, 1]))
    for side in memory(distiller).sides:
        # Whatever is drawn, it is this.
        side.assign(np.tile([1.0, 0.0, 0.0], (2, 1)))
    ours, theirs = embedded(distiller)
    other = np.tile([1.0, 0.0, 0.0], (ROWS, 1))
    constants = [np.exp(c.numpy()) for c in memory(distiller).constants]
    expected = loss(ours, theirs, other, constants[0], 2) + loss(
        theirs, ours, other, constants[1], 2
    )
    found = distiller.evaluate(NUMBERED, verbose=0, return_dict=True)["contrastive_memory"]
    assert found == pytest.approx(np.mean(expected), rel=1e-4)


@pytest.mark.parametrize("row", [ROWS, -1])
def test_a_row_that_is_none_of_the_datas_stops_the_step(row):
    wrong = {"image": X[:2], "row": np.array([0, row], "int32")}
    distiller = make()
    distiller.compile("sgd", loss=None, jit_compile=False)
    with pytest.raises(Exception, match=r"gives must be in \[0, 24\)"):
        distiller.fit(wrong, verbose=0)
    distiller.compile("sgd", loss=None, jit_compile=True)
    assert np.isnan(distiller.train_on_batch(wrong, return_dict=True)["loss"])


def test_a_checkpoint_takes_memory_constants_and_draws_along(tmp_path):
    distiller, resumed = make(), make()
    fit(distiller, epochs=2)
    distiller.save_weights(tmp_path / "d.weights.h5")
    resumed.load_weights(tmp_path / "d.weights.h5")
    for ours, theirs in zip(memory(resumed).variables, memory(distiller).variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    distiller.save(tmp_path / "d.keras")
    loaded = kd.Distiller.load(tmp_path / "d.keras", numbered(network(9, 2)))
    expected = fit(distiller)
    assert fit(resumed) == expected
    assert fit(loaded) == expected


def test_rows_come_from_a_cache_as_from_the_teacher(tmp_path):
    data = NUMBERED, rng.integers(0, 4, ROWS)
    options = {"batch_size": 8, "verbose": False, "dtype": "float32"}
    teacher = numbered(network(9, 2))
    many = {"image": np.tile(X, (100, 1)), "row": np.arange(2400, dtype="int32")}
    with pytest.raises(ValueError, match="whole numbers that would be rounded"):
        kd.TeacherCache.build(teacher, many, tmp_path / "half", layers=["row"], **options)
    layers = {"layers": ["features", "row"], "layer_dtype": "float32"}
    cache = kd.TeacherCache.build(teacher, data, tmp_path / "c", **layers, **options)
    cached, online = make(cache), make(teacher)
    cached.fit(cache.dataset(8, shuffle=False), verbose=0)
    fit(online)
    for ours, theirs in zip(sides(cached), sides(online), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.abs(sides(cached)[0] - sides(make())[0]).max() > 0.1


def test_rows_may_have_an_axis_of_one_behind():
    teachers = numbered(network(9, 2), (1,), "int64"), numbered(network(9, 2))
    distiller, plain = map(make, teachers)
    fit(distiller, {**NUMBERED, "row": np.arange(ROWS)[:, None]})
    fit(plain)
    np.testing.assert_array_equal(sides(distiller), sides(plain))


@pytest.mark.parametrize(
    ("shape", "dtype"), [((), "float32"), ((2,), "int32")], ids=["floats", "pairs"]
)
def test_an_index_that_gives_no_rows_is_refused_when_built(shape, dtype):
    message = (
        r"ContrastiveMemory\('features', 'features'\): index='row' .*dtype='int32', name='row'"
    )
    with pytest.raises(ValueError, match=message):
        make(numbered(network(9, 2), shape, dtype))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rows": 1}, "rows must be at least 2"),
        ({"rows": 2.5}, "rows must be a whole number"),
        ({"negatives": 0}, "negatives must be a whole number"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), below 1 .*got 1.0"),
        ({"momentum": -0.1}, r"momentum must be in \[0, 1\]"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"temperature": kd.schedules.Linear(1.0, 0.1, steps=9)}, "temperature is read once"),
    ],
)
def test_bad_arguments_are_refused_at_once(wrong, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveMemory("a", "b", **{"index": "row", "rows": ROWS, **wrong})


def test_the_student_learns_to_tell_examples_apart(digits):
    def flat(width, seed):
        keras.utils.set_random_seed(seed)
        layers = [keras.layers.Flatten(), keras.layers.Dense(width, "relu", name="features")]
        return keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Dense(10)])

    x = digits.x_train
    objective = ContrastiveMemory(
        "features", "features", index="row", rows=len(x), width=32, negatives=256
    )
    teacher, student = flat(64, 1), flat(16, 2)
    distiller = kd.Distiller(
        student, numbered(teacher), objective, student_preprocess=operator.itemgetter("image")
    )
    distiller.compile(keras.optimizers.Adam(0.003), loss=None)

    def share_found():
        """Of 100 held-out images, the share whose own teacher embedding is the nearest."""
        found = []
        for side, model in (("student", student), ("teacher", teacher)):
            layer = distiller._adapters[f"contrastive_memory_{side}_embedding"]
            embedding = layer(model.layers[1](model.layers[0](digits.x_test[:100]))).numpy()
            found.append(embedding / np.linalg.norm(embedding, axis=1, keepdims=True))
        return np.mean(np.argmax(found[0] @ found[1].T, axis=1) == np.arange(100))

    before = share_found()
    data = {"image": x, "row": np.arange(len(x), dtype="int32")}
    distiller.fit(data, batch_size=32, epochs=15, verbose=0)
    assert before < 0.05
    assert share_found() > 0.2


MIRRORED = """
import keras, numpy as np, tensorflow as tf
import keras_distill as kd
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
rng = np.random.default_rng(0)
x = {"image": rng.normal(size=(32, 6)).astype("float32"), "row": np.arange(32, dtype="int32")}
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense
    student = keras.Sequential([keras.Input((6,)), dense(5, name="features"), dense(4)])
    teacher = keras.Sequential([keras.Input((6,)), dense(9, name="features"), dense(4)])
    image, row = keras.Input((6,), name="image"), keras.Input((), dtype="int32", name="row")
    numbered = keras.Model({"image": image, "row": row}, teacher(image))
    objective = kd.objectives.ContrastiveMemory(
        "features", "features", index="row", rows=32, negatives=4, width=3)
    distiller = kd.Distiller(
        student, numbered, objective, student_preprocess=lambda x: x["image"])
    distiller.compile(keras.optimizers.SGD(0.0), loss=None)
memory = distiller._adapters["contrastive_memory_memory"]
before = memory.sides[0].value.values[0].numpy()
distiller.fit(x, batch_size=16, shuffle=False, verbose=0)
for variable in [*memory.sides, *memory.constants]:
    copies = [v.numpy() for v in variable.value.values]
    np.testing.assert_array_equal(*copies)
moved = np.any(memory.sides[0].value.values[0].numpy() != before, axis=1)
# Two steps of 16; the first replica sees 0..7 of each.
assert np.flatnonzero(moved).tolist() == [*range(8), *range(16, 24)]
assert np.isfinite(copies[0])
print("same")
"""


@pytest.mark.slow
def test_replicas_hold_one_memory_fed_by_the_first():
    run = subprocess.run([sys.executable, "-c", MIRRORED], capture_output=True, text=True)
    assert run.stdout.strip() == "same", run.stderr[-3000:]
