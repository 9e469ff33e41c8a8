"""Which epoch each pass over a cache's data is, under every way that `fit` walks over it."""

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill as kd
from keras_distill.teachers.cache.clock import Announcer, Clock, Fitted

STEPS = 5
LIMIT = 1000


def taken(monkeypatch, cache, dataset, **options):
    """The numbers of the passes that `fit` begins."""
    found, real = [], Clock.take

    def take(clock):
        found.append(int(real(clock)))
        return np.int64(found[-1])

    monkeypatch.setattr(Clock, "take", take)
    student = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4)])
    distiller = kd.Distiller(student, cache)
    distiller.compile("sgd", None, jit_compile=False)
    distiller.fit(dataset, verbose=0, **options)
    return found


@pytest.fixture(scope="module")
def cache(data, tmp_path_factory):
    def teacher(x):
        return x[:, :4]

    folder = tmp_path_factory.mktemp("clock") / "c"
    views = {"augment": lambda x, seed: x, "epochs": 3}
    x = data[0][: 8 * STEPS]
    return kd.TeacherCache.build(teacher, x, folder, batch_size=8, verbose=False, **views)


@pytest.mark.parametrize(
    ("change", "options", "expected"),
    [
        (lambda d: d.repeat(2), {"epochs": 2}, [0, 1, 2, 3]),
        (lambda d: d.map(lambda b: (b,)).repeat(2).prefetch(1), {"epochs": 2}, [0, 1, 2, 3]),
        (lambda d: d.repeat(), {"epochs": 4, "steps_per_epoch": 10}, list(range(8))),
        (lambda d: d.repeat(), {"epochs": 5, "steps_per_epoch": 3}, [0, 1, 2]),
        (lambda d: d.repeat(2), {"initial_epoch": 2, "epochs": 3}, [4, 5]),
        (lambda d: d.take(2), {"initial_epoch": 1, "epochs": 3}, [1, 2]),
    ],
    ids=["repeat", "mapped", "steps", "part", "resumed", "take"],
)
def test_each_pass_is_the_next_epoch(monkeypatch, cache, change, options, expected):
    found = taken(monkeypatch, cache, change(cache.dataset(8)), **options)
    assert found[: len(expected)] == expected


def generated(make):
    made = make()
    return tf.data.Dataset.from_generator(lambda: made, output_signature=made.element_spec)


def by_variant(make):
    """A data set of which no Python object is left."""
    made = make()
    variant = tf.data.experimental.to_variant(made)
    return tf.data.experimental.from_variant(variant, made.element_spec)


@pytest.mark.parametrize(
    "change",
    [
        lambda make: make().map(lambda batch: (batch,)).map(lambda batch: (batch,)),
        lambda make: tf.data.Dataset.range(1).flat_map(lambda _: make()),
        lambda make: tf.data.Dataset.range(1).interleave(lambda _: make().prefetch(1)),
        lambda make: make().map(lambda batch: (batch,)).apply(lambda d: d.repeat(1)).prefetch(2),
        generated,
        by_variant,
    ],
    ids=["mapped", "flat_map", "interleave", "apply", "from_generator", "from_variant"],
)
def test_the_epoch_is_the_one_of_fit_whatever_the_data_set_was_made_into(
    monkeypatch, cache, change
):
    dataset = change(lambda: cache.dataset(8))
    gc.collect()
    assert taken(monkeypatch, cache, dataset, initial_epoch=2, epochs=4) == [2, 3]


def walk(fitted, batches, *, epochs, initial_epoch=0, steps=None, others=()):
    """The passes as Keras begins them, one iterator an epoch or one for all, nothing read ahead."""
    announcer = Announcer([fitted.clock, *others], [fitted])
    announcer.set_params({"epochs": epochs, "steps": steps or (batches if batches > 0 else None)})
    announcer.on_train_begin()
    found, passed = [], 0
    for epoch in range(initial_epoch, epochs):
        announcer.on_epoch_begin(epoch)
        if steps is None:
            passed = 0
        for _ in range(steps or batches):
            if passed % STEPS == 0:
                found.append(int(fitted.clock.take()))
            passed += 1
    return found


@pytest.mark.parametrize(
    ("passes", "batches", "options", "expected"),
    [
        (1, 5, {"epochs": 3}, [0, 1, 2]),
        (1, 5, {"epochs": 3, "initial_epoch": 1}, [1, 2]),
        (1, 5, {"epochs": 4, "steps": 1}, [0]),
        (3, 15, {"epochs": 2}, [0, 1, 2, 3, 4, 5]),
        (3, 15, {"epochs": 2, "initial_epoch": 1}, [3, 4, 5]),
        (-1, -1, {"epochs": 6, "steps": 2}, [0, 1, 2]),
        (-1, -1, {"epochs": 10, "initial_epoch": 5, "steps": 2}, [2, 3]),
        (-1, -1, {"epochs": 2, "steps": 20}, list(range(8))),
    ],
)
def test_passes_are_counted_from_the_epoch_on(passes, batches, options, expected):
    fitted = Fitted(Clock(STEPS, None), lambda epoch: None, batches, passes)
    assert walk(fitted, batches, **options) == expected


def test_an_epoch_that_begins_in_the_midst_of_a_pass_is_refused():
    fitted = Fitted(Clock(STEPS, None), lambda epoch: None, -1, -1)
    with pytest.raises(ValueError, match=r"epoch 3 begins 1 batches .*start_step=1"):
        walk(fitted, -1, epochs=5, initial_epoch=3, steps=2)


@pytest.mark.parametrize(
    ("passes", "batches", "steps", "epochs"), [(1, 5, None, 4), (2, 10, None, 2), (-1, -1, 4, 4)]
)
def test_more_passes_than_views_are_refused_before_the_first(passes, batches, steps, epochs):
    loaded = []
    fitted = Fitted(Clock(STEPS, 3), loaded.append, batches, passes)
    with pytest.raises(ValueError, match="there are 3"):
        walk(fitted, batches, epochs=epochs, steps=steps)
    assert loaded == []
    assert walk(fitted, batches, epochs=epochs - 1, steps=steps)[0] == 0


def test_a_data_set_that_is_not_fitted_is_in_the_epoch_of_fit():
    fitted, other = Fitted(Clock(STEPS, None), lambda epoch: None, 10, 2), Clock(STEPS, None)
    walk(fitted, 10, epochs=3, others=[other])
    assert other.take() == 2
