"""Numbers that change by assignment, or in a variable: the step follows."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill as kd

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def dense(units, seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(units), keras.layers.Dense(3)])


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return rng.normal(size=(8, 6)).astype("float32"), rng.integers(0, 3, 8)


def make(objective, loss=None, **options):
    distiller = kd.Distiller(dense(4, 1), dense(8, 2), objective, **options)
    # Nothing moves: what is logged is of these weights.
    distiller.compile(keras.optimizers.SGD(0.0), loss)
    return distiller


def divergence(distiller, x, temperature):
    """In float64, by the formula."""
    student, teacher = (np.asarray(m(x), "float64") for m in (dense(4, 1), dense(8, 2)))
    log_s, log_t = (tf.nn.log_softmax(z / temperature).numpy() for z in (student, teacher))
    return temperature**2 * float((np.exp(log_t) * (log_t - log_s)).sum(-1).mean())


class Assign(keras.callbacks.Callback):
    """Runs a function of the model and the epoch after each epoch."""

    def __init__(self, assign):
        super().__init__()
        self.assign = assign

    def on_epoch_end(self, epoch, logs=None):
        self.assign(self.model, epoch)


def test_what_a_callback_assigns_to_an_objective_counts(rows):
    x, _ = rows

    def cool(model, epoch):
        model.objectives[0].temperature = 1.0

    distiller = make(kd.SoftTargets(temperature=8.0))
    logs = distiller.fit(x, epochs=3, verbose=0, callbacks=[Assign(cool)]).history
    expected = [divergence(distiller, x, t) for t in (8.0, 1.0, 1.0)]
    assert logs["soft_targets"] == pytest.approx(expected, rel=1e-4)
    distiller.objectives[0].temperature = 3.0
    assert distiller.fit(x, verbose=0).history["soft_targets"][0] == pytest.approx(
        divergence(distiller, x, 3.0), rel=1e-4
    )
    distiller.objectives[0].temperature = kd.schedules.Linear(2.0, 2.0, steps=1)
    logs = distiller.train_on_batch(x, return_dict=True)
    assert float(logs["soft_targets"]) == pytest.approx(divergence(distiller, x, 2.0), rel=1e-4)
    assert float(logs["soft_targets_temperature"]) == 2.0


def test_what_a_callback_assigns_to_the_label_weight_counts(rows):
    def only_labels(model, epoch):
        model.label_weight = 1

    distiller = make(kd.SoftTargets(), LOSS, label_weight=0.25)
    assert distiller.label_weight == 0.25
    logs = distiller.fit(*rows, epochs=2, verbose=0, callbacks=[Assign(only_labels)]).history
    first = 0.25 * logs["label_loss"][0] + 0.75 * logs["soft_targets"][0]
    assert logs["loss"] == pytest.approx([first, logs["label_loss"][1]], rel=1e-5)
    with pytest.raises(ValueError, match=r"label_weight must be in \[0, 1\]"):
        distiller.label_weight = 2.0


def test_nothing_is_traced_anew_where_nothing_was_assigned(rows):
    traces = []

    class Counted(kd.Objective):
        def __init__(self, seen=0, **options):
            super().__init__(**options)
            self.seen = seen
            self.last = None

        def __call__(self, student, teacher, labels):
            traces.append(1)
            self.last = student.logits
            return keras.ops.mean(student.logits - teacher.logits, -1)

    def same_again(model, epoch):
        model.objectives[0].seen = 0.0

    distiller = make(Counted())
    distiller.fit(rows[0], verbose=0)
    first = len(traces)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        distiller.fit(rows[0], epochs=7, verbose=0, callbacks=[Assign(same_again)])
    assert len(traces) == first


def test_who_assigns_again_and_again_is_told_of_schedules(rows):
    def cool(model, epoch):
        model.objectives[0].temperature = 8.0 - epoch

    distiller = make(kd.SoftTargets())
    with pytest.warns(UserWarning, match=r"keras\.Variable"):
        distiller.fit(rows[0], epochs=6, verbose=0, callbacks=[Assign(cool)])


@pytest.mark.parametrize("kind", [keras.Variable, tf.Variable])
def test_a_variable_is_followed_and_never_trained(rows, kind):
    temperature, share = kind(8.0), kind(0.5)

    def assign(model, epoch):
        temperature.assign(1.0)
        share.assign(1.0)

    soft = kd.SoftTargets(temperature=temperature, weight=kind(2.0))
    distiller = make(soft, LOSS, label_weight=share)
    assert len(distiller.trainable_variables) == 4
    logs = distiller.fit(*rows, epochs=2, verbose=0, callbacks=[Assign(assign)]).history
    expected = [divergence(distiller, rows[0], t) for t in (8.0, 1.0)]
    assert logs["soft_targets"] == pytest.approx(expected, rel=1e-4)
    first = 0.5 * logs["label_loss"][0] + 0.5 * 2.0 * logs["soft_targets"][0]
    assert logs["loss"] == pytest.approx([first, logs["label_loss"][1]], rel=1e-5)
    assert logs["soft_targets_temperature"] == [8.0, 1.0]
    assert logs["label_weight"] == [0.5, 1.0]


def test_a_saved_variable_is_the_number_it_was(rows, tmp_path):
    distiller = make(kd.SoftTargets(temperature=keras.Variable(3.0)), LOSS)
    distiller.label_weight = keras.Variable(0.5)
    distiller.save(tmp_path / "d.keras")
    loaded = kd.Distiller.load(tmp_path / "d.keras", dense(8, 2))
    assert loaded.label_weight == 0.5
    assert float(loaded.objectives[0].temperature) == 3.0
    logs = loaded.fit(*rows, verbose=0).history
    assert logs["soft_targets"][0] == pytest.approx(divergence(loaded, rows[0], 3.0), rel=1e-4)


@pytest.mark.parametrize(
    "number", [np.float32(0.5), np.float64(0.5), np.array(0.5), tf.constant(0.5, "float64")]
)
def test_whatever_holds_a_number_is_one(rows, number):
    distiller = make(kd.SoftTargets(temperature=number, weight=number), LOSS, label_weight=number)
    logs = distiller.fit(*rows, verbose=0).history
    assert logs["soft_targets"][0] == pytest.approx(divergence(distiller, rows[0], 0.5), rel=1e-4)
    total = 0.5 * logs["label_loss"][0] + 0.5 * 0.5 * logs["soft_targets"][0]
    assert logs["loss"][0] == pytest.approx(total, rel=1e-5)


WRONG = ["0.5", None, np.array([0.5]), 1j, np.nan, -1.0]


@pytest.mark.parametrize("wrong", WRONG, ids=map(repr, WRONG))
def test_what_is_no_such_number_is_refused_everywhere_alike(wrong):
    taking = [
        lambda v: make(kd.SoftTargets(), label_weight=v),
        lambda v: kd.SoftTargets(temperature=v),
        lambda v: kd.SoftTargets(weight=v),
        lambda v: kd.DKD(beta=v),
        lambda v: kd.RelationalKD("a", "b", distance_weight=v),
        lambda v: kd.schedules.TeacherEntropy(v, v),
        lambda v: kd.schedules.Uncertainty(initial=v),
        lambda v: kd.schedules.GradientNorm(share=v),
    ]
    for take in taking:
        with pytest.raises(ValueError, match=r"must be|expected 0 < low"):
            take(wrong)


def test_a_number_that_is_read_once_is_no_variable():
    taking = [
        lambda v: kd.schedules.Linear(v, 1.0, 2),
        lambda v: kd.schedules.Steps([1], [1.0, v]),
        lambda v: kd.schedules.TeacherEntropy(v, 2.0),
        lambda v: kd.schedules.Uncertainty(initial=v),
        lambda v: kd.schedules.GradientNorm(momentum=v),
        lambda v: kd.objectives.GeneralizedJSD(beta=v),
    ]
    for take in taking:
        with pytest.raises(ValueError, match="is read once"):
            take(keras.Variable(0.5))
