"""A function that holds its numbers answers as before, and needs no variables for it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from keras_distill import litert
from keras_distill.litert import by_value as module
from keras_distill.litert import converter
from keras_distill.litert.by_value import by_value

X = {"x": tf.TensorSpec((2, 3), tf.float32, name="x")}
RNG = np.random.default_rng(0)
WEIGHT = tf.Variable(RNG.normal(size=(3, 3)).astype("float32"))
HALF = tf.Variable(tf.cast(RNG.normal(size=3), tf.bfloat16))
ON = tf.Variable([True, False, True])
COUNT = tf.Variable(0.0)
ARRAY = tf.constant(RNG.normal(size=(200, 3)).astype("float32"))
WORDS = tf.constant(["one", "two"])
TABLE = tf.lookup.StaticHashTable(
    tf.lookup.KeyValueTensorInitializer(tf.constant([0, 1], tf.int64), tf.constant([5.0, 7.0])), 0.0
)


@tf.function
def inner(x):
    return x @ WEIGHT


def loop(x):
    return tf.while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, x @ WEIGHT), (0, x))[1]


def counted(x):
    COUNT.assign_add(1.0)
    return x + COUNT


def waits(x):
    with tf.control_dependencies([x]):
        return WEIGHT + 1.0


def beside(x):
    with tf.compat.v1.colocate_with(x):
        return x @ WEIGHT


def open_shape(x):
    return tf.ensure_shape(tf.where(x > 0, x, -x) @ WEIGHT, (2, 3))


# What it computes, and how many variables and tables it still reads as such.
READS = {
    "a weight": (lambda x: x @ WEIGHT, 0),
    "a weight, twice": (lambda x: x @ WEIGHT @ WEIGHT, 0),
    "half precision": (lambda x: x + tf.cast(HALF, tf.float32), 0),
    "truths": (lambda x: tf.where(ON, x, -x), 0),
    "an array": (lambda x: x + tf.reduce_mean(ARRAY @ tf.eye(3), 0), 0),
    "words": (lambda x: x + tf.cast(tf.strings.length(WORDS), tf.float32)[:, None], 0),
    "a gradient of its own": (lambda x: keras.ops.silu(x @ WEIGHT), 0),
    "a choice": (lambda x: tf.cond(x[0, 0] > 0, lambda: x, lambda: 2 * x) @ WEIGHT, 0),
    "two outputs of one": (lambda x: {"z": (y := x @ WEIGHT), "a": [y, x]}, 0),
    "nothing of its input": (lambda x: WEIGHT * 1.0, 0),
    "what waits for the input": (waits, 0),
    "what lies beside the input": (beside, 0),
    "a known shape": (open_shape, 0),
    "a loop": (loop, 1),
    "a function": (lambda x: inner(x) + tf.cast(HALF, tf.float32), 1),
    "what it writes": (counted, 1),
    "a table": (lambda x: x + TABLE.lookup(tf.constant(1, tf.int64)), 1),
}


def handles(function):
    kinds = (tf.resource, tf.variant)
    return [one for one in function.captured_inputs if one.dtype in kinds]


@pytest.mark.parametrize("case", READS)
def test_it_answers_as_before(case):
    compute, left = READS[case]
    traced = tf.function(lambda x: compute(x)).get_concrete_function(**X)
    held = by_value(traced, X)
    x = tf.constant(RNG.normal(size=(2, 3)), tf.float32)
    COUNT.assign(0)
    expected = traced(x=x)
    COUNT.assign(0)
    found = held(x=x)
    tf.nest.assert_same_structure(found, expected)
    for ours, right in zip(*map(tf.nest.flatten, (found, expected)), strict=True):
        # The same operations on the same numbers.
        np.testing.assert_array_equal(ours, right)
    shapes = [[one.shape for one in function.outputs] for function in (held, traced)]
    assert shapes[0] == shapes[1]
    assert len(handles(held)) == len(held.captured_inputs) == left
    assert float(COUNT) == (case == "what it writes")


def test_it_holds_the_numbers_of_now():
    weight = tf.Variable(tf.zeros((3, 3)))
    traced = tf.function(lambda x: x @ weight).get_concrete_function(**X)
    weight.assign(tf.eye(3))
    held = by_value(traced, X)
    weight.assign(tf.zeros((3, 3)))
    x = RNG.normal(size=(2, 3)).astype("float32")
    np.testing.assert_array_equal(held(x=tf.constant(x)), x)


@pytest.mark.parametrize("names", [("A", "a"), ("a", "A"), ("b", "a"), ("a", "a_1")])
def test_inputs_are_told_apart_by_their_names(names):
    specs = {name: tf.TensorSpec((1,), tf.float32, name=name) for name in names}
    first, second = names
    traced = tf.function(lambda **given: given[first] - 2 * given[second])
    held = by_value(traced.get_concrete_function(**specs), specs)
    answer = held(**{first: tf.constant([7.0]), second: tf.constant([2.0])})
    assert answer.numpy() == [3.0]


def test_what_is_too_large_for_one_graph_stays_variables(monkeypatch):
    monkeypatch.setattr(module, "_MOST_BYTES", 4 * 9 - 1)
    compute = lambda x: x @ WEIGHT + tf.reduce_mean(ARRAY @ tf.eye(3), 0)  # noqa: E731
    traced = tf.function(compute).get_concrete_function(**X)
    assert len(by_value(traced, X).captured_inputs) == 1
    monkeypatch.setattr(module, "_MOST_BYTES", 4 * 9)
    assert not by_value(traced, X).captured_inputs


def test_a_strategys_variables_are_read():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    traced = tf.function(lambda x: model(x)).get_concrete_function(**X)
    held = by_value(traced, X)
    x = tf.constant(RNG.normal(size=(2, 3)), tf.float32)
    np.testing.assert_array_equal(held(x=x), model(x))
    assert not held.captured_inputs


@pytest.mark.parametrize("unrolled", [True, False])
def test_the_file_is_the_one_of_a_savedmodel_with_variables(tmp_path, unrolled):
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 4))
    x = keras.layers.LSTM(4, unroll=unrolled)(keras.layers.Conv1D(4, 3, activation="silu")(image))
    model = keras.Model(image, keras.layers.Dense(3)(keras.layers.BatchNormalization()(x)))
    spec = tf.TensorSpec((1, 6, 4), tf.float32)
    saved = converter.write_saved_model(
        lambda given: {"y": model(given["x"])}, {"x": spec}, tmp_path / "ours", model.variables
    )
    converter.convert(saved, tmp_path / "ours.tflite")
    model.export(tmp_path / "plain", verbose=False, input_signature=[spec])
    with litert.quiet_stderr():
        plain = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "plain")).convert()
    (tmp_path / "plain.tflite").write_bytes(plain)
    row = RNG.normal(size=(1, 6, 4)).astype("float32")
    answers, kinds = [], []
    for name in ("ours", "plain"):
        interpreter = Interpreter(str(tmp_path / f"{name}.tflite"))
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], row)
        interpreter.invoke()
        answers.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
        kinds.append(sorted(one["op_name"] for one in interpreter._get_ops_details()))
    assert kinds[0] == kinds[1]
    np.testing.assert_array_equal(*answers)
    # Only what a loop reads has to be saved and loaded.
    stored = tf.train.list_variables(str(tmp_path / "ours" / "variables" / "variables"))
    assert len([name for name, _ in stored if "tracked" in name]) == (0 if unrolled else 3)


def test_a_variable_that_keras_does_not_know_is_in_the_file(tmp_path):
    saved = converter.write_saved_model(
        lambda given: {"y": given["x"] @ WEIGHT}, {"x": X["x"]}, tmp_path / "saved"
    )
    converter.convert(saved, tmp_path / "m.tflite")
    x = RNG.normal(size=(2, 3)).astype("float32")
    answer = litert.load_tflite(tmp_path / "m.tflite").predict(x)
    np.testing.assert_allclose(answer, x @ WEIGHT.numpy(), rtol=1e-5, atol=1e-6)
