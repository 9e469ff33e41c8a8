"""What decides an answer is part of the fingerprints: constants, bound state, NumPy's numbers."""

import functools
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill as kd
from keras_distill.teachers.cache.making import Maker
from keras_distill.teachers.cache.options import Options
from keras_distill.teachers.cache.sources import source_of

X = np.random.default_rng(0).standard_normal((20, 3)).astype("float32")
settings = types.SimpleNamespace(scale=None)


def plain(x):
    return x


def model(*layers):
    keras.utils.set_random_seed(5)
    return keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(4)])


class Scaled(keras.Model):
    def __init__(self, scale, tensor=False):
        super().__init__()
        self.scale = tf.constant(scale) if tensor else scale

    def call(self, x):
        return x * self.scale


class Scaler:
    def __init__(self, scale):
        self.scale = scale

    def scaled(self, x):
        return x * self.scale


def built(scaled):
    scaled(X)
    return scaled


def numpy_function(scale):
    return lambda x: tf.ensure_shape(
        tf.numpy_function(lambda a: a * scale, [x], "float32"), (None, 3)
    )


def reading(scale):
    settings.scale = scale
    return lambda x: x * settings.scale


def spec(function):
    return kd.teachers.Model(function, input_spec=keras.KerasTensor((None, 3)))


TEACHERS = {
    "rescaling": lambda c: model(keras.layers.Rescaling(c)),
    "slope": lambda c: model(keras.layers.LeakyReLU(negative_slope=c)),
    "epsilon": lambda c: model(keras.layers.BatchNormalization(epsilon=c)),
    "plain call": lambda c: kd.teachers.Model(model(keras.layers.Rescaling(c)), engine="keras"),
    "attribute": lambda c: built(Scaled(c)),
    "tensor": lambda c: built(Scaled(c, tensor=True)),
    "weights": lambda c: spec(lambda x: x @ np.full((3, 2), c, "float32")),
    "numpy": lambda c: spec(lambda x: np.asarray(x) @ np.full((3, 2), c, "float32")),
    "bound": lambda c: spec(Scaler(c).scaled),
}
FUNCTIONS = {
    "closure": lambda c: lambda x: x * c,
    "module": reading,
    "partial": lambda c: functools.partial(tf.multiply, c),
    "bound": lambda c: Scaler(c).scaled,
    "python": numpy_function,
}


def fingerprints(teacher=plain, preprocess=None, augment=None):
    source = source_of(X)
    teacher = spec(teacher) if teacher is plain else teacher
    return Maker(teacher, source, augment, preprocess, Options()).fingerprints()


def differing(make):
    """The names of the fingerprints that another constant changes, and the same does not."""
    first, again, other = make(0.25), make(0.25), make(0.75)
    assert first == again
    assert set(first) == set(other)
    return {name for name in first if first[name] != other[name]}


@pytest.mark.parametrize("make", TEACHERS.values(), ids=TEACHERS.keys())
def test_a_teachers_constants_count(make):
    assert differing(lambda c: fingerprints(make(c))) & {"teacher graph", "teacher answers"}


@pytest.mark.parametrize("make", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_what_preprocessing_holds_counts(make):
    assert differing(lambda c: fingerprints(preprocess=make(c)))


@pytest.mark.parametrize("name", ["closure", "module", "bound"])
def test_what_augmentation_holds_counts(name):
    def augmented(c):
        inner = FUNCTIONS[name](c)
        return fingerprints(augment=lambda x, seed: inner(x))

    assert "augmentation's graph" in differing(augmented)


def test_another_constant_on_a_caches_folder_is_refused(tmp_path):
    def build(slope):
        teacher = model(keras.layers.LeakyReLU(negative_slope=slope))
        return kd.TeacherCache.build(teacher, X, tmp_path / "c", verbose=False)

    cache = build(0.1)
    before = {path.name: path.read_bytes() for path in (tmp_path / "c").iterdir()}
    with pytest.raises(ValueError, match=r"What differs:\n  teacher graph:"):
        build(0.2)
    with pytest.raises(ValueError, match="teacher graph:"):
        cache.rebuild(0, teacher=model(keras.layers.LeakyReLU(negative_slope=0.2)))
    build(0.1)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "c").iterdir()}


def test_a_teacher_that_learned_since_does_not_mend_its_cache(tmp_path):
    teacher = model()
    cache = kd.TeacherCache.build(teacher, X, tmp_path / "c", verbose=False)
    teacher.set_weights([w + 1 for w in teacher.get_weights()])
    with pytest.raises(ValueError, match="teacher weights"):
        cache.rebuild(0)


RANDOM = {
    "dropout": lambda: keras.layers.Dropout(0.5),
    "noise": lambda: keras.layers.GaussianNoise(0.5),
    "nested": lambda: keras.Sequential([keras.layers.Dropout(0.5)]),
    "augmentation": lambda: keras.Sequential(
        [keras.layers.Reshape((3, 1, 1)), keras.layers.RandomFlip(), keras.layers.Flatten()]
    ),
}


@pytest.mark.parametrize("make", RANDOM.values(), ids=RANDOM.keys())
def test_a_trained_teacher_and_its_file_are_one_teacher(make, tmp_path):
    """Random layers have drawn in training, and a file does not say how often."""
    teacher = model(make())
    teacher.compile("sgd", "mse", metrics=["mae"])
    teacher.fit(X, np.zeros((20, 4)), epochs=1, verbose=0)
    teacher.save(tmp_path / "t.keras")
    kd.TeacherCache.build(teacher, X, tmp_path / "c", verbose=False)
    loaded = keras.saving.load_model(tmp_path / "t.keras")
    kd.TeacherCache.build(loaded, X, tmp_path / "c", verbose=False)
    assert kd.teachers.Model(teacher).count_params() == teacher.count_params() == 16


def test_a_draw_is_no_other_teacher():
    teacher = model(keras.layers.Dropout(0.5))
    taught = kd.teachers.Model(teacher)
    before = taught.fingerprint()
    teacher(X, training=True)
    assert taught.fingerprint() == before
    teacher.set_weights([w + 1 for w in teacher.get_weights()])
    assert taught.fingerprint() != before
