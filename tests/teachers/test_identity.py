"""The digest of a traced function: what decides its answers and nothing else."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras import layers

from keras_distill.teachers import identity

ROW = tf.TensorSpec((None, 3), "float32")
WEIGHTS = np.random.default_rng(0).normal(size=(3, 300)).astype("float32")
CHANGED = WEIGHTS + np.eye(3, 300, dtype="float32")


def traced(function, spec=ROW):
    return tf.function(function, autograph=False).get_concrete_function(spec)


def mlp(slope=0.3, epsilon=1e-3, scale=1.0, seed=0, last=layers.Softmax):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Rescaling(scale),
            layers.Dense(4),
            layers.BatchNormalization(epsilon=epsilon),
            layers.LeakyReLU(negative_slope=slope),
            layers.Dropout(0.5),
            last(),
        ]
    )
    return traced(lambda x: [model(x, training=False)])


KEPT = []


def times(weights):
    KEPT.append(weights)  # a function does not hold its variables
    return traced(lambda x: tf.cast(x, weights.dtype) @ weights)


def legacy(slope):
    tf_keras.utils.set_random_seed(0)
    model = tf_keras.Sequential(
        [tf_keras.Input((3,)), tf_keras.layers.LeakyReLU(slope), tf_keras.layers.Dense(2)]
    )
    return traced(lambda x: model(x, training=False))


def lookup(words):
    layer = layers.StringLookup(vocabulary=words)
    return traced(layer, tf.TensorSpec((None, 1), tf.string))


def called(factor):
    inner = tf.function(lambda x: tf.nn.softmax(x * factor))
    return traced(lambda x: inner(x) + 1)


def repeated(times):
    def loop(x):
        step = tf.while_loop(lambda i, y: i < times, lambda i, y: (i + 1, y * 2), [0, x])
        return step[1]

    return traced(loop)


def mirrored(seed):
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        return mlp(seed=seed)


# What makes a function, its argument, and another that changes the answers.
CHANGES = {
    "slope": (lambda value: mlp(slope=value), 0.3, 0.2),
    "epsilon": (lambda value: mlp(epsilon=value), 1e-3, 1e-5),
    "scale": (lambda value: mlp(scale=value), 1.0, 2.0),
    "weights": (lambda value: mlp(seed=value), 0, 1),
    "operation": (lambda value: mlp(last=value), layers.Softmax, layers.ReLU),
    "weights under a strategy": (mirrored, 0, 1),
    "tf_keras": (legacy, 0.3, 0.2),
    "array": (times, WEIGHTS, CHANGED),
    "small array": (times, WEIGHTS[:, :2], CHANGED[:, :2]),
    "tensor": (lambda value: times(tf.constant(value)), WEIGHTS, CHANGED),
    "variable": (lambda value: times(tf.Variable(value)), WEIGHTS, CHANGED),
    "bfloat16": (lambda value: times(tf.cast(value, "bfloat16")), WEIGHTS, CHANGED),
    "table": (lookup, ["a", "b"], ["a", "c"]),
    "inner function": (called, 2.0, 3.0),
    "loop": (repeated, 3, 4),
    "order of inputs": (lambda value: traced(lambda x: x[:, value] - x[:, 1 - value]), 0, 1),
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_same_again_has_the_same_digest_and_another_has_another(what):
    make, value, other = CHANGES[what]
    digest = identity.of_function(make(value))
    # Between the two Keras counts its layers' names up.
    assert identity.of_function(make(value)) == digest
    assert identity.of_function(make(other)) != digest


def test_only_the_outputs_asked_for_count():
    one, two = (traced(lambda x, f=factor: [x + 1, x * f]) for factor in (2.0, 3.0))
    first = [identity.of_function(f, f.outputs[:1]) for f in (one, two)]
    assert first[0] == first[1]
    assert identity.of_function(one) != identity.of_function(two)


def test_python_inside_is_known_by_its_answers():
    hidden = traced(lambda x: tf.numpy_function(np.sin, [x], tf.float32))
    assert identity.is_opaque(hidden)
    assert not identity.is_opaque(mlp())
    specs = [ROW, tf.TensorSpec((None, None), "int32"), tf.TensorSpec((None, 1), "string")]
    rows = [identity.made_up_rows(specs) for _ in range(2)]
    one, same, other = (
        identity.of_answers([function(x[0]), x[1], x[2]])
        for function, x in ((np.sin, rows[0]), (np.sin, rows[1]), (np.cos, rows[0]))
    )
    assert one == same != other
