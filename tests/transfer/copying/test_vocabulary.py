import keras
import numpy as np
import pytest
from keras import layers

from keras_distill import edge
from keras_distill.edge import legacy
from keras_distill.transfer import copy_vocabulary


def embedding(rows, width=2, name="words", seed=0, module=keras):
    layer = module.layers.Embedding(rows, width, name=name)
    layer.build(None)
    layer.set_weights([np.random.default_rng(seed).normal(size=(rows, width))])
    return layer


def table(layer):
    return layer.get_weights()[0]


def transfer(teacher_vocab, student_vocab, **options):
    """The two tables afterwards, and the report."""
    teacher = embedding(len(teacher_vocab), name="large")
    student = embedding(len(student_vocab), name="small", seed=1)
    before = table(teacher)
    returned, report = copy_vocabulary(teacher, student, teacher_vocab, student_vocab, **options)
    assert returned is student
    np.testing.assert_array_equal(table(teacher), before)
    return table(teacher), table(student), report


TEACHER = ["[PAD]", "[UNK]", "play", "##ing", "##s", "re", "un", "##play"]


def test_rows_are_shared_or_means_or_fresh():
    student = ["playing", "[PAD]", "play", "replays", "zebra", "[CLS]", "##ing"]
    old, new, report = transfer(TEACHER, student)
    np.testing.assert_array_equal(new[[1, 2, 6]], old[[0, 2, 3]])
    # playing = play + ##ing; replays = re + ##play + ##s, the longest each time.
    np.testing.assert_allclose(new[0], (old[2] + old[3]) / 2, rtol=1e-6)
    np.testing.assert_allclose(new[3], (old[5] + old[7] + old[4]) / 3, rtol=1e-6)
    copied, mean, fresh = report.rows
    assert (copied.layer, copied.action, copied.source) == ("small", "copied", "large")
    assert (copied.parameters, report.parameters) == (3 * 2, 3 * 2)
    assert copied.why == "3 of 7 rows: shared tokens ('[PAD]', 'play', '##ing')"
    assert mean.action == fresh.action == "initialised"
    assert mean.why == "2 of 7 rows: the mean of the teacher's pieces ('playing', 'replays')"
    assert fresh.why == "2 of 7 rows: no pieces, initialised ('zebra', '[CLS]')"
    assert fresh.source is None


@pytest.mark.parametrize("given", ["layer", "array"])
def test_tokens_of_a_layer_or_an_array_print_as_words(given):
    words = layers.TextVectorization(vocabulary=["play"])
    vocabulary = words if given == "layer" else np.array(["", "[UNK]", "play"])
    *_, report = copy_vocabulary(embedding(3), embedding(3), vocabulary, vocabulary)
    assert report.rows[0].why == "3 of 3 rows: shared tokens ('', '[UNK]', 'play')"


# (teacher, the student's word, the teacher's tokens that it is the mean of)
PIECES = [
    # WordPiece: "ab" inside a word is not the word "ab".
    (["x", "##ab", "ab", "##c"], "xabc", ["x", "##ab", "##c"]),
    # SentencePiece and GPT-2: the mark is at the start of words, and of the student's too.
    (["x", "\u2581x", "ab", "\u2581ab"], "\u2581xab", ["\u2581x", "ab"]),
    (["x", "\u0120x", "ab", "\u0120ab"], "\u0120abx", ["\u0120ab", "x"]),
    # From one convention to another.
    (["\u0120pl", "ay", "x"], "play", ["\u0120pl", "ay"]),
    (["pl", "##ay", "x"], "\u2581play", ["pl", "##ay"]),
    (["\u2581pl", "ay", "x"], "##ayay", ["ay", "ay"]),
    # Whole words have no mark; the longest piece wins over more of them.
    (["x", "sun", "sunf", "flower", "f"], "sunflower", None),
    (["x", "sun", "flower", "f"], "sunflower", ["sun", "flower"]),
    # Where a piece has only the other form, that one serves.
    (["un", "##x", "play"], "unplay", ["un", "play"]),
]


@pytest.mark.parametrize(("teacher", "word", "pieces"), PIECES)
def test_greedy_pieces(teacher, word, pieces):
    marks = {"#": "##x", "\u2581": "\u2581x", "\u0120": "\u0120x"}
    common = next(token for token in ["x", "##x", "\u2581x", "\u0120x"] if token in teacher)
    # A token that shows the student's convention, as its word does.
    student = list(dict.fromkeys([common, marks.get(word[0], "x"), word]))
    old, new, _ = transfer(teacher, student, initializer="zeros")
    expected = np.zeros(2)
    if pieces:
        expected = np.mean([old[teacher.index(piece)] for piece in pieces], axis=0)
    np.testing.assert_allclose(new[-1], expected, rtol=1e-6)


def test_one_token_in_two_conventions_is_shared():
    old, new, report = transfer(
        ["<s>", "\u2581the", "the", "ing"], ["##ing", "the", "<s>", "##the", "</s>"]
    )
    np.testing.assert_array_equal(new[:4], old[[3, 1, 0, 2]])
    assert report.rows[0].why.startswith("4 of 5 rows: shared")
    # A special token is not taken to pieces.
    assert report.rows[1].why == "1 of 5 rows: no pieces, initialised ('</s>')"


def test_letters_decide_where_the_meaning_is_not_there():
    # Nothing in the student's vocabulary shows that "ing" goes on a word.
    old, new, report = transfer(["\u2581do", "ing"], ["ing"])
    np.testing.assert_array_equal(new[0], old[1])
    assert report.rows[0].action == "copied"


def test_a_tokeniser_of_the_users():
    asked = []

    def tokenize(token):
        asked.append(token)
        return {"ab": ["b", "c", "c"], "zz": []}[token]

    old, new, _ = transfer(
        ["a", "b", "c"], ["ab", "a", "zz", "[X]"], tokenize=tokenize, initializer="ones"
    )
    assert asked == ["ab", "zz"]
    np.testing.assert_array_equal(new[1], old[0])
    np.testing.assert_allclose(new[0], (old[1] + 2 * old[2]) / 3, rtol=1e-6)
    np.testing.assert_array_equal(new[2:], 1.0)


def test_fresh_rows_are_distributed_as_the_teachers():
    teacher = embedding(2, width=3)
    # Means 1, 10, 0 and standard deviations 1, 2, 0.
    teacher.set_weights([np.array([[0.0, 8.0, 0.0], [2.0, 12.0, 0.0]])])
    new = ["a", *(f"[{i}]" for i in "ABC"), *(chr(0x400 + i) for i in range(4000))]

    def drawn(seed):
        student = embedding(len(new), width=3)
        copy_vocabulary(teacher, student, ["a", "b"], new, seed=seed)
        return table(student)[1:]

    rows = drawn(0)
    # Four standard errors of 4003 draws: 4 / 63 of the deviation, and 4 / 89 of it.
    np.testing.assert_allclose(rows.mean(0), [1.0, 10.0, 0.0], atol=0.13)
    np.testing.assert_allclose(rows.std(0), [1.0, 2.0, 0.0], rtol=0.045)
    np.testing.assert_array_equal(drawn(0), rows)
    assert not np.array_equal(drawn(1), rows)


def test_initialisers():
    vocabularies = ["a"], ["a", "[B]", "[C]"]
    kept = table(embedding(3, seed=1))[1:]
    _, new, report = transfer(*vocabularies, initializer="keep")
    np.testing.assert_array_equal(new[1:], kept)
    assert [row.action for row in report.rows] == ["copied", "left"]
    assert "left as they were" in report.rows[1].why
    _, new, _ = transfer(*vocabularies, initializer=keras.initializers.Constant(3.0))
    np.testing.assert_array_equal(new[1:], 3.0)
    drawn = [transfer(*vocabularies, initializer="uniform", seed=s)[1] for s in (5, 5, 6)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_all_forms_of_a_vocabulary():
    vectorizer = layers.TextVectorization(vocabulary=["dog", "cat"])
    lookup = layers.StringLookup(vocabulary=["cat", "dog"], num_oov_indices=2)
    # Rows: '' [UNK] dog cat, and [UNK] [UNK] cat dog, of which the second [UNK] is new.
    teacher, student = embedding(4), embedding(4, seed=1)
    _, report = copy_vocabulary(teacher, student, vectorizer, lookup, initializer="zeros")
    np.testing.assert_array_equal(table(student)[[0, 2, 3]], table(teacher)[[1, 3, 2]])
    np.testing.assert_array_equal(table(student)[1], 0.0)
    assert len(report.rows) == 2
    given = {"cat": 2, "dog": 0, "the": 1}
    array = np.array([b"the", b"cat", b"dog"])
    student = embedding(3, seed=1)
    copy_vocabulary(embedding(3), student, given, array)
    np.testing.assert_array_equal(table(student), table(embedding(3))[[1, 2, 0]])


@pytest.mark.parametrize("direction", ["from", "into"])
def test_tf_keras(direction):
    tf_keras = legacy.tf_keras()
    modules = (tf_keras, keras) if direction == "from" else (keras, tf_keras)
    teacher, student = embedding(2, module=modules[0]), embedding(2, seed=1, module=modules[1])
    copy_vocabulary(teacher, student, ["a", "b"], ["b", "a"])
    np.testing.assert_array_equal(table(student), table(teacher)[::-1])


def test_half_precision():
    teacher, student = embedding(2), layers.Embedding(2, 2, dtype="bfloat16")
    student.build(None)
    copy_vocabulary(teacher, student, ["a", "b"], ["a", "ab"])
    expected = np.stack([table(teacher)[0], table(teacher).mean(0)]).astype(table(student).dtype)
    np.testing.assert_array_equal(table(student), expected)


A, AB = ["a"], ["a", "b"]
WRONG = [
    (AB, ["a", "b", "c"], {}, "student's vocabulary has 3 tokens and its embedding 2 rows"),
    (A, AB, {}, "teacher's vocabulary has 1 tokens and its embedding 2 rows"),
    (["a", "a"], AB, {}, "teacher's vocabulary has 'a' more than once"),
    (AB, {"a": 0, "b": 2}, {}, "student's vocabulary gives 'b' the row 2, where row 1"),
    (AB, {"a": 0, "b": 0}, {}, "gives 'b' the row 0, where row 1"),
    (AB, ["x", "y"], {}, "no token in common: the teacher's begins 'a', 'b', the student's 'x'"),
    (AB, ["a", "c"], {"tokenize": lambda token: ["d"]}, r"tokenize\('c'\) gave \['d'\]"),
    (AB, ["a", "c"], {"tokenize": lambda token: "b"}, r"tokenize\('c'\) gave 'b'; expected a list"),
    (AB, ["a", "c"], {"initializer": "nomral"}, "nomral"),
]


@pytest.mark.parametrize(("teacher_vocab", "student_vocab", "options", "said"), WRONG)
def test_what_is_wrong_is_said_and_nothing_written(teacher_vocab, student_vocab, options, said):
    student = embedding(2, seed=1)
    before = table(student)
    with pytest.raises(ValueError, match=said):
        copy_vocabulary(embedding(2), student, teacher_vocab, student_vocab, **options)
    np.testing.assert_array_equal(table(student), before)


def test_widths_differ():
    said = r"teacher's embedding is 3 wide and the student's 2.*output_dim=3 and a Dense\(2\)"
    with pytest.raises(ValueError, match=said):
        copy_vocabulary(embedding(2, width=3), embedding(2), AB, AB)


def test_no_embedding_with_one_plain_table():
    student = embedding(2)
    with pytest.raises(ValueError, match="teacher's embedding 'new' is not built"):
        copy_vocabulary(layers.Embedding(2, 2, name="new"), student, AB, AB)
    adapted = embedding(2)
    adapted.enable_lora(1)
    model = keras.Sequential([keras.Input((3,)), embedding(2, name="inner")])
    for wrong in (keras.layers.ReLU(), adapted, edge.prune(model, 0.5).layers[-1], np.ones((2, 2))):
        with pytest.raises(TypeError, match="teacher's embedding as a layer with one table"):
            copy_vocabulary(wrong, student, AB, AB)
    with pytest.raises(ValueError, match="is the teacher's"):
        copy_vocabulary(student, student, AB, AB)
    with pytest.raises(TypeError, match=r"vocabulary as a list of tokens.*got str"):
        copy_vocabulary(embedding(2), student, "ab", AB)
