"""Schedules inside `fit`: one trace, the right number at the right update, logged and resumed."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill as kd
from keras_distill import schedules

LABEL_LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
ROWS, BATCH = 32, 8


def dense(units, seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(units, "tanh", name="hidden"), keras.layers.Dense(3)]
    )


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return rng.normal(size=(ROWS, 6)).astype("float32"), rng.integers(0, 3, ROWS)


def make(objectives, loss=LABEL_LOSS, **options):
    distiller = kd.Distiller(dense(4, 1), dense(8, 2), objectives, **options)
    distiller.compile(keras.optimizers.SGD(0.1), loss)
    return distiller


def fit(distiller, rows, **options):
    return distiller.fit(*rows, batch_size=BATCH, shuffle=False, verbose=0, **options).history


def test_each_update_has_its_number(rows):
    cooling = schedules.Steps([1, 2, 3], [4.0, 3.0, 2.0, 1.0])
    distiller = make(
        [kd.SoftTargets(temperature=cooling, weight=schedules.WarmUp(1.0, 4))],
        label_weight=schedules.Linear(0.8, 0.4, steps=4),
    )
    twin = dense(4, 1)
    teacher, optimizer = dense(8, 2), keras.optimizers.SGD(0.1)
    for update, (temperature, weight, label_weight) in enumerate(
        [(4.0, 0.0, 0.8), (3.0, 0.25, 0.7), (2.0, 0.5, 0.6), (1.0, 0.75, 0.5)]
    ):
        x, y = (part[update * BATCH :][:BATCH] for part in rows)
        with tf.GradientTape() as tape:
            logits = twin(x, training=True)
            kl = kd.functional.soft_target_kl(logits, teacher(x), temperature=temperature)
            soft = weight * tf.reduce_mean(kl)
            loss = label_weight * LABEL_LOSS(y, logits) + (1 - label_weight) * soft
        gradients = tape.gradient(loss, twin.trainable_variables)
        optimizer.apply(gradients, twin.trainable_variables)
    history = fit(distiller, rows)
    for ours, by_hand in zip(distiller.student.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(ours, by_hand, rtol=1e-5, atol=1e-6)
    logged = {key: values[0] for key, values in history.items()}
    assert logged["soft_targets_temperature"] == pytest.approx((4 + 3 + 2 + 1) / 4)
    assert logged["soft_targets_weight"] == pytest.approx((0 + 0.25 + 0.5 + 0.75) / 4)
    assert logged["label_weight"] == pytest.approx((0.8 + 0.7 + 0.6 + 0.5) / 4)
    # What evaluate says has no part in the training.
    assert set(distiller.evaluate(*rows, verbose=0, return_dict=True)) == {"loss"}


def test_a_constant_is_not_logged(rows):
    history = fit(make([kd.SoftTargets()]), rows)
    assert set(history) == {"loss", "label_loss", "soft_targets"}


def test_it_is_traced_once(rows):
    traces = []

    @keras.saving.register_keras_serializable("keras_distill_tests")
    class Counted(schedules.Linear):
        def __call__(self, step):
            traces.append(step)
            return super().__call__(step)

    distiller = make([kd.SoftTargets(temperature=Counted(4.0, 1.0, 6))])
    fit(distiller, rows, epochs=1)
    first = len(traces)
    fit(distiller, rows, epochs=3)
    assert 0 < first == len(traces)


def test_entropy_in_the_step_equals_the_loss_by_hand(rows):
    temperature = schedules.TeacherEntropy(1.0, 5.0)
    distiller = make([kd.SoftTargets(temperature=temperature)], loss=None)
    x, _ = rows
    answers = distiller.teacher(x).logits
    by_row = temperature(answers)
    assert float(tf.math.reduce_std(by_row)) > 0.01, "the examples must differ"
    kl = kd.functional.soft_target_kl(distiller.student(x), answers, temperature=by_row)
    logs = distiller.train_on_batch(x, return_dict=True)
    assert float(logs["soft_targets"]) == pytest.approx(float(tf.reduce_mean(kl)), rel=1e-5)
    assert float(logs["soft_targets_temperature"]) == pytest.approx(float(tf.reduce_mean(by_row)))


def test_the_gradient_norm_is_that_of_the_parts(rows):
    weight = schedules.GradientNorm(share=2.0, momentum=0.0)
    distiller = make([kd.FeatureHint("hidden", "hidden", weight=weight)])
    x, y = rows
    distiller.train_on_batch(x, y)
    # The same two gradients by hand, of models that have not been trained.
    twin, teacher = dense(4, 1), dense(8, 2)
    (adapter,) = make([kd.FeatureHint("hidden", "hidden")])._adapters.values()
    features = keras.Model(twin.inputs, [twin.get_layer("hidden").output, twin.outputs[0]])
    target = keras.Model(teacher.inputs, teacher.get_layer("hidden").output)(x)
    with tf.GradientTape(persistent=True) as tape:
        ours, logits = features(x, training=True)
        hint = tf.reduce_mean(kd.functional.hint_mse(adapter(ours), target))
        label_loss = LABEL_LOSS(y, logits)
    weights = features.trainable_variables
    norms = [
        np.sqrt(sum(np.sum(np.square(g)) for g in tape.gradient(part, weights) if g is not None))
        for part in (label_loss, hint)
    ]
    assert float(weight.factor()) == pytest.approx(2.0 * norms[0] / norms[1], rel=1e-4)


def test_uncertainty_is_trained_and_counts_as_its_objective_does(rows):
    weight = schedules.Uncertainty(initial=0.5)
    distiller = make([kd.SoftTargets(weight=weight)], label_weight=0.25)
    x, y = rows
    logs = distiller.train_on_batch(x, y, return_dict=True)
    soft, label = float(logs["soft_targets"]), float(logs["label_loss"])
    # penalty: s / 2 with s = -ln 0.5
    expected = 0.25 * label + 0.75 * (0.5 * soft + np.log(2) / 2)
    assert float(logs["loss"]) == pytest.approx(expected, rel=1e-5)
    # SGD at 0.1: s - 0.1 * 0.75 * (1/2 - 0.5 * soft)
    moved = np.log(2) - 0.1 * 0.75 * (0.5 - 0.5 * soft)
    assert float(weight.factor()) == pytest.approx(np.exp(-moved), rel=1e-5)
    assert float(logs["soft_targets_weight"]) == pytest.approx(0.5)


@pytest.mark.parametrize("kind", [schedules.Uncertainty, schedules.GradientNorm])
def test_resumed_to_the_bit(kind, rows, tmp_path):
    def begun():
        objective = kd.SoftTargets(temperature=schedules.Cosine(5.0, 1.0, 12), weight=kind())
        distiller = make([objective])
        distiller.optimizer.build(distiller.trainable_variables)
        return distiller

    whole = begun()
    expected = fit(whole, rows, epochs=3)
    first = begun()
    fit(first, rows, epochs=2)
    first.save_weights(tmp_path / "half.weights.h5")
    first.save(tmp_path / "half.keras")
    resumed = begun()
    resumed.load_weights(tmp_path / "half.weights.h5")
    loaded = kd.Distiller.load(tmp_path / "half.keras", dense(8, 2))
    for distiller in (resumed, loaded):
        history = fit(distiller, rows, epochs=1)
        assert history == {key: values[2:] for key, values in expected.items()}


@pytest.mark.slow
def test_under_a_strategy_and_xla(rows):
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        weights = [schedules.GradientNorm(), schedules.Uncertainty()]
        distiller = make([kd.SoftTargets(weight=weights[0]), kd.HardTargets(weight=weights[1])])
    fit(distiller, rows)
    assert weights[0].variables[0].numpy() != 1.0
    assert weights[1].variables[0].numpy() != 0.0
    compiled = make([kd.SoftTargets(weight=schedules.GradientNorm())])
    compiled.compile("sgd", LABEL_LOSS, jit_compile=True)
    fit(compiled, rows)
    assert float(compiled.objectives[0].weight.factor()) != 1.0


def test_refused_before_training(rows):
    with pytest.raises(ValueError, match=r"label_weight must be in \[0, 1\].*runs from 0.1 to 1.5"):
        make([kd.SoftTargets()], label_weight=schedules.Linear(1.5, 0.1, 9))
    with pytest.raises(ValueError, match="or a schedule over the updates"):
        make([kd.SoftTargets()], label_weight=schedules.TeacherEntropy(0.1, 0.5))
    with pytest.raises(ValueError, match="soft_targets: GradientNorm follows the label loss"):
        make([kd.SoftTargets(weight=schedules.GradientNorm())], loss=None)
    shared = schedules.Uncertainty()
    with pytest.raises(ValueError, match="its weight is the very Uncertainty of soft_targets"):
        make([kd.SoftTargets(weight=shared), kd.HardTargets(weight=shared)])


def test_entropy_is_that_of_the_output_which_stands_for_the_students(rows):
    x, _ = rows

    def two_outputs(first, second, seed):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input((6,))
        return keras.Model(
            inputs, {name: keras.layers.Dense(3)(inputs) for name in (first, second)}
        )

    # The teacher calls its outputs something else: they match by their order.
    student, teacher = two_outputs("a", "b", 1), two_outputs("one", "two", 2)
    temperature = schedules.TeacherEntropy(1.0, 5.0)
    objective = kd.SoftTargets(temperature=temperature, output="b")
    distiller = kd.Distiller(student, teacher, [objective])
    distiller.compile("sgd", loss=None)
    logs = distiller.train_on_batch(x, return_dict=True)
    expected = tf.reduce_mean(temperature(teacher(x)["two"]))
    assert float(logs["soft_targets_temperature"]) == pytest.approx(float(expected), rel=1e-5)
