import pickle
import warnings

import keras
import numpy as np
import pytest
from scipy import special
from sklearn import (
    base,
    calibration,
    ensemble,
    feature_extraction,
    linear_model,
    model_selection,
    multiclass,
    multioutput,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    svm,
    tree,
)

import keras_distill as kd

X = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
SCORES = X @ np.random.default_rng(1).normal(size=(4, 3))
Y = SCORES.argmax(1)
MANY = (SCORES > 0).astype(int)


def forest(**options):
    return ensemble.RandomForestClassifier(8, random_state=0, **options)


CLASSIFIERS = {
    "forest": forest(),
    "logistic": linear_model.LogisticRegression(),
    "neighbours": neighbors.KNeighborsClassifier(),
    "network": neural_network.MLPClassifier(4, max_iter=5, random_state=0),
    "boosted": ensemble.GradientBoostingClassifier(n_estimators=3, random_state=0),
    "histograms": ensemble.HistGradientBoostingClassifier(max_iter=3, random_state=0),
    "pipeline": pipeline.make_pipeline(preprocessing.StandardScaler(), forest()),
    "searched": model_selection.GridSearchCV(forest(), {"max_depth": [2, 3]}, cv=2),
    "calibrated": calibration.CalibratedClassifierCV(svm.LinearSVC(), cv=2),
}


def fitted(estimator, x=X, y=Y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # networks that have not converged
        return base.clone(estimator).fit(x, y)


def logits_of(estimator, x=X, kind=None, **options):
    teacher = kd.teachers.Estimator(estimator, **options)
    spec = teacher.prepare(None, ())
    found = teacher(x)
    assert spec.logits.shape[1:] == found.logits.shape[1:]
    assert kind in (None, found.kind)
    return np.array(found.logits, "float64")


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifiers_probabilities_are_the_teachers(name):
    estimator = fitted(CLASSIFIERS[name])
    found = special.softmax(logits_of(estimator), axis=1)
    assert found == pytest.approx(estimator.predict_proba(X), abs=1e-6)


@pytest.mark.parametrize("y", [SCORES[:, 0], SCORES], ids=["one number", "three"])
@pytest.mark.parametrize(
    "estimator", [ensemble.RandomForestRegressor(4, random_state=0), linear_model.Ridge()]
)
def test_a_regressors_numbers_are_the_teachers(estimator, y):
    estimator = fitted(estimator, y=y)
    found = logits_of(estimator, kind="logits")
    assert found == pytest.approx(estimator.predict(X).reshape(len(X), -1), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("estimator", "yes"),
    [
        (forest(), lambda e: np.stack([each[:, 1] for each in e.predict_proba(X)], axis=1)),
        (
            multioutput.MultiOutputClassifier(linear_model.LogisticRegression()),
            lambda e: np.stack([one.predict_proba(X)[:, 1] for one in e.estimators_], axis=1),
        ),
        (
            multiclass.OneVsRestClassifier(linear_model.LogisticRegression()),
            lambda e: np.stack([one.predict_proba(X)[:, 1] for one in e.estimators_], axis=1),
        ),
    ],
)
def test_labels_of_yes_and_no_are_a_sigmoid_each(estimator, yes):
    estimator = fitted(estimator, y=MANY)
    assert logits_of(estimator, kind="sigmoid") == pytest.approx(yes(estimator), abs=1e-6)


def test_of_two_classes_one_unit_can_learn():
    estimator = fitted(linear_model.LogisticRegression(), y=MANY[:, 0])
    found = logits_of(estimator, kind="sigmoid", output="sigmoid")
    assert found == pytest.approx(estimator.predict_proba(X)[:, 1:], abs=1e-6)
    assert logits_of(estimator).shape == (len(X), 2)


def test_a_table_fitted_estimator_is_asked_with_a_table():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcd"))
    estimator = fitted(forest(), x=frame)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = special.softmax(logits_of(estimator), axis=1)
    assert found == pytest.approx(estimator.predict_proba(frame), abs=1e-6)


def test_a_student_learns_from_it():
    estimator = fitted(forest())
    student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    ours = np.array(student(X), "float64")
    distiller = kd.Distiller(
        student, kd.teachers.Estimator(estimator), kd.SoftTargets(temperature=1.0)
    )
    distiller.compile(keras.optimizers.SGD(0.0))
    loss = distiller.fit(X, batch_size=len(X), verbose=0).history["loss"][0]
    theirs = estimator.predict_proba(X)
    kl = special.rel_entr(theirs, special.softmax(ours, axis=1)).sum(1).mean()
    assert loss == pytest.approx(kl, rel=1e-5)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_saved_estimator_is_the_same_teacher_and_another_one_is_not(name, tmp_path):
    estimator = fitted(CLASSIFIERS[name])
    cache = kd.TeacherCache.build(kd.teachers.Estimator(estimator), (X, Y), tmp_path / "cache")
    estimator.predict(X)  # a k-d tree counts its visits
    again = pickle.loads(pickle.dumps(estimator))
    same = kd.TeacherCache.build(kd.teachers.Estimator(again), (X, Y), tmp_path / "cache")
    assert same.fingerprint() == cache.fingerprint()
    # It differs in regions that made-up rows of ordinary size need not meet.
    other = fitted(CLASSIFIERS[name], x=X * 1.01)
    with pytest.raises(ValueError, match="teacher"):
        kd.TeacherCache.build(kd.teachers.Estimator(other), (X, Y), tmp_path / "cache")


def test_how_many_processes_it_works_in_is_no_difference():
    one, two = fitted(forest(n_jobs=1)), fitted(forest(n_jobs=2))
    assert kd.teachers.Estimator(one).identity() == kd.teachers.Estimator(two).identity()


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (forest, ValueError, "Fit it first"),
        (lambda: fitted(svm.LinearSVC()), ValueError, r"CalibratedClassifierCV\(LinearSVC"),
        (lambda: fitted(forest(), y=Y + 1), ValueError, "1, 2, 3.*return_inverse"),
        (
            lambda: fitted(forest(), y=np.stack([Y, Y], 1)),
            ValueError,
            r"\[3, 3\] classes.*MultiTask",
        ),
        (lambda: fitted(preprocessing.StandardScaler()), TypeError, "StandardScaler"),
    ],
)
def test_what_can_not_teach_is_refused(make, error, match):
    with pytest.raises(error, match=match):
        kd.teachers.Estimator(make())


@pytest.mark.parametrize(
    ("estimator", "y"), [(forest(), Y), (linear_model.Ridge(), SCORES)], ids=["three", "numbers"]
)
def test_a_sigmoid_is_of_two_classes(estimator, y):
    with pytest.raises(ValueError, match="two classes"):
        kd.teachers.Estimator(fitted(estimator, y=y), output="sigmoid")


def test_classes_with_names_are_taken_in_the_order_of_the_estimator():
    names = np.array(["oak", "ash", "elm"])[Y]
    estimator = fitted(tree.DecisionTreeClassifier(), y=names)
    labels = np.searchsorted(estimator.classes_, names)
    assert (logits_of(estimator).argmax(1) == labels).all()


def test_texts_go_into_the_pipeline_that_counts_their_words():
    texts = np.array(["sun and sea", "sea", "snow", "snow and ice"])
    words = pipeline.make_pipeline(
        feature_extraction.text.TfidfVectorizer(), linear_model.LogisticRegression()
    )
    estimator = words.fit(texts, [0, 0, 1, 1])
    found = logits_of(estimator, texts, input_spec=keras.KerasTensor((None,), dtype="string"))
    assert special.softmax(found, axis=1) == pytest.approx(estimator.predict_proba(texts), abs=1e-6)
