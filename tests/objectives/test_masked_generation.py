"""Masked generation: what is hidden, how the map is restored, what a checkpoint keeps."""

import keras
import numpy as np
import pytest
import scipy.signal
import tensorflow as tf

import keras_distill as kd
from keras_distill.objectives import MaskedGeneration

RNG = np.random.default_rng(0)
SIZE, CHANNELS = 4, 3


def built(ours=CHANNELS, theirs=CHANNELS, **options):
    """An objective on maps of four by four, and its layers."""
    keras.utils.set_random_seed(0)
    objective = MaskedGeneration("a", "a", **options)
    return objective, objective.build(*(shaped(channels) for channels in (ours, theirs)))


def shaped(channels):
    spec = keras.KerasTensor((None, SIZE, SIZE, channels))
    return kd.Signals(keras.KerasTensor((None, 2)), {"a": spec})


def value(objective, ours, theirs):
    ours, theirs = (
        kd.Signals(tf.zeros((len(x), 2)), {"a": tf.constant(x)}) for x in (ours, theirs)
    )
    return objective(ours, theirs, None).numpy()


def hidden(objective, examples):
    """The share of each example's ones that is hidden, where nothing is restored."""
    ones = np.ones((examples, SIZE, SIZE, CHANNELS), "float32")
    return value(objective, ones, ones)


def restoring_nothing(**options):
    """Its convolutions hand each number on as it is: the squared error is that of the mask."""
    objective, made = built(**options)
    kernel = np.zeros((3, 3, CHANNELS, CHANNELS))
    kernel[1, 1] = np.eye(CHANNELS)
    for layer in made["generator_0"].steps:
        layer.kernel.assign(kernel)
    return objective


@pytest.mark.parametrize(
    ("masked", "parts", "mask_ratio"),
    [("positions", SIZE * SIZE, 0.65), ("channels", CHANNELS, 0.15)],
)
def test_whole_positions_or_whole_channels_are_hidden_at_the_ratio(masked, parts, mask_ratio):
    objective = restoring_nothing(masked=masked, mask_ratio=mask_ratio)
    shares = hidden(objective, 2000)
    np.testing.assert_allclose(shares * parts, np.round(shares * parts), atol=1e-4)
    # A mean of 2000 x parts draws, each with the deviation of yes or no.
    deviation = np.sqrt(mask_ratio * (1 - mask_ratio) / (2000 * parts))
    assert np.mean(shares) == pytest.approx(mask_ratio, abs=4 * deviation)
    # Each example has a mask of its own, so that shares vary as a binomial's do.
    expected = np.sqrt(mask_ratio * (1 - mask_ratio) / parts)
    assert np.std(shares) == pytest.approx(expected, rel=0.1)


def test_the_ratio_follows_a_schedule():
    objective = restoring_nothing(mask_ratio=kd.schedules.Linear(0.0, 0.9, steps=10))
    shares = [np.mean(hidden(objective.at(tf.constant(step)), 500)) for step in (0, 5, 10)]
    np.testing.assert_allclose(shares, [0.0, 0.45, 0.9], atol=0.03)


def test_two_convolutions_with_a_relu_between_restore_the_aligned_map():
    objective, made = built(ours=2, mask_ratio=0.0)
    for layer in made.values():
        for variable in layer.trainable_variables:
            variable.assign(RNG.normal(0, 0.5, variable.shape))
    ours, theirs = RNG.normal(size=(5, SIZE, SIZE, 2)), RNG.normal(size=(5, SIZE, SIZE, CHANNELS))
    kernel, bias = (v.numpy() for v in made["adapter_0"].variables)
    x = ours @ kernel[0, 0] + bias
    for layer, bound in zip(made["generator_0"].steps, (0.0, -np.inf), strict=True):
        kernel, bias = (v.numpy() for v in layer.variables)
        x = [
            sum(
                scipy.signal.correlate2d(example[..., i], kernel[..., i, :][..., o], mode="same")
                for i in range(CHANNELS)
            )
            + bias[o]
            for example in x
            for o in range(CHANNELS)
        ]
        x = np.moveaxis(np.reshape(x, (5, CHANNELS, SIZE, SIZE)), 1, -1)
        x = np.maximum(x, bound)
    expected = np.mean((x - theirs) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(value(objective, ours, theirs), expected, rtol=1e-5)


def network(width, seed):
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Conv2D(width, 3, name="map"), keras.layers.Flatten()]
    return keras.Sequential([keras.Input((6, 6, 1)), *layers, keras.layers.Dense(4)])


def test_a_checkpoint_keeps_where_the_masks_stand(tmp_path):
    def make():
        distiller = kd.Distiller(network(2, 1), network(3, 2), MaskedGeneration("map", "map"))
        distiller.compile(keras.optimizers.Adam(0.01), loss=None)
        return distiller

    def fit(distiller):
        return distiller.fit(x, batch_size=4, shuffle=False, verbose=0).history

    x = RNG.normal(size=(8, 6, 6, 1)).astype("float32")
    distiller, resumed = make(), make()
    fit(distiller)
    distiller.save_weights(tmp_path / "d.weights.h5")
    expected = fit(distiller)
    resumed.load_weights(tmp_path / "d.weights.h5")
    assert fit(resumed) == expected
