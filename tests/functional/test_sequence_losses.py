"""Sequences: against numbers derived on paper, loops, Keras' and SciPy's own."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.spatial.distance import cosine
from scipy.special import rel_entr, softmax

from keras_distill import functional

rng = np.random.default_rng(0)
STATES = rng.normal(size=(2, 3, 5, 8))
ATTENTION = softmax(rng.normal(size=(2, 3, 4, 5, 5)), axis=-1)
LENGTHS = [5, 3, 2]
MASK = np.array([[position < length for position in range(5)] for length in LENGTHS], "int32")
# What each function takes, and the axes that its positions are on.
TAKES = {
    functional.hidden_state_mse: (STATES, [1]),
    functional.hidden_state_cosine: (STATES, [1]),
    functional.attention_kl: (ATTENTION, [2, 3]),
    functional.attention_mse: (ATTENTION, [2, 3]),
    functional.value_relation_kl: (STATES, [1]),
}
every_function = pytest.mark.parametrize("function", TAKES, ids=lambda f: f.__name__)


def cut(x, length, axes):
    for axis in axes:
        x = np.take(x, range(length), axis=axis)
    return x


def over_real_columns(attention, length):
    attention = cut(attention, length, [2, 3])
    return attention / attention.sum(-1, keepdims=True)


@every_function
def test_padding_counts_as_if_it_were_cut_off(function):
    (student, teacher), axes = TAKES[function]
    given = function(student, teacher, mask=MASK)
    for i, length in enumerate(LENGTHS):
        one = [cut(x[i : i + 1], length, axes) for x in (student, teacher)]
        if len(axes) == 2:
            one = [x / x.sum(-1, keepdims=True) for x in one]
        assert float(given[i]) == pytest.approx(float(function(*one)[0]), rel=1e-9)


@every_function
def test_what_stands_at_a_padded_position_does_not_matter(function):
    (student, teacher), axes = TAKES[function]
    changed = student.copy()
    changed[1, 3:] = 7.0 if axes == [1] else changed[1, 3:]
    if axes == [2, 3]:
        changed[1, :, 3:, :], changed[1, :, :, 3:] = 0.9, 0.3
    given, expected = (function(tf.constant(x), teacher, mask=MASK) for x in (changed, student))
    np.testing.assert_allclose(given, expected, rtol=1e-9)


@every_function
def test_no_gradient_reaches_a_padded_position_and_none_is_infinite(function):
    (student, teacher), axes = TAKES[function]
    student = student.copy()
    student[1, 3:] = student[1, 3:] * 0 if axes == [1] else student[1, 3:]
    student = tf.constant(student)
    with tf.GradientTape() as tape:
        tape.watch(student)
        values = function(student, teacher, mask=MASK)
    gradient = tape.gradient(values, student).numpy()
    assert np.isfinite(gradient).all()
    padded = gradient[1, 3:] if axes == [1] else gradient[1, :, 3:, :]
    np.testing.assert_array_equal(padded, 0.0)
    assert np.abs(gradient[1]).max() > 0


@every_function
def test_a_mask_of_ones_changes_nothing_and_one_of_zeros_leaves_zero(function):
    student, teacher = TAKES[function][0]
    np.testing.assert_allclose(
        function(student, teacher, mask=np.ones((3, 5))), function(student, teacher), rtol=1e-9
    )
    none = np.array([[True] * 5, [False] * 5, [True] * 5])
    given = np.asarray(function(student, teacher, mask=none))
    assert given[1] == 0
    assert given[0] > 0


@every_function
def test_a_mask_of_another_length_is_refused_with_both(function):
    student, teacher = TAKES[function][0]
    with pytest.raises(ValueError, match=r"student's 5 and .*the mask's 4"):
        function(student, teacher, mask=np.ones((3, 4)))


@every_function
def test_lengths_that_differ_are_both_named(function):
    (student, teacher), axes = TAKES[function]
    with pytest.raises(ValueError, match=r"the student's 5 and the teacher's 4"):
        function(student, cut(teacher, 4, axes))


@every_function
def test_the_minimum_is_at_the_teacher_and_float64_stays(function):
    student, teacher = TAKES[function][0]
    assert function(student, teacher).dtype == "float64"
    assert function(tf.cast(student, "float16"), tf.cast(teacher, "float16")).dtype == "float32"
    np.testing.assert_allclose(function(teacher, teacher, mask=MASK), np.zeros(3), atol=1e-12)


@every_function
def test_unknown_lengths_in_a_compiled_graph(function):
    student, teacher = TAKES[function][0]
    shape = [None if size in (3, 5) else size for size in student.shape]
    specs = [tf.TensorSpec(shape, "float64")] * 2 + [tf.TensorSpec((None, None), "int32")]
    graph = tf.function(
        lambda s, t, m: function(s, t, mask=m), input_signature=specs, jit_compile=True
    )
    np.testing.assert_allclose(
        graph(student, teacher, MASK), function(student, teacher, mask=MASK), rtol=1e-7
    )


def test_hidden_states_on_paper():
    # Errors 1, 2 and (padded) 9 of width 1: the mean of squares over two real positions is 5 / 2.
    given = functional.hidden_state_mse(
        [[[1.0], [2.0], [9.0]]], np.zeros((1, 3, 1)), mask=[[1, 1, 0]]
    )
    np.testing.assert_allclose(given, [2.5])


def test_hidden_state_cosine_is_scipys_cosine_distance():
    student, teacher = STATES
    expected = [np.mean([cosine(s, t) for s, t in zip(*pair, strict=True)])
                for pair in zip(student, teacher, strict=True)]  # fmt: skip
    np.testing.assert_allclose(functional.hidden_state_cosine(student, teacher), expected)


def test_patient_states_on_paper_and_by_scipys_cosine():
    # (3, 4) / 5 against (0, 1): squares 0.36 and 0.04, over a width of 2.
    given = functional.patient_state_mse(np.array([[3.0, 4.0]]), [[0.0, 7.0]])
    np.testing.assert_allclose(given, [0.2])
    student, teacher = STATES[:, 0]
    expected = [2 * cosine(*pair) / 8 for pair in zip(student, teacher, strict=True)]
    np.testing.assert_allclose(functional.patient_state_mse(student, teacher), expected)


def test_patient_states_refuse_sequences_and_unequal_widths():
    for student, teacher in ((STATES[0], STATES[0, :, 0]), (STATES[0, 0], STATES[0, 0, :, :7])):
        with pytest.raises(ValueError, match=r"one state an example.*\(.*\) and the teacher's \("):
            functional.patient_state_mse(student, teacher)


def test_a_state_of_zeros_pulls_nowhere():
    student = tf.zeros((1, 2, 3))
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = functional.hidden_state_cosine(student, tf.ones((1, 2, 3)))
    assert float(value[0]) == 1.0
    np.testing.assert_array_equal(tape.gradient(value, student), np.zeros((1, 2, 3)))


def test_attention_on_paper():
    # Two real columns and one padded. Teacher (0.4, 0.4, 0.2) becomes (1/2, 1/2); the student's
    # (0.2, 0.6, 0.2) becomes (1/4, 3/4): KL = 1/2 log 2 + 1/2 log(2/3), squares (1/16 + 1/16) / 2.
    student, teacher = (np.tile(row, (1, 1, 3, 1)) for row in ([0.2, 0.6, 0.2], [0.4, 0.4, 0.2]))
    kl = functional.attention_kl(student, teacher, mask=[[1, 1, 0]])
    mse = functional.attention_mse(student, teacher, mask=[[1, 1, 0]])
    np.testing.assert_allclose(kl, [0.5 * np.log(4 / 3)], rtol=1e-6)
    np.testing.assert_allclose(mse, [1 / 16], rtol=1e-6)


def test_attention_kl_is_scipys_relative_entropy():
    student, teacher = ATTENTION
    expected = rel_entr(teacher, student).sum(-1).mean((1, 2))
    np.testing.assert_allclose(functional.attention_kl(student, teacher), expected, rtol=1e-9)


def test_heads_that_differ_in_number_are_averaged():
    student, teacher = ATTENTION[0][:, :2], ATTENTION[1]
    expected = rel_entr(teacher.mean(1), student.mean(1)).sum(-1).mean(-1)
    np.testing.assert_allclose(functional.attention_kl(student, teacher), expected, rtol=1e-9)
    expected = np.mean((teacher.mean(1) - student.mean(1)) ** 2, (1, 2))
    np.testing.assert_allclose(functional.attention_mse(student, teacher), expected, rtol=1e-9)


def test_an_attention_of_zero_stays_finite():
    student = tf.constant([[[[0.0, 1.0]] * 2]])
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = functional.attention_kl(student, 1 - student)
    assert np.isfinite(value).all()
    assert np.isfinite(tape.gradient(value, student)).all()


def test_value_relations_on_paper():
    # Width 1, values a, 0 against 0, 0: scores [[a^2, 0], [0, 0]]. Row 0: the even teacher against
    # (p, 1 - p), p = sigmoid(a^2): KL = -log(4 p (1 - p)) / 2; row 1 agrees. Mean over 2 rows.
    p = 1 / (1 + np.exp(-4))
    given = functional.value_relation_kl([[[2.0], [0.0]]], [[[0.0], [0.0]]])
    np.testing.assert_allclose(given, [-np.log(4 * p * (1 - p)) / 4], rtol=1e-5)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_value_relations_in_loops(heads):
    student, teacher = STATES[0], rng.normal(size=(3, 5, 12))

    def relation(values, head):
        width = values.shape[-1] // heads
        own = values[:, head * width : (head + 1) * width]
        return softmax(own @ own.T / np.sqrt(width), axis=-1)

    for i, value in enumerate(functional.value_relation_kl(student, teacher, heads=heads)):
        divergences = [
            rel_entr(relation(teacher[i], h), relation(student[i], h)).sum(-1).mean()
            for h in range(heads)
        ]
        assert float(value) == pytest.approx(np.mean(divergences), rel=1e-9)


def test_values_that_come_by_heads_keep_them_or_are_split_anew():
    student, teacher = STATES
    by_heads = [x.reshape(3, 5, 4, 2) for x in (student, teacher)]
    np.testing.assert_allclose(
        functional.value_relation_kl(*by_heads),
        functional.value_relation_kl(student, teacher, heads=4),
    )
    np.testing.assert_allclose(
        functional.value_relation_kl(*by_heads, heads=2),
        functional.value_relation_kl(student, teacher, heads=2),
    )
    with pytest.raises(ValueError, match=r"student has 4 heads and the teacher 1\. Give heads="):
        functional.value_relation_kl(by_heads[0], teacher)
    with pytest.raises(ValueError, match=r"8 numbers a position .* do not split into 3 heads"):
        functional.value_relation_kl(student, teacher, heads=3)


def test_states_of_unequal_width_are_both_named():
    with pytest.raises(ValueError, match=r"\(3, 5, 8\) and the teacher's \(3, 5, 6\)"):
        functional.hidden_state_mse(STATES[0], STATES[1][..., :6])


def test_attention_needs_maps():
    with pytest.raises(ValueError, match=r"\(batch, heads, time, time\); .*\(3, 5, 8\)"):
        functional.attention_kl(STATES[0], ATTENTION[0])


class TestSharedTokens:
    """Student tokens a b c; teacher tokens c x a y: shared a and c."""

    places = {"student_shared": [0, 2], "teacher_shared": [2, 0]}  # noqa: RUF012

    def test_bucket_on_paper(self):
        # Teacher (c, x, a, y) = (4, 1, 2, 1) / 8: coarse a 1/4, c 1/2, other 1/4.
        # Student (a, b, c) = 1/3 each: KL = log 3 - H(1/4, 1/2, 1/4) = log 3 - 3/2 log 2.
        given = functional.shared_token_kl(
            [[0.0, 0.0, 0.0]], np.log([[4.0, 1.0, 2.0, 1.0]]), **self.places
        )
        np.testing.assert_allclose(given, [np.log(3) - 1.5 * np.log(2)], rtol=1e-5)

    def test_renormalised_on_paper(self):
        # On a and c alone: teacher 1/3 and 2/3, student 1/2 each.
        given = functional.shared_token_kl(
            [[0.0, 5.0, 0.0]], np.log([[4.0, 1.0, 2.0, 1.0]]), unshared="renormalise", **self.places
        )
        expected = np.log(2) - (np.log(3) - 2 / 3 * np.log(2))
        np.testing.assert_allclose(given, [expected], rtol=1e-5)

    def test_all_shared_is_soft_target_kl(self):
        student, teacher = rng.normal(size=(2, 3, 4, 6))
        order = [3, 1, 0, 5, 2, 4]
        for unshared in ("bucket", "renormalise"):
            given = functional.shared_token_kl(
                student, teacher[..., np.argsort(order)], student_shared=range(6),
                teacher_shared=order, unshared=unshared, temperature=3.0,
            )  # fmt: skip
            expected = functional.soft_target_kl(student, teacher, temperature=3.0)
            np.testing.assert_allclose(given, expected, rtol=1e-9)

    def test_coarser_is_never_farther(self):
        # Data processing: merging tokens can only hide a difference.
        student, teacher = rng.normal(0, 2, size=(2, 40, 6))
        fine = functional.soft_target_kl(student, teacher, temperature=1.0)
        coarse = functional.shared_token_kl(
            student, teacher, student_shared=[0, 3, 4], teacher_shared=[0, 3, 4]
        )
        assert (np.asarray(coarse) <= np.asarray(fine) + 1e-12).all()
        assert (np.asarray(coarse) < np.asarray(fine) - 1e-3).mean() > 0.9

    def test_a_mask_leaves_padded_positions_out(self):
        student, teacher = rng.normal(size=(3, 5, 3)), rng.normal(size=(3, 5, 4))
        given = functional.shared_token_kl(student, teacher, mask=MASK, **self.places)
        for i, length in enumerate(LENGTHS):
            one = functional.shared_token_kl(
                student[i : i + 1, :length], teacher[i : i + 1, :length], **self.places
            )
            assert float(given[i]) == pytest.approx(float(one[0]), rel=1e-9)

    def test_a_teacher_without_other_tokens_needs_no_bucket(self):
        # The student's own tokens take mass from the shared ones: log(1 / 2 / (1 / 3)).
        given = functional.shared_token_kl(
            [[0.0, 0.0, 0.0]], [[0.0, 0.0]], student_shared=[0, 1], teacher_shared=[0, 1]
        )
        np.testing.assert_allclose(given, [np.log(1.5)], rtol=1e-6)

    def test_a_student_without_other_tokens_can_not_stand_for_the_teachers(self):
        with pytest.raises(ValueError, match=r"divergence infinite\. Use unshared='renormalise'"):
            functional.shared_token_kl(
                np.zeros((1, 2)), np.zeros((1, 4)), student_shared=[0, 1], teacher_shared=[2, 0]
            )

    def test_no_shared_token_is_refused(self):
        with pytest.raises(ValueError, match="a token at least"):
            functional.shared_token_kl(
                np.zeros((1, 2)), np.zeros((1, 4)), student_shared=[], teacher_shared=[]
            )

    def test_large_logits_stay_finite(self):
        student, teacher = (tf.constant(1e4 * rng.normal(size=(2, n)), "float32") for n in (3, 4))
        with tf.GradientTape() as tape:
            tape.watch(student)
            values = functional.shared_token_kl(student, teacher, **self.places)
        assert np.isfinite(values).all()
        assert np.isfinite(tape.gradient(values, student)).all()

    def test_keras_kl_agrees_on_the_coarse_distributions(self):
        student, teacher = rng.normal(size=(2, 3)), rng.normal(size=(2, 4))
        p, q = softmax(teacher, -1), softmax(student, -1)
        coarse_p = np.stack([p[:, 2], p[:, 0], p[:, 1] + p[:, 3]], 1)
        coarse_q = np.stack([q[:, 0], q[:, 2], q[:, 1]], 1)
        np.testing.assert_allclose(
            functional.shared_token_kl(student, teacher, **self.places),
            keras.losses.kl_divergence(coarse_p, coarse_q),
            rtol=1e-5,
        )
