"""Students and teachers of sparse and of ragged inputs, which plain Keras trains."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special

import keras_distill as kd

RNG = np.random.default_rng(0)
X = np.maximum(RNG.normal(size=(8, 6)), 0).astype("float32")
TOKENS = tf.ragged.constant([[1, 2, 3], [4], [2, 2], [5, 1], [6], [7, 1], [1], [3, 3, 2, 1]])
Y = RNG.integers(0, 3, 8)


@keras.saving.register_keras_serializable("tests")
class MeanOfTokens(keras.layers.Layer):
    def __init__(self, width, **options):
        super().__init__(**options)
        self.width = width

    def call(self, tokens):
        return tf.reduce_mean(tokens, axis=1)

    def compute_output_shape(self, shape):
        return shape[0], self.width


def model(width, form):
    keras.utils.set_random_seed(width)
    init = keras.initializers.RandomNormal(stddev=2, seed=width)
    if form == "ragged":
        inputs = keras.Input((None,), dtype="int32", ragged=True)
        hidden = MeanOfTokens(width)(keras.layers.Embedding(8, width, init)(inputs))
    else:
        inputs = keras.Input((6,), sparse=form == "sparse")
        hidden = keras.layers.Dense(width, activation="relu")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, kernel_initializer=init)(hidden))


def batches(form):
    x = {"sparse": tf.sparse.from_dense(X), "ragged": TOKENS, "dense": X}[form]
    return tf.data.Dataset.from_tensor_slices((x, Y)).batch(4)


def soft_targets(student, teacher, ours, theirs):
    """In float64, at temperature 2."""
    s, t = (
        special.log_softmax(m.predict(batches(form), verbose=0).astype("float64") / 2, axis=-1)
        for m, form in ((student, ours), (teacher, theirs))
    )
    return np.mean(4 * np.sum(np.exp(t) * (t - s), axis=-1))


@pytest.mark.parametrize("engine", ["frozen", "keras", "auto"])
@pytest.mark.parametrize("form", ["sparse", "ragged"])
def test_they_teach_and_learn(form, engine):
    student, teacher = model(3, form), model(8, form)
    expected = soft_targets(student, teacher, form, form)
    distiller = kd.Distiller(student, kd.teachers.Model(teacher, engine=engine))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.0), loss, run_eagerly=engine == "auto")
    logs = distiller.fit(batches(form), verbose=0).history
    assert logs["soft_targets"][0] == pytest.approx(expected, rel=1e-5)
    assert distiller.teacher.engine_used == ("keras" if engine == "keras" else "frozen")
    student.compile(loss=loss)
    plain = student.evaluate(batches(form), verbose=0)
    assert logs["label_loss"][0] == pytest.approx(plain, rel=1e-5)
    assert distiller.evaluate(batches(form), verbose=0) == pytest.approx(plain, rel=1e-5)
    np.testing.assert_allclose(
        distiller.predict(batches(form), verbose=0), student.predict(batches(form), verbose=0)
    )


@pytest.mark.parametrize(("ours", "theirs"), [("sparse", "dense"), ("dense", "sparse")])
def test_a_sparse_and_a_dense_model_see_the_same(ours, theirs):
    student, teacher = model(3, ours), model(8, theirs)
    expected = soft_targets(student, teacher, ours, theirs)
    distiller = kd.Distiller(student, teacher)
    distiller.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    logs = distiller.fit(batches(ours), verbose=0).history
    assert logs["soft_targets"][0] == pytest.approx(expected, rel=1e-5)


def test_students_of_sparse_inputs_teach_each_other():
    ann, bob = (model(width, "sparse") for width in (3, 4))
    ann.name, bob.name = "ann", "bob"
    mutual = kd.MutualDistiller([ann, bob])
    mutual.compile("adam", run_eagerly=True)
    assert np.isfinite(mutual.fit(batches("sparse"), verbose=0).history["soft_targets"][0])


def test_what_is_not_taken_names_the_way():
    with pytest.raises(ValueError, match=r"sparse or ragged.*engine='frozen'"):
        kd.Distiller(model(3, "sparse"), kd.teachers.Model(model(8, "sparse"), engine="litert"))
    teacher = kd.teachers.Model(keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)]))
    with pytest.raises(ValueError, match=r"takes a dense tensor; got a ragged.*to_tensor"):
        teacher(tf.cast(TOKENS, "float32"))
