"""Self-distillation: the step by hand, exits that share the model's layers, files, refusals."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill as kd

LABEL_LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network():
    keras.utils.set_random_seed(3)
    image = keras.Input((6, 6, 1))
    x = keras.layers.Conv2D(4, 3, activation="tanh", name="early")(image)
    x = keras.layers.Conv2D(5, 3, activation="tanh", name="late")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(3, name="logits")(x), name="network")


def exits():
    model = network()
    keras.utils.set_random_seed(4)
    return kd.with_exits(model, ["early", "late"])


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return rng.normal(size=(12, 6, 6, 1)).astype("float32"), rng.integers(0, 3, 12)


def test_exits_share_the_model_and_leave_its_answer(rows):
    x, _ = rows
    model = network()
    with_exits = kd.with_exits(model, ["early"])
    answers = with_exits(x)
    np.testing.assert_array_equal(answers["final"], model(x))
    pooled = keras.Model(model.inputs, model.get_layer("early").output)(x).numpy().mean((1, 2))
    kernel, bias = with_exits.get_layer("exit_early_logits").get_weights()
    np.testing.assert_allclose(answers["exit_early"], pooled @ kernel + bias, rtol=1e-4, atol=1e-6)
    assert model.get_layer("early") is with_exits.get_layer("early")


def test_an_update_by_hand(rows):
    x, y = rows
    ours = kd.SelfDistiller(exits(), [kd.SoftTargets(temperature=2.0)], label_weight=0.6)
    ours.compile(keras.optimizers.SGD(0.1), LABEL_LOSS)
    logs = ours.train_on_batch(x, y, return_dict=True)
    twin = exits()
    with tf.GradientTape() as tape:
        answers = twin(x, training=True)
        target = tf.nn.softmax(tf.stop_gradient(answers["final"]) / 2.0)
        divergences = [
            4.0 * keras.losses.KLDivergence()(target, tf.nn.softmax(answers[name] / 2.0))
            for name in ("exit_early", "exit_late")
        ]
        labels = tf.add_n([LABEL_LOSS(y, logits) for logits in answers.values()])
        loss = 0.6 * labels + 0.4 * tf.add_n(divergences)
    gradients = tape.gradient(loss, twin.trainable_variables)
    assert float(logs["loss"]) == pytest.approx(float(loss), rel=1e-5)
    trained = {v.path: v for v in ours.student.trainable_variables}
    for variable, gradient in zip(twin.trainable_variables, gradients, strict=True):
        expected = variable - 0.1 * gradient
        np.testing.assert_allclose(trained[variable.path], expected, rtol=1e-4, atol=1e-6)


def test_the_deepest_exit_learns_from_the_labels_alone(rows):
    x, _ = rows
    ours = kd.SelfDistiller(exits(), [kd.HardTargets()])
    ours.compile(keras.optimizers.SGD(0.1), loss=None)
    head = ours.student.get_layer("logits")
    before = [v.numpy() for v in head.variables]
    ours.train_on_batch(x)
    assert all(np.array_equal(v, b) for v, b in zip(head.variables, before, strict=True))


def test_an_exit_taken_out_and_a_run_resumed(rows, tmp_path):
    x, y = rows
    hint = kd.FeatureHint("early", "late")
    ours = kd.SelfDistiller(exits(), [kd.SoftTargets(), hint], deepest="exit_late")
    ours.compile("adam", LABEL_LOSS, metrics=["accuracy"])

    def fit(distiller):
        return distiller.fit(x, y, batch_size=4, shuffle=False, verbose=0).history

    fit(ours)
    ours.save(tmp_path / "self.keras")
    history = fit(ours)
    assert {"exit_early_accuracy", "final_loss", "feature_hint"} <= set(history)
    loaded = kd.SelfDistiller.load(tmp_path / "self.keras")
    assert loaded.deepest == "exit_late"
    assert fit(loaded) == history
    np.testing.assert_allclose(ours.up_to("exit_early")(x), ours(x)["exit_early"], rtol=1e-6)


def test_an_exit_of_ones_own(rows):
    def make_exit(x):
        return keras.layers.Dense(3)(keras.layers.GlobalMaxPooling2D()(x))

    model = kd.with_exits(network(), ["late"], make_exit=make_exit)
    assert model(rows[0])["exit_late"].shape == (12, 3)


def test_refused():
    with pytest.raises(ValueError, match=r"has no layer 'absent'; its layers are .*early"):
        kd.with_exits(network(), ["absent"])
    with pytest.raises(ValueError, match="model of one output; 'network_exits' has 3"):
        kd.with_exits(exits(), ["early"])
    with pytest.raises(ValueError, match=r"outputs in a dict; 'network' gives .*with_exits"):
        kd.SelfDistiller(network())
    with pytest.raises(ValueError, match="deepest='last' names no output"):
        kd.SelfDistiller(exits(), deepest="last")
