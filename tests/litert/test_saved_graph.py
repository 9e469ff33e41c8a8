"""A SavedModel spelled in other operations answers as before, and has the old ones no more."""

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_distill.litert import converter, masked_scores
from keras_distill.litert.saved_graph import nodes_of, respell

# By what must go: the computation, and the precision at which it goes.
SPELLED = {
    "BitwiseAnd": (lambda x: ops.argmax(x, -1), "float32"),
    "OneHot": (lambda x: ops.one_hot(tf.cast(x[:, 0] > 0, tf.int32), 3), "int8"),
    "Neg": (lambda x: -x, "int8"),
    "Selu": (tf.nn.selu, "int8"),
    "SquaredDifference": (lambda x: tf.math.squared_difference(x, x[:, ::-1]), "int16x8"),
    "Square": (tf.square, "int16x8"),
    "Minimum": (lambda x: tf.minimum(x, 0.3) + x, "int8"),
    "Maximum": (lambda x: tf.maximum(x, 0.3 * x), "int8"),
    "PadV2": (lambda x: tf.pad(x, ((0, 0), (1, 2)), constant_values=5.0), "int16x8"),
    "Sum": (lambda x: tf.reduce_sum(x, -1, keepdims=True), "int16x8"),
}


def saved(function, folder):
    spec = {"x": tf.TensorSpec((4, 6), tf.float32)}
    converter.write_saved_model(lambda tensors: {"y": function(tensors["x"])}, spec, folder)
    return folder


def answer(folder, x):
    return tf.saved_model.load(folder).signatures["serving_default"](x=x)["y"].numpy()


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(4, 6)).astype("float32")


@pytest.mark.parametrize("gone", SPELLED)
def test_it_answers_as_before(gone, x, tmp_path):
    function, precision = SPELLED[gone]
    folder = str(saved(function, tmp_path / "graph"))
    assert nodes_of(folder, [gone])
    before = answer(folder, x)
    respell(folder, precision, calibrated=True)
    # TensorFlow keeps a node that nothing reads.
    if gone != "BitwiseAnd":
        assert not nodes_of(folder, [gone])
    np.testing.assert_allclose(answer(folder, x), before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_choice_is_a_weighed_sum_where_data_gives_the_ranges(x, tmp_path, calibrated):
    folder = str(saved(lambda x: tf.where(x > 0, x, x - 3.0), tmp_path / "graph"))
    before = answer(folder, x)
    respell(folder, "int8", calibrated=calibrated)
    assert bool(nodes_of(folder, ["Mul"])) == calibrated
    np.testing.assert_array_equal(answer(folder, x), before)


def test_whole_numbers_are_left_alone(x, tmp_path):
    def function(x):
        whole = tf.cast(x * 10, tf.int32)
        return tf.where(whole > 3, -whole, tf.reduce_sum(whole, 1, keepdims=True))

    folder = str(saved(function, tmp_path / "graph"))
    before = answer(folder, x)
    respell(folder, "int16x8", calibrated=True)
    assert nodes_of(folder, ["Neg"])
    np.testing.assert_array_equal(answer(folder, x), before)


@pytest.mark.parametrize(("limit", "stays"), [(0.5, True), (1e7, False)])
def test_a_minimum_stays_that_limits_numbers(x, tmp_path, limit, stays):
    folder = str(saved(lambda x: tf.minimum(tf.exp(x), limit), tmp_path / "graph"))
    before = answer(folder, x)
    respell(folder, "int8", calibrated=True)
    assert bool(nodes_of(folder, ["Minimum"])) == stays
    np.testing.assert_array_equal(answer(folder, x), before)


def test_what_reads_a_tensor_again_and_again_is_walked_once(x, tmp_path, monkeypatch):
    def chain(x):
        for _ in range(8):
            x = x + 0.1 * x * x
        return tf.nn.softmax(x)

    asked, value_of = [], masked_scores.value_of
    monkeypatch.setattr(masked_scores, "value_of", lambda node: asked.append(1) or value_of(node))
    folder = str(saved(chain, tmp_path / "graph"))
    before = answer(folder, x)
    respell(folder, "int8", calibrated=True)
    # Three reads a step are 3**8 ways through the chain, of some thirty nodes.
    assert len(asked) < 1000
    np.testing.assert_array_equal(answer(folder, x), before)
