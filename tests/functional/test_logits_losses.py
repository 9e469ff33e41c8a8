"""Decoupled distillation, DIST, standardisation and the losses on labels, against derived numbers.

References nobody here wrote: SciPy's softmax, relative entropy and Pearson correlation; Keras'
cross-entropy.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax, rel_entr, softmax

from keras_distill import functional

RNG = np.random.default_rng(0)
STUDENT = RNG.normal(0, 3, (6, 5))
TEACHER = RNG.normal(0, 3, (6, 5))
LABELS = np.array([4, 0, 2, 2, 1, 3])


def keras_ce(labels, logits):
    return keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)


def test_decoupled_three_classes_by_hand():
    # Label 0, p_t = (1/2, 1/4, 1/4), p_s = (1/4, 1/4, 1/2), T = 1.
    # Target class: (1/2, 1/2) against (1/4, 3/4): ln 2 / 2 + ln(2/3) / 2.
    # Others: (1/2, 1/2) against (1/3, 2/3): ln(3/2) / 2 + ln(3/4) / 2.
    target = (np.log(2) + np.log(2 / 3)) / 2
    others = (np.log(3 / 2) + np.log(3 / 4)) / 2
    student, teacher = np.log([[0.25, 0.25, 0.5]]), np.log([[0.5, 0.25, 0.25]])
    given = functional.decoupled_kd(student, teacher, [0], alpha=3.0, beta=5.0, temperature=1.0)
    assert float(given[0]) == pytest.approx(3 * target + 5 * others, rel=1e-9)


def test_decoupled_its_parts_put_together_are_the_divergence():
    # KL = TCKD + (1 - p_t(y)) NCKD: the identity that the method takes apart (equation 6).
    options = {"temperature": 3.0}
    target = functional.decoupled_kd(STUDENT, TEACHER, LABELS, alpha=1, beta=0, **options)
    others = functional.decoupled_kd(STUDENT, TEACHER, LABELS, alpha=0, beta=1, **options)
    soft_teacher = softmax(TEACHER / 3, 1)
    divergence = 9 * rel_entr(soft_teacher, softmax(STUDENT / 3, 1)).sum(1)
    not_label = 1 - soft_teacher[range(6), LABELS]
    np.testing.assert_allclose(target + not_label * others, divergence, rtol=1e-9)


def test_decoupled_of_two_classes_the_other_one_has_nothing_to_say():
    student, teacher = STUDENT[:, :2], TEACHER[:, :2]
    given = functional.decoupled_kd(student, teacher, LABELS % 2, beta=100.0)
    expected = functional.soft_target_kl(student, teacher, temperature=4.0)
    np.testing.assert_allclose(given, expected, rtol=1e-9)


def test_decoupled_defaults_are_the_published_ones():
    np.testing.assert_array_equal(
        functional.decoupled_kd(STUDENT, TEACHER, LABELS),
        functional.decoupled_kd(STUDENT, TEACHER, LABELS, alpha=1.0, beta=8.0, temperature=4.0),
    )


def test_decoupled_labels_count_where_there_are_any():
    some = np.where(np.arange(6) % 2, LABELS, -1)
    given = functional.decoupled_kd(STUDENT, TEACHER, some)
    full = functional.decoupled_kd(STUDENT, TEACHER, LABELS)
    np.testing.assert_array_equal(given, np.where(np.arange(6) % 2, full, 0))


@pytest.mark.parametrize("shape", ["column", "one-hot", "float"])
def test_decoupled_labels_in_other_shapes(shape):
    labels = {
        "column": LABELS[:, None],
        "one-hot": np.eye(5)[LABELS],
        "float": LABELS.astype("float32"),
    }[shape]
    np.testing.assert_array_equal(
        functional.decoupled_kd(STUDENT, TEACHER, labels),
        functional.decoupled_kd(STUDENT, TEACHER, LABELS),
    )


def test_decoupled_a_label_out_of_range_is_seen_in_the_value():
    given = functional.decoupled_kd(STUDENT, TEACHER, [5, -2, 2, 2, 1, 3])
    np.testing.assert_array_equal(np.isnan(given), [True, True] + [False] * 4)


def test_decoupled_labels_that_do_not_fit_are_named_with_the_logits():
    with pytest.raises(ValueError, match=r"shape \(6, 3\).*shape \(6, 5\)"):
        functional.decoupled_kd(STUDENT, TEACHER, np.zeros((6, 3)))


def test_decoupled_pixels_are_averaged():
    student, teacher = RNG.normal(size=(2, 4, 3, 3, 5))
    labels = RNG.integers(0, 5, (4, 3, 3))
    flat = functional.decoupled_kd(
        student.reshape(36, 5), teacher.reshape(36, 5), labels.reshape(36)
    )
    np.testing.assert_allclose(
        functional.decoupled_kd(student, teacher, labels),
        np.reshape(flat, (4, 9)).mean(1),
        rtol=1e-9,
    )


def pearson_loss(student, teacher, beta, gamma, temperature):
    ours, theirs = softmax(student / temperature, 1), softmax(teacher / temperature, 1)
    inter = 1 - np.mean([stats.pearsonr(s, t)[0] for s, t in zip(ours, theirs, strict=True)])
    intra = 1 - np.mean([stats.pearsonr(s, t)[0] for s, t in zip(ours.T, theirs.T, strict=True)])
    return temperature**2 * (beta * inter + gamma * intra)


@pytest.mark.parametrize(
    ("beta", "gamma", "temperature"), [(1, 0, 1), (0, 1, 1), (2, 3, 4), (1, 1, 1)]
)
def test_dist_its_mean_is_scipys_correlation_over_rows_and_columns(beta, gamma, temperature):
    given = functional.dist_relation(
        STUDENT, TEACHER, beta=beta, gamma=gamma, temperature=temperature
    )
    expected = pearson_loss(STUDENT, TEACHER, beta, gamma, temperature)
    assert float(np.mean(given)) == pytest.approx(expected, rel=1e-9)


def test_dist_between_classes_each_example_has_its_own_correlation():
    given = functional.dist_relation(STUDENT, TEACHER, gamma=0.0)
    expected = [
        1 - stats.pearsonr(s, t)[0]
        for s, t in zip(softmax(STUDENT, 1), softmax(TEACHER, 1), strict=True)
    ]
    np.testing.assert_allclose(given, expected, rtol=1e-9)


def test_dist_between_examples_the_one_that_errs_has_the_largest_share():
    student = TEACHER.copy()
    student[2] = student[2, ::-1]
    shares = np.asarray(functional.dist_relation(student, TEACHER, beta=0.0))
    assert shares.argmax() == 2
    assert np.all(shares >= 0)


def test_dist_a_class_that_does_not_vary_correlates_with_nothing():
    # Two classes of three have fallen out (p = 0 exactly): r = 0 there, of the third p = 1.
    dead = np.array([[0.0, -1e5, -1e5]] * 4, "float32")
    with tf.GradientTape() as tape:
        logits = tf.constant(dead)
        tape.watch(logits)
        values = functional.dist_relation(logits, dead, beta=0.0)
    np.testing.assert_allclose(values, 1.0, atol=1e-6)
    assert np.isfinite(tape.gradient(values, logits)).all()


def test_dist_pixels_are_examples():
    student, teacher = RNG.normal(size=(2, 2, 3, 3, 5))
    given = np.mean(functional.dist_relation(student, teacher))
    expected = pearson_loss(student.reshape(18, 5), teacher.reshape(18, 5), 1, 1, 1)
    assert float(given) == pytest.approx(expected, rel=1e-9)


def test_dist_a_batch_of_one_is_refused_and_a_remainder_of_one_is_not():
    with pytest.raises(ValueError, match="batch of one"):
        functional.dist_relation(STUDENT[:1], TEACHER[:1])

    @tf.function(input_signature=[tf.TensorSpec((None, 5), "float64")] * 2)
    def step(student, teacher):
        return functional.dist_relation(student, teacher)

    between_classes = functional.dist_relation(STUDENT, TEACHER, gamma=0.0)[:1]
    np.testing.assert_allclose(step(STUDENT[:1], TEACHER[:1]), between_classes, rtol=1e-9)


def test_normalized_three_classes_by_hand():
    # Label 0, p_t = (1/2, 1/4, 1/4), p_s = (1/4, 1/4, 1/2), T = 2: the label's class by
    # 1/2 * ln 4. Others: square roots of (1/4, 1/4) and (1/4, 1/2), at sum 1, so (1/2, 1/2)
    # and (1, r) / (1 + r) with r = sqrt 2.
    r = np.sqrt(2)
    others = -(np.log(1 / (1 + r)) + np.log(r / (1 + r))) / 2
    student, teacher = np.log([[0.25, 0.25, 0.5]]), np.log([[0.5, 0.25, 0.25]])
    given = functional.normalized_kd(student, teacher, [0], gamma=3.0, temperature=2.0)
    assert float(given[0]) == pytest.approx(np.log(4) / 2 + 3 * 4 * others, rel=1e-9)


def test_normalized_beside_the_decoupled_others_is_what_no_student_changes():
    # Cross-entropy of the other classes = NCKD + the teacher's entropy over them.
    trusted = softmax(TEACHER, 1)[range(6), LABELS] * keras_ce(LABELS, STUDENT)
    apart = functional.decoupled_kd(STUDENT, TEACHER, LABELS, alpha=0, beta=1, temperature=1.0)
    rest = np.array([np.delete(t, label) for t, label in zip(TEACHER, LABELS, strict=True)])
    given = functional.normalized_kd(STUDENT, TEACHER, LABELS)
    expected = trusted + 1.5 * (apart + stats.entropy(softmax(rest, 1), axis=1))
    np.testing.assert_allclose(given, expected, rtol=1e-6)


def test_jsd_by_hand():
    # p_t = (3/4, 1/4), p_s = (1/4, 3/4), beta = 1/4: m = (3/8, 5/8).
    # KL(p_t || m) = 3/4 ln 2 + 1/4 ln(2/5), KL(p_s || m) = 1/4 ln(2/3) + 3/4 ln(6/5).
    theirs = 3 / 4 * np.log(2) + 1 / 4 * np.log(2 / 5)
    ours = 1 / 4 * np.log(2 / 3) + 3 / 4 * np.log(6 / 5)
    given = functional.generalized_jsd(np.log([[1.0, 3.0]]), np.log([[3.0, 1.0]]), beta=0.25)
    assert float(given[0]) == pytest.approx(theirs / 4 + 3 / 4 * ours, rel=1e-9)


def test_jsd_halfway_it_is_the_square_of_scipys_distance():
    given = functional.generalized_jsd(STUDENT, TEACHER, temperature=3.0)
    expected = jensenshannon(softmax(TEACHER / 3, 1), softmax(STUDENT / 3, 1), axis=1) ** 2
    np.testing.assert_allclose(given, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("beta", "first", "second"), [(0, TEACHER, STUDENT), (1, STUDENT, TEACHER)]
)
def test_jsd_at_its_ends_it_is_scipys_divergence_of_either_direction(beta, first, second):
    expected = rel_entr(softmax(first, 1), softmax(second, 1)).sum(1)
    given = functional.generalized_jsd(STUDENT, TEACHER, beta=beta)
    np.testing.assert_allclose(given, expected, rtol=1e-9)
    # From within, what remains over the share that goes to zero.
    near = functional.generalized_jsd(STUDENT, TEACHER, beta=abs(beta - 1e-6)) / 1e-6
    np.testing.assert_allclose(near, expected, rtol=1e-2)


@pytest.mark.parametrize("beta", [-0.1, 1.1])
def test_jsd_a_share_out_of_range_is_refused(beta):
    with pytest.raises(ValueError, match=rf"beta must be in \[0, 1\]; got {beta}"):
        functional.generalized_jsd(STUDENT, TEACHER, beta=beta)


def test_standardised_it_is_the_divergence_of_scipys_z_scores_times_t_squared():
    ours, theirs = (stats.zscore(x, axis=1, ddof=1) for x in (STUDENT, TEACHER))
    given = functional.soft_target_kl(STUDENT, TEACHER, temperature=2.0, standardize=True)
    expected = 4 * rel_entr(softmax(theirs / 2, 1), softmax(ours / 2, 1)).sum(1)
    np.testing.assert_allclose(given, expected, rtol=1e-5)


def test_standardised_logits_that_are_all_equal_have_a_gradient_under_xla_too():
    @tf.function(jit_compile=True)
    def gradient(logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = functional.soft_target_kl(logits, [[1.0, 2.0, 4.0]], standardize=True)
        return tape.gradient(value, logits)

    assert np.isfinite(gradient(tf.zeros((1, 3)))).all()


def test_half_the_squared_norm_is_classes_over_two_times_the_mean():
    given = functional.logits_mse(STUDENT, TEACHER, half_squared_norm=True)
    np.testing.assert_allclose(given, np.linalg.norm(STUDENT - TEACHER, axis=1) ** 2 / 2)
    np.testing.assert_allclose(given, 5 / 2 * functional.logits_mse(STUDENT, TEACHER))


def test_weighted_by_hand():
    # Label 0. p_t = (1/2, 1/2), p_s = (1/8, 7/8): the student is off three times as far, ln 8 over
    # ln 2, so the weight is 1 - e^-3. At T = 2 the roots: p_s = (1, r) / (1 + r), r = sqrt 7.
    r = np.sqrt(7)
    divergence = (np.log((1 + r) / 2) + np.log((1 + r) / (2 * r))) / 2
    student, teacher = np.log([[1.0, 7.0]]), np.log([[1.0, 1.0]])
    given = functional.weighted_soft_target_kl(student, teacher, [0], temperature=2.0)
    assert float(given[0]) == pytest.approx(4 * (1 - np.exp(-3)) * divergence, rel=1e-6)


def test_weighted_it_is_keras_cross_entropies_times_scipys_divergence():
    ratio = keras_ce(LABELS, STUDENT) / keras_ce(LABELS, TEACHER)
    divergence = rel_entr(softmax(TEACHER / 2, 1), softmax(STUDENT / 2, 1)).sum(1)
    given = functional.weighted_soft_target_kl(STUDENT, TEACHER, LABELS)
    np.testing.assert_allclose(given, 4 * (1 - np.exp(-ratio)) * divergence, rtol=1e-4)


def test_weighted_the_gradient_is_that_of_soft_targets_times_the_weight():
    def gradient(loss):
        logits = tf.constant(STUDENT)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(logits)
        return tape.gradient(value, logits).numpy()

    ratio = keras_ce(LABELS, STUDENT) / keras_ce(LABELS, TEACHER)
    expected = gradient(lambda x: functional.soft_target_kl(x, TEACHER))
    given = gradient(lambda x: functional.weighted_soft_target_kl(x, TEACHER, LABELS))
    np.testing.assert_allclose(given, (1 - np.exp(-ratio))[:, None] * expected, rtol=1e-4)


def test_weighted_a_teacher_certain_of_the_label_in_float32_counts_in_full_or_not_at_all():
    # Of a student as certain there is nothing to want, though its soft targets differ at T = 100.
    certain = np.array([[200.0, 0.0]] * 2, "float32")
    student = np.array([[0.0, 0.0], [120.0, 0.0]], "float32")
    given = functional.weighted_soft_target_kl(student, certain, [0, 0], temperature=100.0)
    expected = np.asarray(functional.soft_target_kl(student, certain, temperature=100.0))
    assert expected[1] > 1
    np.testing.assert_allclose(given, [expected[0], 0.0])


def test_weighted_pixels_have_weights_and_labels_of_their_own():
    student, teacher = RNG.normal(size=(2, 4, 3, 3, 5))
    labels = RNG.integers(-1, 5, (4, 3, 3))
    flat = functional.weighted_soft_target_kl(
        student.reshape(36, 5), teacher.reshape(36, 5), labels.reshape(36)
    )
    assert np.any(labels == -1)
    np.testing.assert_array_equal(np.asarray(flat)[labels.reshape(36) == -1], 0.0)
    given = functional.weighted_soft_target_kl(student, teacher, labels)
    np.testing.assert_allclose(given, np.reshape(flat, (4, 9)).mean(1), rtol=1e-9)


@pytest.mark.parametrize("focus", ["disagreement", "margin"])
def test_hard_examples_without_focusing_it_is_keras_cross_entropy(focus):
    given = functional.hard_example_ce(STUDENT, TEACHER, LABELS, focus=focus, focusing=0.0)
    np.testing.assert_allclose(given, keras_ce(LABELS, STUDENT), rtol=1e-6)


@pytest.mark.parametrize(
    ("focus", "difficulty"),
    # p_t = (1/2, 3/10, 1/5), label 2: 1 - 1/5; or 1 less the distance of 1/2 and 3/10.
    [("disagreement", 0.8), ("margin", 0.8), ("disagreement of label 0", 0.5)],
)
def test_hard_examples_the_difficulty_by_hand(focus, difficulty):
    focus, _, label = focus.partition(" of label ")
    label = int(label or 2)
    teacher, student = np.log([[0.5, 0.3, 0.2]]), np.log([[0.25, 0.25, 0.5]])
    given = functional.hard_example_ce(student, teacher, [label], focus=focus, focusing=3.0)
    expected = difficulty**3 * -student[0, label]
    assert float(given[0]) == pytest.approx(expected, rel=1e-9)


def test_hard_examples_another_focus_is_refused():
    with pytest.raises(ValueError, match="'disagreement', 'margin'; got 'loss'"):
        functional.hard_example_ce(STUDENT, TEACHER, LABELS, focus="loss")


TWO_TEACHER = np.log([[0.8, 0.2]])
TWO_STUDENT = np.log([[0.25, 0.75]])


@pytest.mark.parametrize(
    ("label", "options", "target"),
    [
        (0, {}, (1.0, 0.0)),  # they agree
        (1, {}, (0.64, 0.36)),  # 0.2 x (0, 1) + 0.8 x (0.8, 0.2)
        (1, {"min_confidence": 0.9}, (0.0, 1.0)),  # the teacher is not sure enough
        (-1, {"min_confidence": 0.9}, (0.8, 0.2)),  # no label: the teacher's word
    ],
)
def test_bootstrapped_the_target_by_hand(label, options, target):
    given = functional.bootstrapped_ce(TWO_STUDENT, TWO_TEACHER, [label], **options)
    expected = -np.dot(target, np.log([0.25, 0.75]))
    assert float(given[0]) == pytest.approx(expected, rel=1e-9)


def test_bootstrapped_a_teacher_that_agrees_leaves_keras_cross_entropy():
    given = functional.bootstrapped_ce(STUDENT, TEACHER, TEACHER.argmax(1))
    np.testing.assert_allclose(given, keras_ce(TEACHER.argmax(1), STUDENT), rtol=1e-6)


WEIGHTS = (0.5, 2.0, 1.0, 4.0, 0.1)


def test_balanced_equal_weights_give_soft_targets():
    given = functional.balanced_kl(STUDENT, TEACHER, class_weights=[1.0] * 5, temperature=3.0)
    expected = functional.soft_target_kl(STUDENT, TEACHER, temperature=3.0)
    np.testing.assert_allclose(given, expected, rtol=1e-9)


def test_balanced_it_differs_from_the_weighted_cross_entropy_by_what_no_student_changes():
    other = RNG.normal(size=STUDENT.shape)
    weighted = np.asarray(WEIGHTS) * softmax(TEACHER / 2, 1)

    def cross_entropy(student):
        return -4 * np.sum(weighted * log_softmax(student / 2, 1), 1)

    def given(student):
        options = {"class_weights": WEIGHTS, "temperature": 2.0}
        return np.asarray(functional.balanced_kl(student, TEACHER, **options))

    np.testing.assert_allclose(
        given(STUDENT) - given(other), cross_entropy(STUDENT) - cross_entropy(other)
    )


def test_balanced_its_least_value_is_zero_at_the_weighted_target():
    best = np.log(WEIGHTS) + TEACHER
    given = functional.balanced_kl(best, TEACHER, class_weights=WEIGHTS, temperature=1.0)
    np.testing.assert_allclose(given, 0.0, atol=1e-12)


def test_labels_and_logits_of_a_sure_teacher_stay_finite_in_float32():
    # 1e4 apart, log(1 - p) of the label's class would be log 0 if it were taken of probabilities.
    teacher = np.array([[1e4, 0.0, 0.0]], "float32")
    student = np.array([[0.0, 1e4, 0.0]], "float32")
    given = functional.decoupled_kd(student, teacher, [0], beta=0.0, temperature=1.0)
    assert float(given[0]) == pytest.approx(1e4)
