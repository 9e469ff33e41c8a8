"""Keras 3 outside, tf_keras inside: one set of variables, trained, tapped, saved, spread."""

import os
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tf_keras

import keras_distill as kd
from keras_distill.edge import legacy
from keras_distill.edge.bridge import LegacyLayer, to_keras3, to_legacy, wrap_legacy


def student(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, name="conv", use_bias=False, kernel_constraint="unit_norm"),
            keras.layers.BatchNormalization(name="norm", momentum=0.7),
            keras.layers.ReLU(name="relu"),
            keras.layers.Flatten(name="flat"),
            keras.layers.Dense(3, name="logits", kernel_regularizer=keras.regularizers.L2(0.1)),
        ],
        name="student",
    )


@pytest.fixture(scope="module")
def batch():
    generator = np.random.default_rng(3)
    return generator.normal(size=(16, 8, 8, 1)).astype("float32"), np.arange(16) % 3


def compiled(model, **options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05), loss, metrics=["accuracy"], **options)
    return model


def fitted(model, batch, epochs=3):
    history = model.fit(*batch, batch_size=8, epochs=epochs, shuffle=False, verbose=0)
    return history.history["loss"]


def check_weights(outer, plain):
    for mine, theirs in zip(outer.weights, plain.weights, strict=True):
        # tf_keras's fused BatchNorm keeps n / (n - 1) times the batch's variance; here n is a
        # batch of 8 maps of 6 x 6.
        rtol = 1 / (8 * 6 * 6 - 1) if theirs.name == "moving_variance" else 1e-3
        np.testing.assert_allclose(mine, theirs, rtol=rtol, atol=1e-4, err_msg=theirs.path)


def quantised(seed=0):
    source = student(seed)
    net = to_legacy(source)
    # TFMOT's 8-bit scheme knows no constraint; it takes this one as it is.
    return legacy.tfmot().quantization.keras.quantize_model(net)


def test_variables_are_shared_and_layers_are_named_and_typed():
    inner = to_legacy(student())
    outer = wrap_legacy(inner)
    assert isinstance(outer, keras.Sequential)
    assert [type(layer).__name__ for layer in outer.layers] == [
        "LegacyLayer",
        "LegacyLayer",
        "ReLU",
        "Flatten",
        "LegacyLayer",
    ]
    assert [x.name for x in outer.layers] == [x.name for x in inner.layers]
    for mine, theirs in zip(outer.trainable_variables, inner.trainable_variables, strict=True):
        assert mine.value is theirs
    assert outer.count_params() == inner.count_params()


def test_it_trains_exactly_as_the_plain_student(batch):
    plain, outer = student(), wrap_legacy(to_legacy(student()))
    plain_losses = fitted(compiled(plain), batch)
    np.testing.assert_allclose(fitted(compiled(outer), batch), plain_losses, rtol=1e-4)
    check_weights(outer, plain)
    # Without its penalty, without its constraint, without BatchNorm's updates it would not.
    assert plain.losses[0] > 0
    np.testing.assert_allclose(outer.losses[0], plain.losses[0], rtol=1e-4)


def test_it_trains_exactly_as_the_plain_student_inside_a_distiller(batch):
    teacher, losses = student(7), []
    pupils = wrap_legacy(to_legacy(student())), student()
    for pupil in pupils:
        distiller = kd.Distiller(
            pupil,
            teacher,
            [kd.SoftTargets(), kd.FeatureHint("norm", "norm")],
            label_weight=0.5,
        )
        losses.append(fitted(compiled(distiller), batch))
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    check_weights(*pupils)


def test_the_inner_model_is_what_was_trained(batch):
    inner = to_legacy(student())
    before = [w.copy() for w in inner.get_weights()]
    outer = compiled(wrap_legacy(inner))
    fitted(outer, batch)
    np.testing.assert_allclose(outer.predict(batch[0], verbose=0), inner(batch[0]), atol=1e-5)
    assert all(not np.allclose(a, b) for a, b in zip(before, inner.get_weights(), strict=True))


def test_freezing_reaches_the_inner_layer(batch):
    inner = to_legacy(student())
    outer = wrap_legacy(inner)
    outer.get_layer("norm").trainable = False
    assert not inner.get_layer("norm").trainable
    before = outer.get_layer("norm").get_weights()
    fitted(compiled(outer), batch)
    # A frozen BatchNorm runs on, and keeps, its statistics.
    for mine, old in zip(outer.get_layer("norm").get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, old)
    outer.trainable = False
    outer.trainable = True
    assert inner.get_layer("norm").trainable
    assert len(outer.trainable_variables) == 5


def test_a_frozen_inner_layer_comes_frozen_and_thaws():
    inner = to_legacy(student())
    inner.get_layer("conv").trainable = False
    outer = wrap_legacy(inner)
    assert len(outer.trainable_variables) == 4
    outer.get_layer("conv").trainable = True
    assert len(outer.trainable_variables) == 5


def test_a_forked_model_nested_and_carried(forked, forked_batch, randomised):
    model = randomised(forked(keras.layers.RMSNormalization(name="rms")))
    inner = to_legacy(model)
    outer = wrap_legacy(inner)
    for name, value in inner(forked_batch).items():
        np.testing.assert_allclose(outer(forked_batch)[name], value, atol=1e-6)
    assert [x.name for x in outer.layers] == [x.name for x in model.layers]
    assert outer.get_layer("rms") is model.get_layer("rms")
    assert isinstance(outer.get_layer("block"), keras.Sequential)
    assert isinstance(outer.get_layer("text").get_layer("table"), LegacyLayer)
    # One layer, called twice: one LegacyLayer, each variable once.
    assert len(outer.weights) == len(model.weights)


def test_masks_pass_through():
    tokens = tf_keras.Input((5,), dtype="int32")
    x = tf_keras.layers.Embedding(4, 3, mask_zero=True)(tokens)
    inner = tf_keras.Model(tokens, tf_keras.layers.GRU(2)(tf_keras.layers.Dropout(0.1)(x)))
    outer = wrap_legacy(inner)
    x = np.array([[1, 2, 3, 0, 0], [1, 2, 3, 2, 0]], "int32")
    np.testing.assert_allclose(outer(x), inner(x), rtol=1e-6)


def test_losses_of_the_call_are_added():
    inputs = tf_keras.Input((3,))
    dense = tf_keras.layers.Dense(2, activity_regularizer="l2", name="dense")
    inner = tf_keras.Model(inputs, dense(dense(inputs)[:, :1] * np.ones((1, 3), "float32")))
    outer = wrap_legacy(inner)
    x = np.ones((4, 3), "float32")
    inner(x)
    expected = np.sum(inner.losses)
    outer(x)
    np.testing.assert_allclose(np.sum(outer.losses), expected, rtol=1e-6)


def test_a_variable_that_two_layers_share_is_one():
    class Tied(tf_keras.layers.Layer):
        def __init__(self, other):
            super().__init__()
            self.kernel = other.kernel

        def call(self, x):
            return x @ self.kernel

    inputs = tf_keras.Input((3,))
    dense = tf_keras.layers.Dense(3, use_bias=False)
    hidden = dense(inputs)
    outer = wrap_legacy(tf_keras.Model(inputs, Tied(dense)(hidden)))
    assert len(outer.trainable_variables) == 1


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_quantisation_aware_model_trains(batch, jit_compile):
    inner = quantised()
    outer = compiled(wrap_legacy(inner), jit_compile=jit_compile)
    losses = fitted(outer, batch, epochs=6)
    assert losses[-1] < 0.8 * losses[0]
    # The wrapper's ranges move with it: minima and maxima are among its weights.
    assert any("max" in v.name for v in outer.non_trainable_variables)
    np.testing.assert_allclose(outer.predict(batch[0], verbose=0), inner(batch[0]), atol=1e-5)
    assert to_keras3(inner).layers[-1].name == "logits"


def test_a_distiller_taps_a_quantisation_aware_student(batch):
    outer = wrap_legacy(quantised())
    distiller = kd.Distiller(
        outer, student(7), [kd.SoftTargets(), kd.FeatureHint("quant_norm", "norm")]
    )
    losses = fitted(compiled(distiller), batch, epochs=5)
    assert losses[-1] < losses[0]


def test_weight_files(batch, tmp_path):
    outer = compiled(wrap_legacy(quantised()))
    fitted(outer, batch)
    outer.save_weights(tmp_path / "w.weights.h5")
    other = wrap_legacy(quantised(seed=5))
    other.load_weights(tmp_path / "w.weights.h5")
    np.testing.assert_array_equal(other(batch[0]), outer(batch[0]))


def run(code, tmp_path):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_a_saved_model_loads_in_a_fresh_process_and_trains_on(batch, tmp_path):
    outer = compiled(wrap_legacy(quantised()))
    fitted(outer, batch)
    outer.save(tmp_path / "q.keras")
    np.savez(tmp_path / "d.npz", x=batch[0], y=batch[1], out=outer(batch[0]))
    run(
        """
        import os, numpy as np, keras, keras_distill, keras_distill.edge.bridge
        model, d = keras.saving.load_model("q.keras"), np.load("d.npz")
        assert d["out"].std() > 0.1
        np.testing.assert_array_equal(model(d["x"]), d["out"])
        first = model.evaluate(d["x"], d["y"], verbose=0)[0]
        model.fit(d["x"], d["y"], epochs=5, verbose=0)
        assert model.evaluate(d["x"], d["y"], verbose=0)[0] < first
        assert "TF_USE_LEGACY_KERAS" not in os.environ
        assert model.losses and model.get_layer("quant_conv").trainable_variables[0].constraint
        """,
        tmp_path,
    )


def test_a_saved_forked_model_comes_back(forked, forked_batch, randomised, tmp_path):
    outer = wrap_legacy(to_legacy(randomised(forked())))
    outer.save(tmp_path / "f.keras")
    again = keras.saving.load_model(tmp_path / "f.keras")
    for name, value in outer(forked_batch).items():
        np.testing.assert_array_equal(again(forked_batch)[name], value)
    assert len(again.weights) == len(outer.weights)


@pytest.mark.slow
def test_a_strategy_of_two_devices(batch, tmp_path):
    np.savez(tmp_path / "d.npz", x=batch[0], y=batch[1])
    out = run(
        """
        import numpy as np, tensorflow as tf, keras
        cpu = tf.config.list_physical_devices("CPU")[0]
        half = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(cpu, [half, half])
        from keras_distill.edge import legacy
        from keras_distill.edge.bridge import wrap_legacy
        tf_keras, tfmot = legacy.tf_keras(), legacy.tfmot()
        d = np.load("d.npz")
        with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
            net = tf_keras.Sequential([
                tf_keras.Input((8, 8, 1)), tf_keras.layers.Conv2D(4, 3),
                tf_keras.layers.BatchNormalization(), tf_keras.layers.ReLU(),
                tf_keras.layers.Flatten(), tf_keras.layers.Dense(3, kernel_regularizer="l2")])
            model = wrap_legacy(tfmot.quantization.keras.quantize_model(net))
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(keras.optimizers.Adam(0.05), loss)
        losses = model.fit(d["x"], d["y"], batch_size=8, epochs=6, verbose=0).history["loss"]
        assert losses[-1] < 0.8 * losses[0], losses
        kernel = model.trainable_variables[0].value
        a, b = (v.numpy() for v in kernel.values)
        np.testing.assert_array_equal(a, b)
        print("replicas", len(kernel.values))
        """,
        tmp_path,
    )
    assert "replicas 2" in out


def test_a_subclassed_model_is_wrapped_whole_and_not_saved(batch, tmp_path):
    class Hidden(tf_keras.Model):
        def __init__(self):
            super().__init__(name="hidden")
            self.flat, self.dense = tf_keras.layers.Flatten(), tf_keras.layers.Dense(3)

        def call(self, x, training=None):
            return self.dense(self.flat(x))

    inner = Hidden()
    inner(batch[0])
    outer = compiled(wrap_legacy(inner))
    losses = fitted(outer, batch, epochs=5)
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(outer(batch[0]), inner(batch[0]), rtol=1e-6)
    with pytest.raises(ValueError, match=r"'hidden'.*save_weights"):
        outer.save(tmp_path / "h.keras")


def test_a_wrapped_model_goes_back_to_tf_keras_as_a_copy(batch):
    outer = wrap_legacy(to_legacy(student()))
    inner = to_legacy(outer)
    np.testing.assert_array_equal(inner(batch[0]), outer(batch[0]))
    assert type(inner.layers[0]).__name__ == "Conv2D"
    assert inner.layers[0].kernel is not outer.layers[0].inner.kernel


def test_a_clone_has_variables_of_its_own(batch):
    outer = compiled(wrap_legacy(quantised()))
    fitted(outer, batch)
    clone = keras.models.clone_model(outer)
    clone.set_weights(outer.get_weights())
    np.testing.assert_array_equal(clone(batch[0]), outer(batch[0]))
    clone.trainable_variables[0].assign_add(1.0 + clone.trainable_variables[0])
    assert not np.allclose(clone(batch[0]), outer(batch[0]))


def test_what_is_refused():
    with pytest.raises(TypeError, match="Keras 2 model"):
        wrap_legacy(student())
    with pytest.raises(ValueError, match="no weights yet"):
        wrap_legacy(tf_keras.Sequential([tf_keras.layers.Dense(1)]))
