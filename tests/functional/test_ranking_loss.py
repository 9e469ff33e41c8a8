"""Ranking distillation, against numbers derived by hand and SciPy's ranks."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit
from scipy.stats import rankdata

from keras_distill import functional

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(0, 2, (2, 6, 9))


def test_by_hand():
    # The teacher's first two are items 3 and 1, weighted 2/3 and 1/3. The student has three items
    # above the first, and two above the second, one of which may be there: 3 and 1 too many.
    student = np.array([[5.0, np.log(3), 4.0, -np.log(3)]])
    teacher = np.array([[-1.0, 2.0, 0.0, 3.0]])
    given = functional.ranking_distillation(
        student, teacher, top_k=2, position_scale=1 / np.log(2), discrepancy_sharpness=0.5
    )
    expected = 2 / 3 * np.tanh(1.5) * np.log(4) + 1 / 3 * np.tanh(0.5) * np.log(4 / 3)
    assert float(given[0]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("sharpness", [None, 0.1, 2.0])
def test_by_loops_over_scipys_ranks(sharpness):
    ours, theirs = (rankdata(-scores, axis=1).astype(int) for scores in (STUDENT, TEACHER))
    positions = np.exp(-np.arange(1, 5) / 3)
    expected = np.zeros(6)
    for row in range(6):
        for rank in range(1, 5):
            (item,) = np.flatnonzero(theirs[row] == rank)
            weight = positions[rank - 1] / positions.sum()
            if sharpness is not None:
                weight *= np.tanh(sharpness * max(ours[row, item] - rank, 0))
            expected[row] -= weight * np.log(expit(STUDENT[row, item]))
    given = functional.ranking_distillation(
        STUDENT, TEACHER, top_k=4, position_scale=3.0, discrepancy_sharpness=sharpness
    )
    np.testing.assert_allclose(given, expected, rtol=1e-9)


def test_defaults_are_those_of_the_authors_code():
    student, teacher = RNG.normal(size=(2, 3, 12))
    options = {"top_k": 10, "position_scale": 1.0, "discrepancy_sharpness": 0.1}
    np.testing.assert_array_equal(
        functional.ranking_distillation(student, teacher),
        functional.ranking_distillation(student, teacher, **options),
    )


def test_a_student_of_the_teachers_order_has_nothing_to_learn_but_by_position():
    student = tf.constant(TEACHER**3 / 100 - 5)
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = functional.ranking_distillation(student, TEACHER, top_k=9)
    np.testing.assert_array_equal(value, 0.0)
    np.testing.assert_array_equal(tape.gradient(value, student), 0.0)
    by_position = functional.ranking_distillation(
        student, TEACHER, top_k=9, discrepancy_sharpness=None
    )
    assert np.min(by_position) > 1


def test_an_item_is_behind_those_that_score_more_and_not_those_that_score_the_same():
    student, teacher = np.array([[1.0, 1.0, 1.0]]), np.array([[0.0, 1.0, 2.0]])
    given = functional.ranking_distillation(student, teacher, top_k=1)
    assert float(given[0]) == 0
    student[0, 0] += 1e-6
    assert float(functional.ranking_distillation(student, teacher, top_k=1)[0]) > 0


def test_only_the_teachers_items_are_pulled_and_upwards():
    student = tf.constant(STUDENT)
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = functional.ranking_distillation(student, TEACHER, top_k=3)
    gradient = tape.gradient(value, student).numpy()
    best = rankdata(-TEACHER, axis=1) <= 3
    np.testing.assert_array_equal(gradient[~best], 0.0)
    assert gradient[best].max() <= 0
    assert gradient[best].min() < -0.01


@pytest.mark.parametrize("top_k", [0, 10])
def test_more_items_than_there_are_or_none_are_refused(top_k):
    with pytest.raises(ValueError, match=rf"got {top_k}, and the student scores 9 .*\(6, 9\)"):
        functional.ranking_distillation(STUDENT, TEACHER, top_k=top_k)
