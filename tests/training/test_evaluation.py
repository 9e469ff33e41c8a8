"""What `compile(validate_objectives=True)` adds to `evaluate` and to validation."""

import keras
import numpy as np
import pytest
from scipy import special

import keras_distill as kd

RNG = np.random.default_rng(0)
X = RNG.normal(size=(10, 6)).astype("float32")
Y = RNG.integers(0, 3, 10)
WEIGHTS = RNG.uniform(0.5, 2, 10).astype("float32")


def model(width, seed=0, dropout=0.0, **options):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(width, activation="relu", name="hidden", **options),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(dropout, seed=seed),
            keras.layers.Dense(3),
        ]
    )


def label_loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled(objectives=None, teacher=None, loss=None, student=None, **options):
    distiller = kd.Distiller(student or model(4), teacher or model(8, seed=1), objectives)
    # Eagerly, because tracing a step takes longer than a few of them.
    options = {"run_eagerly": True, "validate_objectives": True, **options}
    distiller.compile("adam", loss, **options)
    return distiller


def soft_targets(distiller, teacher, x, temperature=2.0, weights=1.0):
    """Hinton's divergence of the answers, in float64."""
    ours, theirs = (
        special.log_softmax(m.predict(x, verbose=0).astype("float64") / temperature, axis=-1)
        for m in (distiller.student, teacher)
    )
    values = temperature**2 * np.sum(np.exp(theirs) * (theirs - ours), axis=-1)
    return np.mean(values * weights)


def everything(distiller):
    """All that evaluation must not move."""
    metrics = {id(variable) for variable in distiller.metrics_variables}
    own = [*distiller.variables, *distiller.optimizer.variables, *distiller.teacher_state()]
    return [np.array(variable) for variable in own if id(variable) not in metrics]


@pytest.mark.parametrize(
    "options", [{"jit_compile": True}, {"steps_per_execution": 2, "jit_compile": False}]
)
def test_objectives_are_the_formulas_over_all_examples(options):
    teacher = model(8, seed=1)
    distiller = compiled([kd.SoftTargets()], teacher, label_loss(), run_eagerly=False, **options)
    # Batches of 4, 4 and 2: a mean over examples, not over batches.
    logs = distiller.evaluate(X, Y, batch_size=4, verbose=0, return_dict=True)
    assert set(logs) == {"loss", "soft_targets"}
    assert logs["soft_targets"] == pytest.approx(soft_targets(distiller, teacher, X), rel=1e-5)
    distiller.student.compile(loss=label_loss())
    assert logs["loss"] == pytest.approx(distiller.student.evaluate(X, Y, verbose=0), rel=1e-5)


def test_sample_weights_and_rows_without_a_label():
    teacher = model(8, seed=1)
    distiller = compiled([kd.SoftTargets()], teacher, label_loss())
    partly = np.where(np.arange(10) < 5, -1, Y)
    logs = distiller.evaluate(
        X, partly, sample_weight=WEIGHTS, batch_size=10, verbose=0, return_dict=True
    )
    expected = soft_targets(distiller, teacher, X, weights=WEIGHTS)
    assert logs["soft_targets"] == pytest.approx(expected, rel=1e-5)


def test_early_stopping_on_unlabelled_data():
    teacher = model(8, seed=1)
    distiller = compiled([kd.SoftTargets(weight=3.0), kd.SimilarityPreserving("hidden", "hidden")])
    stop = keras.callbacks.EarlyStopping("val_soft_targets", patience=2, restore_best_weights=True)
    history = distiller.fit(X, validation_data=X, epochs=4, verbose=0, callbacks=[stop]).history
    assert set(history) == {
        "loss",
        "soft_targets",
        "similarity_preserving",
        "val_soft_targets",
        "val_similarity_preserving",
    }
    assert stop.monitor_op(0, 1)
    assert stop.best == min(history["val_soft_targets"])
    split = distiller.fit(X, validation_split=0.2, verbose=0, batch_size=4).history
    expected = soft_targets(distiller, teacher, X[8:])
    assert split["val_soft_targets"][0] == pytest.approx(expected, rel=1e-4)


def test_the_teacher_is_asked_only_on_request():
    distiller = compiled(loss=label_loss(), validate_objectives=False)
    assert list(distiller.fit(X, Y, validation_data=(X, Y), verbose=0).history)[-1] == "val_loss"
    distiller.compile("adam")
    with pytest.raises(ValueError, match=r"nothing to evaluate.*validate_objectives=True"):
        distiller.fit(X, validation_data=X, verbose=0)


MOVING = {
    "an adapter's batch normalisation": lambda: [
        kd.objectives.Overhaul("hidden", "hidden"),
        kd.FeatureHint(
            "hidden",
            "hidden",
            adapter=keras.Sequential(
                [
                    keras.layers.Dense(8),
                    keras.layers.BatchNormalization(),
                    keras.layers.Dropout(0.5),
                ]
            ),
        ),
    ],
    "a queue": lambda: [kd.objectives.ContrastiveRepresentation("hidden", "hidden", queue_size=16)],
    "a learned weight": lambda: [
        kd.SoftTargets(weight=kd.schedules.GradientNorm()),
        kd.objectives.LogitsMSE(weight=kd.schedules.Uncertainty()),
    ],
}


@pytest.mark.parametrize("kind", MOVING)
def test_nothing_but_metrics_moves(kind):
    distiller = compiled(MOVING[kind](), loss=label_loss(), student=model(4, dropout=0.5))
    distiller.fit(X, Y, verbose=0)
    before = everything(distiller)
    first, second = (
        distiller.evaluate(X, Y, batch_size=4, verbose=0, return_dict=True) for _ in range(2)
    )
    assert first == second
    for ours, theirs in zip(before, everything(distiller), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    distiller.fit(X, Y, verbose=0)
    assert any((a != b).any() for a, b in zip(before, everything(distiller), strict=True))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda teacher: kd.teachers.Noisy(teacher, sigma=5.0),
        lambda teacher: kd.teachers.Ensemble([kd.teachers.Noisy(teacher), teacher]),
    ],
    ids=["alone", "a member"],
)
def test_a_noisy_teacher_is_quiet_in_evaluation(wrap):
    teacher = model(8, seed=1)
    distiller = compiled(teacher=wrap(teacher))
    before = everything(distiller)
    logs = distiller.evaluate(X, verbose=0, return_dict=True)
    assert logs["soft_targets"] == pytest.approx(soft_targets(distiller, teacher, X), rel=1e-5)
    for ours, theirs in zip(before, everything(distiller), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_moving_average_stands_still():
    teacher = kd.teachers.MovingAverage(decay=0.5)
    distiller = compiled(teacher=teacher, loss=label_loss())
    distiller.fit(X, Y, verbose=0)
    distiller.student.set_weights([2 * w for w in distiller.student.get_weights()])
    before = everything(distiller)
    logs = distiller.evaluate(X, Y, verbose=0, return_dict=True)
    expected = soft_targets(distiller, teacher.model, X)
    assert logs["soft_targets"] == pytest.approx(expected, rel=1e-4)
    for ours, theirs in zip(before, everything(distiller), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_temperature_on_a_schedule_is_that_of_the_last_update():
    teacher = model(8, seed=1)
    temperature = kd.schedules.Steps([2], [1.0, 8.0])
    distiller = compiled([kd.SoftTargets(temperature=temperature)], teacher)
    for epochs, expected in ((0, 1.0), (3, 8.0)):
        if epochs:
            distiller.fit(X, epochs=epochs, verbose=0)
        logs = distiller.evaluate(X, verbose=0, return_dict=True)
        found = soft_targets(distiller, teacher, X, expected)
        assert logs == {"soft_targets": pytest.approx(found, rel=1e-4)}


def test_what_is_assigned_and_what_the_teacher_learns_are_followed():
    teacher = model(8, seed=1)
    objective = kd.SoftTargets()
    distiller = compiled([objective], teacher, run_eagerly=False)
    for temperature, weights in ((4.0, 1.0), (2.0, 1.0), (2.0, 2.0)):
        objective.temperature = temperature
        teacher.set_weights([weights * w for w in teacher.get_weights()])
        found = distiller.evaluate(X, verbose=0, return_dict=True)["soft_targets"]
        expected = soft_targets(distiller, teacher, X, temperature)
        assert found == pytest.approx(expected, rel=1e-4)


def test_students_that_teach_each_other():
    inputs = keras.Input((6,))
    nets = {"ann": model(4), "bob": model(5, seed=1)}
    students = [keras.Model(inputs, net(inputs), name=name) for name, net in nets.items()]
    mutual = kd.MutualDistiller(students)
    mutual.compile("adam", label_loss(), validate_objectives=True, run_eagerly=True)
    logs = mutual.evaluate(X, Y, batch_size=4, verbose=0, return_dict=True)
    ours, theirs = (special.log_softmax(s.predict(X, verbose=0), axis=-1) for s in students)
    divergence = np.exp(theirs) * (theirs - ours) + np.exp(ours) * (ours - theirs)
    assert logs["soft_targets"] == pytest.approx(np.mean(divergence.sum(-1)), rel=1e-4)


def test_exits_of_one_model():
    inputs = keras.Input((6,))
    early = keras.layers.Dense(4, activation="relu", name="early")(inputs)
    net = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Dense(5)(early)))
    both = kd.SelfDistiller(kd.with_exits(net, ["early"]))
    both.compile("adam", validate_objectives=True, run_eagerly=True)
    logs = both.evaluate(X, verbose=0, return_dict=True)
    answers = both.predict(X, verbose=0)
    ours, theirs = (
        special.log_softmax(answers[name].astype("float64") / 3, axis=-1)
        for name in ("exit_early", "final")
    )
    expected = np.mean(9 * np.sum(np.exp(theirs) * (theirs - ours), axis=-1))
    assert logs == {"soft_targets": pytest.approx(expected, rel=1e-4)}


def test_a_cache_validates_on_a_second_one_of_the_same_teacher(tmp_path):
    teacher = model(8, seed=1)

    def cache(name, x, asked=teacher):
        options = {"dtype": "float32", "verbose": False}
        return kd.TeacherCache.build(asked, (x, Y[: len(x)]), tmp_path / name, **options)

    train, validation = cache("train", X), cache("validation", X[:7] + 1)
    distiller = compiled(teacher=train, loss=label_loss())
    history = distiller.fit(
        train.dataset(4), validation_data=validation.dataset(4), verbose=0
    ).history
    expected = soft_targets(distiller, teacher, X[:7] + 1)
    assert history["val_soft_targets"][-1] == pytest.approx(expected, rel=1e-4)
    iterations = int(distiller.optimizer.iterations)
    foreign = cache("foreign", X, asked=model(8, seed=2))
    for data in ((X, Y), foreign.dataset(4)):
        with pytest.raises(ValueError, match=r"second cache|another cache"):
            distiller.fit(train.dataset(4), validation_data=data, verbose=0)
    with pytest.raises(ValueError, match="second cache"):
        distiller.evaluate(X, Y, verbose=0)
    assert int(distiller.optimizer.iterations) == iterations


def test_labels_that_validation_misses_are_named_before_training():
    needing = compiled([kd.DKD()])
    with pytest.raises(ValueError, match="dkd needs labels"):
        needing.fit(X, Y, validation_data=(X,), verbose=0)
    with pytest.raises(ValueError, match="dkd needs labels"):
        needing.evaluate(X, verbose=0)
    labelled = compiled(loss=label_loss())
    with pytest.raises(ValueError, match="label loss, and the data has no labels"):
        labelled.fit(X, Y, validation_data=X, verbose=0)
    for distiller in (needing, labelled):
        assert int(distiller.optimizer.iterations) == 0


class Sureness(keras.metrics.Mean):
    """It looks at no label."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(keras.ops.max(y_pred, axis=-1))


@pytest.mark.parametrize("metric", ["accuracy", keras.metrics.SparseCategoricalAccuracy, "auc"])
def test_metrics_without_their_labels_are_told_so(metric):
    metric = metric if isinstance(metric, str) else metric()
    distiller = compiled(metrics=[metric])
    for call in (distiller.evaluate, distiller.fit):
        with pytest.raises(ValueError, match=r"no labels\. Give \(x, y\).*validate_objectives"):
            call(X, verbose=0)


def test_a_metric_that_looks_at_no_label_needs_none():
    distiller = compiled(metrics=[Sureness("sureness")], validate_objectives=False)
    expected = distiller.predict(X, verbose=0).max(-1).mean()
    logs = distiller.evaluate(X, verbose=0, return_dict=True)
    assert logs == {"sureness": pytest.approx(expected, rel=1e-5)}


def test_it_is_saved_and_needs_the_teacher_again(tmp_path):
    teacher = model(8, seed=1)
    distiller = compiled(teacher=teacher, loss=label_loss(), metrics=["accuracy"])
    distiller.fit(X, Y, verbose=0)
    expected = distiller.evaluate(X, Y, verbose=0, return_dict=True)
    distiller.save(tmp_path / "d.keras")
    alone = keras.saving.load_model(tmp_path / "d.keras")
    logs = alone.evaluate(X, Y, verbose=0, return_dict=True)
    assert logs == {key: pytest.approx(expected[key]) for key in ("loss", "accuracy")}
    again = kd.Distiller.load(tmp_path / "d.keras", teacher)
    assert again.evaluate(X, Y, verbose=0, return_dict=True) == pytest.approx(expected)


def test_no_objective_and_no_answer_are_refused():
    with pytest.raises(ValueError, match="has no objectives"):
        compiled([])
    with pytest.raises(ValueError, match="True or False; got 'yes'"):
        kd.Distiller(model(4), model(8)).compile("adam", validate_objectives="yes")
