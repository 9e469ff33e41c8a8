"""Layers whose maps have no fixed size, as those of a fully convolutional network."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill as kd

SIZED = np.random.default_rng(0).normal(size=(4, 8, 6, 1)).astype("float32")


def network(width, shape=(None, None, 1), strides=1):
    keras.utils.set_random_seed(width)
    inputs = keras.Input(shape)
    features = keras.layers.Conv2D(width, 3, strides, padding="same", name="map")(inputs)
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    return keras.Model(inputs, keras.layers.Dense(3)(pooled))


def logged(objective, shape, x):
    distiller = kd.Distiller(network(3, shape), network(5, shape), objective)
    distiller.compile(keras.optimizers.SGD(0.0))
    return distiller.fit(x, batch_size=4, verbose=0).history[objective.name][0]


@pytest.mark.parametrize(
    "kind",
    [
        kd.FeatureHint,
        kd.AttentionTransfer,
        kd.objectives.VariationalInformation,
        kd.objectives.ActivationBoundaries,
        kd.objectives.Overhaul,
        kd.objectives.NeuronSelectivity,
        kd.objectives.InterChannelCorrelation,
        kd.objectives.FactorTransfer,
        kd.objectives.MaskedGeneration,
        lambda ours, theirs: kd.objectives.AffinityTransfer(ours, theirs, pool_scale=None),
        lambda ours, theirs: kd.objectives.FlowOfSolution([ours] * 2, [theirs] * 2),
        kd.SimilarityPreserving,
        kd.RelationalKD,
    ],
)
def test_open_sizes_give_what_fixed_ones_do(kind):
    found = [logged(kind("map", "map"), s, SIZED) for s in ((None, None, 1), (8, 6, 1))]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize("kind", [kd.FeatureHint, kd.AttentionTransfer])
def test_batches_of_several_sizes(kind):
    other = SIZED[:, :5, :, :]

    def both():
        yield SIZED
        yield other

    data = tf.data.Dataset.from_generator(both, output_signature=tf.TensorSpec((4, None, 6, 1)))
    expected = np.mean([logged(kind("map", "map"), (None, None, 1), x) for x in (SIZED, other)])
    assert logged(kind("map", "map"), (None, None, 1), data) == pytest.approx(expected, rel=1e-4)


def test_sizes_that_turn_out_to_differ_are_pooled_if_known_and_else_stop_the_step():
    data = tf.data.Dataset.from_tensors(SIZED)
    unknown = tf.TensorSpec((4, None, None, 1))
    unsized = tf.data.Dataset.from_generator(lambda: iter([SIZED]), output_signature=unknown)
    found = []
    for shape in ((None, None, 1), (8, 6, 1)):
        hint = kd.FeatureHint("map", "map")
        distiller = kd.Distiller(network(3, shape), network(5, shape, strides=2), hint)
        distiller.compile(keras.optimizers.SGD(0.0))
        found += distiller.fit(data, verbose=0).history["feature_hint"]
        if None in shape:
            with pytest.raises(Exception, match="give both models a fixed input size"):
                distiller.fit(unsized, verbose=0)
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_a_share_of_an_open_axis_is_refused_before_training():
    message = r"AffinityTransfer\('map', 'map'\): .*\(None, None, None, 3\).*or pool_scale=None"
    with pytest.raises(ValueError, match=message):
        kd.Distiller(network(3), network(5), kd.objectives.AffinityTransfer("map", "map"))


def test_open_on_one_side_is_refused_before_training():
    for kind in (kd.FeatureHint, kd.AttentionTransfer):
        with pytest.raises(ValueError, match=r"\(None, 8, 6, 3\).*\(None, None, None, 5\).*fixed"):
            kd.Distiller(network(3, (8, 6, 1)), network(5), kind("map", "map"))
