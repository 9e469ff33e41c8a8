"""One mapping holds what a model said, and the logits and kinds are read off it."""

import dataclasses

import keras
import pytest
import tensorflow as tf

import keras_distill as kd
from keras_distill.signals import Head, outputs
from keras_distill.signals.reader import ModelReader, student_reader
from keras_distill.signals.specs import input_spec_of

layers = keras.layers


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        ({}, "logits"),
        ({"from_probabilities": True}, "probabilities"),
        ({"from_sigmoid": True}, "sigmoid"),
        ({"heads": {None: Head(1.0, "sigmoid")}}, "sigmoid"),
    ],
)
def test_an_only_head_is_what_the_signals_say(made, kind):
    signals = kd.Signals(**made) if "heads" in made else kd.Signals(1.0, {"tap": 2.0}, **made)
    assert signals.heads == {None: Head(1.0, kind)}
    assert (signals.logits, signals.kind, signals.names) == (1.0, kind, ())
    assert signals.from_probabilities == (kind == "probabilities")
    assert signals.from_sigmoid == (kind == "sigmoid")
    assert signals.head("any") is signals


def test_several_heads_are_read_by_name():
    signals = kd.Signals({"a": 1.0, "b": 2.0, "c": 3.0}, {"tap": 4.0}, {"b": True}, {"c": True})
    assert signals.names == ("a", "b", "c")
    assert signals.logits == {"a": 1.0, "b": 2.0, "c": 3.0}
    assert signals.kind == {"a": "logits", "b": "probabilities", "c": "sigmoid"}
    assert signals.from_probabilities == {"a": False, "b": True, "c": False}
    assert signals.head("c") == kd.Signals(3.0, {"tap": 4.0}, from_sigmoid=True)
    assert signals.speaking_for({"x": "b"}).heads == {"x": Head(2.0, "probabilities")}
    with pytest.raises(ValueError, match=r"output='d' names no output.*'a', 'b', 'c'"):
        signals.head("d")
    # One that has a name keeps it.
    assert kd.Signals({"a": 1.0}).names == ("a",)


def test_other_numbers_are_of_the_same_kinds():
    signals = kd.Signals({"a": 1.0, "b": 2.0}, {"tap": 3.0}, from_sigmoid={"a": True, "b": False})
    doubled = signals.holding(2 * tensor for tensor in signals.tensors())
    expected = kd.Signals({"a": 2.0, "b": 4.0}, {"tap": 6.0}, from_sigmoid={"a": True})
    assert doubled == expected
    assert signals.changed(lambda head: 2 * head.logits).heads == expected.heads
    assert dataclasses.replace(signals, logits=expected.logits, taps=expected.taps) == expected


def test_other_numbers_are_of_the_same_cache():
    signals = kd.Signals(heads={None: Head(1.0, "sigmoid", top_k=5)})
    for other in (
        signals.holding([2.0]),
        signals.changed(lambda head: 2 * head.logits),
        dataclasses.replace(signals, logits=2.0),
    ):
        assert other.heads == {None: Head(2.0, "sigmoid", top_k=5)}
    assert (signals.top_k, kd.Signals(1.0).top_k) == (5, None)


def models():
    x = keras.Input((4,), name="x")
    hidden = layers.Dense(8, name="hidden")(x)
    logits = layers.Dense(3, name="logits")(hidden)
    yes = layers.Dense(2, activation="sigmoid", name="yes")(hidden)
    softmax = layers.Softmax(name="softmax")(logits)
    return {
        "logits": keras.Model(x, logits),
        "softmax": keras.Model(x, softmax),
        "sigmoid": keras.Model(x, yes),
        "list": keras.Model(x, [yes, softmax]),
        "dict": keras.Model(x, {"yes": yes, "class": softmax}),
    }


@pytest.mark.parametrize("name", models())
def test_a_student_and_a_teacher_are_read_alike(name):
    model, x = models()[name], tf.reshape(tf.range(8.0), (2, 4)) / 8
    reader = student_reader(model, ("hidden",))
    with reader.recording() as recorder:
        answer = model(x, training=False)
    ours = reader.signals(answer, recorder)
    teacher = kd.teachers.Model(model, engine="keras")
    spec, theirs = teacher.prepare(None, ("hidden",)), teacher(x)
    assert ours.heads.keys() == theirs.heads.keys() == spec.heads.keys() == reader.spec.heads.keys()
    assert teacher.kinds() == reader.kinds
    for one, other in zip(ours.tensors(), theirs.tensors(), strict=True):
        tf.debugging.assert_equal(one, other)
    said = {outputs.kind(t, head, "auto") for head, t in reader.heads(answer).items()}
    assert said <= {*outputs.KINDS}


def test_tracing_returns_what_it_found_and_changes_nothing():
    model = models()["dict"]
    asked = ModelReader(model, "the model").tapping(["hidden"])
    before = dataclasses.replace(asked)
    found, graph = asked.traced(input_spec_of(model))
    assert asked == before
    assert asked.kinds == {}
    assert found.kinds == {"class": "probabilities", "yes": "sigmoid"}
    # A softmax whose input was reached gives logits.
    assert found.spec.kind == {"class": "logits", "yes": "sigmoid"}
    shapes = [tuple(tensor.shape) for tensor in found.spec.tensors()]
    assert shapes == [(None, *output.shape[1:]) for output in graph.outputs]
