"""What will happen to each layer is said before any training."""

import dataclasses
import json
import re

import keras
import numpy as np
import pytest

from keras_distill import edge

layers = keras.layers


class Doubled(layers.Layer):
    def call(self, x):
        return 2 * x


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    inner = keras.Sequential(
        [keras.Input((8, 8, 4)), layers.Conv2D(4, 1, activation="silu", name="gate")], name="block"
    )
    x = keras.Input((8, 8, 3), name="image")
    y = layers.BatchNormalization(name="lone")(x)
    y = layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv")(y)
    y = layers.BatchNormalization(name="norm")(y)
    y = layers.ReLU(name="relu")(y)
    y = layers.Add(name="add")([y, inner(y)])
    y = Doubled(name="doubled")(y)
    y = layers.Reshape((8, 32), name="rows")(y)
    y = layers.LayerNormalization(name="layernorm")(y)
    y = layers.GRU(6, name="gru")(y)
    return keras.Model(x, layers.Dense(10, name="logits")(y * 0.5), name="every_kind")


def unnumbered(path):
    # Keras numbers operations through the process: multiply, multiply_1.
    return re.sub(r"^multiply_\d+$", "multiply", path)


@pytest.fixture(scope="module")
def inspection(model):
    found = edge.inspect(model)
    rows = [dataclasses.replace(row, path=unnumbered(row.path)) for row in found.rows]
    return dataclasses.replace(found, rows=tuple(rows))


# path: (type, parameters, prunable, quantisable, a word of why), parameters by their formulas.
ROWS = {
    "lone": ("BatchNormalization", 4 * 3, 0, "rewritten", "1x1 depthwise"),
    "conv": ("Conv2D", 3 * 3 * 3 * 4, 1, "native", "joined with what follows"),
    "norm": ("BatchNormalization", 4 * 4, 0, "native", "folded"),
    "relu": ("ReLU", 0, 0, "native", "has a range"),
    "block/gate": ("Conv2D", 4 * 4 + 4, 1, "rewritten", "silu"),
    "add": ("Add", 0, 0, "native", "has a range"),
    "doubled": ("Doubled", 0, 0, "inside float", "calibration data"),
    "rows": ("Reshape", 0, 0, "native", "keeps its input's range"),
    "layernorm": ("LayerNormalization", 2 * 32, 0, "rewritten", "operations it is made of"),
    # Three gates of input, state and two biases.
    "gru": ("GRU", 3 * 6 * (32 + 6 + 2), 2, "inside float", "gates"),
    "multiply": ("Multiply", 0, 0, "own range", "an operation"),
    "logits": ("Dense", 6 * 10 + 10, 1, "native", "has a range"),
}


def test_a_row_a_layer_in_the_models_order(inspection):
    assert [row.path for row in inspection.rows] == list(ROWS)


@pytest.mark.parametrize("path", ROWS)
def test_each_row(inspection, path):
    row = {row.path: row for row in inspection.rows}[path]
    kind, parameters, prunable, quantisable, why = ROWS[path]
    assert (row.type, row.parameters, row.quantisable) == (kind, parameters, quantisable)
    assert len(row.prunable) == prunable
    assert why in row.why


def test_the_words_keep_their_promise(model, inspection):
    # Everything but the inside of two layers has its range once it is calibrated.
    quantised = edge.quantize_aware(model)
    rows = edge.inspect(quantised).rows
    wrapped = {unnumbered(row.path) for row in rows if row.quantisable == "quantised"}
    assert wrapped >= {row.path for row in inspection.rows} - {"rows"}


def test_prunable_weights_are_those_that_prune_takes(model, inspection):
    said = {(row.path, weight) for row in inspection.rows for weight in row.prunable}
    report = edge.sparsity_report(edge.prune(model, 0.5))
    assert said == {(row.layer, row.weight) for row in report.rows if row.promised is not None}


def test_it_prints_and_is_json(inspection):
    printed = str(inspection)
    assert "every_kind" in printed
    for path, (kind, *_) in ROWS.items():
        (line,) = [line for line in printed.splitlines() if f" {path} " in line]
        assert kind in line
    assert "720" in printed
    # native: conv, norm, relu, add, rows, logits; rewritten: lone, block/gate, layernorm.
    assert inspection.counts == {
        "native": 6,
        "rewritten": 3,
        "inside float": 2,
        "own range": 1,
    }
    assert "6 native" in printed.splitlines()[-1]
    record = json.loads(inspection.to_json())
    assert record["model"] == "every_kind"
    assert [row["path"] for row in record["rows"]] == list(ROWS)
    assert record["rows"][1]["prunable"] == ["kernel"]


def test_it_changes_nothing(model):
    before = [v.numpy() for v in model.variables]
    edge.inspect(model)
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())


def test_a_quantised_and_a_pruned_model():
    plain = keras.Sequential(
        [keras.Input((4,)), layers.Dense(8, name="a"), layers.Flatten(name="flat")]
    )
    rows = {row.path: row for row in edge.inspect(edge.quantize_aware(plain)).rows}
    assert rows["a"].quantisable == "quantised"
    assert (rows["a"].type, rows["a"].parameters) == ("Dense", 4 * 8 + 8)
    assert rows["flat"].quantisable == "native"
    pruned = {row.path: row for row in edge.inspect(edge.prune(plain, 0.5)).rows}
    assert (pruned["a"].type, pruned["a"].quantisable) == ("Dense", "native")


def test_a_shared_layer_has_one_row():
    x = keras.Input((4,))
    shared = layers.Dense(4, name="shared")
    assert [row.path for row in edge.inspect(keras.Model(x, shared(shared(x)))).rows] == ["shared"]


def test_what_cannot_be_inspected():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    subclassed = Subclassed()
    subclassed(np.ones((1, 2)))
    with pytest.raises(ValueError, match=r"(?s)subclassed.*keras\.Input"):
        edge.inspect(subclassed)
    with pytest.raises(ValueError, match="built"):
        edge.inspect(keras.Sequential([layers.Dense(2)]))
    with pytest.raises(TypeError, match="Expected a Keras model"):
        edge.inspect(np.ones(3))
