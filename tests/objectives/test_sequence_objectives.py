"""Objectives on sequences, in small encoders made of Keras' own layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill as kd
from keras_distill import functional
from keras_distill.objectives import AttentionMaps, HiddenStates, ValueRelations
from keras_distill.objectives.layer_pairs import map_layers
from keras_distill.signals import taps

LENGTH, TOKENS = 6, 20
rng = np.random.default_rng(0)
X = rng.integers(1, TOKENS, (16, LENGTH))
X[:8, 4:] = 0
MASK = (X != 0).astype("int32")


def encoder(width, blocks, seed, heads=2, length=LENGTH, dropout=0.1):
    """Tokens to two classes, with "tokens", "attention_i" and "states_i" to name."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    inputs = keras.Input((length,), dtype="int32")
    tokens = layers.Identity(name="tokens")(inputs)
    states = layers.Embedding(
        TOKENS, width, keras.initializers.RandomNormal(stddev=1.0), name="embedding"
    )(tokens)
    for i in range(blocks):
        attention = layers.MultiHeadAttention(
            heads, width // heads, dropout=dropout, name=f"attention_{i}"
        )
        attended = layers.Add()([states, attention(states, states)])
        states = layers.LayerNormalization(name=f"states_{i}")(attended)
    pooled = layers.GlobalAveragePooling1D()(states)
    return keras.Model(inputs, layers.Dense(2)(pooled), name=f"encoder_{width}")


def tapped(model, name, x=X):
    with taps.recording([taps.find(model, name)]) as recorder:
        answer = model(x, training=False)
    return recorder.outputs(answer)[0]


def logged(student, teacher, objective):
    """The objective's value on X before any update."""
    distiller = kd.Distiller(student, teacher, objective)
    # Tracing an attention layer costs more than a step.
    distiller.compile(keras.optimizers.SGD(0.0), loss=None, run_eagerly=True)
    history = distiller.fit(X, batch_size=16, shuffle=False, verbose=0).history
    return history[objective.name][0]


def test_hidden_states_of_chosen_layers_without_padding():
    student, teacher = encoder(8, 2, 1), encoder(8, 4, 2)
    objective = HiddenStates(
        ["states_0", "states_1"],
        [f"states_{i}" for i in range(4)],
        mapping="uniform",
        mask="tokens",
    )
    pairs = (("states_0", "states_1"), ("states_1", "states_3"))
    assert objective.pairs == pairs
    student = without_dropout(student)
    expected = np.mean(
        [
            functional.hidden_state_mse(tapped(student, s), tapped(teacher, t), mask=MASK)
            for s, t in pairs
        ]
    )
    assert logged(student, teacher, objective) == pytest.approx(expected, rel=1e-4)


def without_dropout(model):
    for layer in model.layers:
        if isinstance(layer, keras.layers.MultiHeadAttention):
            layer._dropout_layer.rate = 0.0
    return model


def test_a_dict_and_lists_say_the_same():
    by_dict = HiddenStates({"a": "x", "b": "y"})
    by_lists = HiddenStates(["a", "b"], ["x", "y"])
    assert by_dict.pairs == by_lists.pairs == (("a", "x"), ("b", "y"))
    assert by_dict.get_config() == by_lists.get_config()


def test_which_of_the_teachers_layers_teach():
    assert map_layers(4, 12, "uniform") == [2, 5, 8, 11]
    assert map_layers(4, 12, "skip") == [0, 3, 6, 9]
    assert map_layers(4, 12, "last") == [8, 9, 10, 11]
    # Where they do not divide, uniform still ends on the last and never falls back.
    assert map_layers(5, 12, "uniform") == [1, 3, 6, 8, 11]
    for mapping in ("uniform", "skip", "last"):
        assert map_layers(3, 3, mapping) == [0, 1, 2]


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_unequal_widths_get_a_projection_that_trains_and_stays_out_of_the_student(distance):
    student, teacher = encoder(4, 1, 1), encoder(8, 1, 2)
    objective = HiddenStates("states_0", "states_0", distance=distance, mask="tokens")
    distiller = kd.Distiller(student, teacher, objective)
    (projection,) = distiller._adapters.values()
    assert projection.kernel.shape == (4, 8)
    before = projection.kernel.numpy()
    distiller.compile(keras.optimizers.Adam(0.01), loss=None, run_eagerly=True)
    history = distiller.fit(X, epochs=5, verbose=0).history["hidden_states"]
    assert history[-1] < history[0]
    assert np.abs(projection.kernel.numpy() - before).max() > 1e-3
    assert not any(projection.kernel is v for v in student.variables)


def test_attention_probabilities_of_keras_attention_are_tapped():
    student, teacher = encoder(8, 1, 1, heads=2), encoder(8, 1, 2, heads=4)
    attention = tapped(student, "attention_0/softmax")
    assert attention.shape == (16, 2, LENGTH, LENGTH)
    np.testing.assert_allclose(np.sum(attention, -1), 1.0, rtol=1e-5)
    # The same scores that the layer returns when it is asked for them.
    states = tapped(student, "embedding")
    _, scores = student.get_layer("attention_0")(states, states, return_attention_scores=True)
    np.testing.assert_allclose(attention, scores, rtol=1e-5)
    theirs = tapped(teacher, "attention_0/softmax")
    expected = np.mean(functional.attention_kl(attention, theirs, mask=MASK))
    objective = AttentionMaps("attention_0/softmax", "attention_0/softmax", mask="tokens")
    assert logged(student, teacher, objective) == pytest.approx(expected, rel=1e-4)


def test_attention_is_tapped_where_scores_are_returned_and_nothing_drops():
    inputs = keras.Input((LENGTH, 4))
    layer = keras.layers.MultiHeadAttention(2, 2, name="attention")
    attended, scores = layer(inputs, inputs, return_attention_scores=True)
    shown = keras.layers.Identity(name="scores")(scores)
    model = keras.Model(inputs, [attended, shown])
    x = rng.normal(size=(3, LENGTH, 4)).astype("float32")
    by_name, by_layer = tapped(model, "scores", x), tapped(model, layer._softmax, x)
    np.testing.assert_array_equal(by_name, by_layer)
    # The fused kernel has no probabilities to show, and the error says so.
    fused = keras.Model(inputs, layer(inputs, inputs))
    with pytest.raises(ValueError, match=r"attention/softmax.* ran 0 times"):
        kd.Distiller(fused, fused, AttentionMaps(layer._softmax, layer._softmax))


def test_value_relations_of_keras_attention_with_relation_heads():
    student, teacher = encoder(4, 1, 1, heads=2), encoder(12, 2, 2, heads=3)
    with pytest.raises(ValueError, match=r"ValueRelations.*2, 2\).*3, 4\).*Give a heads="):
        kd.Distiller(student, teacher, ValueRelations("attention_0/value", "attention_1/value"))
    objective = ValueRelations("attention_0/value", "attention_1/value", heads=4, mask="tokens")
    expected = np.mean(
        functional.value_relation_kl(
            tapped(student, "attention_0/value"),
            tapped(teacher, "attention_1/value"),
            heads=4,
            mask=MASK,
        )
    )
    assert logged(student, teacher, objective) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", [HiddenStates, AttentionMaps, ValueRelations])
def test_other_words_under_the_padding_change_nothing(kind):
    student, teacher = without_dropout(encoder(8, 1, 1)), encoder(8, 1, 2)
    names = {
        HiddenStates: ("embedding", "embedding"),
        AttentionMaps: ("attention_0/softmax", "attention_0/softmax"),
        ValueRelations: ("attention_0/value", "attention_0/value"),
    }[kind]
    objective = kind(*names, mask="mask")
    specs = [kd.Signals(keras.KerasTensor((None, 2)), {
        name: keras.KerasTensor((None, *tapped(model, name).shape[1:])),
        "mask": keras.KerasTensor((None, LENGTH), dtype="int32"),
    }) for model, name in zip((student, teacher), names, strict=True)]  # fmt: skip
    objective.build(*specs)
    other = np.where(MASK == 1, X, rng.integers(1, TOKENS, X.shape))

    def value(x):
        signals = [
            kd.Signals(None, {name: tapped(model, name, x), "mask": tf.constant(MASK)})
            for model, name in zip((student, teacher), names, strict=True)
        ]
        return np.asarray(objective(*signals, None))

    np.testing.assert_allclose(value(X), value(other), rtol=1e-4)
    objective.mask = None
    assert np.abs(value(X) - value(other))[:8].max() > 1e-4


def test_a_distiller_goes_on_from_its_checkpoint(tmp_path):
    teacher = encoder(8, 1, 2)

    def make():
        student = encoder(4, 1, 1, dropout=0.0)
        objectives = [
            HiddenStates("states_0", "states_0", mask="tokens"),
            ValueRelations("attention_0/value", "attention_0/value", mask="tokens"),
        ]
        distiller = kd.Distiller(student, teacher, objectives)
        distiller.compile(keras.optimizers.Adam(0.01), loss=None, run_eagerly=True)
        return distiller

    first, second = make(), make()
    first.fit(X, shuffle=False, verbose=0)
    first.save_weights(tmp_path / "d.weights.h5")
    second.load_weights(tmp_path / "d.weights.h5")
    logs = [d.fit(X, shuffle=False, verbose=0).history for d in (first, second)]
    assert logs[0] == logs[1]
    first.save(tmp_path / "d.keras")
    loaded = kd.Distiller.load(tmp_path / "d.keras", teacher)
    assert [o.get_config() for o in loaded.objectives] == [o.get_config() for o in first.objectives]
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), first.predict(X, verbose=0))


def with_mask_as_input(seed, length=LENGTH):
    """An encoder that is given which tokens are real, as tokenizers say it."""
    inner = without_dropout(encoder(8, 1, seed))
    tokens = keras.Input((LENGTH,), dtype="int32", name="token_ids")
    mask = keras.Input((length,), dtype="int32", name="padding_mask")
    counted = keras.ops.cast(keras.ops.sum(mask, axis=1, keepdims=True), "float32")
    return keras.Model([tokens, mask], inner(tokens) * counted)


@pytest.mark.parametrize("kind", [HiddenStates, AttentionMaps])
def test_the_mask_may_be_an_input_of_the_student(kind):
    student, teacher = with_mask_as_input(1), with_mask_as_input(2)
    inner = [model.get_layer("encoder_8") for model in (student, teacher)]
    layer = {HiddenStates: "states_0", AttentionMaps: "attention_0/softmax"}[kind]
    loss = {HiddenStates: functional.hidden_state_mse, AttentionMaps: functional.attention_kl}[kind]
    ours, theirs = (tapped(model, layer) for model in inner)
    expected = [np.mean(loss(ours, theirs, mask=mask)) for mask in (MASK, None)]
    assert expected[0] != pytest.approx(expected[1], rel=1e-3)
    distiller = kd.Distiller(student, teacher, kind(layer, layer, mask="padding_mask"))
    distiller.compile(keras.optimizers.SGD(0.0), loss=None, run_eagerly=True)
    (name,) = (objective.name for objective in distiller.objectives)
    x = {"padding_mask": MASK, "token_ids": X}
    value = distiller.fit(x, batch_size=16, shuffle=False, verbose=0).history[name][0]
    assert value == pytest.approx(expected[0], rel=1e-4)


def test_a_mask_input_of_another_length_is_refused_when_built():
    student = with_mask_as_input(1, length=LENGTH - 1)
    objective = HiddenStates("states_0", "states_0", mask="padding_mask")
    message = (
        r"HiddenStates\('states_0', 'states_0'\): mask='padding_mask' marks 5 positions.* of 6"
    )
    with pytest.raises(ValueError, match=message):
        kd.Distiller(student, student, objective)


def masked_student(mask_shape):
    """A student whose layer "mask" gives some other shape."""
    inputs = keras.Input((LENGTH,), dtype="int32")
    states = keras.layers.Embedding(TOKENS, 8, name="states")(inputs)
    mask = keras.layers.Dense(int(np.prod(mask_shape)))(keras.layers.Flatten()(states))
    mask = keras.layers.Reshape(mask_shape, name="mask")(mask)
    pooled = keras.layers.GlobalAveragePooling1D()(states)
    joined = keras.layers.Concatenate()([pooled, keras.layers.Flatten()(mask)])
    return keras.Model(inputs, keras.layers.Dense(2)(joined))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((LENGTH + 1,), r"mask='mask' marks 7 positions, \(None, 7\), of 6"),
        ((LENGTH, 2), r"mask='mask' must name .* \(batch, time\); its output is \(None, 6, 2\)"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_when_built(shape, message):
    objective = HiddenStates("states", "embedding", mask="mask")
    with pytest.raises(ValueError, match=rf"HiddenStates\('states', 'embedding'\): {message}"):
        kd.Distiller(masked_student(shape), encoder(8, 1, 2), objective)


def test_a_mask_may_have_an_axis_of_one_behind():
    objective = HiddenStates("states", "embedding", mask="mask")
    assert logged(masked_student((LENGTH, 1)), encoder(8, 1, 2), objective) > 0


def test_lengths_that_differ_name_both_layers_and_shapes():
    teacher = encoder(8, 1, 2, length=LENGTH + 2)
    with pytest.raises(
        ValueError, match=r"\('states_0', 'states_0'\).*6, 8\).*8, 8\): 6 positions"
    ):
        kd.Distiller(
            encoder(8, 1, 1), kd.teachers.Model(teacher), HiddenStates("states_0", "states_0"),
            teacher_preprocess=pad_by_two,
        )  # fmt: skip


def pad_by_two(x):
    return keras.ops.pad(x, ((0, 0), (0, 2)))


def test_layers_of_another_kind_are_refused_with_what_is_due():
    student, teacher = encoder(8, 1, 1), encoder(8, 1, 2)
    with pytest.raises(ValueError, match=r"AttentionMaps.*\(batch, heads, time, time\)"):
        kd.Distiller(student, teacher, AttentionMaps("states_0", "states_0"))
    with pytest.raises(ValueError, match=r"HiddenStates.*\(batch, time, width\)"):
        kd.Distiller(student, teacher, HiddenStates("attention_0/value", "attention_0/value"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"student": ["a", "b"], "teacher": ["x"]}, r"2 layers of the student and 1 .*mapping="),
        ({"student": ["a", "b"], "teacher": ["x"], "mapping": "last"}, r"there are 1 for 2"),
        (
            {"student": "a", "teacher": "x", "mapping": "first"},
            r"'uniform', 'skip', .*'first'",
        ),
        ({"student": {"a": "x"}, "mapping": "last"}, r"leave teacher= and mapping= out"),
        ({"student": "a"}, r"name layers of both models"),
        ({"student": "a", "teacher": "x", "distance": "mae"}, r"distance must be one of .*'mae'"),
    ],
)
def test_what_can_not_be_paired_is_refused(arguments, message):
    with pytest.raises(ValueError, match=f"hidden_states: .*{message}|hidden_states: {message}"):
        HiddenStates(**arguments)
