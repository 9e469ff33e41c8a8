"""What `explain` says of models that answer with numbers, against scikit-learn and NumPy."""

import json

import keras
import numpy as np
import pytest
from sklearn import metrics

import keras_distill as kd

ROWS = 150
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(ROWS, 4)).astype("float32")


def linear(columns, seed, shape=(4,)):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input(shape), keras.layers.Dense(columns, name="answer")])


def explained(student, teacher, data, **options):
    return kd.explain(student, teacher, data, verbose=False, **options)


@pytest.fixture(scope="module")
def three():
    """A far mean, which naive sums of squares would drown in; a label that is not there."""
    teacher, student = linear(3, 0), linear(3, 1)
    for model in (teacher, student):
        model.layers[-1].bias.assign([1e4, 0.0, -3.0])
    y = np.array(teacher(X), "float64") + RANDOM.normal(size=(ROWS, 3)) * [1.0, 5.0, 0.1]
    y[7, 1] = np.nan
    return student, teacher, y


@pytest.mark.parametrize("batch_size", [7, 64])
def test_errors_are_scikit_learns(three, batch_size):
    student, teacher, y = three
    record = explained(student, teacher, (X, y), task="numbers", batch_size=batch_size)
    for model, found in ((student, record.student), (teacher, record.teacher)):
        answers = np.array(model(X), "float64")
        for column in range(3):
            known = ~np.isnan(y[:, column])
            pair = y[known, column], answers[known, column]
            assert found.mae[column] == pytest.approx(metrics.mean_absolute_error(*pair))
            assert found.rmse[column] == pytest.approx(metrics.root_mean_squared_error(*pair))
            assert found.r2[column] == pytest.approx(metrics.r2_score(*pair), rel=1e-6)
            assert found.bias[column] == pytest.approx(np.mean(pair[1] - pair[0]))
    ours, theirs = (np.array(m(X), "float64") for m in (student, teacher))
    assert record.labelled.tolist() == [ROWS, ROWS - 1, ROWS]
    assert record.rms_between == pytest.approx(np.sqrt(np.mean((ours - theirs) ** 2, axis=0)))
    expected = [np.corrcoef(ours[:, c], theirs[:, c])[0, 1] for c in range(3)]
    assert record.correlation == pytest.approx(expected, rel=1e-6)


def test_the_worst_are_those_of_all_data_by_the_spread_of_their_column(three):
    student, teacher, y = three
    record = explained(student, teacher, (X, y), task="numbers", worst=5, batch_size=16)
    ours, theirs = (np.array(m(X), "float64") for m in (student, teacher))
    lost = np.where(np.isnan(y), np.abs(ours - theirs), np.abs(ours - y) - np.abs(theirs - y))
    scaled = lost / np.nanstd(y, axis=0)
    order = np.argsort(-scaled, axis=None)[:5]
    rows, columns = np.unravel_index(order, scaled.shape)
    assert [(one.index, one.column) for one in record.lost] == list(
        zip(rows.tolist(), columns.tolist(), strict=True)
    )
    first = record.lost[0]
    assert first.lost == pytest.approx(lost[first.index, first.column], rel=1e-5)
    assert first.student == pytest.approx(ours[first.index, first.column])
    np.testing.assert_array_equal(first.inputs, X[first.index])


def test_one_unit_without_an_activation_is_a_number():
    student, teacher = linear(1, 0), linear(1, 1)
    record = explained(student, teacher, (X, X[:, 0]))
    assert isinstance(record, kd.explaining.NumbersExplanation)
    assert record.student.mae[0] == pytest.approx(
        metrics.mean_absolute_error(X[:, 0], np.array(student(X))[:, 0]), rel=1e-5
    )
    assert "no layers" in record.no_similarity


def test_steps_of_a_forecast_are_rows_of_the_errors_and_one_example():
    student, teacher = linear(2, 0, (5, 4)), linear(2, 1, (5, 4))
    x = RANDOM.normal(size=(20, 5, 4)).astype("float32")
    y = RANDOM.normal(size=(20, 5, 2))
    record = explained(student, teacher, (x, y), task="numbers", worst=1)
    ours, theirs = (np.array(m(x), "float64") for m in (student, teacher))
    assert record.examples == 20
    assert record.student.rmse == pytest.approx(
        np.sqrt(((ours - y) ** 2).mean(axis=(0, 1))), rel=1e-5
    )
    lost = (np.abs(ours - y) - np.abs(theirs - y)).mean(axis=1) / y.std(axis=(0, 1))
    (one,) = record.lost
    assert (one.index, one.column) == np.unravel_index(lost.argmax(), lost.shape)


def test_without_labels_the_two_are_compared():
    student, teacher = linear(1, 0), linear(1, 1)
    record = explained(student, teacher, X)
    assert record.student.mae is None
    ours, theirs = (np.array(m(X), "float64")[:, 0] for m in (student, teacher))
    assert record.lost[0].index == np.abs(ours - theirs).argmax()
    assert record.lost[0].label is None
    assert "numbers" in record.figures()
    assert "MAE" not in str(record)


def test_the_same_model_twice_loses_nothing():
    model = linear(1, 0)
    same = explained(model, model, X)
    assert same.lost == ()
    assert same.correlation[0] == pytest.approx(1.0)


def test_points_are_even_however_the_data_is_batched():
    x = RANDOM.normal(size=(5000, 4)).astype("float32")
    student, teacher = linear(1, 0), linear(1, 1)
    first, second = (explained(student, teacher, x, batch_size=size).points for size in (64, 1000))
    np.testing.assert_allclose(first[1:], second[1:], rtol=1e-5)
    expected = np.array(teacher(x), "float64")[::4]
    np.testing.assert_allclose(first[1], expected, rtol=1e-5)


def test_it_prints_draws_and_saves(three, tmp_path):
    student, teacher, y = three
    names = ["price", "age", "size"]
    record = explained(student, teacher, (X, y), task="numbers", class_names=names)
    assert all(name in str(record) for name in names)
    files = record.save(tmp_path / "explained")
    assert [file.name for file in files] == ["explanation.json", "numbers.png"]
    assert json.loads(files[0].read_text())["names"] == names
    # A later record of classes takes the picture of numbers away.
    kinds = explained(linear(3, 0), linear(3, 1), (X, np.arange(ROWS) % 3))
    left = {file.name for file in kinds.save(tmp_path / "explained")}
    assert {file.name for file in (tmp_path / "explained").iterdir()} == left


@pytest.mark.parametrize(
    ("student", "teacher", "y", "options", "match"),
    [
        (linear(2, 0), linear(3, 0), None, {"task": "numbers"}, r"answers \(None, 2\) and the"),
        (linear(2, 0), linear(2, 1), X[:, :3], {"task": "numbers"}, r"\(64, 2\).*\(64, 3\)"),
        (linear(1, 0), linear(1, 1), X[:, 0] * np.inf, {}, "infinite"),
        (linear(2, 0), linear(2, 1), None, {"task": "count"}, "task must be one of"),
        (linear(2, 0), linear(2, 1), X[:, :2], {}, "task='numbers'"),
        (linear(1, 0), linear(1, 1), None, {"class_names": "ab"}, "1 numbers"),
    ],
)
def test_what_does_not_fit_is_refused(student, teacher, y, options, match):
    with pytest.raises(ValueError, match=match):
        explained(student, teacher, X if y is None else (X, y), **options)
