import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill.edge.compress import masks
from keras_distill.edge.compress.kernels import kernels
from keras_distill.edge.compress.schedule import Schedule, from_tfmot

DENSE = (0,)
CONVOLUTION = (0, 1, 2)


def weight(*shape):
    return tf.constant(np.random.default_rng(0).normal(size=shape), tf.float32)


def tfmots_mask(tfmot, value, sparsity=0.5, block=(1, 1), m_by_n=None):
    from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl

    pruning = pruning_impl.Pruning(
        lambda: tf.constant(0),
        [(value, None, None)],
        tfmot.sparsity.keras.ConstantSparsity(sparsity, 0),
        block,
        "AVG",
        m_by_n,
    )
    return pruning._maybe_update_block_mask(value)[1].numpy() > 0


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.753, 0.99])
@pytest.mark.parametrize("shape", [(12, 20), (3, 3, 8, 16)])
def test_unstructured_is_tfmots(tfmot, shape, sparsity):
    value = weight(*shape)
    ours = masks.mask(value, sparsity, "unstructured", CONVOLUTION[: len(shape) - 1])
    np.testing.assert_array_equal(ours, tfmots_mask(tfmot, value, sparsity))


@pytest.mark.parametrize(("shape", "axes"), [((12, 20), DENSE), ((3, 3, 8, 16), CONVOLUTION)])
def test_two_of_four_is_tfmots(tfmot, shape, axes):
    value = weight(*shape)
    ours = masks.mask(value, 0.5, "2:4", axes)
    np.testing.assert_array_equal(ours, tfmots_mask(tfmot, value, m_by_n=(2, 4)))
    assert np.mean(ours) == 0.5


@pytest.mark.parametrize("block", [(1, 4), (4, 4), (2, 1), (3, 5)])
def test_blocks_of_a_dense_kernel_are_tfmots(tfmot, tf_keras, block):
    layer = tf_keras.layers.Dense(20)
    layer.build((None, 12))
    value = tf.convert_to_tensor(layer.kernel)
    ours = masks.mask(value, 0.6, block, DENSE)
    np.testing.assert_array_equal(ours, tfmots_mask(tfmot, value, 0.6, block))


def test_blocks_of_a_convolution_lie_on_its_matrix():
    value = weight(3, 3, 4, 8)
    kept = masks.mask(value, 0.75, (4, 2), CONVOLUTION).numpy()
    # 36 x 8 in blocks of 4 x 2: one position's four channels, for two outputs.
    means = np.abs(value.numpy()).reshape(9, 4, 4, 2).mean(axis=(1, 3))
    best = means >= np.sort(means, axis=None)[-9]  # round(36 * 0.25)
    np.testing.assert_array_equal(kept, best.repeat(4, 0).repeat(2, 1).reshape(3, 3, 4, 8))


def test_equal_numbers_are_pruned_to_the_promise():
    kept = masks.mask(tf.ones((10, 10)), 0.8, "unstructured", DENSE).numpy()
    assert kept.sum() == 20


def test_something_is_always_left():
    assert masks.mask(weight(3, 3), 0.999, "unstructured", DENSE).numpy().sum() == 1


def test_two_of_four_runs_along_the_input_channels_of_transposed_convolutions():
    layer = keras.layers.Conv2DTranspose(6, 3)
    layer.build((None, 5, 5, 8))
    (kernel,) = kernels(layer).values()
    kept = masks.mask(tf.convert_to_tensor(kernel.variable.value), 0.5, "2:4", kernel.input_axes)
    # Keras' kernel is (height, width, outputs, inputs).
    groups = kept.numpy().reshape(3, 3, 6, 2, 4)
    np.testing.assert_array_equal(groups.sum(axis=-1), 2)


@pytest.mark.parametrize(
    ("equation", "output_shape", "axes"),
    [("abc,cde->abde", (None, 2, 3), (0,)), ("abcd,cde->abe", (None, 5), (0, 1))],
)
def test_einsum_inputs_are_the_axes_it_sums_over(equation, output_shape, axes):
    layer = keras.layers.EinsumDense(equation, output_shape)
    layer.build((None, 4, 6) if len(axes) == 1 else (None, 4, 6, 7))
    (kernel,) = kernels(layer).values()
    assert kernel.input_axes == axes


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (keras.layers.DepthwiseConv2D(3), (None, 8, 8, 4), []),
        (keras.layers.BatchNormalization(), (None, 4), []),
        (keras.layers.SeparableConv1D(4, 3), (None, 8, 4), ["pointwise_kernel"]),
        (keras.layers.Embedding(8, 4), (None, 3), ["embeddings"]),
        (keras.layers.LSTM(3), (None, 4, 2), ["lstm_cell/kernel", "lstm_cell/recurrent_kernel"]),
        (keras.layers.TimeDistributed(keras.layers.Dense(3, name="d")), (None, 4, 2), ["d/kernel"]),
    ],
)
def test_which_weights_are_taken(layer, shape, expected):
    layer.build(shape)
    assert list(kernels(layer)) == expected


def test_attention_is_four_kernels():
    layer = keras.layers.MultiHeadAttention(2, 4)
    layer.build((None, 5, 8), (None, 5, 8))
    assert len(kernels(layer)) == 4


def test_a_layer_of_ones_own_offers_its_weights():
    class Mine(keras.layers.Layer):
        def build(self, shape):
            self.table = self.add_weight(shape=(shape[-1], 4), name="table")

        def get_prunable_weights(self):
            return [self.table]

    layer = Mine()
    layer.build((None, 3))
    assert list(kernels(layer)) == ["table"]


def test_the_polynomial_schedule_is_tfmots_at_every_step(tfmot):
    theirs = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.8, 10, 90)
    ours = Schedule(0.8, 10, 90)
    steps = range(100)
    np.testing.assert_array_equal(
        [float(ours(step)) for step in steps],
        [float(theirs(tf.constant(step, tf.int64))[1]) for step in steps],
    )


def test_the_constant_schedule_is_tfmots(tfmot):
    theirs = tfmot.sparsity.keras.ConstantSparsity(0.8, 3, frequency=1)
    for step in range(6):
        begun, sparsity = theirs(tf.constant(step))
        assert float(Schedule(0.8, 3)(step)) == (float(sparsity) if begun else 0.0)


@pytest.mark.parametrize(
    "given",
    [
        {"begin_step": 10, "end_step": 90, "frequency": 1},
        {"begin_step": 0, "end_step": 50, "frequency": 7},
        {"begin_step": 5, "end_step": 60, "frequency": 10, "power": 1},
        {"begin_step": 5, "end_step": 15, "frequency": 100},
        {"begin_step": 3, "frequency": 4},
        {"begin_step": 0, "end_step": 20, "frequency": 100},
    ],
)
def test_tfmots_schedules_promise_what_they_do(tfmot, given):
    if "frequency" in given and ("end_step" not in given or given["end_step"] == 20):
        theirs = tfmot.sparsity.keras.ConstantSparsity(0.8, **given)
    else:
        theirs = tfmot.sparsity.keras.PolynomialDecay(0.3, 0.8, **given)
    ours, promised = from_tfmot(theirs), 0.0
    for step in range(100):
        # TFMOT says whether the masks are renewed now, and to what; between they stay.
        is_due, sparsity = theirs(tf.constant(step, tf.int64))
        promised = float(sparsity) if is_due else promised
        assert float(ours(step)) == promised, step


def test_a_schedule_that_ends_where_it_begins_is_constant():
    assert [float(Schedule(0.5, 3, 3)(step)) for step in (2, 3, 4)] == [0.0, 0.5, 0.5]


@pytest.mark.parametrize("pattern", ["3:4", (4,), (0, 4), (1.0, 2), None, 4, (True, 2)])
def test_no_pattern(pattern):
    with pytest.raises(ValueError, match="Expected pattern"):
        masks.checked_pattern(pattern)


def test_lora_is_no_part_of_a_kernel():
    dense, table = keras.layers.Dense(2), keras.layers.Embedding(4, 3)
    for layer, shape, name in ((dense, (None, 3), "kernel"), (table, None, "embeddings")):
        layer.build(shape)
        before = kernels(layer)[name].variable
        layer.enable_lora(1)
        assert kernels(layer)[name].variable is before
        assert list(kernels(layer)) == [name]
