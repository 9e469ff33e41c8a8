"""A model that is asked many batches answers by a trace, and answers as Keras calls it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import edge, litert
from keras_distill.edge.verification.asking import Asked

BATCHES = 8
RNG = np.random.default_rng(0)


class Counting(keras.layers.Layer):
    """Counts the calls of its Python code."""

    calls = 0

    def call(self, x):
        self.calls += 1
        return 2 * x


class ByValue(keras.Model):
    """Needs its numbers: it can't be traced."""

    def call(self, x):
        return x * float(x.numpy().max())


class Named(keras.Model):
    """Outputs by name, in another order than the alphabet's."""

    def call(self, x):
        return {"z": x + 1, "a": [x, 2 * x]}


def counting():
    return keras.Sequential([keras.Input((3,)), Counting(), keras.layers.Dense(2)])


def by_value():
    return ByValue()


def eager():
    model = counting()
    model.compile(run_eagerly=True)
    return model


def two_inputs(structure):
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    outputs = [keras.layers.Add()([a, b]), keras.layers.Subtract()([a, b])]
    return keras.Model({"b": b, "a": a} if structure is dict else [a, b], outputs)


def words():
    inputs = keras.Input((2,), dtype="string")
    lookup = keras.layers.StringLookup(vocabulary=["yes", "no"])
    return keras.Model(inputs, lookup(inputs))


def steps():
    inputs = keras.Input((None, 2))
    return keras.Model(inputs, keras.layers.GRU(3)(inputs))


def legacy():
    tf_keras = pytest.importorskip("tf_keras")
    return tf_keras.Sequential([tf_keras.layers.Dense(2, input_shape=(3,)), tf_keras.layers.ReLU()])


def rows(count, *shape):
    return RNG.normal(size=(count, *(shape or (3,)))).astype("float32")


CASES = {
    "plain": (counting, rows),
    "doubles": (counting, lambda count: rows(count).astype("float64")),
    "run eagerly": (eager, rows),
    "not traceable": (by_value, rows),
    "outputs by name": (Named, rows),
    "a list": (lambda: two_inputs(list), lambda count: [rows(count), rows(count)]),
    "a dict": (lambda: two_inputs(dict), lambda count: {"a": rows(count), "b": rows(count)}),
    "words": (words, lambda count: np.array([["yes", "never"]] * count, object)),
    "of any length": (steps, lambda count: rows(count, 4 + count % 3, 2)),
    "the older generation": (legacy, rows),
}


@pytest.mark.parametrize("case", CASES)
def test_every_batch_is_answered_as_keras_calls_the_model(case):
    make, data = CASES[case]
    model = make()
    asked = Asked(model)
    for number in range(BATCHES):
        # The last is a part of a batch, and others may differ, too.
        x = data(6 if number < 6 else number - 3)
        expected, found = model(x, training=False), asked(x)
        keras.tree.assert_same_structure(found, expected)
        if isinstance(expected, dict):
            assert list(found) == list(expected)
        for ours, right in zip(*map(keras.tree.flatten, (found, expected)), strict=True):
            np.testing.assert_allclose(ours, right, rtol=1e-6, atol=1e-6)


def test_pythons_part_of_a_model_ends_with_its_trace():
    model = counting()
    layer, asked = model.layers[0], Asked(model)
    layer.calls = 0
    for number in range(20):
        asked(rows(6 - number // 19))
    # Two batches as they come and a trace, which takes part of a batch as well.
    assert layer.calls == 3


def test_a_callable_sees_every_batch_as_it_is():
    seen = []

    def teacher(x):
        seen.append(type(x))
        return x

    asked = Asked(teacher)
    for _ in range(BATCHES):
        asked(rows(2))
    assert seen == [np.ndarray] * BATCHES


@pytest.mark.parametrize("batch_size", [1, 50, None])
def test_a_file_is_asked_in_whole_runs(tmp_path, monkeypatch, batch_size):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    export = edge.export_tflite(model, tmp_path / "m.tflite", batch_size=batch_size)
    x, asked = rows(300), []
    real = litert.TFLiteRunner.predict

    def predict(self, x):
        asked.append(len(x))
        return real(self, x)

    monkeypatch.setattr(litert.TFLiteRunner, "predict", predict)
    report = edge.verify(export, model, x)
    assert report.rows == sum(asked) == 300
    assert not any(count % (batch_size or 1) for count in asked[:-1])
    assert report.max_abs_error < 1e-6


def test_verify_gives_the_numbers_of_keras_call(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), Counting(), keras.layers.Dense(2)])
    export = edge.export_tflite(model, tmp_path / "m.tflite", precision="float16")
    x = rows(700)
    model.layers[0].calls = 0
    report = edge.verify(export, model, tf.data.Dataset.from_tensor_slices(x).batch(64))
    assert model.layers[0].calls <= 4
    right = np.abs(edge.load_tflite(export.path).predict(x) - np.asarray(model(x))).max()
    assert report.max_abs_error == pytest.approx(right, rel=1e-4, abs=1e-7)
