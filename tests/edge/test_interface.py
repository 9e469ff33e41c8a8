"""What a file takes is what its model was built on, also where Keras keeps the shapes alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import edge
from keras_distill.edge.interface import interface_of

layers, ops = keras.layers, keras.ops
IDS = np.random.default_rng(0).integers(1, 3000, (128, 10)).astype("int32")
NUMBERS = np.random.default_rng(1).normal(size=(128, 10)).astype("float32")


def embedding(**options):
    return layers.Embedding(3000, 4, **options)


class Subclassed(keras.Model):
    """`function(x, *parts)` as a model whose graph is hidden."""

    def __init__(self, function, *parts):
        super().__init__()
        self.function, self.parts = function, parts

    def call(self, x):
        return self.function(x, *self.parts)


def mean(table):
    return ops.mean(table, axis=1)


TAKEN = {
    "ids": (lambda x, e: e(x), [embedding], IDS, ["int32"]),
    "masked ids": (lambda x, e, r: r(e(x)), [lambda: embedding(mask_zero=True)], IDS, ["int32"]),
    "moved ids": (lambda x, e: e(ops.reshape(x[:, :5], (-1, 5))), [embedding], IDS, ["int32"]),
    "whole numbers alone": (lambda x: tf.gather(NUMBERS, x % 7), [], IDS, ["int32"]),
    "yes or no": (lambda x: tf.where(x, 1.0, 2.0), [], IDS > 9, ["bool"]),
    "numbers": (lambda x, d: d(x), [lambda: layers.Dense(4)], NUMBERS, ["float32"]),
    "bins": (
        lambda x, b: b(x),
        [lambda: layers.Discretization([0.1], dtype="float32")],
        NUMBERS,
        ["float32"],
    ),
    "ids beside numbers": (
        lambda x, e, d: mean(e(x[:, :5])) + d(x[:, 5:]),
        [embedding, lambda: layers.Dense(4)],
        NUMBERS,
        ["float32"],
    ),
    "bytes": (
        lambda x, s, d: d(s(x)),
        [lambda: layers.Rescaling(1 / 255), lambda: layers.Dense(2)],
        IDS.astype("uint8"),
        ["float32"],
    ),
    "a dict": (
        lambda x, e, d: mean(e(x["words"])) + d(x["age"]),
        [embedding, lambda: layers.Dense(4)],
        {"words": IDS, "age": NUMBERS},
        ["int32", "float32"],
    ),
    "a list": (
        lambda x, e, d: mean(e(x[1])) + d(x[0]),
        [embedding, lambda: layers.Dense(4)],
        [NUMBERS, IDS],
        ["float32", "int32"],
    ),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_the_dtypes_of_a_subclassed_models_inputs(kind):
    function, parts, x, dtypes = TAKEN[kind]
    made = [part() for part in parts]
    if kind == "masked ids":
        made.append(layers.LSTM(3))
    model = Subclassed(function, *made)
    model(x)
    specs = interface_of(model).specs
    assert [spec.dtype.name for spec in specs.values()] == dtypes
    assert all(spec.shape.as_list() == [None, 10] for spec in specs.values())
    if isinstance(x, dict):
        assert list(specs) == list(x)


def test_ids_are_not_rounded_in_the_file_of_a_subclassed_model(tmp_path):
    keras.utils.set_random_seed(1)
    spread = keras.initializers.RandomNormal(stddev=1.0)
    parts = embedding(embeddings_initializer=spread), layers.Dense(3)
    model = Subclassed(lambda x, e, d: d(mean(e(x))), *parts)
    expected = np.asarray(model(IDS))
    options = {"precision": "int8", "representative_data": IDS}
    with pytest.raises(ValueError, match=r"whole numbers already: \{'input_0': 'int32'\}"):
        edge.export_tflite(model, tmp_path / "no.tflite", input_type="int8", **options)
    export = edge.export_tflite(model, tmp_path / "ids.tflite", **options)
    found = edge.load_tflite(export).predict(IDS)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999
