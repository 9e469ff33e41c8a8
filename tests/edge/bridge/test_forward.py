"""Whole models to tf_keras: graphs, carried layers, factories, and what is refused."""

import keras
import numpy as np
import pytest
import tf_keras

from keras_distill.edge.bridge import to_keras3, to_legacy
from keras_distill.edge.bridge.carried import carried_class


@keras.saving.register_keras_serializable("test_bridge")
class Scaled(keras.layers.Layer):
    """A weight, a penalty on it, a loss of its own, and a sublayer that heeds `training`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.drop = keras.layers.Dropout(0.9, seed=1)

    def build(self, shape):
        self.scale = self.add_weight(
            shape=(shape[-1],), initializer="ones", regularizer=keras.regularizers.L2(0.5), name="s"
        )
        self.offset = self.add_weight(shape=(shape[-1],), trainable=False, name="o")

    def call(self, x):
        self.add_loss(keras.ops.mean(x))
        return self.drop(x * self.scale + self.offset)


def kinds(model):
    return {layer.name: type(layer).__name__ for layer in model.layers}


def test_a_forked_model_with_everything(forked, forked_batch, randomised):
    model = randomised(forked())
    twin = to_legacy(model)
    expected, found = model(forked_batch), twin(forked_batch)
    assert set(found) == set(expected) == {"label", "score"}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5)
    assert set(twin.input) == {"image", "token"}
    assert isinstance(twin.get_layer("block"), tf_keras.Sequential)
    assert [layer.name for layer in twin.get_layer("text").layers][1:] == ["table", "pool"]
    # Two calls, one layer: its weights are listed once.
    assert len(twin.weights) == len(model.weights)
    assert twin.get_layer("shared").get_output_at(1) is not twin.get_layer("shared").get_output_at(
        0
    )
    # x + y is native; x[...] * 2 + 1 and the mean are carried.
    found = list(kinds(twin).values())
    assert found.count("Add") == 1
    assert found.count("Carried") == 4


def test_weights_are_copies(small_cnn, randomised):
    model = randomised(small_cnn(2))
    twin = to_legacy(model)
    assert isinstance(twin, tf_keras.Sequential)
    before = twin.get_weights()
    for variable in model.weights:
        variable.assign(variable + 1)
    for old, new in zip(before, twin.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("operation", ["add", "subtract", "multiply", "maximum", "minimum"])
def test_an_operation_on_equal_shapes_is_a_native_layer(operation):
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    model = keras.Model([a, b], getattr(keras.ops, operation)(a, b))
    twin = to_legacy(model)
    assert type(twin.layers[-1]) is getattr(tf_keras.layers, operation.capitalize())
    x = [np.array([[1.0, -2.0, 3.0]], "float32"), np.array([[0.5, 4.0, -1.0]], "float32")]
    np.testing.assert_array_equal(twin(x), model(x))
    # The operation's own node count must not matter the second time.
    to_keras3(twin)
    assert type(to_legacy(model).layers[-1]) is type(twin.layers[-1])


def test_an_operation_that_broadcasts_or_takes_numbers_is_carried():
    a, b = keras.Input((3, 2), name="a"), keras.Input((1, 2), name="b")
    joined = keras.ops.concatenate([a, 1 - b], axis=1)
    model = keras.Model([a, b], [a + b, keras.ops.where(a > 0, a, b), joined])
    twin = to_legacy(model)
    found = sorted(kinds(twin).values())
    assert found == ["Carried"] * 4 + ["Concatenate", "InputLayer", "InputLayer"]
    x = [np.ones((2, 3, 2), "float32"), 2 * np.ones((2, 1, 2), "float32")]
    for mine, theirs in zip(twin(x), model(x), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def custom_model():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((3,))
    x = keras.layers.Dense(4, name="first")(inputs)
    return keras.Model(inputs, keras.layers.Dense(1, name="last")(Scaled(name="scaled")(x)))


def test_a_users_layer_is_carried_with_its_variables_and_losses():
    model = custom_model()
    twin, scaled = to_legacy(model), model.get_layer("scaled")
    carrier = twin.get_layer("scaled")
    assert carrier.trainable_weights[0] is scaled.scale.value
    assert [v.ref() for v in carrier.non_trainable_weights] == [scaled.offset.value.ref()]
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    np.testing.assert_allclose(twin(x), model(x), rtol=1e-6)
    # 0.5 * sum of four ones squared, and the mean of what it was given.
    given = twin.get_layer("first")(x)
    np.testing.assert_allclose(sorted(twin.losses), sorted([2.0, np.mean(given)]), rtol=1e-5)
    assert not np.allclose(twin(x, training=True), twin(x))


def test_a_carried_layer_trains_under_tf_keras():
    model = custom_model()
    twin, scaled = to_legacy(model), model.get_layer("scaled")
    before, offset = scaled.scale.numpy(), scaled.offset.numpy()
    twin.compile("sgd", "mse")
    x = np.ones((4, 3), "float32")
    twin.fit(x, np.ones((4, 1)), verbose=0)
    assert not np.allclose(scaled.scale.numpy(), before)
    np.testing.assert_array_equal(scaled.offset.numpy(), offset)


def test_a_frozen_layer_is_frozen_carried_or_not():
    model = custom_model()
    model.get_layer("scaled").trainable = False
    model.get_layer("first").trainable = False
    twin = to_legacy(model)
    assert [w.shape.as_list() for w in twin.trainable_weights] == [[4, 1], [1]]
    assert not twin.get_layer("scaled").trainable


def test_a_clone_of_a_carried_layer_has_weights_of_its_own():
    model = custom_model()
    twin = to_legacy(model)
    clone = tf_keras.models.clone_model(twin)
    clone.set_weights(twin.get_weights())
    x = np.ones((2, 3), "float32")
    np.testing.assert_array_equal(clone(x), twin(x))
    model.get_layer("scaled").scale.assign(np.zeros(4))
    assert not np.allclose(clone(x), twin(x))


class Mine(tf_keras.layers.Layer):
    def build(self, shape):
        self.s = self.add_weight(name="s", shape=(shape[-1],), regularizer="l2")
        self.o = self.add_weight(name="o", shape=(shape[-1],), trainable=False)

    def call(self, x):
        return x * self.s + self.o


def test_a_factorys_layer_takes_its_place_and_its_weights():
    model = custom_model()
    model.get_layer("scaled").scale.assign([1.0, 2.0, 3.0, 4.0])
    twin = to_legacy(model, layers={Scaled: lambda layer: Mine()})
    assert kinds(twin)["scaled"] == "Mine"
    np.testing.assert_array_equal(twin.get_layer("scaled").s, [1.0, 2.0, 3.0, 4.0])
    x = np.ones((2, 3), "float32")
    np.testing.assert_allclose(twin(x), model(x), rtol=1e-6)


def test_a_factory_whose_weights_differ_is_told_the_path_and_both_shapes():
    make = {Scaled: lambda layer: tf_keras.layers.BatchNormalization()}
    with pytest.raises(ValueError, match=r"'scaled'.*Scaled.*s \(4,\).*gamma \(4,\)"):
        to_legacy(custom_model(), layers=make)
    with pytest.raises(ValueError, match=r"made builtins.int|made int for 'scaled'"):
        to_legacy(custom_model(), layers={Scaled: lambda layer: 3})


def test_a_factory_that_computes_something_else_is_found_out():
    make = {Scaled: lambda layer: tf_keras.layers.Dense(4, name="x")}
    with pytest.raises(ValueError, match="'scaled'"):
        to_legacy(custom_model(), layers=make)

    class Doubled(Mine):
        def call(self, x):
            return 2 * super().call(x)

    with pytest.raises(ValueError, match=r"does not answer like it.*skip="):
        to_legacy(custom_model(), layers={Scaled: lambda layer: Doubled()})


def test_a_layer_that_fails_is_named_with_the_ways_out():
    class Failing(Mine):
        def call(self, x):
            raise TypeError("no such thing")

    with pytest.raises(ValueError, match=r"(?s)'scaled' \(.*Scaled\).*no such thing.*skip="):
        to_legacy(custom_model(), layers={Scaled: lambda layer: Failing()})


def test_skip_carries_by_name_path_and_class(forked, forked_batch):
    model = forked()
    twin = to_legacy(model, skip=["label", "text/table", keras.layers.BatchNormalization])
    assert kinds(twin)["label"] == "Carried"
    assert kinds(twin)["score"] == "Dense"
    assert kinds(twin.get_layer("text"))["table"] == "Carried"
    assert kinds(twin.get_layer("block")) == {"point": "Conv2D", "norm": "Carried"}
    np.testing.assert_allclose(twin(forked_batch)["label"], model(forked_batch)["label"], atol=1e-5)
    with pytest.raises(ValueError, match=r"skip names 'lable'"):
        to_legacy(model, skip=["lable"])


def test_masks_reach_a_recurrent_layer():
    tokens = keras.Input((5,), dtype="int32")
    x = keras.layers.Embedding(4, 3, mask_zero=True)(tokens)
    x = keras.layers.LayerNormalization(name="norm")(x)
    model = keras.Model(tokens, keras.layers.LSTM(2)(x))
    twin = to_legacy(model, skip=["norm"])  # Carried, it has to hand the mask on.
    x = np.array([[1, 2, 3, 0, 0], [1, 2, 3, 2, 0]], "int32")
    np.testing.assert_allclose(twin(x), model(x), rtol=1e-5)
    assert isinstance(twin.layers[2], carried_class())
    assert np.abs(twin(x)[0] - twin(np.array([[1, 2, 3, 2, 2]], "int32"))[0]).max() > 1e-6


def test_attention_with_arguments_by_name_and_states():
    a, b = keras.Input((4, 6), name="a"), keras.Input((3, 6), name="b")
    attended = keras.layers.MultiHeadAttention(2, 3, value_dim=5, name="heads")(
        a, value=b, use_causal_mask=True
    )
    sequence, h, c = keras.layers.LSTM(6, return_sequences=True, return_state=True)(attended)
    last = keras.layers.LSTM(6)(sequence, initial_state=[c, h])
    plain = keras.layers.Attention(use_scale=True, score_mode="concat")([a, b])
    model = keras.Model([a, b], [attended, last, plain])
    twin = to_legacy(model)
    assert "Carried" not in kinds(twin).values()
    assert kinds(to_keras3(twin)) == kinds(model)
    generator = np.random.default_rng(0)
    x = [generator.normal(size=(2, n, 6)).astype("float32") for n in (4, 3)]
    for mine, theirs, back in zip(twin(x), model(x), to_keras3(twin)(x), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
        np.testing.assert_array_equal(back, theirs)


def test_open_sizes_and_static_batches_stay():
    open_ended = keras.Input((None, None, 3))
    twin = to_legacy(keras.Model(open_ended, keras.layers.Conv2D(2, 3)(open_ended)))
    assert twin.input_shape == (None, None, None, 3)
    fixed = keras.Input(batch_shape=(2, 5), dtype="float32")
    twin = to_legacy(keras.Model(fixed, keras.layers.Dense(2)(fixed)))
    assert twin.input_shape == (2, 5)


def test_what_is_refused():
    class Hidden(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="subclassed"):
        to_legacy(Hidden())
    with pytest.raises(ValueError, match="Input first"):
        to_legacy(keras.Sequential([keras.layers.Dense(2)]))
    with pytest.raises(TypeError, match=r"tf_keras.*to_keras3"):
        to_legacy(tf_keras.Sequential([tf_keras.Input((2,)), tf_keras.layers.Dense(1)]))
    with pytest.raises(TypeError, match="Keras 3 model"):
        to_legacy(3)
