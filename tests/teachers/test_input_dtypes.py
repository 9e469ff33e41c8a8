"""Inputs reach a model in the dtype that it takes, whatever kind of model it is."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras import layers, ops

import keras_distill as kd
from keras_distill.teachers import Model

# Above 2^24 float32 rounds: every other number is another.
IDS = np.arange(2**40, 2**40 + 6, dtype="int64").reshape(3, 2)
WORDS = np.array([["a", "b"], ["c", "d"], ["e", "f"]])
DATA = {"int64": IDS, "string": WORDS}


def buckets(x):
    """Five classes by the remainder, or by a hash."""
    if x.dtype == tf.string:
        numbers = tf.strings.to_hash_bucket_fast(x, 5)
    else:
        numbers = tf.math.floormod(tf.cast(x, "int64"), 5)
    return 3.0 * tf.reduce_sum(tf.one_hot(numbers, 5), axis=1)


class Buckets(layers.Layer):
    def call(self, x):
        return buckets(x)

    def compute_output_spec(self, x):
        return keras.KerasTensor((x.shape[0], 5))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.buckets, self.scale = Buckets(), layers.Rescaling(2.0)

    def call(self, x):
        return self.scale(self.buckets(x))


class Wrapped(keras.Model):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x):
        return self.inner(x)


class Legacy(tf_keras.Model):
    def call(self, x):
        return buckets(x)


def functional(dtype):
    x = keras.Input((2,), dtype=dtype)
    return keras.Model(x, Buckets()(x))


def sequential(dtype):
    return keras.Sequential([keras.Input((2,), dtype=dtype), Buckets()])


def called(kind, dtype):
    model = kind()
    model(tf.constant(DATA[dtype]))
    return model


def legacy(dtype):
    return tf_keras.Sequential([tf_keras.Input((2,), dtype=dtype), tf_keras.layers.Lambda(buckets)])


MODELS = {
    "functional": functional,
    "sequential": sequential,
    "nested": lambda dtype: keras.Sequential(
        [keras.Input((2,), dtype=dtype), sequential(dtype), layers.Rescaling(2.0)]
    ),
    "subclassed": lambda dtype: called(Subclassed, dtype),
    "tf_keras sequential": legacy,
    "tf_keras subclassed": lambda dtype: called(Legacy, dtype),
    "function with a signature": lambda dtype: tf.function(
        buckets, input_signature=[tf.TensorSpec((None, 2), dtype)]
    ),
}


@pytest.mark.parametrize("dtype", DATA)
@pytest.mark.parametrize("engine", ["frozen", "keras"])
@pytest.mark.parametrize("name", MODELS)
def test_a_teacher_sees_the_numbers_and_words_of_the_data(name, engine, dtype):
    model = MODELS[name](dtype)
    x = tf.constant(DATA[dtype])
    teacher = Model(model, engine=engine)
    answers = tf.function(lambda x: teacher(x).logits, autograph=False)(x)
    np.testing.assert_array_equal(answers, model(x))


def test_a_saved_models_functions_see_them(tmp_path):
    sequential("int64").export(tmp_path, verbose=False)
    saved = tf.saved_model.load(tmp_path)
    for function in (saved.serve, saved.signatures["serving_default"]):
        np.testing.assert_array_equal(Model(function)(tf.constant(IDS)).logits, buckets(IDS))


@pytest.mark.parametrize("dtype", DATA)
@pytest.mark.parametrize("name", ["sequential", "subclassed"])
def test_a_student_and_a_bare_function_see_them(name, dtype):
    inner = MODELS[name](dtype)
    student = keras.Sequential([keras.Input((2,), dtype=dtype), inner, layers.Dense(5)])
    if name == "subclassed":
        student = called(lambda: Wrapped(student), dtype)
    distiller = kd.Distiller(student, lambda x: 2.0 * buckets(x))
    distiller.compile(keras.optimizers.SGD(0.0))
    x = tf.constant(DATA[dtype])
    history = distiller.fit(x, verbose=0).history
    teacher, answers = (ops.log_softmax(z / 2.0) for z in (2.0 * buckets(x), student(x)))
    expected = 4 * ops.mean(ops.sum(ops.exp(teacher) * (teacher - answers), -1))
    assert history["soft_targets"][0] == pytest.approx(float(expected), rel=1e-5, abs=1e-6)


def test_a_cache_asks_with_them(tmp_path):
    teacher = called(Subclassed, "int64")
    cache = kd.TeacherCache.build(teacher, IDS, tmp_path / "cache", dtype="float32", verbose=False)
    (batch,) = next(iter(cache.dataset(3, shuffle=False)))
    np.testing.assert_array_equal(batch.teacher["logits"], teacher(tf.constant(IDS)))


def test_floats_still_come_in_the_models_precision():
    model = called(Subclassed, "int64")
    teacher = Model(model)
    assert teacher(np.array([[1.0, 2.0]], "float64")).logits.shape == (1, 5)
    assert teacher(tf.constant([[3, 4]], "uint8")).logits.shape == (1, 5)
