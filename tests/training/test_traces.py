"""A step is traced once, nothing that comes again is traced, and what is dropped is freed."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill as kd

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
ROWS = np.random.default_rng(0).normal(size=(16, 6)).astype("float32"), np.arange(16) % 3


def dense(units, seed, *between):
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((6,)), keras.layers.Dense(units), *between, keras.layers.Dense(3)]
    return keras.Sequential(layers)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", keras.optimizers.SGD(0.1, use_ema=True)])
def test_the_step_is_traced_once(optimizer):
    traced = []

    class Counted(kd.Distiller):
        def train_step(self, data):
            traced.append(data)
            return super().train_step(data)

    distiller = Counted(dense(4, 1), dense(8, 2))
    distiller.compile(optimizer, LOSS, metrics=["accuracy"])
    distiller.fit(*ROWS, batch_size=8, epochs=2, validation_data=ROWS, verbose=0)
    assert len(traced) == 1


@pytest.mark.parametrize("engine", ["frozen", "keras"])
def test_what_comes_again_is_traced_no_more(engine):
    """A partial batch, another epoch, evaluation between, another `fit`, a teacher that moved."""
    traced = []

    class Counted(kd.Distiller):
        def train_step(self, data):
            traced.append("train")
            return super().train_step(data)

        def test_step(self, data):
            traced.append("test")
            return super().test_step(data)

    teacher = dense(8, 2)
    distiller = Counted(dense(4, 1), kd.teachers.Model(teacher, engine=engine))
    distiller.compile("adam", LOSS)

    def once():
        distiller.fit(*ROWS, batch_size=6, epochs=2, verbose=0)
        distiller.evaluate(*ROWS, batch_size=6, verbose=0)

    once()
    first = list(traced)
    for _ in range(4):
        teacher.set_weights([1.1 * w for w in teacher.get_weights()])
        once()
    # One for the whole batches, one for batches of any size.
    assert traced == first
    assert first.count("train") <= 2


class Doubled(keras.layers.Layer):
    """Twice its input, with a gradient of its own, in a loop."""

    def call(self, x):
        return tf.while_loop(lambda i, _: i < 1, lambda i, x: (i + 1, self.once(x)), (0, x))[1]

    def once(self, x):
        return tf.custom_gradient(lambda x: (2.0 * x, lambda upstream: 2.0 * upstream))(x)


STEPS = {
    "plain": lambda: (dense(4, 1), "sgd", {}),
    "compiled by XLA": lambda: (dense(4, 1), "sgd", {"jit_compile": True}),
    "several an execution": lambda: (dense(4, 1), "sgd", {"steps_per_execution": 2}),
    "accumulated": lambda: (
        dense(4, 1),
        keras.optimizers.SGD(gradient_accumulation_steps=2),
        {},
    ),
    "custom gradient in a loop": lambda: (dense(4, 1, Doubled()), "sgd", {}),
}


@pytest.mark.parametrize("kind", STEPS)
def test_the_graph_of_a_distiller_that_is_dropped_is_freed(kind):
    graphs = []

    class Seen(kd.Distiller):
        def train_step(self, data):
            graphs.append(weakref.ref(tf.compat.v1.get_default_graph()))
            return super().train_step(data)

    student, optimizer, options = STEPS[kind]()
    distiller = Seen(student, dense(8, 2))
    distiller.compile(optimizer, LOSS, **options)
    distiller.fit(*ROWS, batch_size=8, verbose=0)
    assert all(graph() is not None for graph in graphs)
    del distiller, student, optimizer
    gc.collect()
    assert [graph() for graph in graphs] == [None] * len(graphs)
