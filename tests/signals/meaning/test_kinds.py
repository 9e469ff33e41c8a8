"""What a model's output means, behind whatever keeps it, and the logits that are still there."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from scipy import special

from keras_distill.signals import outputs
from keras_distill.signals.meaning import kind_of, logits_behind

ROW, STEPS, IMAGE = (3,), (4, 3), (4, 4, 3)


def two(ending):
    return lambda x: [ending(x), ending(2 * x)]


def softmaxes(x):
    return two(ops.softmax)(x)


def sigmoids(x):
    return two(ops.sigmoid)(x)


class Inner(layers.Layer):
    """Runs a function in a graph of its own."""

    def __init__(self, function):
        super().__init__()
        self.inner = tf.function(function)

    def call(self, x):
        return self.inner(x)


def branch(x):
    return tf.cond(tf.reduce_sum(x) > 0, lambda: tf.nn.softmax(x), lambda: tf.nn.softmax(-x))


def quantised(x):
    return tf.quantization.fake_quant_with_min_max_args(x, 0, 1)


def exponential(x):
    e = ops.exp(x - ops.max(x, axis=-1, keepdims=True))
    return e / ops.sum(e, axis=-1, keepdims=True)


# A function of Keras tensors, the shape it takes, what its output means.
FOUND = {
    "softmax": (ops.softmax, ROW, "probabilities"),
    "softmax layer": (layers.Softmax(), ROW, "probabilities"),
    "lambda": (layers.Lambda(lambda x: tf.nn.softmax(x)), ROW, "probabilities"),
    "cast": (
        lambda x: ops.cast(ops.cast(ops.softmax(x), "float16"), "float32"),
        ROW,
        "probabilities",
    ),
    "dropout": (lambda x: layers.Dropout(0.5)(ops.softmax(x)), ROW, "probabilities"),
    "reshape": (lambda x: layers.Reshape((2, 2, 4, 3))(ops.softmax(x)), IMAGE, "probabilities"),
    "flatten one": (lambda x: layers.Flatten()(ops.softmax(x[:, None])), ROW, "probabilities"),
    "expand and squeeze": (
        lambda x: ops.squeeze(ops.expand_dims(ops.softmax(x), 1), 1),
        ROW,
        "probabilities",
    ),
    "permute": (lambda x: layers.Permute((2, 1, 3))(ops.softmax(x)), IMAGE, "probabilities"),
    "other axis, moved": (
        lambda x: layers.Permute((2, 1))(layers.Softmax(axis=1)(x)),
        STEPS,
        "probabilities",
    ),
    "average": (lambda x: layers.Average()(softmaxes(x)), ROW, "probabilities"),
    "weighted mean": (lambda x: 0.3 * ops.softmax(x) + 0.7 * ops.softmax(-x), ROW, "probabilities"),
    "mean of a stack": (lambda x: ops.mean(ops.stack(softmaxes(x)), 0), ROW, "probabilities"),
    "mean over positions": (
        lambda x: layers.GlobalAveragePooling2D()(ops.softmax(x)),
        IMAGE,
        "probabilities",
    ),
    "average pooling": (
        lambda x: layers.AveragePooling2D(2)(ops.softmax(x)),
        IMAGE,
        "probabilities",
    ),
    "stack": (lambda x: ops.stack(softmaxes(x), 1), ROW, "probabilities"),
    "stack before the classes": (lambda x: ops.stack(softmaxes(x), -2), STEPS, "probabilities"),
    "concatenated positions": (
        lambda x: layers.Concatenate(axis=1)(softmaxes(x)),
        STEPS,
        "probabilities",
    ),
    "crop": (lambda x: layers.Cropping2D(1)(ops.softmax(x)), IMAGE, "probabilities"),
    "last step": (lambda x: ops.softmax(x)[:, -1], STEPS, "probabilities"),
    "repeat": (lambda x: layers.RepeatVector(2)(ops.softmax(x)), ROW, "probabilities"),
    "upsampling": (lambda x: layers.UpSampling2D(2)(ops.softmax(x)), IMAGE, "probabilities"),
    "upsampling, bilinear": (
        lambda x: layers.UpSampling2D(2, interpolation="bilinear")(ops.softmax(x)),
        IMAGE,
        "probabilities",
    ),
    "resizing": (lambda x: layers.Resizing(7, 7)(ops.softmax(x)), IMAGE, "probabilities"),
    "resizing, nearest": (
        lambda x: layers.Resizing(7, 7, interpolation="nearest")(ops.softmax(x)),
        IMAGE,
        "probabilities",
    ),
    "clip": (lambda x: ops.clip(ops.softmax(x), 1e-7, 1 - 1e-7), ROW, "probabilities"),
    "floor": (lambda x: ops.maximum(ops.softmax(x), 1e-7), ROW, "probabilities"),
    "fake quantisation": (lambda x: layers.Lambda(quantised)(ops.softmax(x)), ROW, "probabilities"),
    "exp of log softmax": (lambda x: ops.exp(ops.log_softmax(x)), ROW, "probabilities"),
    "written out": (layers.Lambda(exponential), ROW, "probabilities"),
    "function": (Inner(tf.nn.softmax), ROW, "probabilities"),
    "function behind a softmax": (
        lambda x: Inner(lambda p: tf.reshape(p, [-1, 12, 3]) * 1.0)(ops.softmax(x)),
        (4, 3, 3),
        "probabilities",
    ),
    "condition": (Inner(branch), ROW, "probabilities"),
    "every step": (
        lambda x: layers.TimeDistributed(layers.Dense(2, "softmax"))(x),
        STEPS,
        "probabilities",
    ),
    "sigmoid": (ops.sigmoid, ROW, "sigmoid"),
    "sigmoid, flattened": (lambda x: layers.Flatten()(ops.sigmoid(x)), STEPS, "sigmoid"),
    "sigmoid, permuted": (lambda x: layers.Permute((2, 1))(ops.sigmoid(x)), STEPS, "sigmoid"),
    "sigmoids, concatenated": (lambda x: layers.Concatenate()(sigmoids(x)), ROW, "sigmoid"),
    "sigmoids, averaged": (lambda x: layers.Average()(sigmoids(x)), ROW, "sigmoid"),
    "sigmoid, some": (lambda x: ops.sigmoid(x)[:, 1:], ROW, "sigmoid"),
    "sigmoid, largest": (lambda x: layers.GlobalMaxPooling1D()(ops.sigmoid(x)), STEPS, "sigmoid"),
    "sigmoid, chosen": (lambda x: ops.where(x > 0, *sigmoids(x)), ROW, "sigmoid"),
    "sigmoid, clipped": (lambda x: ops.clip(ops.sigmoid(x), 1e-7, 1 - 1e-7), ROW, "sigmoid"),
    "no": (lambda x: 1 - ops.sigmoid(x), ROW, "sigmoid"),
    "sigmoid, written out": (lambda x: 1 / (1 + ops.exp(-x)), ROW, "sigmoid"),
    "exp of log sigmoid": (lambda x: ops.exp(ops.log_sigmoid(x)), ROW, "sigmoid"),
    "hard sigmoid": (ops.hard_sigmoid, ROW, "sigmoid"),
    "one of several classes": (lambda x: ops.softmax(x)[:, 1:2], ROW, "sigmoid"),
    # No distribution over the last axis, no yes or no each.
    "linear": (lambda x: 2 * x + 1, ROW, "logits"),
    "sum": (lambda x: ops.softmax(x) + ops.softmax(2 * x), ROW, "logits"),
    "scaled": (lambda x: layers.Rescaling(10.0)(ops.sigmoid(x)), ROW, "logits"),
    "a gate": (lambda x: x * ops.sigmoid(x), ROW, "logits"),
    "softmax, flattened": (lambda x: layers.Flatten()(ops.softmax(x)), STEPS, "logits"),
    "other axis": (layers.Softmax(axis=1), STEPS, "logits"),
    "softmax, permuted away": (lambda x: layers.Permute((2, 1))(ops.softmax(x)), STEPS, "logits"),
    "concatenated classes": (lambda x: layers.Concatenate()(softmaxes(x)), ROW, "logits"),
    "stacked behind the classes": (lambda x: ops.stack(softmaxes(x), -1), ROW, "logits"),
    "mixed": (lambda x: layers.Average()([ops.softmax(x), ops.sigmoid(x)]), ROW, "logits"),
    "some with logits": (lambda x: layers.Concatenate()([ops.sigmoid(x), x]), ROW, "logits"),
    "largest of positions": (lambda x: ops.max(ops.softmax(x), 1), STEPS, "logits"),
    "a layer above": (lambda x: layers.Dense(3)(ops.softmax(x)), ROW, "logits"),
    "log softmax": (ops.log_softmax, ROW, "logits"),
    "one class of each": (lambda x: ops.softmax(x)[..., 0], (3, 3), "logits"),
    "one class of each, taken": (lambda x: ops.take(ops.softmax(x), 0, axis=-1), (3, 3), "logits"),
    "several of the classes": (lambda x: ops.softmax(x)[:, 1:], ROW, "logits"),
}
# What keeps every number between the softmax or sigmoid and the output.
REACHED = {
    "softmax",
    "cast",
    "softmax layer",
    "lambda",
    "dropout",
    "reshape",
    "flatten one",
    "permute",
    "expand and squeeze",
    "other axis, moved",
    "stack",
    "stack before the classes",
    "concatenated positions",
    "crop",
    "last step",
    "repeat",
    "upsampling",
    "resizing, nearest",
    "exp of log softmax",
    "every step",
    "sigmoid",
    "sigmoid, flattened",
    "sigmoid, permuted",
    "sigmoids, concatenated",
    "sigmoid, some",
}


def run(name, x):
    """A model's output on a batch, its kind, and what is behind it, from one trace."""
    function, shape, _ = FOUND[name]
    inputs = keras.Input(shape)
    model = keras.Model(inputs, function(inputs))
    found = {}

    def forward(x):
        output = model(x, training=False)
        found["kind"] = kind_of(output)
        ending = {"probabilities": "Softmax", "sigmoid": "Sigmoid"}.get(found["kind"], "none")
        found["behind"] = logits = logits_behind(output, ending)
        as_logits = outputs.head_of(output, found["kind"]).logits
        return output, as_logits, output if logits is None else logits

    answers = tf.function(forward, autograph=False)(x)
    return found["kind"], found["behind"] is not None, *(a.numpy() for a in answers)


@pytest.mark.parametrize("name", FOUND)
def test_a_kind_is_found_and_its_logits_say_what_the_output_says(name):
    _, shape, expected = FOUND[name]
    x = np.random.default_rng(0).normal(0, 3, (2, *shape)).astype("float32")
    kind, reached, output, as_logits, behind = run(name, x)
    assert kind == expected
    assert reached == (name in REACHED)
    if kind == "probabilities":
        np.testing.assert_allclose(output.sum(-1), 1, atol=5e-3)
        np.testing.assert_allclose(special.softmax(as_logits, -1), output, rtol=5e-3, atol=1e-5)
    elif kind == "sigmoid":
        np.testing.assert_array_equal(as_logits, output)
        if reached:
            np.testing.assert_allclose(special.expit(behind), output, rtol=1e-5)
    else:
        np.testing.assert_array_equal(as_logits, output)


@pytest.mark.parametrize("name", ["upsampling", "every step", "crop", "permute"])
def test_reached_logits_carry_the_gradient_of_what_is_behind(name):
    # log softmax(z) at z = 200 apart: a logarithm of float32 probabilities would have none.
    function, shape, _ = FOUND[name]
    inputs = keras.Input(shape)
    model = keras.Model(inputs, function(inputs))
    x = tf.constant(np.random.default_rng(0).normal(0, 300, (2, *shape)), "float32")

    @tf.function(autograph=False)
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            logits = outputs.head_of(model(x), "probabilities").logits
            value = tf.reduce_sum(tf.square(logits))
        return tape.gradient(value, x), value

    found, value = gradient(x)
    assert np.isfinite(value)
    assert np.abs(found).max() > 1
