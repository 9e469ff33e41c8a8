"""Ranking distillation inside a Distiller: what its models may be, what it refuses."""

import keras
import numpy as np
import pytest

import keras_distill as kd
from keras_distill import functional
from keras_distill.objectives import RankingDistillation

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 4)).astype("float32")


def recommender(seed, items=8, end=None):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(items, end)])


def logged(student, teacher, objective):
    distiller = kd.Distiller(student, teacher, objective)
    distiller.compile(keras.optimizers.SGD(0.0), loss=None)
    return distiller.fit(X, batch_size=16, verbose=0).history["ranking_distillation"][0]


@pytest.mark.parametrize("ends", [("sigmoid", None), (None, "sigmoid"), ("sigmoid", "sigmoid")])
def test_models_that_end_in_a_sigmoid_are_read_before_it(ends):
    ours, theirs = recommender(0), recommender(1)
    expected = np.mean(functional.ranking_distillation(ours(X), theirs(X), top_k=3))
    student, teacher = (recommender(seed, end=end) for seed, end in enumerate(ends))
    given = logged(student, teacher, RankingDistillation(top_k=3))
    assert given == pytest.approx(expected, rel=1e-5)


def test_every_number_reaches_the_function():
    options = {"top_k": 5, "position_scale": 4.0, "discrepancy_sharpness": None}
    ours, theirs = recommender(0)(X), recommender(1)(X)
    given = RankingDistillation(**options)(kd.Signals(ours), kd.Signals(theirs), None)
    expected = functional.ranking_distillation(ours, theirs, **options)
    np.testing.assert_array_equal(given, expected)


def test_more_items_than_there_are_are_refused_when_the_distiller_is_built():
    message = r"top_k is 10, and the models score 8 items \(output \(None, 8\)\).*at most 8"
    with pytest.raises(ValueError, match=message):
        kd.Distiller(recommender(0), recommender(1), RankingDistillation())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "RankingDistillation: top_k must be a whole number of at least 1; got 0"),
        ({"position_scale": 0.0}, "RankingDistillation: position_scale must be positive; got 0.0"),
        ({"discrepancy_sharpness": -1.0}, "discrepancy_sharpness must be positive; got -1.0"),
    ],
)
def test_arguments_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        RankingDistillation(**options)


@pytest.fixture
def cache(tmp_path):
    def build(teacher, top_k):
        options = {"top_k": top_k, "dtype": "float32", "verbose": False}
        return kd.TeacherCache.build(teacher, X, tmp_path / f"top{top_k}", **options)

    return build


def test_a_cache_of_the_items_that_it_learns_is_as_good_as_the_teacher(cache):
    teacher, objective = recommender(1), RankingDistillation(top_k=3)
    expected = logged(recommender(0), teacher, objective)
    best = cache(teacher, 3)
    distiller = kd.Distiller(recommender(0), best, objective)
    distiller.compile(keras.optimizers.SGD(0.0), loss=None)
    given = distiller.fit(best.dataset(16), verbose=0).history["ranking_distillation"]
    assert given[0] == pytest.approx(expected, rel=1e-6)


def test_a_cache_of_fewer_items_is_refused_also_by_a_loaded_distiller(cache, tmp_path):
    teacher, objective = recommender(1), RankingDistillation(top_k=3)
    fewer = cache(teacher, 2)
    message = "top_k is 3, and the cache has kept the teacher's 2 largest.*or learn top_k=2"
    with pytest.raises(ValueError, match=message):
        kd.Distiller(recommender(0), fewer, objective)
    distiller = kd.Distiller(recommender(0), teacher, objective)
    distiller.compile(keras.optimizers.SGD(0.0), loss=None)
    distiller.save(tmp_path / "d.keras")
    loaded = kd.Distiller.load(tmp_path / "d.keras", fewer)
    with pytest.raises(ValueError, match=message):
        loaded.fit(fewer.dataset(16), verbose=0)
