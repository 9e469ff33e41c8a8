"""From tf_keras to Keras 3."""

import keras
import numpy as np
import pytest
import tf_keras

from keras_distill.edge import legacy
from keras_distill.edge.bridge import LegacyLayer, to_keras3, to_legacy


def test_there_and_back_is_the_model_to_the_bit(forked, forked_batch, randomised):
    model = randomised(forked())
    back = to_keras3(to_legacy(model))
    expected, found = model(forked_batch), back(forked_batch)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
    assert [x.name for x in back.layers] == [x.name for x in model.layers]
    assert [type(x) for x in back.layers] == [type(x) for x in model.layers]
    assert back.get_layer("block").get_layer("norm").path
    for mine, theirs in zip(back.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    # Copies: training one leaves the other.
    back.get_layer("label").kernel.assign_add(np.ones_like(back.get_layer("label").kernel))
    assert not np.allclose(back.get_layer("label").kernel, model.get_layer("label").kernel)


def test_regularisers_constraints_and_flags_come_back():
    layer = keras.layers.Dense(
        2,
        kernel_regularizer=keras.regularizers.L1L2(0.1, 0.2),
        bias_constraint=keras.constraints.MaxNorm(1.5),
        activity_regularizer=keras.regularizers.L2(0.3),
        kernel_initializer=keras.initializers.Constant(0.5),
    )
    layer.trainable = False
    model = keras.Sequential([keras.Input((3,)), layer])
    back = to_keras3(to_legacy(model)).layers[0]
    assert back.get_config() == layer.get_config()


def tf_keras_only():
    inputs = tf_keras.Input((4, 3), name="in")
    x = tf_keras.layers.Dense(3, activation="hard_sigmoid", name="hard")(inputs)
    y = legacy.tf_keras().backend.abs(x[:, 1:]) * 2.0 - 0.5
    y = tf_keras.layers.ThresholdedReLU(theta=0.1, name="threshold")(y)
    return tf_keras.Model(inputs, tf_keras.layers.Flatten()(y), name="old")


def test_what_keras_3_has_not_stays_inside_a_legacy_layer():
    old = tf_keras_only()
    new = to_keras3(old)
    x = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
    np.testing.assert_allclose(new(x), old(x), atol=1e-6)
    kept = [layer.name for layer in new.layers if isinstance(layer, LegacyLayer)]
    assert "threshold" in kept
    assert "hard" not in kept
    assert len(kept) == len(old.layers) - 3


def test_tf_keras_hard_sigmoid_is_not_keras_3s(tmp_path):
    new = to_keras3(tf_keras_only())
    new.save(tmp_path / "new.keras")
    again = keras.saving.load_model(tmp_path / "new.keras")
    x = 3 * np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
    np.testing.assert_array_equal(again(x), new(x))


class Own(tf_keras.layers.Layer):
    def build(self, shape):
        self.w = self.add_weight(name="w", shape=(shape[-1],), initializer="ones")

    def call(self, x):
        return x * self.w


def test_a_users_tf_keras_layer_is_copied():
    inputs = tf_keras.Input((3,))
    with tf_keras.saving.custom_object_scope({"Own": Own}):
        old = tf_keras.Model(inputs, Own(name="own")(inputs))
        old.layers[-1].w.assign([1.0, 2.0, 3.0])
        new = to_keras3(old)
    np.testing.assert_array_equal(new(np.ones((1, 3))), [[1.0, 2.0, 3.0]])
    old.layers[-1].w.assign([0.0, 0.0, 0.0])
    np.testing.assert_array_equal(new(np.ones((1, 3))), [[1.0, 2.0, 3.0]])


def plain_net():
    return tf_keras.Sequential(
        [
            tf_keras.Input((8, 8, 1)),
            tf_keras.layers.Conv2D(4, 3, name="conv"),
            tf_keras.layers.BatchNormalization(name="norm"),
            tf_keras.layers.ReLU(name="relu"),
            tf_keras.layers.Flatten(name="flat"),
            tf_keras.layers.Dense(3, name="logits"),
        ]
    )


def test_quantisation_wrappers_come_off_and_weights_are_exact():
    tfmot = legacy.tfmot()
    net = plain_net()
    quantised = tfmot.quantization.keras.quantize_model(net)
    quantised.compile("sgd", "mse")
    generator = np.random.default_rng(0)
    x = generator.normal(size=(4, 8, 8, 1)).astype("float32")
    quantised.fit(x, np.ones((4, 3)), verbose=0)
    new = to_keras3(quantised)
    assert [layer.name for layer in new.layers][-5:] == ["conv", "norm", "relu", "flat", "logits"]
    wrapper = quantised.get_layer("quant_conv")
    np.testing.assert_array_equal(new.get_layer("conv").kernel, wrapper._weight_vars[0][0])
    dense = quantised.get_layer("quant_logits")
    np.testing.assert_array_equal(new.get_layer("logits").kernel, dense._weight_vars[0][0])
    # Trained, so that a copy of the net before training would show.
    assert not np.allclose(new.get_layer("logits").kernel, net.get_layer("logits").kernel)


@pytest.mark.parametrize("method", ["prune", "cluster"])
def test_pruning_and_clustering_wrappers_come_off(method):
    tfmot = legacy.tfmot()
    net = plain_net()
    if method == "prune":
        schedule = tfmot.sparsity.keras.ConstantSparsity(0.5, 0)
        wrapped = tfmot.sparsity.keras.prune_low_magnitude(net, schedule)
    else:
        cluster = tfmot.clustering.keras
        initial = cluster.CentroidInitialization.LINEAR
        wrapped = cluster.cluster_weights(net, number_of_clusters=4, cluster_centroids_init=initial)
    new = to_keras3(wrapped)
    assert [layer.name for layer in new.layers] == ["conv", "norm", "relu", "flat", "logits"]
    assert all(type(layer).__module__.startswith("keras.") for layer in new.layers)
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype("float32")
    np.testing.assert_allclose(new(x), wrapped(x), atol=1e-5)


def test_what_is_refused():
    with pytest.raises(TypeError, match="to_legacy"):
        to_keras3(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
    with pytest.raises(ValueError, match="no weights yet"):
        to_keras3(tf_keras.Sequential([tf_keras.layers.Dense(1)]))

    class Hidden(tf_keras.Model):
        def call(self, x):
            return x

    hidden = Hidden()
    hidden(np.ones((1, 2)))
    with pytest.raises(ValueError, match="wrap_legacy"):
        to_keras3(hidden)
