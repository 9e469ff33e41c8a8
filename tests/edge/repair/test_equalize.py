"""Cross-layer equalisation: the same function, ranges alike, and what stops it."""

import itertools

import keras
import numpy as np
import pytest

from keras_distill import edge
from keras_distill.edge.repair.caps import ChannelCap

layers = keras.layers


def trained_like(model, seed=0):
    """Every weight drawn anew: biases, gammas of both signs, statistics as after training."""
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        draw = generator.normal(0.0, 0.5, variable.shape)
        if variable.name.endswith("variance"):
            draw = generator.uniform(0.2, 3.0, variable.shape)
        if variable.dtype == "float32":
            variable.assign(draw)
    return model


def images(*steps, shape=(6, 6, 3)):
    return keras.Sequential([keras.Input(shape), *steps])


def inputs_of(model, rows=8):
    # Wide, so that bounds are reached.
    return np.random.default_rng(1).normal(0, 40, (rows, *model.inputs[0].shape[1:])).astype("f4")


def kernels(model):
    return [v.numpy() for v in model.variables if v.name.endswith("kernel")]


def spread(model, path, name="gamma"):
    """The largest over the smallest of a weight's channels."""
    values = np.abs(getattr(model.get_layer(path), name).numpy())
    values = values.reshape(-1, values.shape[-1]).max(0)
    return values.max() / values.min()


def mobile():
    """An inverted bottleneck: expanded, depthwise, projected, twice, with ReLU6."""
    return images(
        layers.Conv2D(8, 1, use_bias=False, name="expand"),
        layers.BatchNormalization(name="expand_bn"),
        layers.ReLU(6.0, name="expand_relu"),
        layers.ZeroPadding2D(1),
        layers.DepthwiseConv2D(3, strides=2, use_bias=False, name="depthwise"),
        layers.BatchNormalization(name="depthwise_bn"),
        layers.ReLU(6.0, name="depthwise_relu"),
        layers.Conv2D(4, 1, use_bias=False, name="project"),
        layers.BatchNormalization(name="project_bn"),
        layers.Conv2D(8, 1, activation="relu6", name="next"),
        layers.GlobalAveragePooling2D(),
        layers.Dropout(0.2),
        layers.Dense(5, name="head"),
    )


def branched():
    x = keras.Input((6, 6, 3))
    y = layers.BatchNormalization(name="stem_bn")(layers.Conv2D(4, 3, padding="same")(x))
    left = layers.Conv2D(4, 1, name="left")(layers.ReLU()(y))
    left = layers.Conv2D(4, 1, name="left_end")(layers.LeakyReLU()(left))
    z = layers.Add()([y, left])
    return keras.Model(x, layers.Dense(2)(layers.Flatten()(z)))


def nested():
    inner = images(layers.Conv2D(4, 3, activation="relu", name="a"), layers.MaxPooling2D())
    x = keras.Input((6, 6, 3))
    return keras.Model(x, layers.Conv2D(3, 1, name="b")(inner(x)))


MODELS = {
    "depthwise, BatchNorm, ReLU6": mobile,
    "branches": branched,
    "nested": nested,
    "Dense": lambda: images(
        layers.Dense(7, activation="relu"), layers.Dense(5), layers.Dense(2), shape=(4,)
    ),
    "Dense over time": lambda: images(
        layers.Dense(6, activation="leaky_relu"), layers.Dense(2), shape=(5, 4)
    ),
    "Flatten": lambda: images(
        layers.Conv2D(4, 3),
        layers.PReLU(),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(3),
    ),
    "Reshape to rows": lambda: images(
        layers.Conv2D(4, 3), layers.ReLU(6.0), layers.Reshape((8, 8)), layers.Conv1D(3, 3)
    ),
    "separable": lambda: images(
        layers.SeparableConv2D(5, 3, depth_multiplier=2, activation="relu"),
        layers.SeparableConv2D(4, 3),
        layers.BatchNormalization(scale=False),
        layers.ReLU(negative_slope=0.1, max_value=2.0),
        layers.Conv2DTranspose(3, 3, strides=2),
        layers.UpSampling2D(),
        layers.Conv2D(2, 1),
    ),
    "depthwise of two": lambda: images(
        layers.Conv2D(4, 1), layers.DepthwiseConv2D(3, depth_multiplier=2), layers.Conv2D(3, 1)
    ),
    "BatchNorm behind ReLU": lambda: images(
        layers.Conv2D(4, 3, activation="relu6"),
        layers.BatchNormalization(epsilon=0.1),
        layers.Conv2D(4, 1),
        layers.LeakyReLU(),
        layers.Flatten(),
        layers.BatchNormalization(epsilon=0.1, scale=False),
        layers.Dense(2),
    ),
    "one dimension": lambda: images(
        layers.Conv1D(4, 3, padding="causal", activation="relu"),
        layers.AveragePooling1D(2),
        layers.DepthwiseConv1D(3),
        layers.BatchNormalization(center=False),
        layers.SpatialDropout1D(0.1),
        layers.Conv1D(4, 2),
        shape=(12, 3),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_copy_computes_the_same(name):
    model = trained_like(MODELS[name]())
    before = kernels(model)
    even = edge.equalize(model)
    x = inputs_of(model)
    expected = np.asarray(model(x))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(even(x)), expected, atol=1e-5 * scale)
    # It is another network, and not one of the model's own weights has moved.
    assert not all(map(np.allclose, before, kernels(even)))
    assert all(map(np.array_equal, before, kernels(model)))


def test_two_channels_on_paper():
    # Channel 0 is made of 4 at most and read by 1: s = 2; channel 1 of 1 and by 16: s = 1/4.
    # Both sides then have 4 / 2 = 1 * 2 and 1 * 4 = 16 / 4.
    model = images(layers.Dense(2, name="a"), layers.Dense(1, name="b"), shape=(2,))
    model.get_layer("a").set_weights([np.array([[4.0, -1.0], [-2.0, 0.5]]), np.array([6.0, 3.0])])
    model.get_layer("b").set_weights([np.array([[-1.0], [16.0]]), np.array([7.0])])
    even = edge.equalize(model)
    kernel, bias = even.get_layer("a").get_weights()
    np.testing.assert_allclose(kernel, [[2.0, -4.0], [-1.0, 2.0]], rtol=1e-6)
    np.testing.assert_allclose(bias, [3.0, 12.0], rtol=1e-6)
    kernel, bias = even.get_layer("b").get_weights()
    np.testing.assert_allclose(kernel, [[-2.0], [4.0]], rtol=1e-6)
    np.testing.assert_allclose(bias, [7.0])


def test_depthwise_channels_span_the_same_and_dead_ones_stay():
    model = images(
        layers.BatchNormalization(name="bn"),
        layers.ReLU(),
        layers.DepthwiseConv2D(1, name="depthwise", use_bias=False),
    )
    # Ranges beta + 6 gamma: 12, 3 and, below zero, none. Geometric mean of the live ones: 6.
    norm = model.get_layer("bn")
    norm.set_weights(np.array([[1.0, 0.5, 0.1], [6.0, 0.0, -1.0], [0.0] * 3, [1.0] * 3]))
    even = edge.equalize(model)
    gamma, beta, mean, variance = even.get_layer("bn").get_weights()
    np.testing.assert_allclose(gamma, [0.5, 1.0, 0.1], rtol=1e-6)
    np.testing.assert_allclose(beta, [3.0, 0.0, -1.0], rtol=1e-6)
    old, new = (m.get_layer("depthwise").kernel.numpy().ravel() for m in (model, even))
    np.testing.assert_allclose(new / old, [2.0, 0.5, 1.0], rtol=1e-6)
    np.testing.assert_array_equal([mean, variance], [[0.0] * 3, [1.0] * 3])


def test_a_norm_behind_a_relu_reads_channels_that_span_the_same():
    model = images(
        layers.Conv2D(3, 1, activation="relu", use_bias=False, name="conv"),
        layers.BatchNormalization(name="norm"),
        shape=(2, 2, 1),
    )
    # It has read 4 +- 2 and 0.5 +- 0.25: as far as 16 and 2, whose geometric mean is 4 sqrt(2).
    # What varies by less than its epsilon was next to dead, and tells nothing of rare values.
    mean, variance = np.array([4.0, 0.5, 1e-3]), np.array([4.0, 0.0625, 1e-9])
    statistics = [np.ones(3), np.zeros(3), mean, variance]
    model.get_layer("norm").set_weights(statistics)
    even = edge.equalize(model)
    _, beta, mean, variance = even.get_layer("norm").get_weights()
    np.testing.assert_allclose(mean, [np.sqrt(2.0)] * 2 + [1e-3], rtol=1e-6)
    np.testing.assert_allclose(variance, [0.5, 0.5, 1e-9], rtol=1e-6)
    np.testing.assert_array_equal(beta, [0.0] * 3)
    old, new = (m.get_layer("conv").kernel.numpy().ravel() for m in (model, even))
    np.testing.assert_allclose(old / new, [np.sqrt(8.0), np.sqrt(0.125), 1.0], rtol=1e-6)


def test_a_chain_of_three_stands_still():
    dense = [layers.Dense(6, name=name) for name in "abcd"]
    even = edge.equalize(trained_like(images(*dense, shape=(5,))))
    sizes = [np.abs(even.get_layer(name).kernel.numpy()) for name in "abcd"]
    for maker, reader in itertools.pairwise(sizes):
        np.testing.assert_allclose(maker.max(0), reader.max(1), rtol=1e-3)


def test_training_sees_the_same_network():
    # Batch statistics, not moving ones: an equalised kernel before a BatchNorm would be undone.
    model = trained_like(mobile())
    even = edge.equalize(model, relu6="cap")
    x = inputs_of(model)
    for m in (model, even):
        m.get_layer(index=-2).rate = 0.0
    a, b = (np.asarray(m(x, training=True)) for m in (model, even))
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_relu6_becomes_a_bound_for_each_channel_or_stays_or_goes():
    model = trained_like(mobile())
    names = [layer.name for layer in model.layers]
    capped = edge.equalize(model)
    caps = [layer.name for layer in capped.layers if isinstance(layer, ChannelCap)]
    assert caps == ["expand_relu_cap", "depthwise_relu_cap", "next_cap"]
    assert set(names) <= {layer.name for layer in capped.layers}
    left = edge.equalize(model, relu6="leave")
    assert [layer.name for layer in left.layers][1:] == names
    assert spread(left, "expand_bn") == spread(model, "expand_bn")
    assert spread(left, "project_bn") != spread(model, "project_bn")
    plain = edge.equalize(model, relu6="relu")
    assert not any(isinstance(layer, ChannelCap) for layer in plain.layers)
    assert plain.get_layer("next").activation is keras.activations.relu
    # Exact where no bound is reached: small inputs, small biases.
    small = inputs_of(model) * 1e-4
    for layer in ("expand_bn", "depthwise_bn", "project_bn"):
        assert np.abs(model.get_layer(layer).beta.numpy()).max() < 6
    np.testing.assert_allclose(np.asarray(plain(small)), np.asarray(model(small)), atol=1e-5)


def test_an_equalised_model_stands_still_saves_trains_and_quantises(tmp_path):
    model = trained_like(mobile())
    even = edge.equalize(model)
    again = edge.equalize(even)
    for ours, theirs in zip(even.variables, again.variables, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    even.save(tmp_path / "even.keras")
    loaded = keras.models.load_model(tmp_path / "even.keras")
    x = inputs_of(model, 32)
    np.testing.assert_array_equal(loaded(x), even(x))
    small = edge.quantize_aware(loaded, calibration_data=x)
    small.compile("adam", "mse")
    small.fit(x, np.zeros((32, 5)), verbose=0)
    assert np.isfinite(np.asarray(small(x))).all()


def test_skip_and_all_that_ends_a_chain():
    x = keras.Input((6, 6, 4))
    shared = layers.Conv2D(4, 1, name="shared")
    y = layers.Conv2D(4, 1, name="to_tanh", activation="tanh")(x)
    y = shared(shared(y))
    y = layers.Conv2D(4, 1, name="constrained", kernel_constraint="max_norm")(y)
    y = layers.Conv2D(4, 1, name="to_groups")(y)
    y = layers.Conv2D(4, 1, groups=2, name="grouped")(y)
    y = layers.Conv2D(4, 1, name="to_norm")(layers.GaussianNoise(0.1, name="noise")(y))
    y = layers.GaussianNoise(0.1)(layers.BatchNormalization(name="norm")(y))
    y = layers.Conv2D(4, 1, name="to_threshold")(y)
    y = layers.Conv2D(4, 1, name="to_parts")(layers.ReLU(threshold=1.0, name="from_1")(y))
    y = layers.Conv2D(4, 1, name="to_skipped")(layers.Reshape((6, 12, 2), name="parts")(y))
    y = layers.Conv2D(4, 1, name="skipped")(y)
    y = layers.LSTM(4, activation="relu", name="lstm")(layers.Reshape((72, 4))(y))
    end = layers.Dense(4, name="read_twice")(y)
    model = keras.Model(x, [layers.Dense(2)(layers.ReLU(name="relu")(end)), end])
    with pytest.raises(ValueError, match="no two layers to equalise") as caught:
        edge.equalize(model, skip="skipped")
    said = str(caught.value)
    for part in (
        "'to_tanh': 'to_tanh' (Conv2D) does not hand a scaling of channels on",
        "'shared': 'shared' is called more than once",
        "'constrained': 'constrained' has a constraint",
        "'to_groups': 'grouped' has groups",
        "'grouped': 'noise' (GaussianNoise) does not",
        "'to_norm': 'norm' normalises it",
        "'to_threshold': 'from_1' (ReLU) does not",
        "'to_parts': 'parts' (Reshape) does not",
        "'to_skipped': 'skipped' is skipped",
        "'read_twice': 'read_twice' is an output of the model",
    ):
        assert part in said


def test_what_is_no_float_model_is_refused():
    model = trained_like(images(layers.Dense(3), layers.Dense(2), shape=(4,)))
    with pytest.raises(ValueError, match="Equalise first"):
        edge.equalize(edge.quantize_aware(model))
    with pytest.raises(ValueError, match="relu6"):
        edge.equalize(model, relu6="drop")
    with pytest.raises(ValueError, match="no layer answers"):
        edge.equalize(model, skip="nothing")
    with pytest.raises(ValueError, match="nothing to equalise"):
        edge.equalize(images(layers.Flatten()))


def rescaled(model, generator):
    """The network with channels multiplied by 0.1 to 10 at random: the same in float."""
    for norm, reader, axis in (
        ("expand_bn", "depthwise", 2),
        ("depthwise_bn", "project", 2),
        ("project_bn", "next", 2),
    ):
        norm, kernel = model.get_layer(norm), model.get_layer(reader).kernel
        factors = 10.0 ** generator.uniform(-1, 1, norm.gamma.shape)
        norm.gamma.assign(norm.gamma * factors)
        norm.beta.assign(norm.beta * factors)
        shape = [1] * 4
        shape[axis] = -1
        kernel.assign(kernel / factors.reshape(shape))
    return model


@pytest.mark.parametrize("seed", range(3))
def test_a_network_of_spread_channels_follows_float_again(seed):
    keras.utils.set_random_seed(seed)
    model = keras.models.clone_model(mobile(), clone_function=_unbounded)
    generator = np.random.default_rng(seed)
    x = generator.normal(0, 1, (64, 6, 6, 3)).astype("float32")
    for _ in range(60):  # Statistics of its own, as training leaves them.
        model(x, training=True)
    model = rescaled(model, generator)
    expected = np.asarray(model(x))

    def error(m):
        small = edge.quantize_aware(m, calibration_data=x)
        return np.sqrt(np.mean((np.asarray(small(x)) - expected) ** 2))

    assert error(edge.equalize(model)) < error(model) / 3


def _unbounded(layer):
    config = layer.get_config()
    if isinstance(layer, layers.ReLU):
        config["max_value"] = None
    if config.get("activation") == "relu6":
        config["activation"] = "relu"
    return type(layer).from_config(config)
