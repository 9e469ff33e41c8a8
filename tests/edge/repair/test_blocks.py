"""Which steps a block has, what is left out, and both models side by side."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import edge
from keras_distill.edge.analysis import Analysis
from keras_distill.edge.repair.blocks import blocks_of, dense_strides, reaching, run
from keras_distill.edge.repair.walk import Walk, as_float, bytes_per_row
from keras_distill.graph.replay import trace

layers = keras.layers


def found_in(model):
    graph = Analysis(edge.quantize_aware(model)).wrapped
    blocks, left = blocks_of(graph)
    return graph, {block.path: block for block in blocks}, left


def test_a_block_ends_at_the_next_range(branched):
    graph, blocks, left = found_in(branched)
    paths = {path: [step.path for step in block.steps] for path, block in blocks.items()}
    assert paths == {
        "first": ["first", "norm", "relu"],
        "left": ["left"],
        "right": ["right"],
        "logits": ["logits"],
    }
    assert not left
    last = reaching(graph, list(blocks.values()), graph.outputs[0])
    assert [step.path for step in last.steps] == ["logits"]
    # Two branches lead to the sum.
    joined = next(step for step in graph.steps if step.path == "sum")
    assert reaching(graph, list(blocks.values()), joined.outputs[0]) is None


def test_what_is_left_and_what_has_two_kernels():
    x = keras.Input((6, 4), name="x")
    shared = layers.Dense(4, name="shared")
    y = layers.SeparableConv1D(5, 3, name="separable")(shared(shared(x)))
    ids = keras.Input((2,), dtype="int32", name="ids")
    z = layers.Flatten()(layers.Embedding(9, 3, name="table")(ids))
    both = layers.Concatenate()([layers.Dense(2, name="part")(layers.Flatten()(y)), z])
    model = keras.Model([x, ids], layers.Softmax(name="classes")(layers.Dense(3, name="end")(both)))
    graph, blocks, left = found_in(model)
    assert set(left) == {"shared", "table"}
    assert "several calls" in left["shared"]
    assert {path: list(block.grids) for path, block in blocks.items()} == {
        "separable": ["depthwise_kernel", "pointwise_kernel"],
        "part": ["kernel"],
        "end": ["kernel"],
    }
    # A part of a whole has no range of its own, and the other parts are none of its business.
    assert [step.path for step in blocks["part"].steps] == ["part"]
    last = reaching(graph, list(blocks.values()), graph.outputs[0])
    assert [step.path for step in last.steps] == ["end", "classes"]


def test_a_clustered_layer_is_left():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(6, name="dense")])
    _, blocks, left = found_in(edge.cluster(model, 3))
    assert not blocks
    assert "clustered" in left["dense"]


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("strides", [(2, 2), (3, 1)])
def test_a_strided_convolution_of_one_place_reads_only_what_it_takes(padding, strides):
    x = keras.Input((7, 10, 8))
    y = layers.Conv2D(4, 1, strides, padding=padding, name="one")(x)
    y = layers.Conv2D(4, 2, 2, name="two")(y)
    rows = np.random.default_rng(0).normal(size=(3, 7, 10, 8)).astype("float32")
    one, two = found_in(keras.Model(x, y))[1].values()
    whole = one(rows)
    with dense_strides(one) as read:
        assert read(rows).shape[1:3] == whole.shape[1:3]
        np.testing.assert_allclose(one(read(rows)), whole, atol=1e-6)
    assert one.layer.layer.strides == strides
    with dense_strides(two) as read:
        assert read(rows) is rows
        assert two.layer.layer.strides == (2, 2)


def test_the_float_model_is_the_one_that_was_quantised(branched, quantised, digits):
    twin, x = quantised(branched, bits=4), digits.x_test[:32]
    with as_float():
        answer = twin(x, training=False)
    np.testing.assert_allclose(answer, branched(x, training=False), atol=1e-4)
    assert np.abs(twin(x, training=False) - answer).max() > 0.01


def test_both_walk_to_their_models_answers(branched, quantised, digits):
    twin, x = quantised(branched, bits=4), digits.x_test[:40]
    graph = Analysis(twin).wrapped
    blocks = {block.path: block for block in blocks_of(graph)[0]}
    walk = Walk(graph, [[tf.constant(x[:32])], [tf.constant(x[32:])]])
    last = blocks["logits"]
    for step in walk.up_to(last.steps[0]):
        walk.advance_float(step)
        walk.advance_rounded(step)
    answers = [last(*tensors) for tensors in walk.inputs(last)]
    np.testing.assert_allclose(np.concatenate(answers), twin(x, training=False), atol=1e-5)
    floats = np.concatenate(walk.targets(last))
    np.testing.assert_allclose(floats, branched(x, training=False), atol=1e-4)


def test_a_walk_holds_what_is_still_to_be_read():
    x = keras.Input((10,), name="x")
    y = layers.Dense(100)(layers.Dense(20)(x))
    model = keras.Model(x, layers.Add()([y, layers.Dense(100)(x)]))
    # At most x, 20 numbers and 100: at the second layer, of which a target has 100. Later x, 100
    # and 100 with a target of 100; at the end three times 100 and a target. Four bytes a number.
    assert bytes_per_row(trace(model)) == 4 * (2 * 300 + 100)


def test_a_step_runs_in_inference():
    # Dropout would leave zeros.
    model = keras.Sequential([keras.Input((50,)), layers.Dropout(0.9)])
    graph = trace(model)
    found = {id(graph.inputs[0]): tf.ones((1, 50))}
    run(graph.steps[0], found)
    np.testing.assert_array_equal(found[id(graph.outputs[0])], np.ones((1, 50)))
