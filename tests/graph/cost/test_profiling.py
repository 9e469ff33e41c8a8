"""A model's price: Keras' own counts, published ones, and sums derived on paper."""

import dataclasses
import json
import random

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers, ops

import keras_distill as kd
from keras_distill.graph.cost.profiling import Pricer, settled_inputs
from keras_distill.graph.replay import trace
from keras_distill.transfer import profile


def sequential(shape, *stack):
    return keras.Sequential([keras.Input(shape), *stack])


def row(profiled, layer):
    (found,) = (row for row in profiled.rows if row.layer == layer)
    return found


# Multiply-accumulates at 224 pixels. MobileNetV2: Sandler et al. 2018, table 4. ResNet50, whose
# stride is in a block's first convolution: He et al. 2016, table 1, cuts to 3.8 G what later tables
# give as 3.86 G.
@pytest.mark.parametrize(
    ("application", "pixels", "published"),
    [
        ("MobileNetV2", 224, 300e6),
        ("ResNet50", 224, 3.86e9),
        ("EfficientNetB0", 32, None),
        ("DenseNet121", 32, None),
    ],
)
def test_models_that_everybody_counts(application, pixels, published):
    build = getattr(keras.applications, application)
    model = build(weights=None, input_shape=(pixels, pixels, 3))
    found = profile(model)
    assert found.parameters == sum(row.parameters for row in found.rows) == model.count_params()
    assert found.uncounted == ()
    if published is not None:
        assert found.macs == pytest.approx(published, rel=0.01)


def test_rows_and_totals_of_a_small_model():
    found = profile(
        sequential(
            (8, 8, 3),
            layers.Conv2D(4, 3, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(name="flat"),
            layers.Dense(10, name="head"),
        )
    )
    # 6 x 6 positions x 4 x 27; kernel 108 and bias 4: at int8 108 + 16 bytes; 144 numbers out
    conv = row(found, "conv")
    assert (conv.type, conv.output_shape) == ("Conv2D", (6, 6, 4))
    assert (conv.macs, conv.flops) == (3888, 7776)
    assert (conv.parameters, conv.bytes_float32, conv.bytes_int8) == (112, 448, 124)
    assert (conv.activation_bytes_float32, conv.activation_bytes_int8) == (576, 144)
    # it goes into the convolution, which has a bias already
    norm = row(found, "norm")
    assert (norm.macs, norm.parameters, norm.bytes_int8) == (0, 16, 0)
    assert norm.note == "folds into conv"
    # 144 x 10; 1440 + 40 bytes
    head = row(found, "head")
    assert (head.macs, head.parameters, head.bytes_int8) == (1440, 1450, 1480)
    assert (found.macs, found.flops) == (3888 + 1440, 2 * (3888 + 1440))
    assert (found.parameters, found.bytes_float32) == (112 + 16 + 1450, 4 * 1578)
    assert found.bytes_int8 == 124 + 1480


def pad(**options):
    return layers.Conv2D(4, 3, padding="same", **options)


@pytest.mark.parametrize(
    ("stack", "expected"),
    [
        # bias of 4 x 4 bytes that the kernel has not
        ([pad(use_bias=False), layers.BatchNormalization()], 16),
        ([layers.Dense(4), layers.BatchNormalization()], 0),
        ([layers.SeparableConv2D(4, 3, use_bias=False), layers.BatchNormalization()], 16),
        # a depthwise 1x1 of its own, 4 x 5 bytes: behind an activation, over another axis, after
        # something without a kernel
        ([pad(activation="relu"), layers.BatchNormalization()], 20),
        ([pad(), layers.ReLU(), layers.BatchNormalization()], 20),
        ([layers.ZeroPadding2D(), layers.BatchNormalization()], 5 * 3),
        ([pad(), layers.BatchNormalization(axis=1)], 5 * 8),
    ],
)
def test_bytes_of_a_batch_norm_depend_on_what_is_before_it(stack, expected):
    assert profile(sequential((8, 8, 3), *stack)).rows[-1].bytes_int8 == expected


def test_a_batch_norm_does_not_fold_into_what_others_read():
    x = keras.Input((8, 8, 3))
    y = pad(name="conv")(x)
    z = layers.BatchNormalization(name="norm")(y)
    assert row(profile(keras.Model(x, layers.Add()([y, z]))), "norm").bytes_int8 == 20
    assert row(profile(keras.Model(x, [y, z])), "norm").bytes_int8 == 20


def test_bytes_at_int8_are_those_of_a_file(tmp_path):
    keras.utils.set_random_seed(0)
    stack = [
        *(layers.Conv2D(16, 3, use_bias=False), layers.BatchNormalization(), layers.ReLU()),
        *(layers.DepthwiseConv2D(3, use_bias=False), layers.BatchNormalization(), layers.ReLU()),
        *(layers.Conv2D(48, 3, activation="relu"), layers.GlobalAveragePooling2D()),
        layers.Dense(10),
    ]
    model = sequential((12, 12, 3), *stack)
    draw = np.random.default_rng(0)
    # No bias of zeros: the converter leaves such ones out.
    model.set_weights([draw.uniform(0.5, 1.5, w.shape) for w in model.get_weights()])
    path = tmp_path / "model.tflite"
    images = draw.normal(size=(16, 12, 12, 3)).astype("float32")
    kd.edge.export_tflite(model, path, precision="int8", representative_data=images)
    file = Interpreter(str(path))
    file.allocate_tensors()
    made = {tensor for one in file._get_ops_details() for tensor in one["outputs"]}
    made |= {one["index"] for one in file.get_input_details()}
    constants = [one for one in file.get_tensor_details() if one["index"] not in made]
    held = sum(np.prod(c["shape"]) * np.dtype(c["dtype"]).itemsize for c in constants)
    # The file's indices of the pooled axes are none of ours.
    assert profile(model).bytes_int8 == held - 2 * 4


def test_the_peak_of_a_chain_and_of_a_branch():
    x = keras.Input((10,))
    a = layers.Dense(30, activation="gelu")(x)
    b = layers.Dense(20, activation="gelu")(a)
    # 10 + 30, 30 + 20, 20 + 5
    chain = profile(keras.Model(x, layers.Dense(5)(b)))
    assert (chain.peak_activation_bytes_float32, chain.peak_activation_bytes_int8) == (200, 50)
    # x waits for the end: 10 + 30, 10 + 30 + 20, 10 + 20 + 30
    branch = profile(keras.Model(x, layers.Concatenate()([x, b])))
    assert branch.peak_activation_bytes_int8 == 60
    # an output waits, too: 10 + 30, 30 + 20, 30 + 20 + 5
    both = profile(keras.Model(x, [a, layers.Dense(5)(b)]))
    assert both.peak_activation_bytes_int8 == 55


@pytest.mark.parametrize(
    ("stack", "expected"),
    [
        # 3 x 64 in, 4 x 64 out; the rest is the same tensor
        ([pad(), layers.BatchNormalization(), layers.ReLU(6.0)], 192 + 256),
        ([pad(), layers.Dropout(0.5), layers.Flatten(), layers.Reshape((8, 32))], 192 + 256),
        ([pad(), layers.RandomFlip(), layers.GaussianNoise(0.1)], 192 + 256),
        ([pad(), layers.Activation("relu"), layers.Activation("linear")], 192 + 256),
        # made of the tensor before it, which is there until then
        ([pad(), layers.ReLU(negative_slope=0.1)], 256 + 256),
        ([pad(), layers.Activation("tanh")], 256 + 256),
        ([pad(), layers.Permute((2, 1, 3))], 256 + 256),
        ([layers.ReLU()], 192 + 192),
    ],
)
def test_what_makes_no_tensor_of_its_own(stack, expected):
    assert profile(sequential((8, 8, 3), *stack)).peak_activation_bytes_int8 == expected


def test_a_relu_behind_a_sum_makes_no_tensor():
    x = keras.Input((10,))
    y = layers.Dense(10)(x)
    total = keras.Model(x, layers.ReLU()(layers.Add()([x, y])))
    operator = keras.Model(x, ops.relu(x + y))
    # x, y and their sum
    assert [profile(m).peak_activation_bytes_int8 for m in (total, operator)] == [30, 30]


def test_integers_keep_their_size():
    x = keras.Input((6,), dtype="int32")
    found = profile(keras.Model(x, layers.Embedding(9, 2)(x)))
    # 6 indices of 4 bytes and 6 x 2 numbers
    assert found.peak_activation_bytes_float32 == 24 + 48
    assert found.peak_activation_bytes_int8 == 24 + 12


def test_a_shared_layer_computes_twice_and_is_held_once():
    dense, x = layers.Dense(4, name="shared"), keras.Input((4,))
    model = keras.Model(x, dense(dense(x)))
    found = row(profile(model), "shared")
    assert (found.parameters, found.macs, found.bytes_int8) == (20, 32, 16 + 16)
    assert (found.activation_bytes_int8, found.note) == (8, "called 2 times")
    assert profile(model).parameters == model.count_params()


def test_nested_models_are_taken_apart():
    x, shared = keras.Input((4,)), layers.Dense(4, name="shared")
    left, right = (
        keras.Sequential([keras.Input((4,)), shared, layers.Dense(3, name="own")], name=name)
        for name in ("left", "right")
    )
    model = keras.Model(x, layers.Add()([left(x), right(x)]))
    found = profile(model)
    parameters = {"left/shared": 20, "left/own": 15, "right/shared": 0, "right/own": 15}
    assert {path: row(found, path).parameters for path in parameters} == parameters
    assert row(found, "right/shared").note == "its weights are counted above"
    assert found.parameters == model.count_params()
    assert found.macs == 2 * (16 + 12)


class Twins(layers.Layer):
    """Two layers of one name: their weights have one path."""

    def __init__(self, **options):
        super().__init__(**options)
        self.one, self.other = (layers.Dense(4, name="twin") for _ in range(2))

    def build(self, shape):
        self.one.build(shape)
        self.other.build(shape)

    def call(self, x):
        return self.one(x) + self.other(x)


@pytest.mark.parametrize("layer", [Twins(), layers.SpectralNormalization(layers.Dense(4))])
def test_parameters_are_keras_own_whatever_their_paths(layer):
    model = sequential((4,), layer)
    assert profile(model).parameters == model.count_params()


class Block(layers.Layer):
    """A transformer's, with a product and a regulariser of its own."""

    def __init__(self, **options):
        super().__init__(**options)
        self.attention = layers.MultiHeadAttention(2, 4)
        self.drop = layers.Dropout(0.5)
        self.norm = layers.LayerNormalization(beta_regularizer="l2")

    def build(self, shape):
        self.attention.build(shape, shape)
        self.norm.build(shape)
        self.kernel = self.add_weight(shape=(8, 3), name="kernel")

    def call(self, x, training=None):
        y = self.norm(x + self.drop(self.attention(x, x), training=training))
        self.add_loss(ops.sum(y))
        return ops.matmul(y, self.kernel)


def test_an_unknown_layer_is_traced_and_left_as_it_was():
    keras.utils.set_random_seed(0)
    model = sequential((5, 8), Block(name="block"))
    weights, names = model.get_weights(), keras.layers.Add().name
    drawn = random.getstate()
    found = row(profile(model), "block")
    # four projections of 8 x 8 for 5 rows, two products of 5 x 5 x 8, and 5 x 8 x 3
    assert found.macs == 4 * 5 * 64 + 2 * 25 * 8 + 120
    assert found.parameters == model.count_params()
    assert found.note == "counted in a trace of its call"
    np.testing.assert_equal(model.get_weights(), weights)
    assert random.getstate() == drawn
    block = model.layers[0]
    assert not block.losses[1:]
    assert not block.attention._inbound_nodes
    assert keras.layers.Add().name == f"add_{int(names.partition('_')[2] or 0) + 1}"


def test_a_model_a_frame_is_traced_once_and_counted_for_each():
    inner = sequential((6, 6, 2), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D())
    found = profile(sequential((7, 6, 6, 2), layers.TimeDistributed(inner, name="frames")))
    # 7 frames of 4 x 4 positions x 4 x 18
    assert row(found, "frames").macs == 7 * 16 * 72


KERNEL_2D, KERNEL_3D = np.ones((3, 3, 2, 4), "float32"), np.ones((2, 2, 2, 2, 4), "float32")


@pytest.mark.parametrize(
    ("function", "shape", "macs"),
    [
        (lambda x: ops.einsum("bij,jk->bik", x, np.ones((4, 3), "float32")), (5, 4), 60),
        (lambda x: ops.matmul(ops.transpose(x, (0, 2, 1)), x), (5, 4), 5 * 4 * 4),
        (lambda x: ops.conv(x, KERNEL_2D), (8, 8, 2), 36 * 4 * 18),
        (lambda x: ops.conv(x, KERNEL_3D), (4, 4, 4, 2), 27 * 4 * 16),
        (lambda x: ops.depthwise_conv(x, KERNEL_2D), (8, 8, 2), 36 * 2 * 4 * 9),
        (lambda x: ops.conv_transpose(x, KERNEL_2D, 1), (8, 8, 4), 64 * 4 * 18),
        (lambda x: ops.relu(x) * 2, (8,), 0),
    ],
)
def test_products_in_a_trace(function, shape, macs):
    found = profile(sequential(shape, layers.Lambda(function, name="traced")))
    assert row(found, "traced").macs == macs
    assert found.uncounted == ()


class Looping(layers.Layer):
    """A recurrence hides in a loop of TensorFlow's."""

    def __init__(self, **options):
        super().__init__(**options)
        self.recurrent = layers.LSTM(3)

    def build(self, shape):
        self.recurrent.build(shape)

    def call(self, x):
        return self.recurrent(x)


class Failing(layers.Layer):
    """Has a shape, and can't be called with a batch of 1."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(4,), name="kernel")

    def call(self, x):
        if x.shape[0] == 1:
            raise RuntimeError("not one")
        return x

    def compute_output_shape(self, shape):
        return shape


@pytest.mark.parametrize(("layer", "parameters"), [(Looping(), 4 * 24), (Failing(), 4)])
def test_what_can_not_be_counted_is_said(layer, parameters):
    found = profile(sequential((5, 4), layer, layers.Dense(2)))
    (mine, _) = found.rows
    assert (mine.macs, mine.note) == (0, "MACs unknown, counted as 0")
    assert mine.parameters == parameters
    assert found.uncounted == (layer.name,)
    assert str(found).endswith(f"MACs unknown and counted as 0: {layer.name}")


def test_open_sizes_are_settled_by_the_user():
    model = keras.Sequential(
        [
            *(keras.Input((None, None, 3), name="image"), layers.Conv2D(4, 3, name="conv")),
            *(layers.GlobalAveragePooling2D(), layers.Dense(2, name="head")),
        ]
    )
    found = profile(model, input_shape=(8, 10, 3))
    assert (found.macs, row(found, "conv").output_shape) == (6 * 8 * 4 * 27 + 8, (6, 8, 4))
    assert profile(model, input_shape={"image": [8, np.int64(10), 3]}) == found


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "'image' takes \\(None, None, 3\\).*Give input_shape=.*\\(64, 64, 3\\)"),
        ((8, 8), "'image' takes"),
        ((8, 8, 4), "'image' takes"),
        ((8, 0, 3), "input_shape says \\(8, 0, 3\\)"),
        ((8, None, 3), "'image' takes"),
        (8, "a tuple of sizes.*inputs image"),
        ({"picture": (8, 8, 3)}, "names picture.*has the inputs image"),
        ((2, 2, 3), "The layer 'conv' can't take"),
    ],
)
def test_sizes_that_do_not_settle_it_are_refused(given, words):
    x = keras.Input((None, None, 3), name="image")
    model = keras.Model(x, layers.Conv2D(4, 3, name="conv")(x))
    with pytest.raises(ValueError, match=words):
        profile(model, input_shape=given)


@pytest.mark.parametrize(
    "window",
    [
        layers.Conv2D(4, 3),
        layers.DepthwiseConv2D(3),
        layers.SeparableConv2D(4, 3),
        layers.MaxPooling2D(3),
        layers.AveragePooling2D(3),
        layers.MaxPooling2D(4),
    ],
)
def test_a_window_larger_than_what_it_slides_over_is_refused(window):
    x = keras.Input((None, None, 3))
    with pytest.raises(ValueError, match=f"The layer '{window.name}' can't take"):
        profile(keras.Model(x, window(x)), input_shape=(2, 2, 3))


def test_several_inputs_are_named():
    left, right = keras.Input((None, 4), name="left"), keras.Input((None, 4), name="right")
    model = keras.Model([left, right], layers.Dot(axes=2)([left, right]))
    assert profile(model, input_shape={"left": (5, 4), "right": (6, 4)}).macs == 120
    with pytest.raises(ValueError, match="'right' takes"):
        profile(model, input_shape={"left": (5, 4)})
    with pytest.raises(ValueError, match=r"for several inputs a dict.*left, right"):
        profile(model, input_shape=(5, 4))


def test_a_size_that_the_data_decide_is_refused():
    x = keras.Input((4,), name="x")
    model = keras.Model(x, ops.sum(ops.nonzero(x)[0]))
    with pytest.raises(ValueError, match="depends on the data"):
        profile(model)


def test_keyword_arguments_come_in_the_order_of_the_parameters():
    q, v = keras.Input((5, 8)), keras.Input((6, 8))
    # less for a query than for a value, so that it matters which is which
    attention = layers.MultiHeadAttention(2, 4, output_shape=1)
    # the names' order is another: key, query, value
    named = keras.Model([q, v], attention(query=q, value=v, key=v))
    plain = keras.Model([q, v], attention(q, v, v))
    assert profile(named).macs == profile(plain).macs


def test_counts_are_for_one_example_whatever_the_batch():
    def model(batch_size):
        x = keras.Input((5, 4), batch_size=batch_size)
        y = layers.EinsumDense("abc,cd->abd", (None, 3))(x)
        rows = ops.reshape(y, (-1, 3))
        return keras.Model(x, layers.Dense(2)(rows))

    # 5 rows of 4 x 3, then of 3 x 2; their batch is no longer the first axis
    found = [profile(model(batch_size)) for batch_size in (None, 7)]
    assert [one.macs for one in found] == [5 * 12 + 5 * 6] * 2
    # 5 x 4 and 5 x 3
    assert [one.peak_activation_bytes_int8 for one in found] == [35] * 2


@pytest.mark.parametrize(
    "compress", [lambda m: kd.edge.prune(m, sparsity=0.5), kd.edge.quantize_aware]
)
def test_a_compressed_model_counts_as_the_one_inside(compress):
    stack = (layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU(), layers.Flatten())
    model = sequential((8, 8, 3), *stack, layers.Dense(3))
    inside, compressed = profile(model), profile(compress(model))
    for field in ("parameters", "macs", "bytes_int8", "peak_activation_bytes_int8"):
        assert getattr(compressed, field) == getattr(inside, field)


def narrow(width):
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(width, 3, padding="same", use_bias=False, name="conv")(x)
    y = layers.ReLU()(layers.BatchNormalization(name="norm")(y))
    z = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(y)
    y = layers.GlobalAveragePooling2D()(layers.Add()([y, z]))
    return keras.Model(x, layers.Dense(2, name="head")(y))


def test_a_model_is_priced_before_it_is_built():
    graph = trace(narrow(16))
    pricer = Pricer(graph, settled_inputs(narrow(16)))

    def halved(shape):
        return tuple(5 if size == 16 else size for size in shape)

    def weight_shapes(step):
        return {path: halved(shape) for path, shape in pricer.weight_shapes_of(step).items()}

    priced = pricer.totals(lambda value: halved(pricer.shape_of(value)), weight_shapes)
    built = dataclasses.asdict(profile(narrow(5)))
    assert dataclasses.asdict(priced) == {
        field.name: built[field.name] for field in dataclasses.fields(priced)
    }
    assert pricer.totals().parameters == narrow(16).count_params()


def test_the_record_is_frozen_printed_and_written():
    found = profile(sequential((4,), layers.Dense(3, name="dense")))
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.macs = 0
    text = str(found)
    assert "dense" in text
    assert "15 parameters\n24 FLOPs (12 MACs) an example" in text
    assert "60 bytes at float32, 24 at int8" in text
    read = json.loads(found.to_json())
    assert read["rows"][0]["output_shape"] == [3]
    assert {name: read[name] for name in ("parameters", "flops")} == {"parameters": 15, "flops": 24}
    assert read["uncounted"] == []


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        ("model.keras", TypeError, "Expected a Keras 3 model"),
        (keras.Sequential([layers.Dense(3)]), ValueError, "Expected a built model"),
    ],
)
def test_what_is_no_model_is_refused(model, error, words):
    with pytest.raises(error, match=words):
        profile(model)
