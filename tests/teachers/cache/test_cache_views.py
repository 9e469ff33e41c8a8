"""Augmented views: the same bits at the build, at the training, and in an online step."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill as kd
from keras_distill.teachers.cache.fingerprints import of_code
from keras_distill.teachers.cache.order import example_seeds

QUIET = {"batch_size": 16, "verbose": False}


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return rng.random((50, 8, 8, 1)).astype("float32"), rng.integers(0, 10, 50).astype("int32")


@pytest.fixture(scope="module")
def big(small_cnn):
    return small_cnn(4)


def flip_and_crop(x, seed):
    x = tf.image.stateless_random_flip_left_right(x, seed)
    x = tf.image.stateless_random_crop(tf.pad(x, ((2, 2), (2, 2), (0, 0))), (8, 8, 1), seed)
    if tf.reduce_mean(x) > 0.3:
        x = x * 0.5
    return tf.image.stateless_random_contrast(x, 0.5, 1.5, seed)


@pytest.fixture
def cache(big, images, tmp_path):
    return kd.TeacherCache.build(
        big, images, tmp_path / "c", augment=flip_and_crop, epochs=2, dtype="float32", **QUIET
    )


def views_of(images, epoch, indices, seed=0):
    """Every view by a call of the function alone."""
    seeds = example_seeds(np.asarray(indices), seed, epoch)
    traced = tf.function(flip_and_crop)
    return np.stack(
        [
            traced(tf.constant(images[0][i]), tf.constant(s))
            for i, s in zip(indices, seeds, strict=True)
        ]
    )


def test_a_view_is_the_augmentations_own_to_the_bit(cache, images):
    dataset = cache.dataset(7, shuffle=False)
    for epoch in range(3):  # the third starts over with the first's
        found = np.concatenate([batch[0].inputs for batch in dataset])
        np.testing.assert_array_equal(found, views_of(images, epoch % 2, range(50)))


def test_the_teacher_answered_the_view_that_the_student_sees(cache, big):
    seen = []
    for batch in (*cache.dataset(50), *cache.dataset(50)):
        inputs, teacher = batch[0]
        np.testing.assert_allclose(teacher["logits"], big(inputs), atol=1e-5)
        seen.append(np.asarray(teacher["logits"]))


def test_views_are_equal_in_any_order_and_company(cache, images):
    by_label = {}
    for size, shuffle in ((50, False), (3, True), (16, True)):
        dataset = cache.dataset(size, shuffle=shuffle, memory_bytes=0 if shuffle else 2**20)
        rows = [row.tobytes() for batch in dataset for row in batch[0].inputs.numpy()]
        by_label[size] = sorted(rows)
    assert by_label[50] == by_label[3] == by_label[16]


def test_cached_and_online_take_the_same_step_on_views(cache, big, images, small_cnn):
    def compiled(teacher):
        distiller = kd.Distiller(small_cnn(2), teacher)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(keras.optimizers.SGD(0.1), loss)
        return distiller

    online, cached = compiled(big), compiled(cache)
    views = views_of(images, 1, range(50))
    online.fit(views, images[1], batch_size=50, shuffle=False, verbose=0)
    cached.fit(cache.dataset(50, shuffle=False), initial_epoch=1, epochs=2, verbose=0)
    for one, other in zip(online.get_weights(), cached.get_weights(), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-6)


def test_more_epochs_than_views_are_refused_before_training(cache, small_cnn):
    distiller = kd.Distiller(small_cnn(2), cache)
    distiller.compile("sgd", None)
    before = distiller.get_weights()
    dataset = cache.dataset(16, on_exhausted="error")
    with pytest.raises(ValueError, match="more views than were cached: there are 2"):
        distiller.fit(dataset, epochs=3, verbose=0)
    for one, other in zip(before, distiller.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    distiller.fit(dataset, epochs=2, verbose=0)
    loop = iter(cache.dataset(50, on_exhausted="error").repeat(3))
    with pytest.raises(tf.errors.OpError, match="more views than were cached"):
        [next(loop) for _ in range(3)]
    assert len(list(cache.dataset(16).repeat(3))) == 12


def drawn_by_python(x, seed):
    return x * random.random()


def drawn_by_numpy(x, seed):
    return x + np.random.normal(size=(8, 8, 1)).astype("float32")


def drawn_by_tensorflow(x, seed):
    return tf.image.random_flip_left_right(x)


@pytest.mark.parametrize("augment", [drawn_by_python, drawn_by_numpy, drawn_by_tensorflow])
def test_an_augmentation_with_a_will_of_its_own_is_found(big, images, tmp_path, augment):
    with pytest.raises(ValueError, match="the same view whenever it is called"):
        kd.TeacherCache.build(big, images, tmp_path / "c", augment=augment, **QUIET)
    assert not (tmp_path / "c").exists()


def test_an_augmentation_that_cannot_be_batched_is_refused(big, images, tmp_path):
    def ragged(x, seed):
        return x[: tf.random.stateless_uniform((), seed, 1, 8, "int32")]

    for augment, words in ((ragged, "every axis must be of known size"), (len, "can't be traced")):
        with pytest.raises(ValueError, match=words):
            kd.TeacherCache.build(big, images, tmp_path / "c", augment=augment, **QUIET)


def test_opening_takes_the_same_augmentation(cache, images, tmp_path):
    found = kd.TeacherCache.open(tmp_path / "c", images, augment=flip_and_crop)
    assert len(list(found.dataset(50))) == 1
    for other in (None, drawn_by_tensorflow):
        with pytest.raises(ValueError, match=r"augmentation: \w+ in the cache"):
            kd.TeacherCache.open(tmp_path / "c", images, augment=other)


def test_a_view_that_comes_out_otherwise_is_refused_though_its_code_is_the_same(
    cache, images, tmp_path, monkeypatch
):
    # As when another TensorFlow computes it.
    real = tf.image.stateless_random_contrast
    monkeypatch.setattr(
        tf.image, "stateless_random_contrast", lambda *args: real(*args) + np.float32(1e-6)
    )
    with pytest.raises(ValueError, match="gives another view of example"):
        kd.TeacherCache.open(tmp_path / "c", images, augment=flip_and_crop)


def test_the_student_sees_the_view_and_the_teacher_what_was_made_of_it(big, tmp_path, images):
    small = np.ascontiguousarray(images[0][:, ::2, ::2])

    def enlarged(x):
        return tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2)

    cache = kd.TeacherCache.build(
        big, small, tmp_path, teacher_preprocess=enlarged, dtype="float32", **QUIET
    )
    (batch,) = next(iter(cache.dataset(50, shuffle=False)))
    np.testing.assert_array_equal(batch.inputs, small)
    np.testing.assert_allclose(batch.teacher["logits"], big(enlarged(small)), atol=1e-5)


def scaled_by(factor):
    def scale(x, seed):
        return x * factor

    return scale


def test_code_is_known_by_what_it_does():
    namespace = {}
    texts = ("lambda x, seed: x * 2.0", "lambda x, seed: x * 2.0", "lambda x, seed: x * 3.0")
    first, same, other = (of_code(eval(text, namespace)) for text in texts)
    assert first == same != other
    assert of_code(scaled_by(2.0)) == of_code(scaled_by(2.0)) != of_code(scaled_by(3.0))
    ones, twos = np.ones(3), 2 * np.ones(3)
    assert of_code(scaled_by(ones)) == of_code(scaled_by(ones.copy())) != of_code(scaled_by(twos))


class Scale:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x, seed):
        return x * self.factor


def test_callable_objects_are_known_by_what_they_hold():
    assert of_code(Scale(2.0)) == of_code(Scale(2.0)) != of_code(Scale(3.0))
