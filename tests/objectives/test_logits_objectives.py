"""Objectives on answers, inside a Distiller: options, labels, and what they refuse."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill as kd
from keras_distill import functional
from keras_distill.objectives import (
    DIST,
    DKD,
    BalancedTargets,
    BootstrappedLabels,
    GeneralizedJSD,
    HardExamples,
    HardTargets,
    LogitsMSE,
    SoftTargets,
    WeightedSoftTargets,
)

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(0, 2, (2, 8, 10)).astype("float32")


def label_loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def spec(*shape, **options):
    return kd.Signals(keras.KerasTensor((None, *shape)), **options)


@pytest.mark.parametrize("kind", [DKD, HardExamples, BootstrappedLabels, WeightedSoftTargets])
def test_fit_logs_the_function_of_these_labels(kind, small_cnn, digits):
    student, teacher = small_cnn(2), small_cnn(4, seed=1)
    distiller = kd.Distiller(student, teacher, kind())
    distiller.compile(keras.optimizers.SGD(0.0), label_loss())
    x, y = digits.x_train[:16], np.copy(digits.y_train[:16])
    y[::3] = -1
    ours, theirs = kd.Signals(student(x, training=True)), kd.Signals(teacher(x))
    expected = np.mean(kind()(ours, theirs, y))
    history = distiller.fit(x, y, batch_size=16, verbose=0).history
    assert history[kind().name][0] == pytest.approx(expected, rel=1e-4)


def test_a_label_out_of_range_stops_fit_with_the_objective_named(small_cnn, digits):
    distiller = kd.Distiller(small_cnn(2), small_cnn(4, seed=1), DKD(name="decoupled"))
    distiller.compile("sgd", loss=None)
    with pytest.raises(tf.errors.InvalidArgumentError, match="decoupled: labels must be in"):
        distiller.fit(digits.x_train[:16], np.full(16, 10), batch_size=16, verbose=0)


def test_under_xla_a_label_out_of_range_makes_the_value_nan():
    @tf.function(jit_compile=True, autograph=False)
    def compiled(student, teacher, labels):
        return DKD()(kd.Signals(student), kd.Signals(teacher), labels)

    values = compiled(STUDENT, TEACHER, tf.constant([0, 10, 2, 3, 4, 5, 6, -1]))
    np.testing.assert_array_equal(np.isnan(values), np.arange(8) == 1)


def test_fit_without_labels_names_the_objective_that_needs_them(small_cnn, digits):
    distiller = kd.Distiller(small_cnn(2), small_cnn(4, seed=1), HardExamples())
    distiller.compile("sgd", loss=None)
    with pytest.raises(ValueError, match="hard_examples needs labels"):
        distiller.fit(digits.x_train[:16], batch_size=16, verbose=0)


def test_noisy_labels_are_overruled_by_a_sure_teacher():
    clean = RNG.integers(0, 10, 64)
    noisy = np.where(np.arange(64) % 2, clean, (clean + 3) % 10)
    sure, even = tf.constant(20 * np.eye(10)[clean], "float32"), tf.zeros((64, 10))
    with tf.GradientTape() as tape:
        tape.watch(even)
        value = BootstrappedLabels()(kd.Signals(even), kd.Signals(sure), noisy)
    # The gradient of cross-entropy is p - q: its least entry is where the target says.
    np.testing.assert_array_equal(np.argmin(tape.gradient(value, even), axis=1), clean)


@pytest.mark.parametrize("standardize", [False, True])
def test_soft_targets_of_a_model_that_ends_in_softmax_and_of_its_logits(standardize):
    log_probs = np.log(keras.ops.softmax(TEACHER))
    options = {"standardize": standardize}
    for objective in (
        SoftTargets(**options),
        DKD(),
        DIST(),
        BalancedTargets(class_counts=[9] * 10),
    ):
        labels = np.arange(8)
        np.testing.assert_allclose(
            objective(kd.Signals(STUDENT), kd.Signals(log_probs), labels),
            objective(kd.Signals(STUDENT), kd.Signals(TEACHER), labels),
            rtol=1e-4,
            atol=1e-5,
        )


def test_weights_by_effective_number():
    # beta = 1/2: E(1) = 1, E(2) = 3/2, E(3) = 7/4. 1, 2/3, 4/7 to the mean 1: sum 47/21.
    weights = BalancedTargets(class_counts=[1, 2, 3], beta=0.5).weights
    np.testing.assert_allclose(weights, np.array([1, 2 / 3, 4 / 7]) * 3 * 21 / 47)
    # The limits: none at 0, one over the count towards 1.
    np.testing.assert_allclose(BalancedTargets(class_counts=[1, 2, 3], beta=0.0).weights, 1.0)
    inverse = BalancedTargets(class_counts=[10, 20, 40], beta=1 - 1e-9).weights
    np.testing.assert_allclose(inverse, np.array([4, 2, 1]) * 3 / 7, rtol=1e-6)


def test_counts_may_be_an_array_and_are_saved():
    objective = BalancedTargets(class_counts=np.bincount([0, 1, 1, 2]), temperature=2.0)
    copy = BalancedTargets.from_config(objective.get_config())
    assert copy.weights == objective.weights
    given = copy(kd.Signals(STUDENT[:, :3]), kd.Signals(TEACHER[:, :3]), None)
    expected = functional.balanced_kl(
        STUDENT[:, :3], TEACHER[:, :3], class_weights=objective.weights, temperature=2.0
    )
    np.testing.assert_array_equal(given, expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SoftTargets(temperature=0), "SoftTargets: temperature must be positive; got 0"),
        (lambda: DKD(temperature=-1.0), "DKD: temperature must be positive; got -1"),
        (
            lambda: WeightedSoftTargets(temperature=0),
            "SoftTargets: temperature must be",
        ),
        (lambda: DKD(beta=-1.0), "DKD: beta must be finite and at least 0; got -1"),
        (lambda: DIST(gamma=float("nan")), "DIST: gamma must be finite and at least 0; got nan"),
        (lambda: GeneralizedJSD(beta=1.1), r"GeneralizedJSD: beta must be in \[0, 1\]; got 1.1"),
        (lambda: HardExamples(focus="loss"), "'disagreement' or 'margin'; got 'loss'"),
        (lambda: HardExamples(focusing=-1), "HardExamples: focusing must be finite"),
        (lambda: BootstrappedLabels(min_confidence=2), r"must be in \[0, 1\]; got 2"),
        (lambda: BalancedTargets(), "either class_counts or class_weights"),
        (lambda: BalancedTargets(class_counts=[1], class_weights=[1]), "either class_counts or"),
        (lambda: BalancedTargets(class_counts=[3, 0]), "must be positive numbers, one a class"),
        (
            lambda: BalancedTargets(class_counts=[3, 1], beta=1.0),
            r"must be in \[0, 1\); got 1",
        ),
    ],
)
def test_arguments_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("objective", "pair", "message"),
    [
        (SoftTargets(), (spec(5), spec(6)), r"soft_targets: .*5 classes.*\(None, 5\).*6 .*output="),
        (SoftTargets(), (spec(1), spec(1)), "softmax over one class is always 1"),
        (SoftTargets(), (spec(8, 8, 5), spec(4, 4, 5)), r"\(None, 8, 8, 5\).*\(None, 4, 4, 5\)"),
        (DIST(), (spec(5), spec(3, 5)), r"dist: .*\(None, 5\).*\(None, 3, 5\)"),
        (LogitsMSE(), (spec(5), spec(5, from_probabilities=True)), "the teacher gives probabil"),
        (SoftTargets(), (spec(5), spec(5, from_sigmoid=True)), "teacher ends in a s.*MultiLabel"),
        (HardTargets(), (spec(5, from_sigmoid=True), spec(5)), "student ends in a s.*MultiLabel"),
        (BalancedTargets(class_counts=[1, 2]), (spec(5), spec(5)), "2 class counts.*has 5 classes"),
    ],
)
def test_answers_that_do_not_fit(objective, pair, message):
    with pytest.raises(ValueError, match=message):
        objective.build(*pair)


@pytest.mark.parametrize("objective", [SoftTargets(), DKD(), DIST()])
def test_maps_of_unknown_size_fit(objective):
    objective.build(spec(None, None, 5), spec(None, None, 5))


def test_a_distiller_of_yes_and_no_answers_names_the_objective_for_them():
    def model():
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "sigmoid")])

    with pytest.raises(ValueError, match="soft_targets: the student ends in a sigmoid"):
        kd.Distiller(model(), model())


def test_one_number_an_example_has_a_squared_distance():
    LogitsMSE().build(spec(1), spec(1))
