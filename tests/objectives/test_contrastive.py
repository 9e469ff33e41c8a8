"""CRD with a queue: what goes in, when, what is kept, and that it teaches."""

import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_distill as kd
from keras_distill.objectives import ContrastiveRepresentation

rng = np.random.default_rng(0)
X = rng.normal(size=(24, 6)).astype("float32")
Y = rng.integers(0, 4, 24)


def network(width, seed):
    keras.utils.set_random_seed(seed)
    dense = keras.layers.Dense
    return keras.Sequential([keras.Input((6,)), dense(width, name="features"), dense(4)])


def make(queue_size=20, **options):
    keras.utils.set_random_seed(0)
    objective = ContrastiveRepresentation("features", "features", width=3, queue_size=queue_size)
    distiller = kd.Distiller(network(5, 1), network(9, 2), objective)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.Adam(0.01), loss, **options)
    return distiller


def adapters(distiller):
    return {name.split("representation_")[1]: v for name, v in distiller._adapters.items()}


def queue(distiller):
    return adapters(distiller)["queue"].entries.numpy()


def embedded(distiller, x):
    """The teacher's embeddings of `x` as its head gives them now, by hand."""
    (kernel,) = adapters(distiller)["teacher_embedding"].variables
    features = network(9, 2).layers[0](x).numpy() @ kernel.numpy()
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def fit(distiller, x=X, epochs=1, batch_size=8):
    return distiller.fit(
        x, Y[: len(x)], batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0
    ).history


def test_a_step_puts_its_batch_in_front_and_drops_the_oldest():
    distiller = make()
    before, first = queue(distiller), embedded(distiller, X[:8])
    np.testing.assert_allclose(np.linalg.norm(before, axis=1), 1.0, rtol=1e-5)
    fit(distiller, X[:8])
    after, second = queue(distiller), embedded(distiller, X[8:16])
    np.testing.assert_allclose(after[:8], first, atol=1e-6)
    np.testing.assert_array_equal(after[8:], before[:12])
    distiller.fit(X[8:16], Y[8:16], batch_size=8, verbose=0)
    np.testing.assert_allclose(np.sort(queue(distiller)[:8], 0), np.sort(second, 0), atol=1e-6)
    np.testing.assert_array_equal(queue(distiller)[8:], after[:12])


def test_a_steps_loss_sees_the_queue_as_it_was_before():
    distiller = make()
    negatives, theirs = queue(distiller), embedded(distiller, X[:8])
    kernel, bias = (v.numpy() for v in adapters(distiller)["student_embedding"].variables)
    ours = distiller.student.layers[0](X[:8]).numpy() @ kernel + bias
    ours /= np.linalg.norm(ours, axis=1, keepdims=True)
    logs = fit(distiller, X[:8])
    own = np.exp(np.sum(ours * theirs, axis=1) / 0.07)
    expected = -np.log(own / (own + np.exp(ours @ negatives.T / 0.07).sum(1)))
    assert logs["contrastive_representation"][0] == pytest.approx(expected.mean(), rel=1e-4)


def test_a_batch_larger_than_the_queue_fills_it():
    distiller = make(queue_size=5)
    first = embedded(distiller, X)
    fit(distiller, batch_size=24)
    np.testing.assert_allclose(queue(distiller), first[:5], atol=1e-6)


def test_evaluating_and_predicting_leave_the_queue_alone():
    distiller = make()
    fit(distiller)
    before = queue(distiller)
    distiller.evaluate(X, Y, verbose=0)
    distiller.predict(X, verbose=0)
    np.testing.assert_array_equal(queue(distiller), before)
    fit(distiller, X[:8])
    assert not np.array_equal(queue(distiller), before)


@pytest.mark.parametrize(
    "options",
    [{"jit_compile": True}, {"steps_per_execution": 3}],
    ids=lambda options: next(iter(options)),
)
def test_however_the_step_runs_the_queue_is_the_same(options):
    plain, other = make(jit_compile=False), make(**options)
    logs = [fit(distiller, epochs=2) for distiller in (plain, other)]
    np.testing.assert_allclose(queue(plain), queue(other), atol=1e-4)
    name = "contrastive_representation"
    np.testing.assert_allclose(logs[0][name], logs[1][name], rtol=1e-3)


def test_of_what_it_adds_only_the_students_embedding_is_trained():
    distiller = make()
    trained = {id(v) for v in distiller.trainable_variables}
    added = {
        name: [id(v) in trained for v in a.variables] for name, a in adapters(distiller).items()
    }
    expected = {"student_embedding": [True, True], "teacher_embedding": [False], "queue": [False]}
    assert added == expected
    before = adapters(distiller)["teacher_embedding"].kernel.numpy()
    fit(distiller)
    np.testing.assert_array_equal(adapters(distiller)["teacher_embedding"].kernel, before)


def test_a_checkpoint_takes_the_queue_along(tmp_path):
    distiller, resumed = make(), make()
    fit(distiller, epochs=2)
    distiller.save_weights(tmp_path / "d.weights.h5")
    resumed.load_weights(tmp_path / "d.weights.h5")
    np.testing.assert_array_equal(queue(resumed), queue(distiller))
    assert fit(resumed) == fit(distiller)
    distiller.save(tmp_path / "d.keras")
    loaded = kd.Distiller.load(tmp_path / "d.keras", network(9, 2))
    np.testing.assert_array_equal(queue(loaded), queue(distiller))


def test_what_it_holds_is_bounded_by_the_queue():
    few, many = make(), make()
    fit(few, X[:8])
    many.fit(np.tile(X, (50, 1)), np.tile(Y, 50), batch_size=8, verbose=0)
    sizes = [
        sum(v.numpy().nbytes for layer in adapters(d).values() for v in layer.variables)
        for d in (few, many)
    ]
    # A queue of 20 x 3, and two embeddings: 5 x 3 + 3 and 9 x 3 numbers of four bytes.
    assert sizes == [4 * (20 * 3 + 5 * 3 + 3 + 9 * 3)] * 2


def test_the_student_learns_to_tell_examples_apart(digits):
    def flat(width, seed):
        keras.utils.set_random_seed(seed)
        layers = [keras.layers.Flatten(), keras.layers.Dense(width, "relu", name="features")]
        return keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Dense(10)])

    objective = ContrastiveRepresentation("features", "features", width=32, queue_size=256)
    teacher, student = flat(64, 1), flat(16, 2)
    distiller = kd.Distiller(student, teacher, objective)
    distiller.compile(keras.optimizers.Adam(0.003), loss=None)

    def share_found():
        """Of 100 held-out images, the share whose own teacher embedding is the nearest."""
        sides = [
            layer(model.layers[1](model.layers[0](digits.x_test[:100]))).numpy()
            for model, layer in zip(
                (student, teacher), list(adapters(distiller).values())[:2], strict=True
            )
        ]
        ours, theirs = (s / np.linalg.norm(s, axis=1, keepdims=True) for s in sides)
        return np.mean(np.argmax(ours @ theirs.T, axis=1) == np.arange(100))

    before = share_found()
    distiller.fit(digits.x_train, batch_size=32, epochs=10, verbose=0)
    assert before < 0.1
    assert share_found() > 0.6


def test_bad_arguments_are_refused_with_the_layers_named():
    for wrong in ({"queue_size": 0}, {"temperature": 0.0}, {"width": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be "):
            ContrastiveRepresentation("features", "features", **wrong)
    student = keras.Sequential(
        [
            keras.Input((None, None, 1)),
            keras.layers.Conv2D(2, 1, name="map"),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
    with pytest.raises(ValueError, match=r"\('map', 'map'\): the student's output is \(None, None"):
        kd.Distiller(student, student, ContrastiveRepresentation("map", "map"))


MIRRORED = """
import keras, numpy as np, tensorflow as tf
import keras_distill as kd
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
rng = np.random.default_rng(0)
x = rng.normal(size=(32, 6)).astype("float32")
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense
    student = keras.Sequential([keras.Input((6,)), dense(5, name="features"), dense(4)])
    teacher = keras.Sequential([keras.Input((6,)), dense(9, name="features"), dense(4)])
    objective = kd.objectives.ContrastiveRepresentation(
        "features", "features", width=3, queue_size=20)
    distiller = kd.Distiller(student, teacher, objective)
    distiller.compile(keras.optimizers.SGD(0.0), loss=None)
distiller.fit(x, batch_size=16, shuffle=False, verbose=0)
queue = distiller._adapters["contrastive_representation_queue"].entries.value
copies = [v.numpy() for v in queue.values]
np.testing.assert_array_equal(*copies)
head = distiller._adapters["contrastive_representation_teacher_embedding"]
with strategy.scope():
    features = head(teacher.layers[0](x)).numpy()
features /= np.linalg.norm(features, axis=1, keepdims=True)
# Two steps of 16; the first replica sees 0..7 of each.
np.testing.assert_allclose(copies[0][:16], features[[*range(16, 24), *range(8)]], atol=1e-5)
print("same")
"""


@pytest.mark.slow
def test_replicas_hold_one_queue_fed_by_the_first():
    run = subprocess.run([sys.executable, "-c", MIRRORED], capture_output=True, text=True)
    assert run.stdout.strip() == "same", run.stderr[-3000:]
