"""Multiply-accumulates of each kind of layer, derived on paper, from shapes alone."""

import math

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_distill.graph.copying import weight_paths
from keras_distill.graph.cost import costs
from keras_distill.graph.replay import Value, trace


def one(shape):
    return (1, *shape[1:])


def counted(call, *shapes):
    """The MACs and parameters of the one step that `call` makes of inputs of these shapes."""
    inputs = [keras.Input(shape) for shape in shapes]
    (step,) = trace(keras.Model(inputs, call(*inputs))).steps
    leaves = keras.tree.flatten((step.args, step.kwargs))
    operands = [x for x in leaves if isinstance(x, (Value, np.ndarray))]
    weights = {path: tuple(v.shape) for path, v in weight_paths(step.operation).items()}
    macs = costs.macs(
        step.operation,
        [one(x.shape) if isinstance(x, Value) else x.shape for x in operands],
        [one(value.shape) for value in step.outputs],
        weights,
    )
    return macs, costs.parameters(weights)


def listed(layer):
    """A layer that takes its tensors as one list."""
    return lambda *inputs: layer(list(inputs))


first_channels = {"data_format": "channels_first"}
# What it is, the shapes that it takes, MACs, parameters.
KERNELS = {
    # 8 positions x 4 filters x (3 x 2)
    "conv1d": (layers.Conv1D(4, 3), [(10, 2)], 8 * 4 * 6, 6 * 4 + 4),
    # stride 2, "same": 4 x 4 positions
    "conv2d_strides": (
        layers.Conv2D(4, 3, strides=2, padding="same"),
        [(8, 8, 3)],
        16 * 4 * 27,
        27 * 4 + 4,
    ),
    # a window of 3 spread over 5: 4 x 4 positions
    "conv2d_dilated": (
        layers.Conv2D(4, 3, dilation_rate=2, use_bias=False),
        [(8, 8, 3)],
        16 * 4 * 27,
        27 * 4,
    ),
    # each of 6 filters sees one half of the 4 channels
    "conv2d_grouped": (layers.Conv2D(6, 3, groups=2), [(8, 8, 4)], 36 * 6 * 9 * 2, 18 * 6 + 6),
    "conv2d_channels_first": (
        layers.Conv2D(4, 3, **first_channels),
        [(3, 8, 8)],
        36 * 4 * 27,
        27 * 4 + 4,
    ),
    "conv3d": (layers.Conv3D(2, 2), [(4, 4, 4, 3)], 27 * 2 * 8 * 3, 24 * 2 + 2),
    # 8 positions x (4 channels x 2) x 3
    "depthwise1d": (layers.DepthwiseConv1D(3, depth_multiplier=2), [(10, 4)], 8 * 8 * 3, 24 + 8),
    "depthwise2d": (layers.DepthwiseConv2D(3), [(8, 8, 4)], 36 * 4 * 9, 36 + 4),
    # a position: 3 taps of 4 channels, then 4 x 6
    "separable1d": (layers.SeparableConv1D(6, 3), [(10, 4)], 8 * (12 + 24), 12 + 24 + 6),
    # a position: 9 taps of 4 x 2 channels, then 8 x 6
    "separable2d": (
        layers.SeparableConv2D(6, 3, depth_multiplier=2),
        [(8, 8, 4)],
        36 * (72 + 48),
        72 + 48 + 6,
    ),
    "separable2d_channels_first": (
        layers.SeparableConv2D(6, 3, **first_channels),
        [(4, 8, 8)],
        36 * (36 + 24),
        36 + 24 + 6,
    ),
    # every number that comes in meets the whole kernel of its channel: 5 x 4 times 3 x 6
    "conv1d_transposed": (layers.Conv1DTranspose(6, 3, strides=2), [(5, 4)], 20 * 18, 72 + 6),
    "conv2d_transposed": (
        layers.Conv2DTranspose(6, 3, strides=2, padding="same"),
        [(4, 4, 5)],
        80 * 54,
        270 + 6,
    ),
    "conv3d_transposed": (layers.Conv3DTranspose(2, 2), [(3, 3, 3, 4)], 108 * 16, 64 + 2),
    "dense": (layers.Dense(3), [(4,)], 12, 15),
    # once a row of 5
    "dense_on_rows": (layers.Dense(3, use_bias=False), [(5, 4)], 60, 12),
    "einsum_dense": (
        layers.EinsumDense("abc,cde->abde", (5, 2, 3), bias_axes="e"),
        [(5, 4)],
        5 * 4 * 6,
        27,
    ),
    "einsum_dense_ellipsis": (layers.EinsumDense("...x,xy->...y", 3), [(5, 2, 4)], 10 * 12, 12),
    # looking up multiplies nothing
    "embedding": (layers.Embedding(7, 3), [(5,)], 0, 21),
    # 5 steps of 2 x 3 from the input, 3 x 3 from the state
    "simple_rnn": (layers.SimpleRNN(3), [(5, 2)], 5 * 15, 15 + 3),
    # four gates
    "lstm": (layers.LSTM(3), [(5, 2)], 5 * 4 * 15, 4 * 15 + 12),
    "lstm_sequences_and_states": (
        layers.LSTM(3, return_sequences=True, return_state=True),
        [(5, 2)],
        5 * 4 * 15,
        72,
    ),
    # three gates; reset_after has a second bias, and its product another place, not another size
    "gru_reset_after": (layers.GRU(3, reset_after=True), [(5, 2)], 5 * 3 * 15, 45 + 18),
    "gru_reset_before": (layers.GRU(3, reset_after=False), [(5, 2)], 5 * 3 * 15, 45 + 9),
    # LSTM 2 -> 3, then GRU 3 -> 4: 4 (6 + 9) + 3 (12 + 16) a step
    "rnn_of_stacked_cells": (
        layers.RNN([layers.LSTMCell(3), layers.GRUCell(4)]),
        [(5, 2)],
        5 * (60 + 84),
        72 + 84 + 24,
    ),
    "bidirectional": (layers.Bidirectional(layers.LSTM(3)), [(5, 2)], 2 * 300, 2 * 72),
    "bidirectional_unlike": (
        layers.Bidirectional(
            layers.LSTM(3), backward_layer=layers.LSTM(4, go_backwards=True), merge_mode=None
        ),
        [(5, 2)],
        # 4 (2 x 4 + 4 x 4) a step backwards
        300 + 5 * 96,
        72 + 96 + 16,
    ),
    # 5 frames x 6 x 6 positions x 4 gates of 3 filters: 9 x 2 from the input, 9 x 3 from the state
    "conv_lstm2d": (
        layers.ConvLSTM2D(3, 3),
        [(5, 8, 8, 2)],
        5 * 36 * 12 * 45,
        12 * 45 + 12,
    ),
    "conv_lstm2d_sequences": (
        layers.ConvLSTM2D(3, 3, return_sequences=True),
        [(5, 8, 8, 2)],
        5 * 36 * 12 * 45,
        552,
    ),
    "conv_lstm1d_channels_first": (
        layers.ConvLSTM1D(3, 3, **first_channels),
        [(5, 2, 8)],
        5 * 6 * 12 * (6 + 9),
        192,
    ),
    "conv_lstm1d_bidirectional": (
        layers.Bidirectional(layers.ConvLSTM1D(3, 3)),
        [(5, 8, 2)],
        2 * 5 * 6 * 12 * 15,
        384,
    ),
    "time_distributed": (
        layers.TimeDistributed(layers.Conv2D(4, 3)),
        [(5, 8, 8, 3)],
        5 * 36 * 4 * 27,
        112,
    ),
    "time_distributed_twice": (
        layers.TimeDistributed(layers.TimeDistributed(layers.Dense(3))),
        [(5, 2, 4)],
        10 * 12,
        15,
    ),
    # heads x size: 2 x 3 for queries and keys, 2 x 4 for values; 5 queries of 8, 6 values of 7
    "multi_head_attention": (
        layers.MultiHeadAttention(2, 3, value_dim=4),
        [(5, 8), (6, 7)],
        # queries, keys, values, scores, means, output
        5 * 8 * 6 + 6 * 7 * 6 + 6 * 7 * 8 + 5 * 6 * 6 + 5 * 6 * 8 + 5 * 8 * 8,
        (48 + 6) + (42 + 6) + (56 + 8) + (64 + 8),
    ),
    # 3 x 5 positions; each attends to the 5 of its row; 2 heads of 4
    "multi_head_attention_along_rows": (
        lambda x: layers.MultiHeadAttention(2, 4, attention_axes=2, use_bias=False)(x, x),
        [(3, 5, 8)],
        15 * (4 * 64 + 5 * 2 * 8),
        4 * 64,
    ),
    # 6 heads of 4 for 5 queries, 2 for 6 keys and values, each of which serves 3
    "grouped_query_attention": (
        layers.GroupQueryAttention(4, 6, 2),
        [(5, 8), (6, 8)],
        5 * 8 * 24 + 2 * 6 * 8 * 8 + 2 * 6 * 5 * 6 * 4 + 5 * 24 * 8,
        (192 + 24) + 2 * (64 + 8) + (192 + 8),
    ),
    # 5 queries x 6 keys: 4 a score, 3 a mean
    "attention": (listed(layers.Attention()), [(5, 4), (6, 3), (6, 4)], 30 * (4 + 3), 0),
    "additive_attention": (listed(layers.AdditiveAttention()), [(5, 4), (6, 4)], 30 * 8, 4),
    "dot": (listed(layers.Dot(axes=2)), [(5, 4), (6, 4)], 5 * 6 * 4, 0),
    "dot_of_vectors": (listed(layers.Dot(axes=1)), [(4,), (4,)], 4, 0),
    # the power iteration is training's
    "spectral_normalization": (layers.SpectralNormalization(layers.Dense(3)), [(4,)], 12, None),
}


@pytest.mark.parametrize("name", KERNELS)
def test_a_layer(name):
    call, shapes, macs, parameters = KERNELS[name]
    found = counted(call, *shapes)
    assert found[0] == macs
    assert parameters in (None, found[1])


def ones(*shape):
    return np.ones(shape, "float32")


OPERATORS = {
    # 5 x 3 products of 4
    "matmul": (ops.matmul, [(5, 4), (4, 3)], 60),
    "matmul_of_a_constant": (lambda x: ops.matmul(x, ones(4, 3)), [(5, 4)], 60),
    "matmul_after_a_constant": (lambda x: ops.matmul(ones(7, 5), x), [(5, 4)], 7 * 4 * 5),
    "dot": (lambda x: ops.dot(x, ones(4, 3)), [(5, 4)], 60),
    # 5 x 4 of the left against 4 x 5 x 3
    "tensordot": (lambda x: ops.tensordot(x, ones(5, 4, 3), axes=2), [(5, 4)], 60),
    # batch 1: a product for each of b, q, k, d
    "einsum": (lambda x, y: ops.einsum("bqd,bkd->bqk", x, y), [(5, 4), (6, 4)], 120),
    "einsum_ellipsis": (lambda x: ops.einsum("...d,de->...e", x, ones(4, 3)), [(2, 5, 4)], 120),
    # (5, 4) by (4, 3), then (5, 3) by (3, 2)
    "einsum_of_three": (
        lambda x: ops.einsum("bij,jk,kl->bil", x, ones(4, 3), ones(3, 2)),
        [(5, 4)],
        60 + 30,
    ),
    # 2 heads x 5 queries x 6 keys x (4 + 4)
    "dot_product_attention": (
        lambda q, v: ops.dot_product_attention(q, v, v),
        [(5, 2, 4), (6, 2, 4)],
        2 * 30 * 8,
    ),
    "conv": (lambda x: ops.conv(x, ones(3, 3, 2, 4)), [(8, 8, 2)], 36 * 4 * 18),
    "depthwise_conv": (lambda x: ops.depthwise_conv(x, ones(3, 3, 2, 1)), [(8, 8, 2)], 36 * 18),
    "separable_conv": (
        lambda x: ops.separable_conv(x, ones(3, 3, 2, 1), ones(1, 1, 2, 4)),
        [(8, 8, 2)],
        36 * (18 + 8),
    ),
    "conv_transpose": (
        lambda x: ops.conv_transpose(x, ones(3, 3, 4, 2), strides=2),
        [(5, 5, 2)],
        50 * 36,
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator(name):
    call, shapes, macs = OPERATORS[name]
    assert counted(call, *shapes) == (macs, 0)


def test_a_reversed_embedding_multiplies():
    if not hasattr(layers, "ReversibleEmbedding"):
        pytest.skip("this release of Keras has none")
    layer = layers.ReversibleEmbedding(7, 3)
    # 5 rows of 3 against 7 words
    assert counted(layer, (5,)) == (0, 21)
    assert counted(lambda x: layer(x, reverse=True), (5, 3)) == (5 * 3 * 7, 21)


def test_a_gate_is_one_projection_more():
    try:
        layer = layers.MultiHeadAttention(2, 3, value_dim=4, use_gate=True)
    except (TypeError, ValueError):
        pytest.skip("this release of Keras has none")
    without = KERNELS["multi_head_attention"][2]
    assert counted(layer, (5, 8), (6, 7))[0] == without + 5 * 8 * 8


FREE = [
    *(layers.BatchNormalization(), layers.LayerNormalization(), layers.GroupNormalization(2)),
    *(layers.ReLU(), layers.PReLU(), layers.Activation("gelu"), layers.Softmax()),
    *(layers.MaxPooling2D(), layers.AveragePooling2D(2), layers.GlobalAveragePooling2D()),
    *(layers.Flatten(), layers.Dropout(0.5), layers.ZeroPadding2D(), layers.UpSampling2D()),
    *(layers.Rescaling(2.0), layers.Normalization(mean=0.0, variance=1.0), layers.Reshape((-1,))),
    *(ops.relu, ops.mean, lambda x: x * 2, lambda x: x[:, 1:], lambda x: ops.transpose(x)),
]


@pytest.mark.parametrize("call", FREE)
def test_what_has_no_kernel_is_free(call):
    assert counted(call, (4, 4, 2))[0] == 0


@pytest.mark.parametrize("layer", [layers.Add(), layers.Multiply(), layers.Concatenate()])
def test_merging_is_free(layer):
    assert counted(listed(layer), (4, 4, 2), (4, 4, 2)) == (0, 0)


class Own(layers.Layer):
    def call(self, x):
        return x


class Halving(layers.Dense):
    def call(self, x):
        return super().call(x) / 2


@pytest.mark.parametrize("layer", [Own(), layers.Lambda(lambda x: x), layers.Wrapper(Own())])
def test_an_unknown_class_is_not_guessed(layer):
    assert costs.macs(layer, [(1, 4)], [(1, 4)], {}) is None


def test_a_class_of_ones_own_counts_as_what_it_extends():
    assert counted(Halving(3), (4,)) == (12, 15)


@pytest.mark.parametrize("operator", [ops.cholesky, ops.inv, ops.qr])
def test_linear_algebra_is_not_counted_as_free(operator):
    (step,) = trace(keras.Model(x := keras.Input((4, 4)), operator(x))).steps
    assert costs.macs(step.operation, [(1, 4, 4)], [(1, 4, 4)], {}) is None


def test_only_the_given_shapes_say_how_wide_a_layer_is():
    layer = layers.Conv2D(64, 3)
    layer.build((None, 8, 8, 32))
    weights = {"kernel": (3, 3, 5, 7), "bias": (7,)}
    assert costs.macs(layer, [(1, 8, 8, 5)], [(1, 6, 6, 7)], weights) == 36 * 7 * 45
    attention = layers.MultiHeadAttention(8, 64)
    attention.build((None, 5, 32), (None, 6, 32))
    narrow = {
        **{f"{name}/kernel": (4, 2, 3) for name in ("query", "key", "value")},
        "attention_output/kernel": (2, 3, 4),
    }
    # 5 x 24 twice, 6 x 24 twice, 2 x 30 x 6
    found = costs.macs(attention, [(1, 5, 4), (1, 6, 4)], [(1, 5, 4)], narrow)
    assert found == 2 * 120 + 2 * 144 + 360


def test_bytes_at_int8():
    weights = {"cell/kernel": (2, 12), "cell/recurrent_kernel": (3, 12), "cell/bias": (12,)}
    assert costs.int8_bytes(weights) == 60 + 48
    assert costs.int8_bytes({"embeddings": (7, 3)}) == 21
    norm = {name: (16,) for name in ("gamma", "beta", "moving_mean", "moving_variance")}
    byte_counts = [
        costs.batch_norm_int8_bytes(norm, folded=folded, biased=biased)
        for folded, biased in ((True, True), (True, False), (False, False))
    ]
    # nothing new; a bias; a kernel number and a bias
    assert byte_counts == [0, 64, 80]


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk", [(5, 4), (4, 3)]),
        ("b...d,de->b...e", [(1, 5, 4), (4, 3)]),
        ("i,i", [(60,), (60,)]),
    ],
)
def test_an_einsum_is_the_product_of_its_indices(equation, shapes):
    assert costs.einsum_macs(equation, shapes) == 60


def test_an_einsum_of_one_operand_multiplies_nothing():
    assert costs.einsum_macs("ij->ji", [(5, 4)]) == 0


def test_an_einsum_broadcasts():
    assert costs.einsum_macs("...ij,...jk->...ik", [(7, 1, 5, 4), (2, 4, 3)]) == math.prod(
        (7, 2, 5, 4, 3)
    )
