"""What `inspect` says of each kind of layer is what pruning, clustering, ranges and the file do."""

import keras
import numpy as np
import pytest

from keras_distill import edge

layers, ops = keras.layers, keras.ops
ROWS = np.random.default_rng(0).normal(size=(64, 8, 8, 4)).astype("float32")


@keras.saving.register_keras_serializable("test_promises")
class Whole(layers.Layer):
    """A layer of the user's own that LiteRT has in float alone."""

    def call(self, x):
        return ops.floor(x)


# What the file computes in float, and what it does not.
FLOAT = {
    "floor": ops.floor,
    "ceil": ops.ceil,
    "round": ops.round,
    "sign": ops.sign,
    "sin": ops.sin,
    "cos": ops.cos,
    "power": lambda x: ops.power(ops.absolute(x), 1.5),
    "cumsum": lambda x: ops.cumsum(x, axis=1),
    "own": lambda x: Whole(name="own")(x),
}
WHOLE = {
    "conv": lambda x: layers.Conv2D(4, 3, activation="elu", name="exponential")(x),
    "depthwise": lambda x: layers.DepthwiseConv2D(3, name="depthwise")(x),
    "separable": lambda x: layers.SeparableConv2D(4, 3, name="separable")(x),
    "transposed": lambda x: layers.Conv2DTranspose(4, 3, name="transposed")(x),
    "dense": lambda x: layers.Dense(4, activation="silu", name="gated")(x),
    "einsum": lambda x: layers.EinsumDense("abcd,de->abce", (8, 8, 3), name="einsum")(x),
    "batch norm": lambda x: layers.BatchNormalization(name="batch_norm")(x),
    "layer norm": lambda x: layers.LayerNormalization(name="layer_norm")(x),
    "unit norm": lambda x: layers.UnitNormalization(name="unit_norm")(x),
    "elu": lambda x: layers.ELU(0.5, name="elu")(x),
    "pool": lambda x: layers.MaxPooling2D(2, name="pool")(x),
    "square": ops.square,
    "negative": ops.negative,
    "sum": lambda x: x + ops.flip(x, axis=1),
}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 4), name="x")
    # A convolution before and behind each: neither input nor output, and no reshape beside it.
    return keras.Model(
        x,
        {
            name: layers.Conv2D(3, 1)(build(layers.Conv2D(4, 1)(x)))
            for name, build in (FLOAT | WHOLE).items()
        },
    )


@pytest.fixture(scope="module")
def rows(model):
    return edge.inspect(model).rows


@pytest.fixture(scope="module")
def quantised(model):
    return edge.quantize_aware(model, calibration_data=ROWS)


@pytest.fixture(scope="module")
def export(quantised, tmp_path_factory):
    path = tmp_path_factory.mktemp("promises") / "every.tflite"
    return edge.export_tflite(quantised, path, precision="int8")


def test_each_operation_that_is_float_is_said_to_be(rows, export):
    said = {row.path for row in rows if row.quantisable == "float"}
    assert said == set(export.float_layers)
    assert len(said) == len(FLOAT)
    words = {row.path: row.why for row in rows if row.quantisable == "float"}
    assert words["own"] == "computed in float in the file: Floor"


def test_a_quantised_model_says_so_too(rows, quantised):
    later = {row.path: row.why for row in edge.inspect(quantised).rows}
    for row in rows:
        assert ("float in the file" in later[row.path]) == (row.quantisable == "float")


def test_what_is_pruned_and_clustered_is_what_is_said(model, rows):
    said = {(row.path, weight) for row in rows for weight in row.prunable}
    for compressed, done in (
        (edge.prune(model, 0.5), lambda row: row.promised is not None),
        (edge.cluster(model, 4), lambda row: row.promised is None),
    ):
        report = edge.sparsity_report(compressed).rows
        assert said == {(row.layer, row.weight) for row in report if done(row)}
    kernel = edge.cluster(model, 4).get_layer("exponential").treated_weights()["kernel"]
    assert len(np.unique(kernel)) <= 4


def test_each_operation_has_its_range(rows, quantised):
    before = {row.path: row.quantisable for row in rows}
    for row in edge.inspect(quantised).rows:
        if row.quantisable != "quantised":
            # What hands its input on as it is, or is joined with what follows.
            assert before[row.path] == row.quantisable
            assert row.quantisable in ("native", "own range")


def test_float_tensors_are_where_float_operations_are(export):
    floats = export.dtypes["float32"] - len(export.inputs) - len(export.outputs)
    assert floats >= sum(export.float_ops.values()) > 0
