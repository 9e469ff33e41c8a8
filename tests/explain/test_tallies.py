"""What is counted, against scikit-learn, SciPy and numbers summed by hand."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
from sklearn.metrics import confusion_matrix

from keras_distill.explaining.answers import Answers, class_numbers
from keras_distill.explaining.calibration import CalibrationTally
from keras_distill.explaining.tallies import (
    LostTally,
    ModelTally,
    PairTally,
    divergence,
    entropy,
)


def log_probs(rows, classes, seed):
    logits = np.random.default_rng(seed).normal(scale=2.0, size=(rows, classes))
    return scipy.special.log_softmax(logits, axis=-1)


def answers(teacher, student, labels):
    return Answers(np.asarray(student), np.asarray(teacher), np.asarray(labels), (), ())


def of_probabilities(*rows):
    with np.errstate(divide="ignore"):
        return np.log(np.array(rows, "float64"))


def test_calibration_by_hand():
    tally = CalibrationTally(5)
    tally.add(np.array([0.15, 0.95, 0.9]), np.array([False, True, True]))
    tally.add(np.array([0.85, 0.55, 0.45]), np.array([False, True, True]))
    found = tally.result()
    # Bins of 0.2. One example at 0.15, wrong; two at 0.55 and 0.45, right: mean 0.5 against 1;
    # three at 0.95, 0.9, 0.85: mean 0.9 against 2/3.
    assert found.counts.tolist() == [1, 0, 2, 0, 3]
    assert found.ece == pytest.approx(1 / 6 * 0.15 + 2 / 6 * 0.5 + 3 / 6 * (0.9 - 2 / 3))


def test_a_bin_has_its_upper_end():
    tally = CalibrationTally(2)
    tally.add(np.array([0.5, 0.75, 1.0]), np.array([True, True, True]))
    assert tally.result().counts.tolist() == [1, 2]


def test_entropy_and_divergence_are_scipys():
    teacher, student = log_probs(7, 5, seed=0), log_probs(7, 5, seed=1)
    p, q = np.exp(teacher), np.exp(student)
    np.testing.assert_allclose(entropy(teacher), scipy.stats.entropy(p, axis=1))
    np.testing.assert_allclose(divergence(teacher, student), scipy.stats.entropy(p, q, axis=1))


def test_an_impossible_class_counts_nothing():
    teacher, student = of_probabilities([1.0, 0.0, 0.0]), of_probabilities([0.5, 0.5, 0.0])
    assert entropy(teacher) == [0.0]
    assert divergence(teacher, student) == pytest.approx(np.log(2))
    assert divergence(student, teacher) == [np.inf]


def test_agreement_and_classes_over_batches():
    labels = np.random.default_rng(5).integers(-1, 4, size=50)
    teacher, student = log_probs(50, 4, seed=2), log_probs(50, 4, seed=3)
    pair, model = PairTally(4), ModelTally(4, bins=10)
    for rows in (slice(0, 20), slice(20, 50)):
        pair.add(answers(teacher[rows], student[rows], labels[rows]))
        model.add(student[rows], labels[rows])
    chosen = teacher.argmax(-1), student.argmax(-1)
    np.testing.assert_array_equal(pair.agreement, confusion_matrix(*chosen, labels=range(4)))
    divergences = scipy.stats.entropy(np.exp(teacher), np.exp(student), axis=1)
    assert pair.kl_nats == pytest.approx(divergences.mean())
    assert (pair.examples, pair.labelled) == (50, (labels >= 0).sum())
    for number, found in enumerate(pair.classes("abcd")):
        here = labels == number
        right = [(one == labels)[here] for one in chosen]
        assert (found.name, found.examples) == ("abcd"[number], here.sum())
        assert found.accuracy_teacher == pytest.approx(right[0].mean())
        assert found.accuracy_student == pytest.approx(right[1].mean())
        assert found.gained == (~right[0] & right[1]).sum()
        assert found.lost == (right[0] & ~right[1]).sum()
    found = model.result("student")
    assert found.accuracy == pytest.approx((chosen[1] == labels)[labels >= 0].mean())
    assert found.entropy_nats == pytest.approx(scipy.stats.entropy(np.exp(student), axis=1).mean())
    assert found.confidence == pytest.approx(np.exp(student).max(-1).mean())
    assert found.entropy_counts.sum() == 50
    assert found.calibration.counts.sum() == (labels >= 0).sum()


def test_the_examples_that_lost_the_most_over_batches():
    teacher = of_probabilities([0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.6, 0.4])
    student = of_probabilities([0.3, 0.7], [0.9, 0.1], [0.1, 0.9], [0.9, 0.1], [0.5, 0.5])
    labels = np.array([0, 0, 0, -1, 0])
    tally = LostTally(3)
    for rows in (slice(0, 2), slice(2, 5)):
        tally.add(answers(teacher[rows], student[rows], labels[rows]), np.arange(5)[rows])
    found = tally.result()
    # Label's term p log(p / q): 0.9 log 3 = 0.99; 0 for equals; 0.2 log 2 = 0.139;
    # 0.6 log 1.2 = 0.109. Without label the KL: 0.5 log(0.25 / 0.09) = 0.511.
    assert [one.index for one in found] == [0, 3, 2]
    assert [int(one.inputs) for one in found] == [0, 3, 2]
    expected = [0.9 * np.log(3), 0.5 * np.log(0.25 / 0.09), 0.2 * np.log(2)]
    assert [one.lost_nats for one in found] == pytest.approx(expected)
    first, unlabelled, _ = found
    assert first.kl_nats == pytest.approx(0.9 * np.log(3) + 0.1 * np.log(1 / 7))
    assert (first.label, first.teacher, first.student) == (0, 0, 1)
    assert first.teacher_probability == pytest.approx(0.9)
    assert first.student_probability == pytest.approx(0.7)
    assert unlabelled.label is None
    assert unlabelled.kl_nats == unlabelled.lost_nats


@pytest.mark.parametrize(
    "labels", [[0, 2, 1], [[0], [2], [1]], [[1, 0, 0], [0, 0, 1], [0, 1, 0]], [0.0, 2.0, 1.0]]
)
def test_labels_in_any_of_their_shapes(labels):
    assert class_numbers(np.array(labels), 3, 3).tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 3, 1], "from 0 to 2.*got 3"),
        ([0, -2, 1], "got -2"),
        ([0.5, 1.0, 1.0], "got 0.5"),
        (np.full((3, 3), 1 / 3), "neither.*argmax"),
        (np.zeros((3, 2)), r"one-hot \(3, 3\); got \(3, 2\)"),
    ],
)
def test_labels_that_are_no_classes(labels, words):
    with pytest.raises(ValueError, match=words):
        class_numbers(np.array(labels), 3, 3)
