"""A forward taken apart from its weights: it answers as the model, holds one copy, follows it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill as kd
from keras_distill.teachers import engines
from keras_distill.teachers.folding import CannotFreezeError, Folded

layers = keras.layers
IMAGE = (8, 8, 4)


def chain(shape, *parts, dtype=None):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *parts])


def block(convolution, *between):
    norm = layers.BatchNormalization()
    return chain(IMAGE, convolution, *between, norm, layers.ReLU(), layers.Flatten())


def read_twice():
    x = keras.Input(IMAGE)
    once = layers.Conv2D(3, 1)(x)
    return keras.Model(x, layers.Concatenate()([once, layers.BatchNormalization()(once)]))


def shared():
    x = keras.Input(IMAGE)
    same = layers.Conv2D(4, 3, padding="same")
    twice = layers.BatchNormalization()(same(layers.BatchNormalization()(same(x))))
    return keras.Model(x, twice)


def by_channels_first():
    x = keras.Input((8, 6))
    # As many rows as columns: no channel, though the size fits.
    scale = layers.Permute((2, 1))(layers.BatchNormalization()(layers.Permute((2, 1))(x)))
    return keras.Model(x, layers.Dense(4)(scale))


def tf_keras_block():
    import tf_keras

    return tf_keras.Sequential(
        [
            tf_keras.layers.InputLayer(IMAGE),
            tf_keras.layers.Conv2D(3, 3),
            tf_keras.layers.BatchNormalization(),
            tf_keras.layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False),
            tf_keras.layers.BatchNormalization(scale=False),
        ]
    )


def attention():
    x = keras.Input((6, 8))
    y = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4)(x, x))
    return keras.Model(x, layers.Dense(3)(y))


# Name: a model, whether the multiplications of a normalisation must be gone.
MODELS = {
    "convolution": (lambda: block(layers.Conv2D(3, 3)), True),
    "without a bias": (lambda: block(layers.Conv2D(3, 3, use_bias=False)), True),
    "strided": (lambda: block(layers.Conv2D(3, 2, strides=2, padding="same")), True),
    "dilated": (lambda: block(layers.Conv2D(3, 2, dilation_rate=2)), None),
    "in groups": (lambda: block(layers.Conv2D(6, 3, groups=2)), None),
    "depthwise": (lambda: block(layers.DepthwiseConv2D(3)), True),
    "depthwise, two each": (lambda: block(layers.DepthwiseConv2D(3, depth_multiplier=2)), True),
    "separable": (lambda: block(layers.SeparableConv2D(5, 3)), True),
    "transposed": (lambda: block(layers.Conv2DTranspose(3, 2)), None),
    "scaled, too": (lambda: block(layers.Conv2D(3, 3), layers.Rescaling(0.5, 2.0)), True),
    "relu between": (lambda: block(layers.Conv2D(3, 3, activation="relu")), False),
    "dense": (lambda: chain((6,), layers.Dense(5), layers.BatchNormalization()), True),
    "dense over rows": (lambda: chain((4, 6), layers.Dense(5), layers.BatchNormalization()), None),
    "one dimension": (
        lambda: chain((9, 2), layers.Conv1D(3, 2), layers.BatchNormalization()),
        None,
    ),
    "volume": (
        lambda: chain((5, 5, 5, 2), layers.Conv3D(3, 2), layers.BatchNormalization()),
        True,
    ),
    "read twice": (read_twice, False),
    "shared": (shared, True),
    "rows as many as channels": (by_channels_first, None),
    "tf_keras": (tf_keras_block, True),
    "attention": (attention, None),
    "recurrent": (lambda: chain((5, 3), layers.GRU(4), layers.Dense(2)), None),
    "both ways": (lambda: chain((5, 3), layers.Bidirectional(layers.LSTM(4))), None),
    "ids": (
        lambda: chain((4,), layers.Embedding(9, 6), layers.Flatten(), dtype="int32"),
        None,
    ),
    "normalised rows": (
        lambda: chain((6,), layers.UnitNormalization(), layers.Dense(4)),
        None,
    ),
    "spectral": (lambda: chain(IMAGE, layers.SpectralNormalization(layers.Conv2D(3, 3))), None),
    "half": (lambda: chain(IMAGE, layers.Conv2D(3, 3, dtype="mixed_float16")), None),
}


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    """A model, its traced forward, rows for it, and the fold."""
    make, gone = MODELS[request.param]
    keras.utils.set_random_seed(3)
    model = make()
    shift(model, 0)
    spec = tf.TensorSpec((None, *model.inputs[0].shape[1:]), tf.as_dtype(model.inputs[0].dtype))
    forward = tf.function(lambda x: [model(x, training=False)], autograph=False)
    rows = np.random.default_rng(0).normal(size=(5, *spec.shape[1:]))
    rows = tf.constant(rows if spec.dtype.is_floating else np.abs(rows) * 3, tf.float64)
    return model, tf.cast(rows, spec.dtype), Folded(forward.get_concrete_function(spec)), gone


def shift(model, seed):
    """Other weights, none of them an initial value that would hide a fault."""
    rng = np.random.default_rng(seed)
    model.set_weights(
        [w + rng.uniform(0.1, 0.4, w.shape).astype(w.dtype) for w in model.get_weights()]
    )


def assert_close(given, expected, tolerance=1e-5):
    given, expected = np.asarray(given, "float32"), np.asarray(expected, "float32")
    assert given.shape == expected.shape
    np.testing.assert_allclose(given, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_it_answers_as_the_model_and_follows_it_when_told(case):
    model, rows, folded, _ = case
    tolerance = 2e-3 if model.compute_dtype == "float16" else 1e-5
    step = tf.function(lambda x: folded(x)[0], autograph=False)
    before = np.asarray(model(rows, training=False))
    assert_close(step(rows), before, tolerance)
    shift(model, 1)
    assert_close(step(rows), before, tolerance)
    folded.refresh()
    assert np.abs(np.asarray(model(rows, training=False)) - before).max() > 1e-2
    assert_close(step(rows), model(rows, training=False), tolerance)
    # Another size of batch, after all this.
    assert_close(folded(rows[:2])[0], model(rows[:2], training=False), tolerance)
    assert step.experimental_get_tracing_count() == 1


def test_what_follows_a_filter_is_gone_and_no_large_constant_stands_in_the_graph(case):
    _, _, folded, gone = case
    made = folded.graph.get_operations()
    products = [one.type for one in made if one.type in ("Mul", "FusedBatchNormV3")]
    if gone is not None:
        assert (not products) is gone, products
    assert all(one.outputs[0].shape.num_elements() <= 64 for one in made if one.type == "Const")


def test_weights_as_they_are_take_no_memory_of_their_own():
    """Those that nothing folds are the model's own until one of the two is assigned."""
    model = chain((64,), layers.Dense(32, use_bias=False))
    forward = tf.function(lambda x: [model(x)], autograph=False)
    folded = Folded(forward.get_concrete_function(tf.TensorSpec((None, 64))))
    ours, theirs = folded.weights[0], model.layers[0].kernel.value
    assert pointer(ours) == pointer(theirs)


def pointer(variable):
    return np.from_dlpack(variable.read_value()).__array_interface__["data"][0]


def test_constants_and_tensors_of_a_callable_are_held_once():
    kernel = np.random.default_rng(0).normal(size=(40, 60)).astype("float32")
    captured = tf.constant(kernel[:, :1].copy())

    def forward(x):
        return [(x @ kernel) * captured[0], x @ captured]

    folded = Folded(tf.function(forward).get_concrete_function(tf.TensorSpec((None, 40))))
    rows = tf.random.stateless_normal((3, 40), (1, 1))
    for given, expected in zip(folded(rows), forward(rows), strict=True):
        assert_close(given, expected)
    assert not [o for o in folded.graph.get_operations() if o.type in ("Mul", "Const")]


def drawn(*shape):
    return tf.Variable(tf.random.stateless_normal(shape, (len(shape), shape[-1])))


NARROW, WIDE, BIAS = drawn(5, 1), drawn(5, 3), drawn(3)
RAISED, SPREAD, PLACES = drawn(1, 1, 3), drawn(4), drawn(3, 1)
KERNEL = drawn(1, 3, 1, 3)


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: (x @ NARROW) * SPREAD,  # one channel becomes four
        lambda x: (x @ WIDE) * RAISED,  # a rank more
        lambda x: BIAS - x @ WIDE,
        lambda x: tf.matmul(x, WIDE, transpose_b=False) - BIAS,
        lambda x: tf.matmul(x, tf.transpose(WIDE), transpose_b=True) * BIAS,
        lambda x: tf.nn.conv2d(x[:, None, :, None], KERNEL, 1, "VALID")[:, 0] * PLACES,
        lambda x: (x @ WIDE) * (x @ NARROW),
        lambda x: tf.stack([(x @ WIDE) * BIAS, x @ WIDE]),
    ],
)
def test_what_is_no_factor_of_channels_stays(forward):
    rows = tf.random.stateless_normal((3, 5), (1, 1))
    concrete = tf.function(lambda x: [forward(x)]).get_concrete_function(tf.TensorSpec((None, 5)))
    folded = Folded(concrete)
    assert_close(folded(rows)[0], forward(rows))


def test_shapes_that_come_of_weights_stay_known():
    table = drawn(7, 6)

    def forward(x):
        sizes = tf.raw_ops.Shape(input=table)
        return [tf.reshape(x, tf.concat([[-1], sizes], 0)) * table]

    folded = Folded(tf.function(forward).get_concrete_function(tf.TensorSpec((None, 42))))
    assert folded.graph.outputs[0].shape[1:] == (7, 6)
    assert_close(folded(tf.ones((2, 42)))[0], np.stack([table] * 2))


def test_what_is_drawn_anew_is_no_weight():
    def forward(x):
        return [x + WIDE * tf.random.uniform((5, 3))]

    folded = Folded(tf.function(forward).get_concrete_function(tf.TensorSpec((5, 3))))
    rows = tf.zeros((5, 3))
    assert np.abs(folded(rows)[0] - folded(rows)[0]).max() > 1e-3


def test_a_function_that_writes_variables_is_refused():
    count = tf.Variable(0.0)

    def forward(x):
        return [x + count.assign_add(1.0)]

    concrete = tf.function(forward).get_concrete_function(tf.TensorSpec((None, 2)))
    with pytest.raises(CannotFreezeError, match="AssignAddVariableOp"):
        Folded(concrete)


@pytest.mark.parametrize("kind", ["convolution", "recurrent"])
def test_another_precision_is_folded_as_well(kind):
    model = MODELS[kind][0]()
    shift(model, 0)
    spec = tf.TensorSpec((None, *model.input_shape[1:]))
    concrete = tf.function(lambda x: [model(x)]).get_concrete_function(spec)
    try:
        folded = engines.freeze(concrete, "bfloat16")
    except ValueError as error:
        if "no way" not in str(error):
            raise
        pytest.skip(f"this processor: {error}")
    rows = tf.random.stateless_normal((5, *spec.shape[1:]), (1, 1))
    assert_close(folded(rows)[0], model(rows), 0.02)
    shift(model, 1)
    folded.refresh()
    assert_close(folded(rows)[0], model(rows), 0.02)
    if kind == "convolution":
        assert tf.bfloat16 in [weight.dtype for weight in folded.weights]


def test_a_distiller_follows_its_teacher_without_a_new_trace(small_cnn, digits):
    teacher, x = small_cnn(4), digits.x_train[:32]
    distiller = kd.Distiller(small_cnn(2), teacher, label_weight=0.0)
    distiller.compile(keras.optimizers.SGD(0.0))
    first = distiller.fit(x, verbose=0).history["loss"]
    step = distiller.train_function
    teacher.set_weights([3 * w for w in teacher.get_weights()])
    second = distiller.fit(x, verbose=0).history["loss"]
    assert distiller.train_function is step
    assert second[0] > 1.5 * first[0]
