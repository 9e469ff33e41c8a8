"""Relations between examples: against numbers derived on paper, loops and SciPy's distances."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from keras_distill import functional

RELATIONS = [
    functional.similarity_preserving,
    functional.relational_kd,
    functional.probabilistic_transfer,
    functional.correlation_congruence,
]
every_relation = pytest.mark.parametrize("function", RELATIONS, ids=lambda f: f.__name__)
rng = np.random.default_rng(0)
STUDENT, TEACHER = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
WIDER = rng.normal(size=(5, 7))


def huber(x):
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def test_similarity_preserving_on_paper():
    # Student (1, 0) twice: G = ones, rows (1, 1) / sqrt 2. Teacher: the identity, and so is its G.
    # Row 1: (1 / sqrt 2 - 1)^2 + (1 / sqrt 2)^2 = 2 - sqrt 2, over the batch of 2.
    given = functional.similarity_preserving([[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(given, [1 - np.sqrt(0.5)] * 2, rtol=1e-6)


def test_similarity_preserving_in_loops():
    def rows(features):
        scaled = []
        for one in features:
            row = np.array([np.dot(one, other) for other in features])
            scaled.append(row / np.sqrt(np.sum(row**2)))
        return np.array(scaled)

    expected = np.sum((rows(STUDENT) - rows(WIDER)) ** 2) / 25
    given = functional.similarity_preserving(STUDENT, WIDER)
    assert np.mean(given) == pytest.approx(expected, rel=1e-12)


def test_relational_distances_on_paper():
    # Student 0, 1, 3: distances 1, 3, 2, mean 2, relative 1/2, 3/2, 1 (pairs 01, 02, 12).
    # Teacher 0, 1, 2: distances 1, 2, 1, mean 4/3, relative 3/4, 3/2, 3/4.
    # Differences -1/4, 0, 1/4; Huber 1/32, 0, 1/32; a row's mean is over 3. Angles are equal.
    given = functional.relational_kd([[0.0], [1.0], [3.0]], [[0.0], [1.0], [2.0]])
    np.testing.assert_allclose(given, 25 * np.array([1, 2, 1]) / 96, rtol=1e-5)


def test_relational_angles_on_paper():
    # A right triangle against a line: cosines at each corner 0, 1/r, 1/r (r = sqrt 2) against
    # 1, -1, 1. Each counts twice (j, k and k, j) among 9; the rest are equal.
    r = np.sqrt(2)
    expected = 50 * 2 / 9 * np.array([0.5, (1 + 1 / r) - 0.5, 0.5 * (1 - 1 / r) ** 2])
    given = functional.relational_kd(
        [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [[0.0], [1.0], [2.0]], distance_weight=0.0
    )
    np.testing.assert_allclose(given, expected, rtol=1e-5)


def test_relational_distances_are_scipys():
    def relative(features):
        distances = cdist(features, features)
        return distances / distances[distances > 0].mean()

    differences = relative(STUDENT) - relative(WIDER)
    expected = 25 * np.mean([huber(x) for x in differences.ravel()])
    given = functional.relational_kd(STUDENT, WIDER, angle_weight=0.0)
    assert np.mean(given) == pytest.approx(expected, rel=1e-9)


def test_relational_angles_in_loops():
    def unit(v):
        length = np.linalg.norm(v)
        return v / length if length else v

    total = 0.0
    for i in range(5):
        for j in range(5):
            for k in range(5):
                cosines = [np.dot(unit(f[j] - f[i]), unit(f[k] - f[i])) for f in (STUDENT, WIDER)]
                total += huber(cosines[0] - cosines[1])
    given = functional.relational_kd(STUDENT, WIDER, distance_weight=0.0)
    assert np.mean(given) == pytest.approx(50 * total / 125, rel=1e-9)


def test_probabilistic_transfer_on_paper():
    # Orthogonal: similarities 1 and 1/2, as a distribution 2/3, 1/3. Equal: 1/2, 1/2. The mean
    # over 2 neighbours of 1/2 log(3/4) and 1/2 log(3/2) is log(9/8) / 4.
    given = functional.probabilistic_transfer([[1.0, 0.0], [0.0, 1.0]], [[2.0], [3.0]])
    np.testing.assert_allclose(given, [np.log(9 / 8) / 4] * 2, rtol=1e-5)


def test_probabilistic_transfer_by_scipys_cosine_distance():
    def neighbours(features):
        similarity = 1 - cdist(features, features, "cosine") / 2
        return similarity / similarity.sum(1, keepdims=True)

    ours, theirs = neighbours(STUDENT), neighbours(WIDER)
    # The reference adds 1e-7 to both inside the logarithm.
    expected = np.mean(theirs * np.log((theirs + 1e-7) / (ours + 1e-7)))
    given = functional.probabilistic_transfer(STUDENT, WIDER)
    assert np.mean(given) == pytest.approx(expected, rel=1e-5)


def test_correlation_congruence_on_paper():
    # Errors 1, 2, 3: pairs 1 x 2 and 2 x 3, mean 4. Halved among their examples and scaled so
    # that the mean over 3 examples is the mean over 2 pairs: 3/4 of 2, 2 + 6, 6.
    given = functional.correlation_congruence([[1.0], [2.0], [3.0]], [[0.0], [0.0], [0.0]])
    np.testing.assert_allclose(given, [1.5, 6.0, 4.5])
    assert np.mean(given) == pytest.approx(4.0)


def test_correlation_congruence_in_loops():
    pairs = [
        sum(abs(STUDENT[i, c] - TEACHER[i, c]) * abs(STUDENT[i + 1, c] - TEACHER[i + 1, c])
            for c in range(3))
        for i in range(4)
    ]  # fmt: skip
    given = functional.correlation_congruence(STUDENT, TEACHER)
    assert np.mean(given) == pytest.approx(np.mean(pairs), rel=1e-12)


def test_noise_contrastive_on_paper():
    # Two of four are drawn: c = 1/2. With exp(x) / Z of 3/2, 1/2 and 1/10 the chances of being
    # told right are 3/4, 1 - 1/2 and 1 - 1/6.
    constant = 7.0
    positives, negatives = np.log([1.5 * constant]), np.log([[0.5 * constant, 0.1 * constant]])
    given = functional.noise_contrastive(
        positives, negatives, log_constant=np.log(constant), examples=4
    )
    np.testing.assert_allclose(given, [-np.log(3 / 4 * 1 / 2 * 5 / 6)], rtol=1e-12)


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_noise_contrastive_slopes_the_right_way_and_stays_finite(size):
    positives, negatives = tf.constant([-size, size]), tf.constant([[size], [-size]])
    with tf.GradientTape() as tape:
        tape.watch([positives, negatives])
        values = functional.noise_contrastive(positives, negatives, log_constant=0.0, examples=9)
    slopes = tape.gradient(values, [positives, negatives])
    assert np.isfinite(values).all()
    assert values[0] > values[1]
    assert np.all(slopes[0] <= 0)
    assert np.all(slopes[1] >= 0)
    assert slopes[0][0] < -0.1
    assert slopes[1][0, 0] > 0.1


def test_contrast_on_paper():
    # s.t = 1, one negative at s.n = -1, T = 2: log(1 + exp(-2 / 2)).
    given = functional.contrastive_representation([[1.0]], [[1.0]], [[-1.0]], temperature=2.0)
    np.testing.assert_allclose(given, [np.log1p(np.exp(-1))], rtol=1e-6)


def test_contrast_is_cross_entropy_over_one_positive_and_the_negatives():
    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    student, teacher, negatives = unit(STUDENT), unit(TEACHER), unit(rng.normal(size=(9, 3)))
    given = functional.contrastive_representation(student, teacher, negatives)
    for i in range(5):
        logits = np.array([student[i] @ v for v in (teacher[i], *negatives)]) / 0.07
        assert float(given[i]) == pytest.approx(logsumexp(logits) - logits[0], rel=1e-9)


@every_relation
def test_maps_are_flattened(function):
    maps = rng.normal(size=(2, 4, 3, 2, 5))
    np.testing.assert_allclose(
        function(maps[0], maps[1]),
        function(maps[0].reshape(4, 30), maps[1].reshape(4, 30)),
        rtol=1e-9,
    )


@every_relation
def test_float64_stays_and_half_precision_is_computed_in_float32(function):
    assert function(STUDENT, TEACHER).dtype == "float64"
    half = tf.cast(STUDENT, "float16"), tf.cast(TEACHER, "float16")
    given = function(*half)
    assert given.dtype == "float32"
    np.testing.assert_allclose(given, function(*(tf.cast(t, "float64") for t in half)), rtol=1e-4)


@every_relation
@pytest.mark.parametrize("collapsed", ["two examples", "all examples", "zeros"])
def test_gradients_are_finite_where_examples_coincide(function, collapsed):
    student = np.array(STUDENT, "float32")
    if collapsed == "two examples":
        student[1] = student[0]
    else:
        student[:] = 0 if collapsed == "zeros" else student[0]
    student, teacher = tf.constant(student), tf.constant(TEACHER, "float32")
    with tf.GradientTape() as tape:
        tape.watch(student)
        values = function(student, teacher)
    gradient = tape.gradient(values, student).numpy()
    assert np.isfinite(values).all()
    # A distance of zero pulls nowhere: an epsilon under the root would pull by its inverse.
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() < 1e3


@every_relation
def test_a_row_left_out_stays_a_partner(function):
    # What the reduction drops is one row's value; the others' still depend on that example.
    changed = STUDENT.copy()
    changed[0] += 1.0
    before, after = function(STUDENT, TEACHER), function(changed, TEACHER)
    assert abs(float(before[1] - after[1])) > 1e-6


@every_relation
def test_a_batch_of_one_is_refused(function):
    with pytest.raises(ValueError, match=f"{function.__name__} .* a batch of one"):
        function([[1.0, 2.0]], [[1.0, 2.0]])


@every_relation
def test_a_remainder_of_one_in_a_graph_counts_nothing(function):
    spec = tf.TensorSpec((None, 3), "float32")
    traced = tf.function(function, input_signature=[spec, spec], autograph=False)
    one = tf.constant(STUDENT[:1], "float32")
    with tf.GradientTape() as tape:
        tape.watch(one)
        value = traced(one, 2 * one)
    np.testing.assert_allclose(value, [0.0], atol=1e-6)
    assert np.isfinite(tape.gradient(value, one)).all()
    student, teacher = tf.constant(STUDENT, "float32"), tf.constant(TEACHER, "float32")
    np.testing.assert_allclose(traced(student, teacher), function(student, teacher), rtol=1e-5)


@every_relation
def test_batches_that_differ_are_both_named(function):
    with pytest.raises(ValueError, match=r"holds 4 examples and the teacher's 5"):
        function(STUDENT[:4], TEACHER)


def test_widths_that_differ_are_named_where_they_must_be_equal():
    with pytest.raises(ValueError, match=r"the student has 3 an example and the teacher 7"):
        functional.correlation_congruence(STUDENT, WIDER)


@every_relation
def test_the_minimum_is_at_the_teacher(function):
    np.testing.assert_allclose(function(STUDENT, STUDENT), np.zeros(5), atol=1e-12)


def test_they_compile_with_xla():
    for function in RELATIONS:
        compiled = tf.function(function, jit_compile=True, autograph=False)
        np.testing.assert_allclose(
            compiled(tf.constant(STUDENT), tf.constant(TEACHER)),
            function(STUDENT, TEACHER),
            rtol=1e-9,
        )


def test_keras_kl_agrees_on_the_neighbours():
    # An implementation of KL that nobody here wrote, on distributions made by hand.
    given = functional.probabilistic_transfer([[1.0, 0.0], [0.0, 1.0]], [[1.0], [1.0]])
    expected = keras.losses.kl_divergence([[0.5, 0.5]], [[2 / 3, 1 / 3]]) / 2
    assert float(given[0]) == pytest.approx(float(expected[0]), rel=1e-5)
