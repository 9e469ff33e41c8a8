"""A teacher with another vocabulary: the map, the report, and what a student learns from it."""

import json

import keras
import numpy as np
import pytest
from scipy.special import softmax

import keras_distill as kd
from keras_distill.objectives import SharedVocabulary

STUDENT = ["", "[UNK]", "the", "cat"]
TEACHER = ["", "[UNK]", "cat", "sat", "the", "on"]
rng = np.random.default_rng(0)


def test_coverage_on_paper():
    # The teacher is even over six tokens; "", cat and the are shared: three of six are not.
    report = SharedVocabulary(STUDENT, TEACHER).coverage(np.zeros((2, 5, 6)))
    assert (report.shared, report.student_tokens, report.teacher_tokens) == (3, 4, 6)
    assert report.student_only == ("[UNK]",)
    assert report.teacher_only == ("[UNK]", "sat", "on")
    assert report.mean_unshared_teacher_mass == pytest.approx(0.5)
    assert json.loads(report.to_json())["teacher_only"] == ["[UNK]", "sat", "on"]
    assert "50.0%" in str(report)
    assert "'sat'" in str(report)
    with pytest.raises(AttributeError):
        report.shared = 4


def test_a_layers_tokens_print_as_words():
    words = keras.layers.TextVectorization(vocabulary=["cat", "sat"])
    report = SharedVocabulary(STUDENT, words.get_vocabulary()).coverage()
    assert str(report).splitlines()[-1] == "the teacher's alone: '[UNK]', 'sat'"


def test_coverage_without_data_says_nothing_of_mass():
    report = SharedVocabulary(STUDENT, TEACHER, unknown=["[UNK]", ""]).coverage()
    assert report.mean_unshared_teacher_mass is None
    assert report.shared == 2
    with pytest.raises(ValueError, match=r"\(2, 4\) are not over the teacher's 6 tokens"):
        SharedVocabulary(STUDENT, TEACHER).coverage(np.zeros((2, 4)))


def test_dicts_from_token_to_place_say_the_same():
    by_place = SharedVocabulary({"cat": 3, "": 0, "the": 2, "[UNK]": 1}, TEACHER)
    assert by_place.get_config() == SharedVocabulary(STUDENT, TEACHER).get_config()
    with pytest.raises(ValueError, match="student_vocab must give each token a place of its own"):
        SharedVocabulary({"cat": 0, "the": 2}, TEACHER)


def token_models(length=None):
    """Models over five numbers, or over sequences of them, with a layer "tokens" to mask with."""
    keras.utils.set_random_seed(0)
    shape = (5,) if length is None else (length, 5)
    student, teacher = (
        keras.Sequential([keras.Input(shape), keras.layers.Dense(len(tokens))])
        for tokens in (STUDENT, TEACHER)
    )
    return student, teacher


def coarse(logits, vocabulary):
    """By hand: the shared tokens by name, and the rest as one."""
    probabilities = softmax(np.asarray(logits, "float64"), axis=-1)
    shared = [probabilities[..., vocabulary.index(token)] for token in ("", "the", "cat")]
    return np.stack([*shared, 1 - np.sum(shared, axis=0)], axis=-1)


@pytest.mark.parametrize("length", [None, 3])
def test_the_logged_value_is_the_divergence_of_the_coarse_distributions(length):
    student, teacher = token_models(length)
    x = rng.normal(size=(4, 5) if length is None else (4, length, 5)).astype("float32")
    p, q = coarse(teacher(x), TEACHER), coarse(student(x), STUDENT)
    distiller = kd.Distiller(student, teacher, SharedVocabulary(STUDENT, TEACHER))
    distiller.compile(keras.optimizers.SGD(0.0), loss=None)
    given = distiller.fit(x, verbose=0).history["shared_vocabulary"][0]
    assert given == pytest.approx(np.mean(np.sum(p * np.log(p / q), axis=-1)), rel=1e-4)


@pytest.mark.parametrize("unshared", ["bucket", "renormalise"])
def test_a_student_learns_the_shared_tokens(unshared):
    student, teacher = token_models()
    x = rng.normal(size=(64, 5)).astype("float32")
    objective = SharedVocabulary(STUDENT, TEACHER, unshared=unshared)
    distiller = kd.Distiller(student, teacher, objective)
    distiller.compile(keras.optimizers.Adam(0.05), loss=None)
    distiller.fit(np.tile(x, (60, 1)), batch_size=64, verbose=0)
    p, q = coarse(teacher(x), TEACHER), coarse(student(x), STUDENT)
    if unshared == "renormalise":
        p, q = (d[:, :3] / d[:, :3].sum(-1, keepdims=True) for d in (p, q))
    assert np.abs(p - q).mean() < 0.04


def test_a_mask_leaves_padding_out():
    inputs = keras.Input((3,), dtype="int32")
    tokens = keras.layers.Identity(name="tokens")(inputs)
    keras.utils.set_random_seed(0)
    student, teacher = (
        keras.Model(inputs, keras.layers.Embedding(9, len(vocabulary), "normal")(tokens))
        for vocabulary in (STUDENT, TEACHER)
    )
    x = np.array([[3, 4, 0], [5, 0, 0]])
    p, q = coarse(teacher(x), TEACHER), coarse(student(x), STUDENT)
    divergence = np.sum(p * np.log(p / q), axis=-1)
    expected = np.mean([divergence[0, :2].mean(), divergence[1, 0]])
    objective = SharedVocabulary(STUDENT, TEACHER, mask="tokens")
    distiller = kd.Distiller(student, teacher, objective)
    distiller.compile(keras.optimizers.SGD(0.0), loss=None)
    given = distiller.fit(x, verbose=0).history["shared_vocabulary"][0]
    assert given == pytest.approx(expected, rel=1e-4)


def test_logits_that_do_not_fit_their_vocabulary_are_refused_when_built():
    student, teacher = token_models()
    objective = SharedVocabulary(STUDENT, TEACHER[:-1])
    with pytest.raises(ValueError, match=r"the teacher answers over 6 tokens .* has 5 .*\(None, 6"):
        kd.Distiller(student, teacher, objective)


def test_positions_that_differ_are_refused_when_built():
    (student, _), (_, teacher) = token_models(3), token_models(4)
    with pytest.raises(ValueError, match=r"\(None, 3, 4\) .*\(None, 4, 6\).*at the same places"):
        kd.Distiller(
            student, teacher, SharedVocabulary(STUDENT, TEACHER), teacher_preprocess=np.asarray
        )


def test_a_mask_of_another_length_is_refused_when_built():
    inputs = keras.Input((3,), dtype="int32")
    tokens = keras.layers.Reshape((1, 3))(inputs)
    tokens = keras.layers.Reshape((3, 1))(tokens)
    states = keras.layers.Dense(4)(tokens)
    mask = keras.layers.ZeroPadding1D((0, 1), name="mask")(tokens)
    joined = keras.layers.Add()([states, keras.layers.Cropping1D((0, 1))(mask)])
    student = keras.Model(inputs, joined)
    with pytest.raises(ValueError, match=r"mask='mask' marks 4 positions, \(None, 4, 1\), of 3"):
        kd.Distiller(student, student, SharedVocabulary(STUDENT, STUDENT, mask="mask"))


def test_no_overlap_shows_both_vocabularies():
    with pytest.raises(ValueError, match=r"share no token.*'the', 'cat'.*'##the', '##cat'"):
        SharedVocabulary(["the", "cat"], ["##the", "##cat"])


def test_unknown_tokens_are_no_overlap():
    with pytest.raises(ValueError, match="share no token"):
        SharedVocabulary(["[UNK]", "a"], ["[UNK]", "b"])


def test_a_bucket_needs_a_place_in_the_student():
    with pytest.raises(ValueError, match=r"teacher has 2 tokens .*unshared='renormalise'"):
        SharedVocabulary(["the", "cat"], ["cat", "sat", "the", "on"])
    SharedVocabulary(["the", "cat"], ["cat", "sat", "the", "on"], unshared="renormalise")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unshared": "drop"}, r"unshared must be one of .*'drop'"),
        ({"temperature": 0.0}, "temperature must be positive"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        SharedVocabulary(STUDENT, TEACHER, **options)


def test_a_token_twice():
    with pytest.raises(ValueError, match=r"teacher_vocab holds tokens twice: 'cat'"):
        SharedVocabulary(STUDENT, [*TEACHER, "cat"])
