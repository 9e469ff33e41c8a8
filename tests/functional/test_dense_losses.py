"""Numbers, several labels, and maps: against Keras, SciPy and numbers derived by hand."""

import keras
import numpy as np
import pytest
from scipy.special import expit, rel_entr, softmax

from keras_distill import functional

RNG = np.random.default_rng(0)
STUDENT, TEACHER, LABELS = RNG.normal(0, 2, (3, 6, 4))


@pytest.mark.parametrize("delta", [0.5, 3.0])
def test_regression_distance_is_keras_error(delta):
    squared = functional.regression_distance(STUDENT, TEACHER)
    np.testing.assert_allclose(squared, keras.losses.mean_squared_error(TEACHER, STUDENT))
    huber = functional.regression_distance(STUDENT, TEACHER, delta=delta)
    np.testing.assert_allclose(huber, keras.losses.huber(TEACHER, STUDENT, delta=delta))


def test_bounded_only_where_the_teacher_does_better():
    # Errors to the label 0: student 9, 1, 4; teacher 4, 4, 4 (a draw is left alone).
    student, teacher = [[3.0], [1.0], [2.0]], [[2.0], [2.0], [-2.0]]
    given = functional.bounded_regression(student, teacher, np.zeros((3, 1)))
    np.testing.assert_array_equal(given, [9.0, 0.0, 0.0])


def test_bounded_the_margin_is_what_the_student_has_to_be_better_by():
    # Student's error 1, teacher's 4: 1 + margin > 4 from a margin of 3 on.
    for margin, expected in ((2.9, 0.0), (3.1, 1.0)):
        given = functional.bounded_regression([[1.0]], [[2.0]], [[0.0]], margin=margin)
        assert float(given[0]) == expected


def test_bounded_a_hopeless_teacher_leaves_nothing_and_a_perfect_one_keras_error():
    perfect = functional.bounded_regression(STUDENT, LABELS, LABELS)
    np.testing.assert_allclose(perfect, keras.losses.mean_squared_error(LABELS, STUDENT))
    hopeless = functional.bounded_regression(STUDENT, LABELS + 100, LABELS, delta=1.0)
    np.testing.assert_array_equal(hopeless, 0.0)


def test_bounded_positions_are_judged_one_by_one():
    # Box 1: student off by 3, teacher by 1; box 2 the other way round. Mean of 9 and 0.
    student, teacher = [[[3.0], [1.0]]], [[[1.0], [3.0]]]
    given = functional.bounded_regression(student, teacher, np.zeros((1, 2, 1)))
    assert float(given[0]) == 4.5


@pytest.mark.parametrize(("label", "heard"), [(1.0, 1.0), (2.0, 0.75), (3.0, 0.0), (9.0, 0.0)])
def test_attentive_the_teacher_is_heard_by_its_error(label, heard):
    # Teacher 1, student 4: distance 9, times 1 - (label - 1)^2 / 4 down to 0.
    given = functional.attentive_regression([[4.0]], [[1.0]], [[label]], max_teacher_error=4.0)
    assert float(given[0]) == 9 * heard


def test_attentive_a_perfect_teacher_is_heard_in_full():
    given = functional.attentive_regression(
        STUDENT, TEACHER, TEACHER, max_teacher_error=0.1, delta=1.0
    )
    expected = functional.regression_distance(STUDENT, TEACHER, delta=1.0)
    np.testing.assert_allclose(given, expected)


@pytest.mark.parametrize("function", ["bounded_regression", "attentive_regression"])
def test_labels_without_the_last_axis_are_not_broadcast(function):
    call = getattr(functional, function)
    options = {"max_teacher_error": 9.0} if function.startswith("att") else {}
    student, teacher, labels = (x[:, :1] for x in (STUDENT, TEACHER, LABELS))
    np.testing.assert_array_equal(
        call(student, teacher, labels[:, 0], **options), call(student, teacher, labels, **options)
    )
    with pytest.raises(ValueError, match=r"labels of shape \(6,\) do not fit .*\(6, 4\)"):
        call(STUDENT, TEACHER, LABELS[:, 0], **options)


def test_multilabel_it_is_scipys_divergence_of_bernoullis():
    ours, theirs = expit(STUDENT / 3), expit(TEACHER / 3)
    expected = 9 * (rel_entr(theirs, ours) + rel_entr(1 - theirs, 1 - ours)).mean(1)
    given = functional.multilabel_kl(STUDENT, TEACHER, temperature=3.0)
    np.testing.assert_allclose(given, expected, rtol=1e-9)


def test_multilabel_one_label_is_a_softmax_over_it_and_zero():
    # sigmoid(z) is softmax((z, 0)): one label is two classes.
    ours, theirs = (np.stack([x[:, 0], np.zeros(6)], 1) for x in (STUDENT, TEACHER))
    np.testing.assert_allclose(
        functional.multilabel_kl(STUDENT[:, :1], TEACHER[:, :1], temperature=2.0),
        functional.soft_target_kl(ours, theirs, temperature=2.0),
        rtol=1e-9,
    )


def test_multilabel_at_a_high_temperature_it_is_an_eighth_of_the_squared_distance():
    # The divergence of Bernoullis near 1/2 is p (1 - p) dz^2 / 2 = (dz / T)^2 / 8, times T^2.
    given = functional.multilabel_kl(STUDENT, TEACHER, temperature=1e3)
    np.testing.assert_allclose(given, np.mean((STUDENT - TEACHER) ** 2, 1) / 8, rtol=1e-4)


MAPS = RNG.normal(size=(2, 3, 4, 4, 5))


def test_channel_wise_it_is_scipys_divergence_over_the_positions_of_each_channel():
    ours, theirs = (softmax(x.reshape(3, 16, 5) / 2, axis=1) for x in MAPS)
    given = functional.channel_wise_kl(*MAPS, temperature=2.0)
    expected = 4 * rel_entr(theirs, ours).sum(1).mean(1)
    np.testing.assert_allclose(given, expected, rtol=1e-9)


def test_channel_wise_how_active_a_channel_is_does_not_count():
    moved = MAPS[0] + RNG.normal(size=(3, 1, 1, 5))
    np.testing.assert_allclose(
        functional.channel_wise_kl(moved, MAPS[1]),
        functional.channel_wise_kl(*MAPS),
        rtol=1e-9,
    )


def test_channel_wise_the_larger_map_is_pooled():
    large = np.repeat(np.repeat(MAPS[1], 2, axis=1), 2, axis=2)
    np.testing.assert_allclose(
        functional.channel_wise_kl(MAPS[0], large),
        functional.channel_wise_kl(*MAPS),
        rtol=1e-9,
    )


def test_channel_wise_vectors_have_no_positions():
    with pytest.raises(ValueError, match=r"rank.*\(6, 4\).*\(6, 4\)"):
        functional.channel_wise_kl(STUDENT, TEACHER)


@pytest.mark.parametrize(
    "call",
    [
        lambda: functional.multilabel_kl(STUDENT, TEACHER, temperature=0.0),
        lambda: functional.regression_distance(STUDENT, TEACHER, delta=-1.0),
        lambda: functional.attentive_regression(STUDENT, TEACHER, LABELS, max_teacher_error=0),
    ],
)
def test_what_must_be_positive(call):
    with pytest.raises(ValueError, match="must be positive"):
        call()
