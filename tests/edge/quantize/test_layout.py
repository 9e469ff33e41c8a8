"""Which tensors get a range: those that the file will hold, and no others."""

import keras
import numpy as np
import pytest

from keras_distill.edge.analysis import Analysis
from keras_distill.edge.quantize import layout
from keras_distill.edge.quantize.activations import SIGNED_UNIT, UNIT

layers = keras.layers
OWN, NONE = (True,), (False,)


def image(shape=(8, 8, 4)):
    return keras.Input(shape, name="image")


def plans(inputs, outputs, skip=None):
    return layout.plan(Analysis(keras.Model(inputs, outputs)), skip)


def chain(*parts, shape=(8, 8, 4)):
    return layout.plan(Analysis(keras.Sequential([keras.Input(shape), *parts])))


def outputs_of(found):
    return {path: plan.outputs for path, plan in found.items()}


def conv(name, **options):
    return layers.Conv2D(4, 1, name=name, **options)


@pytest.mark.parametrize(
    "kernel",
    [
        layers.Conv2D(4, 3),
        layers.DepthwiseConv2D(3),
        layers.SeparableConv2D(4, 3),
        layers.Conv2DTranspose(4, 3),
        layers.Dense(4),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_kernel_its_norm_and_its_relu_have_one_range(kernel):
    kernel = type(kernel).from_config({**kernel.get_config(), "name": "kernel"})
    found = chain(kernel, layers.BatchNormalization(name="norm"), layers.ReLU(name="relu"))
    assert outputs_of(found) == {"kernel": NONE, "norm": NONE, "relu": OWN}
    assert not found["norm"].affine
    assert {plan.how for plan in found.values()} <= {"native", "rewritten"}


def test_what_does_not_fold_keeps_its_range():
    # A leaky ReLU, a norm over another axis and a norm behind a ReLU are operations of their own.
    found = chain(conv("c"), layers.LeakyReLU(name="leaky"))
    assert outputs_of(found) == {"c": OWN, "leaky": OWN}
    found = chain(conv("c"), layers.BatchNormalization(axis=1, name="norm"))
    assert outputs_of(found) == {"c": OWN, "norm": OWN}
    assert not found["norm"].affine
    found = chain(conv("c", activation="relu"), layers.BatchNormalization(name="norm"))
    assert outputs_of(found) == {"c": OWN, "norm": OWN}
    assert found["norm"].affine


@pytest.mark.parametrize("name", ["relu", "relu6"])
def test_relus_that_fuse(name):
    activation = layers.Activation(name, name="act")
    assert outputs_of(chain(conv("c"), activation)) == {"c": NONE, "act": OWN}
    assert chain(conv("c", activation=name))["c"].activation is None


def test_a_lone_norm_is_one_scale_and_shift():
    found = chain(layers.BatchNormalization(name="norm"), layers.ReLU(name="relu"))
    assert found["norm"].affine
    assert outputs_of(found) == {"norm": NONE, "relu": OWN}
    assert found["norm"].how == "rewritten"
    # Two in a row are one, with the range of the last.
    found = chain(layers.Rescaling(1 / 255, name="scale"), layers.Normalization(name="standard"))
    assert not found["scale"].affine
    assert found["standard"].affine
    assert found["standard"].front == 1
    assert outputs_of(found) == {"scale": NONE, "standard": OWN}


def test_a_tensor_with_two_readers_is_held():
    x = image()
    shared = conv("shared")(x)
    one = layers.BatchNormalization(name="norm")(shared)
    two = layers.ReLU(name="relu")(shared)
    found = plans(x, [one, two])
    assert outputs_of(found) == {"shared": OWN, "norm": OWN, "relu": OWN}
    assert found["norm"].affine


def test_an_output_of_the_model_is_held():
    x = image()
    inside = conv("inside")(x)
    found = plans(x, [inside, layers.ReLU(name="relu")(inside)])
    assert outputs_of(found) == {"inside": OWN, "relu": OWN}


def test_add_and_relu():
    x = image()
    left, right = conv("left")(x), conv("right")(x)
    found = plans(x, layers.ReLU(name="relu")(layers.Add(name="add")([left, right])))
    assert outputs_of(found) == {"left": OWN, "right": OWN, "add": NONE, "relu": OWN}
    for fused in (layers.ReLU(), keras.ops.relu, keras.ops.relu6):
        found = plans(x, fused(left + right))
        assert [plan.outputs for plan in found.values()] == [OWN, OWN, NONE, OWN]


@pytest.mark.parametrize(
    ("merge", "count", "between"),
    # n terms are added in n - 1 operations, of which the last has the output's range; an average
    # has one operation more.
    [
        (layers.Add, 2, 0),
        (layers.Add, 4, 2),
        (layers.Multiply, 3, 1),
        (layers.Average, 2, 1),
        (layers.Average, 3, 2),
    ],
)
def test_merges_of_many(merge, count, between):
    x = image()
    terms = [conv(f"c{number}")(x) for number in range(count)]
    assert plans(x, merge(name="merge")(terms))["merge"].between == between


def test_the_parts_of_a_concatenation_have_the_wholes_range():
    x = image()
    alone, read_twice = conv("alone")(x), conv("read_twice")(x)
    known = conv("known", activation="sigmoid")(x)
    whole = layers.Concatenate(name="whole")([alone, read_twice, known])
    found = plans(x, [whole, conv("reader")(read_twice)])
    assert outputs_of(found) == {
        "alone": NONE,
        "read_twice": OWN,
        "known": NONE,
        "whole": OWN,
        "reader": OWN,
    }
    found = plans(x, keras.ops.concatenate([alone, read_twice], axis=-1))
    assert outputs_of(found)["alone"] == NONE


def test_a_moved_part_of_a_concatenation_is_brought_to_its_range():
    x = image()
    cropped = layers.Cropping2D(1, name="cropped")(conv("a")(x))
    pooled = layers.MaxPooling2D(3, 1, name="pooled")(conv("b")(x))
    found = plans(x, layers.Concatenate(name="whole")([cropped, pooled]))
    assert found["cropped"].requantized
    assert found["cropped"].how == "rewritten"
    assert not found["pooled"].requantized
    assert outputs_of(found)["a"] == OWN


@pytest.mark.parametrize(
    "layer",
    [
        layers.Flatten(),
        layers.Reshape((4, 64)),
        layers.Permute((2, 1, 3)),
        layers.ZeroPadding2D(),
        layers.Cropping2D(),
        layers.MaxPooling2D(),
        layers.AveragePooling3D(2),
        layers.GlobalMaxPooling2D(),
        layers.UpSampling2D(),
        layers.UpSampling2D(interpolation="bilinear"),
        layers.Resizing(4, 4),
        layers.Dropout(0.5),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_what_moves_numbers_about_has_its_inputs_range(layer):
    shape = (8, 8, 8, 4) if "3D" in type(layer).__name__ else (8, 8, 4)
    (plan,) = chain(layer, shape=shape).values()
    assert (plan.outputs, plan.weights, plan.between) == ((), {}, 0)
    assert plan.why == "keeps its input's range"


def test_bicubic_resampling_goes_past_its_inputs_range():
    (plan,) = chain(layers.UpSampling2D(interpolation="bicubic")).values()
    assert plan.outputs == OWN


def test_an_average_over_all_has_a_range_of_its_own():
    for layer in (layers.GlobalAveragePooling2D(), layers.AveragePooling2D(8)):
        (plan,) = chain(layer).values()
        assert plan.outputs == OWN
    # Windows over parts of the map are LiteRT's pooling, which rounds.
    (plan,) = chain(layers.AveragePooling2D((8, 4))).values()
    assert plan.outputs == NONE
    assert plan.why == "keeps its input's range, to whose steps it rounds"


@pytest.mark.parametrize(
    ("name", "output", "between"),
    [
        ("silu", True, 1),
        ("hard_sigmoid", True, 1),
        ("gelu", True, 1),
        ("sigmoid", UNIT, 1),
        ("softmax", UNIT, 1),
        ("tanh", SIGNED_UNIT, 1),
        # relu's part, the exponential's and their sum, behind the tensor before them.
        ("selu", True, 4),
        ("elu", True, 4),
    ],
)
def test_activations_are_split_from_their_kernels(name, output, between):
    plan = chain(conv("c", activation=name))["c"]
    assert (plan.activation, plan.outputs, plan.between) == (name, (output,), between)
    assert plan.how == "rewritten"
    assert name in plan.why
    alone = chain(layers.Activation(name, name="act"))["act"]
    assert (alone.activation, alone.outputs) == (None, (output,))
    assert alone.between == between - 1


@pytest.mark.parametrize(
    ("activation", "between"),
    [(layers.ELU(0.5), 3), (layers.ELU(-0.5), 0), (lambda x: keras.ops.elu(x, 0.5), 3)],
    ids=["layer", "turned round", "operation"],
)
def test_exponential_activations_are_taken_apart_wherever_they_stand(activation, between):
    x = image()
    (found,) = plans(x, activation(x)).values()
    assert (found.between, found.outputs) == (between, OWN)


def test_known_ranges_are_litert_s_own():
    # Scale 1/256 at zero point -128, and 1/128 at 0.
    np.testing.assert_allclose((np.array([-128, 127]) + 128) / 256, UNIT)
    np.testing.assert_allclose(np.array([-128, 127]) / 128, SIGNED_UNIT)


@pytest.mark.parametrize(
    ("layer", "between"),
    [
        (layers.LayerNormalization(), 6),
        (layers.LayerNormalization(axis=-2), 0),
        (layers.GroupNormalization(2), 6),
        (layers.RMSNormalization(), 4),
        (layers.UnitNormalization(), 2),
        (layers.UnitNormalization(axis=1), 0),
    ],
)
def test_normalisations_over_a_rows_own_values(layer, between):
    (plan,) = chain(layer, shape=(6, 4)).values()
    assert (plan.between, plan.outputs) == (between, OWN)


def test_nested_models_are_seen_through():
    inner = keras.Sequential([image(), conv("c")], name="inner")
    found = chain(inner, layers.BatchNormalization(name="norm"), layers.ReLU(name="relu"))
    assert outputs_of(found) == {"inner/c": NONE, "norm": NONE, "relu": OWN}


def test_a_shared_layer_has_a_range_where_one_of_its_calls_needs_it():
    x = image()
    shared = conv("shared")
    once = layers.ReLU(name="relu")(shared(x))
    assert outputs_of(plans(x, [once, conv("last")(shared(once))]))["shared"] == OWN
    assert outputs_of(plans(x, once))["shared"] == NONE


def test_integers_have_no_range():
    tokens = keras.Input((5,), dtype="int32")
    found = plans(tokens, layers.Embedding(7, 3, name="words")(tokens))
    assert found["words"].weights == {"embeddings": ()}
    assert found["words"].outputs == OWN
    found = plans(tokens, tokens + 1)
    assert next(iter(found.values())).outputs == ()


def test_skipped_layers_stay_float():
    x = image()
    found = plans(x, conv("b")(conv("a")(x)), lambda path, layer: path == "a")
    assert found["a"] == layout.Plan("a", "Conv2D", "skipped", "left in float on request")
    assert found["b"].outputs == OWN


def test_a_recurrent_layer_is_calibrated_inside():
    # The fused LSTM's output is in its own calibration. A state is a mean of tanh's values, and so
    # is its range, unless the activation is another.
    for layer, outputs in (
        (layers.LSTM(3, name="r"), ()),
        (layers.GRU(3, name="r"), (SIGNED_UNIT,)),
        (layers.SimpleRNN(3, activation="relu", name="r"), OWN),
        (layers.Bidirectional(layers.LSTM(3), name="r"), OWN),
    ):
        plan = chain(layer, shape=(6, 4))["r"]
        assert (plan.how, plan.outputs) == ("inside float", outputs)
        assert "gates" in plan.why
