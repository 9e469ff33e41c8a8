"""Schedules as numbers: their values on paper, their bounds, and who refuses what."""

import json
import math

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

import keras_distill as kd
from keras_distill import schedules


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        # 8 to 2 over 100 updates, setting out at 10: a sixth of the way is 7
        (schedules.Linear(8.0, 2.0, 60, begin=10), {0: 8, 10: 8, 20: 7, 70: 2, 900: 2}),
        # cos(pi / 3) = 1/2: 2 + (8 - 2) * 3/4
        (schedules.Cosine(8.0, 2.0, 60), {0: 8, 20: 6.5, 30: 5, 60: 2, 61: 2}),
        (schedules.WarmUp(3.0, 4), {0: 0, 1: 0.75, 4: 3, 5: 3}),
        (schedules.Steps([2, 5], [4.0, 2.0, 1.0]), {0: 4, 1: 4, 2: 2, 4: 2, 5: 1, 99: 1}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_and_a_round_trip_in_a_graph(schedule, values):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(schedule)))
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is type(schedule)
    graph = tf.function(copy).get_concrete_function(tf.TensorSpec((), "int64"))
    for step, value in values.items():
        assert float(graph(tf.constant(step, "int64"))) == pytest.approx(value, abs=1e-6)
    assert schedules.bounds(schedule) == (min(values.values()), max(values.values()))


def test_a_warm_up_equals_keras_own():
    keras_own = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=1, warmup_target=2.0, warmup_steps=8, alpha=1.0
    )
    ours = schedules.WarmUp(2.0, 8)
    steps = range(9)
    np.testing.assert_allclose([ours(s) for s in steps], [keras_own(s) for s in steps], rtol=1e-6)


def test_entropy_gives_each_example_its_temperature():
    logits = np.random.default_rng(0).normal(0, 2, (5, 7)).astype("float32")
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    entropy = scipy.stats.entropy(probabilities, axis=-1)
    expected = 2 + (6 - 2) * (1 - entropy / math.log(7))
    given = schedules.TeacherEntropy(2.0, 6.0)(logits)
    np.testing.assert_allclose(given, expected, rtol=1e-5)
    # Positions share their example's temperature: the mean of their entropies.
    by_position = schedules.TeacherEntropy(2.0, 6.0)(logits[None])
    np.testing.assert_allclose(by_position, [expected.mean()], rtol=1e-5)


@pytest.mark.parametrize("shape", [(4, 5), (4, 3, 5)])
@pytest.mark.parametrize(
    "loss",
    [
        kd.functional.soft_target_kl,
        lambda s, t, **o: kd.functional.decoupled_kd(s, t, np.zeros(s.shape[:-1], int), **o),
        lambda s, t, **o: kd.functional.balanced_kl(s, t, class_weights=[1, 2, 3, 4, 5], **o),
    ],
    ids=["soft_target_kl", "decoupled_kd", "balanced_kl"],
)
def test_a_temperature_an_example_is_that_example_alone(loss, shape):
    rng = np.random.default_rng(1)
    student, teacher = rng.normal(0, 2, (2, *shape)).astype("float32")
    temperatures = [1.0, 2.0, 3.0, 8.0]
    together = loss(student, teacher, temperature=tf.constant(temperatures))
    alone = [
        loss(student[i : i + 1], teacher[i : i + 1], temperature=t)[0]
        for i, t in enumerate(temperatures)
    ]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_a_weight_by_uncertainty_rests_where_kendall_says():
    weight, objective = schedules.Uncertainty(initial=2.0), 0.125
    assert float(weight.factor()) == pytest.approx(2.0)
    assert float(weight.penalty()) == pytest.approx(-math.log(2) / 2)
    # d/ds (exp(-s) L + s / 2) = 0 at exp(-s) = 1 / (2 L) = 4
    optimizer = keras.optimizers.SGD(0.2)
    for _ in range(200):
        with tf.GradientTape() as tape:
            loss = weight.factor() * objective + weight.penalty()
        variables = weight.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)
    assert float(weight.factor()) == pytest.approx(4.0, rel=1e-3)


def test_a_weight_by_gradient_norm_moves_to_the_ratio():
    weight = schedules.GradientNorm(share=0.5, momentum=0.75)
    weight.observe(tf.constant(6.0), tf.constant(2.0))  # ratio 1.5: 0.75 * 1 + 0.25 * 1.5
    assert float(weight.factor()) == pytest.approx(1.125)
    for unknown in ((0.0, 2.0), (6.0, 0.0), (math.nan, 1.0), (math.inf, 1.0)):
        weight.observe(*map(tf.constant, unknown))
    assert float(weight.factor()) == pytest.approx(1.125)


KERAS = keras.optimizers.schedules


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kd.SoftTargets(weight=schedules.Linear(1.0, -0.5, 9)), r"weight.*-0.5 to 1"),
        (lambda: kd.SoftTargets(temperature=schedules.WarmUp(4.0, 9)), "temperature.*positive.*0"),
        (lambda: kd.DKD(beta=schedules.Steps([3], [1.0, -2.0])), "DKD: beta must be.*-2 to 1"),
        (
            lambda: kd.SoftTargets(weight=KERAS.PolynomialDecay(1.0, 500, end_learning_rate=-1.0)),
            "weight must be finite and at least 0 at every update.*PolynomialDecay runs from -1",
        ),
        (
            lambda: kd.DIST(temperature=schedules.TeacherEntropy(1.0, 2.0)),
            "can't be TeacherEntropy",
        ),
        (lambda: kd.DIST(beta=schedules.Uncertainty()), "Uncertainty, which is for a weight"),
        (
            lambda: kd.SoftTargets(temperature=schedules.Uncertainty()),
            "temperature can't be Uncertainty, which is for a weight",
        ),
        (
            lambda: kd.SoftTargets(weight=schedules.TeacherEntropy(1, 2)),
            "weight can't be TeacherEntropy, which is for SoftTargets' temperature",
        ),
        (
            lambda: kd.objectives.BootstrappedLabels(min_confidence=schedules.GradientNorm()),
            "min_confidence can't be GradientNorm",
        ),
        (
            lambda: kd.objectives.VariationalInformation(
                "a", "b", initial_variance=schedules.WarmUp(1.0, 2)
            ),
            "initial_variance is read once",
        ),
        (lambda: schedules.Linear(1.0, math.inf, 5), "end must be a finite number"),
        (lambda: schedules.Cosine(1.0, 0.0, 0), "steps must be at least 1"),
        (lambda: schedules.Steps([5, 5], [1.0, 2.0, 3.0]), "boundaries must increase"),
        (lambda: schedules.Steps([5], [1.0]), "1 boundaries part 2 values; got 1"),
        (lambda: schedules.TeacherEntropy(0.0, 2.0), "0 < low <= high"),
        (lambda: schedules.GradientNorm(momentum=1.0), r"momentum must be in \[0, 1\)"),
        (lambda: schedules.Uncertainty(initial=0.0), "initial must be positive"),
    ],
)
def test_refused(make, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        make()
