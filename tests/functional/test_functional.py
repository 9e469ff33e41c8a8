"""The loss mathematics against numbers derived on paper and against SciPy's and Keras' own."""

import keras
import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr, softmax

from keras_distill import functional

RNG = np.random.default_rng(0)
STUDENT = RNG.normal(0, 3, (5, 7))
TEACHER = RNG.normal(0, 3, (5, 7))


@pytest.mark.parametrize(("gap", "temperature"), [(2.0, 2.0), (1.0, 4.0), (30.0, 1.0)])
def test_mirrored_two_class_logits(gap, temperature):
    # p = sigmoid(d), q = sigmoid(-d), d = gap / T: KL = d (p - q) = d tanh(d / 2), times T^2.
    d = gap / temperature
    given = functional.soft_target_kl([[0.0, gap]], [[gap, 0.0]], temperature=temperature)
    assert float(given[0]) == pytest.approx(temperature**2 * d * np.tanh(d / 2), rel=1e-6)


def test_soft_target_kl_is_scipys_relative_entropy_of_softmaxes():
    given = functional.soft_target_kl(STUDENT, TEACHER, temperature=3.0)
    expected = 9 * rel_entr(softmax(TEACHER / 3, 1), softmax(STUDENT / 3, 1)).sum(1)
    np.testing.assert_allclose(given, expected, rtol=1e-9)


def test_the_case_that_keras_distillation_gets_wrong():
    # Teacher [9, 6, 4], student [4, 9, 6], T = 3: 9 x sum p log(p / q) in float64.
    p, q = softmax(np.array([9, 6, 4]) / 3), softmax(np.array([4, 9, 6]) / 3)
    given = functional.soft_target_kl([[4.0, 9.0, 6.0]], [[9.0, 6.0, 4.0]], temperature=3.0)
    assert float(given[0]) == pytest.approx(9 * (p * np.log(p / q)).sum(), rel=1e-6)
    assert float(given[0]) == pytest.approx(6.7807, abs=5e-5)


def test_standardized_logits_forget_shift_and_scale():
    plain = functional.soft_target_kl(STUDENT, TEACHER, standardize=True)
    moved = functional.soft_target_kl(STUDENT * 5 - 3, TEACHER * 0.5 + 2, standardize=True)
    np.testing.assert_allclose(plain, moved, rtol=1e-5)


def test_standardizing_uses_the_sample_standard_deviation():
    # Logits (0, 2): mean 1, sample standard deviation sqrt(2), so z = -+1 / sqrt(2) and the
    # mirrored pair has the gap sqrt(2) at T = 1. The population's would give a gap of 2.
    given = functional.soft_target_kl([[0.0, 2.0]], [[2.0, 0.0]], temperature=1.0, standardize=True)
    assert float(given[0]) == pytest.approx(np.sqrt(2) * np.tanh(np.sqrt(2) / 2), rel=1e-5)


def test_hard_target_ce_is_keras_cross_entropy_with_the_teachers_class():
    expected = keras.losses.sparse_categorical_crossentropy(
        TEACHER.argmax(1), STUDENT.astype("float32"), from_logits=True
    )
    np.testing.assert_allclose(functional.hard_target_ce(STUDENT, TEACHER), expected, rtol=1e-5)


def test_hard_target_ce_does_not_depend_on_how_sure_the_teacher_is():
    np.testing.assert_allclose(
        functional.hard_target_ce(STUDENT, TEACHER),
        -log_softmax(STUDENT, 1)[range(5), TEACHER.argmax(1)],
    )


def test_logits_mse_is_the_mean_over_classes():
    np.testing.assert_allclose(
        functional.logits_mse(STUDENT, TEACHER), np.mean((STUDENT - TEACHER) ** 2, axis=1)
    )


def test_hint_mse_is_the_mean_over_everything_but_the_batch():
    student, teacher = RNG.normal(size=(2, 3, 4, 4, 6))
    expected = np.mean((student - teacher) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(functional.hint_mse(student, teacher), expected)


def test_hint_mse_pools_the_larger_map_on_each_axis():
    student = RNG.normal(size=(2, 8, 3, 5)).astype("float32")
    teacher = RNG.normal(size=(2, 4, 6, 5)).astype("float32")
    small_student = keras.ops.average_pool(student, (2, 1), (2, 1))
    small_teacher = keras.ops.average_pool(teacher, (1, 2), (1, 2))
    np.testing.assert_allclose(
        functional.hint_mse(student, teacher),
        functional.hint_mse(small_student, small_teacher),
        rtol=1e-5,
    )


def test_adaptive_pool_overlaps_where_the_sizes_do_not_divide():
    # 5 to 3: bins [0, 2), [1, 4), [3, 5) by floor(5 i / 3), ceil(5 (i + 1) / 3).
    row = np.array([[1.0, 2.0, 4.0, 8.0, 16.0]])
    np.testing.assert_allclose(functional.adaptive_pool(row, 1, 3), [[1.5, 14 / 3, 12.0]])


@pytest.mark.parametrize(
    "function", [functional.soft_target_kl, functional.hard_target_ce, functional.logits_mse]
)
def test_positions_between_batch_and_classes_are_averaged(function):
    student, teacher = RNG.normal(size=(2, 4, 3, 6))
    flat = function(student.reshape(12, 6), teacher.reshape(12, 6))
    np.testing.assert_allclose(
        function(student, teacher), np.reshape(flat, (4, 3)).mean(1), rtol=1e-9
    )


@pytest.mark.parametrize(
    "function", [functional.soft_target_kl, functional.hard_target_ce, functional.logits_mse]
)
def test_class_counts_that_differ_are_both_named(function):
    with pytest.raises(ValueError, match=r"student has 3 classes.*teacher 4"):
        function(np.zeros((2, 3)), np.zeros((2, 4)))


@pytest.mark.parametrize("temperature", [0, -1.0])
def test_a_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match="temperature must be positive"):
        functional.soft_target_kl(STUDENT, TEACHER, temperature=temperature)


def test_hint_mse_refuses_unequal_channels():
    with pytest.raises(ValueError, match=r"\(2, 4, 4, 3\).*\(2, 4, 4, 5\)"):
        functional.hint_mse(np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 4, 5)))
