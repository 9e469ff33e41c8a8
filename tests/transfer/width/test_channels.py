"""Which channels belong together, found from small graphs whose answer is plain."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_distill.transfer.width.channels import analyse


def groups(model, **options):
    """{producers: (channels, free ones)}."""
    found = analyse(model, **options)
    return {g.producers: (len(g.classes), int((~g.fixed).sum())) for g in found.groups}


def conv(filters, name, size=1, **options):
    return layers.Conv2D(filters, size, padding="same", name=name, **options)


def image(channels=3):
    return keras.Input((8, 8, channels), name="image")


def test_an_addition_ties_what_it_adds():
    x = image()
    a = conv(4, "a")(x)
    b = conv(4, "b")(layers.ReLU()(a))
    y = conv(2, "head")(layers.Add()([a, b]))
    assert groups(keras.Model(x, y)) == {("a", "b"): (4, 4), ("head",): (2, 0)}


def test_a_concatenation_ties_nothing_and_hands_both_on():
    x = image()
    both = layers.Concatenate()([conv(4, "a")(x), conv(6, "b")(x)])
    model = keras.Model(x, conv(2, "head")(both))
    assert groups(model) == {("a",): (4, 4), ("b",): (6, 6), ("head",): (2, 0)}
    found = analyse(model)
    role = found.roles["head"]
    np.testing.assert_array_equal(
        role.axes["kernel"][2], np.concatenate([found.roles[n].made for n in ("a", "b")])
    )


def test_depthwise_and_normalisation_follow_their_input():
    x = image()
    y = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(conv(4, "a")(x))
    model = keras.Model(x, conv(2, "head")(layers.BatchNormalization(name="norm")(y)))
    found = analyse(model)
    assert [g.producers for g in found.groups] == [("a",), ("head",)]
    made = found.roles["a"].made
    # Output channel 2 c + j of a depthwise convolution of multiplier 2 comes from channel c.
    np.testing.assert_array_equal(found.roles["norm"].axes["gamma"][0], np.repeat(made, 2))
    np.testing.assert_array_equal(found.roles["depthwise"].axes["kernel"][2], made)


def test_squeeze_and_excite_ties_the_gate_to_what_it_gates():
    x = image()
    a = conv(4, "a")(x)
    gate = layers.Reshape((1, 1, 4))(layers.GlobalAveragePooling2D()(a))
    gate = conv(4, "expand", activation="sigmoid")(conv(2, "reduce")(gate))
    model = keras.Model(x, conv(2, "head")(layers.Multiply()([a, gate])))
    assert groups(model) == {("a", "expand"): (4, 4), ("reduce",): (2, 2), ("head",): (2, 0)}


def test_a_gate_of_one_channel_ties_nothing():
    x = image()
    a, gate = conv(4, "a")(x), conv(1, "gate")(x)
    assert groups(keras.Model(x, conv(2, "head")(a * gate))) == {
        ("a",): (4, 4),
        ("gate",): (1, 1),
        ("head",): (2, 0),
    }


def test_flattening_repeats_the_channels_at_every_place():
    x = keras.Input((2, 2, 3))
    y = layers.Dense(5, name="head")(layers.Flatten()(conv(4, "a")(x)))
    found = analyse(keras.Model(x, y))
    np.testing.assert_array_equal(
        found.roles["head"].axes["kernel"][0], np.tile(found.roles["a"].made, 2 * 2)
    )


def test_unflattening_ties_what_lands_in_one_channel():
    x = keras.Input((7,))
    y = layers.Reshape((2, 3, 4))(layers.Dense(24, name="dense")(x))
    found = analyse(keras.Model(x, conv(1, "head")(y)))
    made = found.roles["dense"].made
    # Places of a (2, 3, 4) map, row by row: unit i becomes channel i modulo 4.
    np.testing.assert_array_equal(made, np.tile(made[:4], 6))
    assert [len(g.classes) for g in found.groups] == [4, 1]


def test_channels_shuffled_between_groups_stay_together():
    x = image()
    y = ops.reshape(conv(6, "a")(x), (-1, 8, 8, 2, 3))
    y = ops.reshape(ops.transpose(y, (0, 1, 2, 4, 3)), (-1, 8, 8, 6))
    found = analyse(keras.Model(x, conv(2, "head")(y)))
    made = found.roles["a"].made
    # (2, 3): 0 1 2 over 3 4 5, each column one place of the last axis; transposed, each row.
    assert len(set(made)) == 1


def test_a_grouped_convolution_keeps_its_groups_equal():
    x = image()
    y = conv(8, "grouped", groups=2)(conv(8, "a")(x))
    found = analyse(keras.Model(x, conv(2, "head")(y)))
    for group in found.groups[:2]:
        labels = group.blocks
        assert len(set(labels[:4])) == len(set(labels[4:])) == 1
        assert labels[0] != labels[4]


def test_a_convolution_with_a_group_a_channel_is_depthwise():
    x = image()
    y = conv(8, "depthwise", groups=4)(conv(4, "a")(x))
    assert groups(keras.Model(x, conv(2, "head")(y))) == {("a",): (4, 4), ("head",): (2, 0)}


def test_recurrent_gates_have_each_unit_once():
    x = keras.Input((5, 3))
    y = layers.GRU(4, name="gru")(layers.LSTM(6, return_sequences=True, name="lstm")(x))
    found = analyse(keras.Model(x, layers.Dense(2, name="head")(y)))
    lstm, gru = found.roles["lstm"], found.roles["gru"]
    kernel = lstm.axes["lstm_cell/kernel"]
    np.testing.assert_array_equal(kernel[1], np.tile(lstm.made, 4))
    np.testing.assert_array_equal(gru.axes["gru_cell/kernel"][0], lstm.made)
    np.testing.assert_array_equal(gru.axes["gru_cell/bias"][1], np.tile(gru.made, 3))


def test_a_shared_layer_ties_what_its_calls_read_and_gives_the_same_channels():
    x = image()
    a, b, shared = conv(4, "a")(x), conv(4, "b")(x), conv(4, "shared")
    model = keras.Model(x, conv(2, "head")(layers.Concatenate()([shared(a), shared(b)])))
    assert groups(model) == {("b", "a"): (4, 4), ("shared",): (4, 4), ("head",): (2, 0)}


def test_a_transformer_block_shares_one_width():
    x = keras.Input((5,), dtype="int32")
    y = layers.Embedding(20, 8, name="tokens")(x)
    attended = layers.MultiHeadAttention(2, 4, name="attention")(y, y)
    y = layers.LayerNormalization(name="norm")(layers.Add()([y, attended]))
    y = layers.Add()([y, layers.Dense(8, name="down")(layers.Dense(16, name="up")(y))])
    model = keras.Model(x, layers.Dense(3, name="head")(layers.GlobalAveragePooling1D()(y)))
    assert groups(model) == {
        ("tokens", "attention", "down"): (8, 8),
        ("up",): (16, 16),
        ("head",): (3, 0),
    }


def test_an_output_of_the_model_stays_as_it_is():
    x = image()
    a = conv(4, "a")(x)
    assert groups(keras.Model(x, [a, conv(2, "head")(a)]))[("a",)] == (4, 0)


def test_skip_keeps_a_layers_channels():
    x = image()
    model = keras.Model(x, conv(2, "head")(conv(4, "b")(conv(4, "a")(x))))
    assert groups(model, skip="a") == {("a",): (4, 0), ("b",): (4, 4), ("head",): (2, 0)}


HANDED_ON = {
    "norm": lambda x: layers.RMSNormalization()(x),
    "augmented": lambda x: layers.RandomFlip()(x),
    "log sigmoid": ops.log_sigmoid,
    "rounded": ops.round,
    "largest": lambda x: ops.amax(x, axis=1),
    "pooled": lambda x: ops.max_pool(x, 2),
    "residue": lambda x: ops.mod(x, ops.relu(x)),
}


@pytest.mark.parametrize("operation", HANDED_ON.values(), ids=HANDED_ON)
def test_what_works_on_each_channel_hands_them_on(operation):
    x = image()
    made = operation(layers.Dense(4, name="a")(x))
    model = keras.Model(x, layers.Dense(2, name="head")(made))
    assert groups(model) == {("a",): (4, 4), ("head",): (2, 0)}


def test_a_recurrence_over_a_cell_of_ones_own_is_not_guessed():
    x = keras.Input((4, 3))
    made = layers.RNN(layers.StackedRNNCells([layers.LSTMCell(2), layers.LSTMCell(2)]))
    for layer in (made, layers.Bidirectional(layers.RNN(layers.LSTMCell(2)))):
        with pytest.raises(ValueError, match="the cell of RNN"):
            analyse(keras.Model(x, layers.Dense(2)(layer(x))))


class Halved(layers.Layer):
    def call(self, x):
        return x / 2


def test_an_unknown_operation_is_named_and_the_caller_decides():
    x = image()
    model = keras.Model(x, conv(2, "head")(Halved(name="halved")(conv(4, "a")(x))))
    with pytest.raises(ValueError, match=r"'halved' .*Halved.*treat_as=.*skip="):
        analyse(model)
    free = {("a",): (4, 4), ("head",): (2, 0)}
    assert groups(model, treat_as={Halved: "elementwise"}) == free
    assert groups(model, treat_as={"halved": "fixed"})[("a",)] == (4, 0)
    assert groups(model, skip="halved")[("a",)] == (4, 0)
    with pytest.raises(ValueError, match="'elementwise' or 'fixed'"):
        analyse(model, treat_as={"halved": "per_channel"})


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (lambda x: x[..., 1:], "some of the channels"),
        (lambda x: layers.BatchNormalization(axis=1)(x), "axis 1"),
    ],
)
def test_what_takes_some_or_works_along_others_is_not_guessed(operation, words):
    x = image()
    model = keras.Model(x, operation(conv(4, "a")(x)))
    with pytest.raises(ValueError, match=words):
        analyse(model)


def test_a_constant_as_wide_as_the_channels_keeps_them():
    x = image()
    model = keras.Model(x, conv(2, "head")(conv(4, "a")(x) * np.arange(4.0, dtype="float32")))
    assert groups(model)[("a",)] == (4, 0)
