"""Taps: found by name, path or object; read in the one forward; gone afterwards."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill.signals import taps


def backbone():
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, name="inner")], name="backbone"
    )


@pytest.fixture
def nested():
    inputs = keras.Input((4,))
    hidden = backbone()(inputs)
    return keras.Model(inputs, keras.layers.Dense(2, name="inner_too")(hidden), name="outer")


def read(model, tap, x):
    with taps.recording([taps.find(model, tap)]) as recorder:
        y = model(x)
    return recorder.outputs(y)[0]


X = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")


@pytest.mark.parametrize("tap", ["inner", "backbone/inner"])
def test_a_name_and_a_path_find_the_nested_layer(nested, tap):
    layer = nested.get_layer("backbone").get_layer("inner")
    np.testing.assert_allclose(read(nested, tap, X), layer(X), rtol=1e-6)


def test_a_layer_object_is_its_own_name(nested):
    layer = nested.get_layer("backbone").get_layer("inner")
    np.testing.assert_allclose(read(nested, layer, X), layer(X), rtol=1e-6)


def test_a_shared_layers_second_call():
    shared = keras.layers.Dense(4, name="shared")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, shared(shared(inputs)))
    np.testing.assert_allclose(read(model, "shared", X), shared(X), rtol=1e-6)
    np.testing.assert_allclose(read(model, "shared:1", X), shared(shared(X)), rtol=1e-5)


def test_a_call_that_does_not_happen_is_said(nested):
    with pytest.raises(ValueError, match=r"ran 1 times.*asks for call 1"):
        read(nested, "inner:1", X)


def test_subclassed_models_too():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.block = backbone()
            self.head = keras.layers.Dense(2)

        def call(self, x):
            return self.head(self.block(x))

    model = Model()
    model(X)
    np.testing.assert_allclose(read(model, "backbone/inner", X), model.block(X), rtol=1e-6)


def test_in_a_graph_the_tap_is_part_of_the_graph(nested):
    recorded = tf.function(lambda x: read(nested, "inner", x), autograph=False)
    layer = nested.get_layer("backbone").get_layer("inner")
    np.testing.assert_allclose(recorded(tf.constant(X)), layer(X), rtol=1e-6)


def test_the_layer_is_left_as_it_was(nested):
    layer = nested.get_layer("backbone").get_layer("inner")
    before = dict(vars(layer))
    with pytest.raises(ValueError, match="incompatible"):
        read(nested, "inner", X[:, :2])
    assert "call" not in vars(layer)
    assert vars(layer).keys() == before.keys()


def test_two_recordings_of_one_layer_do_not_part_it_early(nested):
    layer = nested.get_layer("backbone").get_layer("inner")
    outer, inner = ([taps.find(nested, "inner")] for _ in range(2))
    with taps.recording(outer) as recorder:
        with taps.recording(inner):
            pass
        y = nested(X)
    np.testing.assert_allclose(recorder.outputs(y)[0], layer(X), rtol=1e-6)


def test_a_name_of_two_layers_is_ambiguous():
    inputs = keras.Input((4,))
    one, two = (
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="same")], name=name)
        for name in ("first", "second")
    )
    model = keras.Model(inputs, two(one(inputs)))
    with pytest.raises(ValueError, match="first/same, second/same"):
        taps.find(model, "same")
    assert taps.find(model, "second/same").layer is two.get_layer("same")


def test_a_missing_name_offers_the_nearest(nested):
    with pytest.raises(ValueError, match=r"'inner_tow'.*nearest names are .*inner_too"):
        taps.find(nested, "inner_tow")


def test_a_layer_of_another_model_is_refused(nested):
    with pytest.raises(ValueError, match="no part of the model 'outer'"):
        taps.find(nested, keras.layers.Dense(1, name="stranger"))


@pytest.mark.parametrize(
    ("called_before", "message"),
    [(False, "graph of its own"), (True, r"ran 0 times.*tf\.function of its own")],
)
def test_a_layer_behind_a_function_of_the_models_own_is_refused(called_before, message):
    class Compiled(keras.Model):
        def __init__(self):
            super().__init__()
            self.block = backbone()
            self.run = tf.function(self.block)

        def call(self, x):
            return self.run(x)

    model = Compiled()
    if called_before:  # its function is traced, and the layer's call runs no more
        model(X)
    with pytest.raises(ValueError, match=message):
        read(model, "inner", X)


def test_a_rematerialised_layer_is_refused():
    with keras.RematScope(mode="full"):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="again")])
    with pytest.raises(ValueError, match="recomputes its forward"):
        taps.find(model, "again")


def test_a_layer_of_two_outputs_is_refused():
    inputs = keras.Input((3, 4))
    lstm = keras.layers.LSTM(2, return_state=True, name="lstm")
    model = keras.Model(inputs, lstm(inputs)[0])
    with pytest.raises(ValueError, match="returns 3 tensors"):
        read(model, "lstm", np.zeros((2, 3, 4), "float32"))


def test_a_wrapper_of_its_layers_name_is_no_second_match():
    class Doubled(keras.layers.Layer):
        def __init__(self, layer):
            super().__init__(name=layer.name)
            self.layer = layer

        def call(self, x):
            return 2 * self.layer(x)

    inner = keras.Sequential(
        [keras.Input((3,)), Doubled(keras.layers.Dense(2, name="conv"))], name="backbone"
    )
    model = keras.Sequential([keras.Input((3,)), inner])
    found = taps.find(model, "conv")
    assert found.path == "backbone/conv"
    assert found.layer is inner.layers[0]


@pytest.fixture
def masked():
    """Reads tokens and a mask, inside itself by a nested model, too."""
    tokens, mask = keras.Input((4,), name="tokens"), keras.Input((4,), dtype="int32", name="mask")
    inner = keras.Input((4,), name="inner_tokens")
    nested = keras.Model(inner, keras.layers.Dense(3, name="inner")(inner), name="nested")
    shown = keras.ops.cast(mask, "float32")
    return keras.Model([tokens, mask], nested(tokens * shown) + nested(shown), name="masked")


MASK = np.array([[1, 1, 1, 0]] * 5)


@pytest.mark.parametrize("named", [False, True])
def test_an_input_of_the_model(masked, named):
    x = {"mask": MASK, "tokens": X} if named else [X, MASK]
    mask = read(masked, "mask", x)
    np.testing.assert_array_equal(mask, MASK)
    assert mask.dtype == tf.int32  # as the Input has it
    np.testing.assert_array_equal(read(masked, "tokens", x), X)
    np.testing.assert_array_equal(read(masked, masked.get_layer("mask"), x), MASK)


def test_an_input_of_a_nested_model_in_each_of_its_calls(masked):
    found = [taps.find(masked, f"nested/inner_tokens:{call}") for call in (1, 0)]
    with taps.recording([*found, taps.find(masked, "nested:1")]) as recorder:
        y = masked([X, MASK])
    second, first, answer = recorder.outputs(y)
    np.testing.assert_array_equal(second, MASK)
    np.testing.assert_allclose(first, X * MASK, rtol=1e-6)
    np.testing.assert_allclose(answer, masked.get_layer("nested")(second), rtol=1e-6)
    assert "call" not in vars(masked)
    with pytest.raises(ValueError, match=r"'nested/inner_tokens' ran 2 times.*asks for call 2"):
        read(masked, "nested/inner_tokens:2", [X, MASK])


def test_the_input_of_a_sequential_model_and_in_a_graph():
    model = keras.Sequential([keras.Input((4,), name="numbers"), keras.layers.Dense(2)])
    recorded = tf.function(lambda x: read(model, "numbers", x), autograph=False)
    np.testing.assert_array_equal(recorded(tf.constant(X)), X)


def test_the_input_of_a_tf_keras_model():
    tf_keras = pytest.importorskip("tf_keras")
    one, two = tf_keras.Input((4,), name="one"), tf_keras.Input((4,), name="two")
    model = tf_keras.Model([two, one], tf_keras.layers.Add()([one, two]))
    np.testing.assert_array_equal(read(model, "two", {"one": X, "two": X + 1}), X + 1)


def test_a_subclassed_model_has_no_inputs_to_name():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.head = keras.layers.Dense(2, name="head")

        def call(self, x):
            return self.head(x)

    model = Model()
    model(X)
    with pytest.raises(ValueError, match=r"called 'mask'.* no functional model: .*Identity"):
        taps.find(model, "mask")


def test_a_number_that_keras_gave_may_be_left_out():
    def attention(name):
        return keras.layers.MultiHeadAttention(1, 2, dropout=0.1, name=name)

    inputs = keras.Input((3, 4))
    ours, theirs = attention("ours"), attention("theirs")
    attended = theirs(ours(inputs, inputs), inputs)
    kept = keras.layers.Softmax(name="kept_1")
    block = keras.Sequential([kept, keras.layers.Softmax(), keras.layers.Softmax()], name="block")
    model = keras.Model(inputs, block(attended))
    for layer in (ours, theirs):  # only one of them can be the first, which has no number
        assert taps.find(model, f"{layer.name}/softmax").layer is layer._softmax
    with pytest.raises(ValueError, match=r"names 2 layers .*block/softmax_\d, block/softmax_\d"):
        taps.find(model, "block/softmax")
    with pytest.raises(ValueError, match=r"No layer .*'block/kept'"):
        taps.find(model, "block/kept")
