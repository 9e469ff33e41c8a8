"""What a channel is worth, on weights and data small enough to reckon by hand."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_distill.transfer.width.channels import analyse
from keras_distill.transfer.width.importance import importance, normalised


def dense_pair(first, second):
    """x -> hidden (linear, no bias) -> head, with the given kernels."""
    first, second = np.array(first, "float32"), np.array(second, "float32")
    x = keras.Input((first.shape[0],))
    hidden = layers.Dense(first.shape[1], use_bias=False, name="hidden")
    head = layers.Dense(second.shape[1], use_bias=False, name="head")
    model = keras.Model(x, head(hidden(x)))
    hidden.kernel.assign(first)
    head.kernel.assign(second)
    return model


def scores(model, criterion, layer="hidden", **options):
    channels = analyse(model)
    return importance(model, channels, criterion, **options)[channels.roles[layer].made]


PAIR = ([[3.0, -1.0], [-4.0, 1.0]], [[1.0, 0.0], [2.0, -1.0]])


def test_norms_of_the_weights_that_make_a_channel():
    # Columns (3, -4) and (-1, 1).
    model = dense_pair(*PAIR)
    np.testing.assert_allclose(scores(model, "l1"), [7, 2])
    np.testing.assert_allclose(scores(model, "l2"), [5, np.sqrt(2)], rtol=1e-6)


def test_layers_whose_outputs_are_added_share_their_worth():
    x = keras.Input((2,))
    a = layers.Dense(2, use_bias=False, name="a")
    b = layers.Dense(2, use_bias=False, name="b")
    model = keras.Model(x, layers.Dense(1, name="head")(layers.Add()([a(x), b(x)])))
    a.kernel.assign([[1, 0], [0, 2]])
    b.kernel.assign([[0, 4], [3, 0]])
    # Means of |column| sums: (1 + 3) / 2 and (2 + 4) / 2.
    np.testing.assert_allclose(scores(model, "l1", "a"), [2, 3])


def test_batch_normalisations_scale():
    x = keras.Input((2,))
    norm = layers.BatchNormalization(name="norm")
    y = norm(layers.Dense(3, name="hidden")(x))
    model = keras.Model(x, layers.Dense(1, name="head")(layers.Dense(2, name="bare")(y)))
    norm.gamma.assign([0.5, -2.0, 0.0])
    np.testing.assert_allclose(scores(model, "bn_scale"), [0.5, 2, 0])
    # A group without one falls back on its weights' norm.
    np.testing.assert_allclose(
        scores(model, "bn_scale", "bare"), scores(model, "l2", "bare"), rtol=1e-6
    )


def test_mean_absolute_activation_where_it_is_read():
    # Rows (1, 0) and (0, 1) give hidden (3, -1) and (-4, 1): means of sizes 3.5 and 1, twice two
    # rows summed: 7 and 2.
    found = scores(dense_pair(*PAIR), "activation", data=np.eye(2, dtype="float32"))
    np.testing.assert_allclose(found, [7, 2])


def test_first_order_taylor():
    # One row x = (1, 0): hidden h = (3, -1), logits z = h W2 = (3 - 2, 1) = (1, 1), p = (1/2, 1/2).
    # Label 0: dL/dz = (-1/2, 1/2); dL/dh = W2 dz = (-1/2, -1 - 1/2) = (-1/2, -3/2).
    # |h dL/dh| = (3/2, 3/2).
    model = dense_pair(*PAIR)
    one = np.array([[1.0, 0.0]], "float32")
    np.testing.assert_allclose(
        scores(model, "taylor", data=(one, np.array([0]))), [1.5, 1.5], rtol=1e-6
    )
    # x = (1, 1): h = (-1, 0), z = (-1, 0), p0 = 1 / (1 + e). Label 0: dz = (p0 - 1, 1 - p0);
    # dL/dh0 = p0 - 1, and channel 1 is zero.
    both = np.array([[1.0, 1.0]], "float32")
    expected = [1 - 1 / (1 + np.e), 0]
    np.testing.assert_allclose(
        scores(model, "taylor", data=(both, np.array([0]))), expected, atol=1e-6
    )


def test_taylor_predicts_the_loss_without_a_channel():
    # Small channels: the change of the loss is close to its first-order estimate.
    rng = np.random.default_rng(0)
    model = dense_pair(rng.normal(0, 0.02, (4, 3)), rng.normal(0, 1, (3, 5)))
    x, y = rng.normal(0, 1, (1, 4)).astype("float32"), np.array([2])
    estimated = scores(model, "taylor", data=(x, y))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    whole = float(loss(y, model(x)))
    kernel = model.get_layer("hidden").kernel
    original = kernel.numpy()
    for channel in range(3):
        without = original.copy()
        without[:, channel] = 0
        kernel.assign(without)
        assert abs(float(loss(y, model(x))) - whole) == pytest.approx(
            estimated[channel], rel=0.1, abs=1e-4
        )


def test_a_models_probabilities_and_logits_rank_alike():
    rng = np.random.default_rng(1)
    kernels = rng.normal(0, 1, (4, 6)), rng.normal(0, 1, (6, 3))
    x, y = rng.normal(0, 1, (32, 4)).astype("float32"), rng.integers(0, 3, 32)
    logits = dense_pair(*kernels)
    probabilities = dense_pair(*kernels)
    probabilities.get_layer("head").activation = keras.activations.softmax
    np.testing.assert_allclose(
        scores(logits, "taylor", data=(x, y)),
        scores(probabilities, "taylor", data=(x, y)),
        rtol=1e-5,
    )


def test_dropout_and_statistics_stand_still():
    x = keras.Input((4,))
    y = layers.BatchNormalization(name="norm")(layers.Dense(6, name="hidden")(x))
    model = keras.Model(x, layers.Dense(3, name="head")(layers.Dropout(0.5)(y)))
    before = [v.numpy() for v in model.variables]
    rows = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    first = scores(model, "activation", data=rows)
    np.testing.assert_array_equal(first, scores(model, "activation", data=rows))
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())


def test_scores_of_different_groups_on_one_scale():
    # Kernels of sizes (3, 4) and (30, 40) differ by scale alone: root mean squares 5/sqrt(2), ...
    model = dense_pair([[3.0, 4.0]], [[30.0, 40.0, 0.0], [0.0, 0.0, 0.0]])
    model = keras.Model(model.inputs, layers.Dense(1)(model.outputs[0]))
    channels = analyse(model)
    found = normalised(channels, importance(model, channels, "l1"))
    root = np.sqrt((9 + 16) / 2)
    np.testing.assert_allclose(found[channels.roles["hidden"].made], [3 / root, 4 / root])
    root = np.sqrt((900 + 1600 + 0) / 3)
    np.testing.assert_allclose(found[channels.roles["head"].made], [30 / root, 40 / root, 0])


def test_what_is_refused():
    model = dense_pair(*PAIR)
    with pytest.raises(ValueError, match="l1, l2, bn_scale, activation, taylor; got 'l3'"):
        scores(model, "l3")
    with pytest.raises(ValueError, match=r"'activation' is measured on data"):
        scores(model, "activation")
    with pytest.raises(ValueError, match="leave data out"):
        scores(model, "l1", data=np.eye(2))
    with pytest.raises(ValueError, match=r"needs labels: give data=\(x, y\)"):
        scores(model, "taylor", data=np.eye(2, dtype="float32"))
