"""Students made of some of the teacher's own blocks and layers, and how blocks are found."""

import random

import keras
import numpy as np
import pytest

from keras_distill import edge
from keras_distill.transfer import blocks, submodel

layers = keras.layers

# Of ResNet50's 16 blocks every second, from the second on, where the width stays.
ADDING_NOTHING = (
    "conv2_block2",
    "conv3_block3",
    "conv4_block3",
    "conv4_block5",
    "conv5_block3",
)


def unsettled(model, seed=0):
    """The model with every normalisation's numbers away from their start."""
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            layer.gamma.assign(rng.uniform(0.5, 1.5, layer.gamma.shape))
            layer.beta.assign(rng.normal(0, 0.1, layer.beta.shape))
            layer.moving_mean.assign(rng.normal(0, 0.1, layer.gamma.shape))
            layer.moving_variance.assign(rng.uniform(0.5, 1.5, layer.gamma.shape))
    return model


@pytest.fixture(scope="module")
def resnet():
    """Its `ADDING_NOTHING` are relu(x + 0) = x, for x comes out of a ReLU itself."""
    keras.utils.set_random_seed(0)
    model = unsettled(keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), classes=5))
    for name in ADDING_NOTHING:
        norm = model.get_layer(f"{name}_3_bn")
        norm.gamma.assign(keras.ops.zeros_like(norm.gamma))
        norm.beta.assign(keras.ops.zeros_like(norm.beta))
    return model


@pytest.fixture(scope="module")
def mobilenet():
    keras.utils.set_random_seed(0)
    return unsettled(
        keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), alpha=0.35, classes=5)
    )


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")


def attend(x, name, **options):
    h = layers.MultiHeadAttention(2, 4, name=f"{name}_attention")(x, x, **options)
    x = layers.LayerNormalization(name=f"{name}_norm1")(layers.Add(name=f"{name}_add1")([x, h]))
    h = layers.Dense(16, activation="gelu", name=f"{name}_up")(x)
    h = layers.Dense(8, name=f"{name}_down")(h)
    return layers.LayerNormalization(name=f"{name}_norm2")(layers.Add(name=f"{name}_add2")([x, h]))


def attend_pre_normalised(x, name, **options):
    h = layers.LayerNormalization(name=f"{name}_norm1")(x)
    x = x + layers.MultiHeadAttention(2, 4, name=f"{name}_attention")(h, h, **options)
    h = layers.LayerNormalization(name=f"{name}_norm2")(x)
    return x + layers.Dense(8, activation="gelu", name=f"{name}_dense")(h)


def encoder(names, attend=attend, masked=False):
    """A text classifier: an embedding, a block a name, a last normalisation, the first token."""
    ids = keras.Input((6,), dtype="int32", name="ids")
    mask = keras.Input((6,), name="mask")
    options = {"attention_mask": layers.Reshape((1, 6))(mask) > 0} if masked else {}
    x = layers.LayerNormalization(name="start")(layers.Embedding(20, 8, name="tokens")(ids))
    for name in names:
        x = attend(x, name, **options)
    if attend is attend_pre_normalised:
        x = layers.LayerNormalization(name="end")(x)
    return keras.Model([ids, mask] if masked else ids, layers.Dense(3, name="classes")(x[:, 0]))


def residual(channels=4, strides=1, size=8):
    """A nested model: x + BatchNormalization(Conv2D(x)), of layers "conv", "norm" and "add"."""
    x = keras.Input((size, size, channels))
    h = layers.Conv2D(channels, 3, strides, padding="same", name="conv")(x)
    h = layers.BatchNormalization(name="norm")(h)
    short = x if strides == 1 else layers.MaxPooling2D(1, strides, name="pool")(x)
    return x, layers.Add(name="add")([short, h])


def nested(name, **options):
    return keras.Model(*residual(**options), name=name)


def chain(*parts, shape=(8, 8, 4)):
    return keras.Sequential([keras.Input(shape), *parts])


def classifier(*parts, shape=(8, 8, 3)):
    """A stem "start" of 4 channels, `parts`, pooling and a Dense "classes"."""
    x = inputs = keras.Input(shape, name="image")
    x = layers.Conv2D(4, 3, padding="same", name="start")(x)
    for part in parts:
        x = part(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(3, name="classes")(x), name="teacher")


def conv(name, channels=4, size=3, **options):
    return layers.Conv2D(channels, size, padding="same", name=name, **options)


def add_residual(name, channels=4, project=False, strides=1):
    """x + norm(conv(relu(x))), or a projection of x instead of x."""

    def part(x):
        h = layers.ReLU(name=f"{name}_relu")(x)
        h = conv(f"{name}_conv", channels, strides=strides)(h)
        h = layers.BatchNormalization(name=f"{name}_norm")(h)
        short = conv(f"{name}_short", channels, 1, strides=strides)(x) if project else x
        return layers.Add(name=f"{name}_add")([short, h])

    return part


def concatenate(name, growth=2):
    def part(x):
        return layers.Concatenate(name=f"{name}_join")([x, conv(f"{name}_conv", growth)(x)])

    return part


def gate(name, channels=4):
    def part(x):
        h = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(x)
        h = conv(f"{name}_excite", channels, 1, activation="sigmoid")(h)
        return layers.Multiply(name=f"{name}_scale")([x, h])

    return part


def noise(model, rows=2):
    """An input for each of the model's, of small whole numbers that suit token ids too."""
    rng = np.random.default_rng(1)
    drawn = [rng.integers(0, 20, (rows, *x.shape[1:])).astype(x.dtype) for x in model.inputs]
    return drawn if len(drawn) > 1 else drawn[0]


def answers(model, x):
    return [np.array(y) for y in keras.tree.flatten(model(x, training=False))]


def check_equal(model, other, x=None, atol=0.0):
    x = noise(model) if x is None else x
    for ours, theirs in zip(answers(model, x), answers(other, x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


def body(model):
    return [block for block in blocks(model) if block.role == "body"]


def names(model):
    return [block.name for block in blocks(model)]


def test_the_residual_blocks_of_resnet_are_found(resnet):
    found = body(resnet)
    sizes = {2: 3, 3: 4, 4: 6, 5: 3}
    assert [block.name for block in found] == [
        f"conv{stage}_block{i + 1}" for stage, size in sizes.items() for i in range(size)
    ]
    # The first of each stage widens.
    assert all(block.removable != block.name.endswith("block1") for block in found)
    assert found[0].layers[-1] == "conv2_block1_out"
    assert found[3].input_shape == (None, 8, 8, 256)
    assert found[3].output_shape == (None, 4, 4, 512)


def test_each_layer_is_in_one_block(resnet, mobilenet):
    for model in (resnet, mobilenet):
        held = [path for block in blocks(model) for path in block.layers]
        assert sorted(held) == sorted(layer.name for layer in model.layers[1:])


def test_the_bottlenecks_of_mobilenet_are_found(mobilenet):
    found = body(mobilenet)
    numbered = [f"block_{number}" for number in range(1, 17)]
    assert [block.name for block in found] == ["expanded_conv", *numbered, "Conv_1"]
    shortcuts = {2, 4, 5, 7, 8, 9, 11, 12, 14, 15}
    assert {b.name for b in found if b.removable} == {f"block_{n}" for n in shortcuts}
    assert blocks(mobilenet)[0].layers == ("Conv1", "bn_Conv1", "Conv1_relu")
    # Keras numbers the pooling through the process.
    assert blocks(mobilenet)[-1].layers == tuple(layer.name for layer in mobilenet.layers[-2:])


@pytest.mark.parametrize("attend", [attend, attend_pre_normalised])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_and_feed_forward_are_one_block(attend, masked):
    stem, first, second, head = blocks(encoder(["first", "second"], attend, masked))
    assert [stem.role, first.role, second.role, head.role] == ["stem", "body", "body", "head"]
    assert (first.name, second.name) == ("first", "second")
    assert first.removable
    assert second.removable
    # A normalisation at the end belongs to the block that has none inside, else to the head.
    assert first.layers[0] in ("first_attention", "first_norm1")
    assert ("end" in head.layers) == (attend is attend_pre_normalised)


def test_a_chain_is_cut_before_its_weighted_layers():
    model = chain(
        layers.Rescaling(1 / 255),
        conv("first"),
        layers.ZeroPadding2D(name="pad"),
        layers.Conv2D(8, 3, name="second"),
        layers.BatchNormalization(name="norm"),
        layers.ReLU(name="relu"),
        layers.MaxPooling2D(name="smaller"),
        conv("third", 8),
        layers.Flatten(name="flat"),
        layers.Dense(8, name="wide"),
        layers.Dense(3, name="classes"),
    )
    second = ("pad", "second", "norm", "relu", "smaller")
    expected = [("stem", 2), ("body", 5), ("body", 1), ("head", 3)]
    assert [(block.role, len(block.layers)) for block in blocks(model)] == expected
    assert blocks(model)[1].layers == second
    assert names(model) == ["first", "second", "third", "wide"]
    assert [block.removable for block in blocks(model)] == [False, False, True, False]


def test_the_head_of_a_perceptron_is_its_last_layer():
    model = chain(layers.Flatten(), *(layers.Dense(8, name=name) for name in "abcd"))
    assert [(block.name, block.role) for block in blocks(model)] == [
        ("a", "stem"),
        ("b", "body"),
        ("c", "body"),
        ("d", "head"),
    ]


def test_a_gate_belongs_to_the_layer_that_it_follows():
    model = classifier(conv("wide", 8), gate("wide", 8), conv("next", 8), add_residual("res", 8))
    assert names(model) == ["start", "wide", "next", "res", "classes"]


@pytest.mark.parametrize("name", ["tanh", "selu", "celu", "softplus"])
def test_an_activation_is_one_as_a_layer_and_as_an_operation(name):
    def found(activate):
        x = inputs = keras.Input((8,))
        for number in range(3):
            x = activate(keras.layers.BatchNormalization()(x))
            y = keras.layers.Dense(8, name=f"d{number}")(x)
            x = keras.layers.Add()([x, keras.layers.Dense(8)(y)])
        model = keras.Model(inputs, keras.layers.Dense(2)(x))
        return [(block.role, len(block.layers)) for block in blocks(model)]

    assert found(getattr(keras.ops, name)) == found(keras.layers.Activation(name))


def test_nested_models_are_blocks_and_a_backbone_is_not():
    parts = [nested(name) for name in ("one", "two", "three")]
    outer = classifier(*parts)
    assert names(outer) == ["start", "one", "two", "three", "classes"]
    assert body(outer)[0].layers == ("one/conv", "one/norm", "one/add")
    backbone = keras.Model(outer.inputs, outer.get_layer("pool").input, name="backbone")
    x = keras.Input((8, 8, 3))
    whole = keras.Model(x, layers.Dense(2)(layers.GlobalMaxPooling2D()(backbone(x))))
    assert [block.layers[0] for block in body(whole)] == [
        "backbone/one/conv",
        "backbone/two/conv",
        "backbone/three/conv",
    ]


def test_unknown_sizes_are_tried_out():
    x, y = residual(size=None)
    _, z = residual(strides=2, size=None)
    same, smaller = keras.Model(x, y, name="same"), keras.Model(_, z, name="smaller")
    found = body(classifier(same, smaller, conv("more"), shape=(None, None, 3)))
    assert found[1].input_shape == found[1].output_shape == (None, None, None, 4)
    assert [block.removable for block in found] == [True, False, True]


def test_each_call_of_a_shared_block_is_a_block():
    shared = nested("shared")
    model = classifier(shared, shared, shared)
    assert [block.name for block in body(model)] == ["shared", "shared:1", "shared:2"]
    student, report = submodel(model, 2)
    check_equal(student, submodel(model, ["start", "shared", "shared:2", "classes"])[0])
    assert not report.left
    assert student.count_params() == model.count_params()


def test_everything_kept_is_the_teacher(mobilenet, images):
    student, report = submodel(mobilenet, 18)
    check_equal(student, mobilenet, images)
    assert report.left == report.initialised == ()
    assert report.parameters == mobilenet.count_params() == student.count_params()
    assert not {id(v) for v in student.variables} & {id(v) for v in mobilenet.variables}


def test_blocks_that_add_nothing_can_be_left_out(resnet, images):
    student, report = submodel(resnet, slice(None, None, 2))
    check_equal(student, resnet, images, atol=1e-5)
    going = [block for block in blocks(resnet) if block.name in ADDING_NOTHING]
    assert set(report.left) == {path for block in going for path in block.layers}
    assert report.initialised == ()
    reasons = {row.why for row in report.rows if row.layer.startswith("conv3_block1")}
    assert reasons == {"conv3_block1 changes the shape, so a slice keeps it"}


def test_the_first_blocks_keep_their_answers_and_the_head_is_made_again(resnet, images):
    student, report = submodel(resnet, 4, seed=3)
    (again,) = (row for row in report.rows if row.action == "initialised")
    assert (again.layer, again.why) == ("predictions", "kernel 512x5, the teacher's 2048x5")
    ours, theirs = (
        keras.Model(model.input, model.get_layer("conv3_block1_out").output)
        for model in (student, resnet)
    )
    check_equal(ours, theirs, images)
    assert student.name == "resnet50_submodel"
    assert student.layers[0].name == resnet.layers[0].name
    assert student.output_names == resnet.output_names


def test_every_second_layer_of_an_encoder():
    teacher = encoder(["first", "second", "third", "fourth"])
    student, report = submodel(teacher, slice(None, None, 2))
    twin = encoder(["first", "third"])
    for layer in twin.layers:
        layer.set_weights(teacher.get_layer(layer.name).get_weights())
    check_equal(student, twin)
    assert len(report.left) == 14


def test_what_is_made_again_follows_the_seed_alone():
    teacher = classifier(conv("wide", 8), conv("more", 8))

    def head(seed):
        return submodel(teacher, lambda block: False, seed=seed)[0].layers[-1].kernel.numpy()

    state = random.getstate()
    first = head(0)
    assert random.getstate() == state
    random.seed(7)
    np.testing.assert_array_equal(head(0), first)
    assert np.abs(head(1) - first).max() > 0.01


def test_a_narrower_join_makes_its_readers_again():
    teacher = classifier(concatenate("a"), concatenate("b"), conv("c", 8), conv("d", 8))
    student, report = submodel(teacher, lambda block: block.name != "a")
    # The start makes 4 channels and "b" joins 2 to them; with "a" it read 4 + 2 and made 8.
    assert report.initialised == ("b_conv", "c")
    assert student.get_layer("c").kernel.shape == (3, 3, 6, 8)
    assert report.left == ("a_conv", "a_join")
    assert report.copied == ("start", "d", "classes")
    np.testing.assert_array_equal(student.get_layer("d").kernel, teacher.get_layer("d").kernel)


def test_a_gate_left_out_lets_everything_through():
    teacher = classifier(conv("wide", 8), gate("wide", 8), conv("next"))
    student, report = submodel(teacher, ["start", "wide_scale", "wide", "next", "pool", "classes"])
    twin = classifier(conv("wide", 8), conv("next"))
    twin.set_weights(
        [w for layer in teacher.layers if layer.name != "wide_excite" for w in layer.get_weights()]
    )
    check_equal(student, twin)
    assert report.left == ("wide_squeeze", "wide_excite", "wide_scale")


def test_a_branch_left_out_in_part_is_still_added():
    teacher = unsettled(classifier(add_residual("res")))
    kept = [layer.name for layer in teacher.layers if layer.name != "res_conv"]
    student, _ = submodel(teacher, kept)
    start, norm = teacher.get_layer("start"), teacher.get_layer("res_norm")
    x = noise(teacher)
    h = start(x)
    h = h + norm(keras.ops.relu(h))
    expected = teacher.get_layer("classes")(keras.ops.mean(h, (1, 2)))
    np.testing.assert_allclose(student(x), expected, atol=1e-6)


def test_names_of_layers_are_exact_and_names_of_blocks_are_whole_blocks():
    def parts():
        return conv("wide"), layers.BatchNormalization(name="norm"), layers.ReLU(name="relu")

    teacher = classifier(*parts(), conv("more"))
    _, report = submodel(teacher, ["start", "wide", "classes"])
    assert report.left == ("more",)
    _, report = submodel(teacher, ["start", "wide", "pool", "classes"])
    assert report.left == ("norm", "relu", "more")
    _, report = submodel(teacher, "(?!relu|more).*")
    assert report.left == ("relu", "more")
    _, report = submodel(teacher, [layer for layer in teacher.layers if layer.name != "norm"])
    assert report.left == ("norm",)
    _, report = submodel(teacher, [block for block in blocks(teacher) if block.name != "wide"])
    assert report.left == ("wide", "norm", "relu")


def test_a_nested_model_stays_whole_or_comes_apart():
    teacher = unsettled(classifier(*map(nested, ("one", "two", "three"))))
    student, report = submodel(teacher, ["start", "one", "two/conv", "two/add", "pool", "classes"])
    assert isinstance(student.get_layer("one"), keras.Model)
    rows = {row.source: row.layer for row in report.rows if row.action == "copied"}
    assert rows["one/conv"] == "one/conv"
    assert rows["two/conv"] == "conv"
    assert report.left == ("two/norm", "three/conv", "three/norm", "three/add")
    whole, _ = submodel(teacher, 3)
    check_equal(whole, teacher)
    # Two of three come apart: their layers are called alike.
    kept = ["start", "(one|two)/(conv|add)", "three", "pool", "classes"]
    apart, report = submodel(teacher, kept)
    assert [layer.name for layer in apart.layers if "conv" in layer.name] == ["conv", "two_conv"]
    assert {row.source: row.layer for row in report.rows}["two/conv"] == "two_conv"


def test_a_nested_model_that_reads_another_width_comes_apart():
    inner = chain(conv("first"), conv("second"), shape=(8, 8, 8))
    teacher = classifier(conv("wide", 8), inner)
    student, report = submodel(teacher, lambda block: block.name != "wide")
    assert report.initialised == ("first",)
    assert report.copied == ("start", "second", "classes")
    assert student.get_layer("first").kernel.shape == (3, 3, 4, 4)


def test_a_layer_that_is_called_twice_stays_one_layer():
    shared = conv("shared")
    teacher = classifier(shared, add_residual("res"), shared)
    student, report = submodel(teacher, lambda block: block.name != "res")
    assert report.copied == ("start", "shared", "classes")
    assert student.count_params() == teacher.count_params() - sum(
        teacher.get_layer(f"res_{kind}").count_params() for kind in ("conv", "norm")
    )
    start, classes = teacher.get_layer("start"), teacher.get_layer("classes")
    x = noise(teacher)
    expected = classes(keras.ops.mean(shared(shared(start(x))), (1, 2)))
    np.testing.assert_allclose(student(x), expected, atol=1e-6)


def test_outputs_keep_their_structure_and_names():
    x = keras.Input((4,), name="x")
    low = layers.Dense(4, name="low")(x)
    high = layers.Add(name="sum")([low, layers.Dense(4, name="high")(low)])
    inner = chain(layers.Dense(2, name="d"), layers.ReLU(), shape=(4,))
    inner.name = "apart"
    whole = layers.Maximum(dtype="float64", name="wide")([low, high])
    teacher = keras.Model({"x": x}, {"a": inner(high), "b": [high, whole]})
    student, _ = submodel(teacher, ["low", "sum", "apart", "wide"])
    assert student.output_names == teacher.output_names
    data = {"x": np.ones((1, 4), "float32")}
    expected = teacher.get_layer("low")(data["x"])
    got = student(data)
    np.testing.assert_allclose(got["b"][0], expected, atol=1e-6)
    np.testing.assert_allclose(got["a"], inner(expected), atol=1e-6)
    assert student.output["b"][1].dtype == "float64"


def test_what_wrappers_hold_is_made_for_the_new_width():
    teacher = chain(
        layers.Dense(8, name="wide"),
        layers.TimeDistributed(layers.Dense(8), name="each"),
        layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)], return_sequences=True, name="two"),
        shape=(5, 4),
    )
    student, report = submodel(teacher, ["each", "two"])
    assert (report.initialised, report.copied) == (("each",), ("two",))
    assert student.get_layer("each").layer.kernel.shape == (4, 8)
    student, report = submodel(teacher, ["two"])
    assert report.initialised == ("two",)
    assert student.get_layer("two").cell.cells[0].kernel.shape == (4, 12)
    assert student(np.ones((1, 5, 4))).shape == (1, 5, 2)


def test_another_number_of_rows_needs_no_new_weights():
    teacher = classifier(layers.MaxPooling2D(name="smaller"), add_residual("res"))
    student, report = submodel(teacher, [x for x in teacher.layers if x.name != "smaller"])
    assert not report.initialised
    assert student.get_layer("res_add").output.shape == (None, 8, 8, 4)
    assert "res_conv" in report.copied


def test_a_frozen_layer_stays_frozen_and_the_student_trains():
    teacher = unsettled(classifier(add_residual("a"), add_residual("b")))
    teacher.get_layer("start").trainable = False
    before = [weight.numpy() for weight in teacher.weights]
    student, _ = submodel(teacher, 1)
    start, classes = student.get_layer("start"), student.get_layer("classes")
    assert not start.trainable
    frozen, free = start.kernel.numpy(), classes.kernel.numpy()
    student.compile("adam", "mse")
    student.fit(noise(teacher), np.ones((2, 3)), verbose=0)
    np.testing.assert_array_equal(start.kernel, frozen)
    assert np.abs(classes.kernel - free).max() > 0
    for weight, value in zip(teacher.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_a_student_is_saved_and_loaded(tmp_path):
    teacher = classifier(nested("one"), nested("two"), lambda x: x * 2, concatenate("more"))
    before = [len(operation._inbound_nodes) for operation in teacher.operations]
    student, _ = submodel(teacher, ["start", "one", "two/.*", "mul.*", "more.*", "pool", "classes"])
    assert [len(operation._inbound_nodes) for operation in teacher.operations] == before
    student.save(tmp_path / "part.keras")
    check_equal(keras.models.load_model(tmp_path / "part.keras"), student)


def test_every_second_bottleneck_of_mobilenet(mobilenet, images):
    student, report = submodel(mobilenet, slice(None, None, 2), name="half")
    left = {path.rpartition("_")[0] for path in report.left if path.endswith("add")}
    assert left == {f"block_{number}" for number in (5, 7, 9, 11, 15)}
    assert student.name == "half"
    assert np.isfinite(student(images)).all()


def without_layers(model, *names):
    return [layer for layer in model.layers if layer.name not in names]


def projecting():
    return classifier(add_residual("a", 8, True, 2), add_residual("b", 8), conv("c", 8))


def crossing():
    """Words that look at an image's places once."""
    words, places = keras.Input((6, 8), name="words"), keras.Input((9, 8), name="places")
    x = layers.MultiHeadAttention(2, 4, name="look")(words, places)
    return keras.Model([words, places], layers.Dense(3, name="classes")(x))


def recurrent():
    x = keras.Input((5, 4))
    _, state = layers.GRU(3, return_state=True, name="gru")(x)
    return keras.Model(x, layers.Dense(2, name="classes")(state))


@pytest.mark.parametrize(
    ("build", "keep", "words"),
    [
        (projecting, 0, "from 1 to 3; got 0. The body is a, b, c"),
        (projecting, 4, "from 1 to 3; got 4"),
        (projecting, slice(5, None), "takes none of the body's 3 blocks"),
        (projecting, [], "got none"),
        (projecting, "a_convv", "keep names 'a_convv'.*nearest are a_conv"),
        (projecting, [conv("other")], "'other' .*Conv2D.* is no part of the teacher"),
        (projecting, ["start", "a", "b"], "leaves out 'classes', which makes an output"),
        (
            projecting,
            lambda teacher: without_layers(teacher, "a_short"),
            r"'a_add' .*Add\) can't join \(None, 8, 8, 4\) of 'start' and \(None, 4, 4, 8\) of "
            r"'a_norm', where the teacher's reads .*'a_short'. Keep the shortcut's projection",
        ),
        (
            projecting,
            lambda teacher: ["start", "b", "c", "classes"],
            r"'b_add' .*\(None, 8, 8, 4\) of 'start' and \(None, 8, 8, 8\) of 'b_norm'.*'a_conv'",
        ),
        (
            projecting,
            lambda teacher: without_layers(teacher, "b_add"),
            "leaves out 'b_add', where .* of 'a_add' and .* of 'b_norm' meet",
        ),
        (
            projecting,
            lambda teacher: without_layers(teacher, "pool"),
            r"'classes' would have the shape \(None, 4, 4, 3\); the teacher's has "
            r"\(None, 3\)..*'pool'",
        ),
        # The oldest Keras says so itself.
        (crossing, ["classes"], "no path from the input 'places'|`inputs` not connected"),
        (recurrent, ["classes"], "'classes' reads more than the first output of 'gru'"),
        (
            lambda: classifier(*(concatenate(name) for name in "abc")),
            slice(None, None, 2),
            "leaves out nothing: of b each changes the shape",
        ),
        (
            lambda: classifier(conv("w", 8), layers.Reshape((4, 4, 32), name="r"), conv("v")),
            ["start", "r", "v", "pool", "classes"],
            r"'r' .*Reshape\) can't read \(None, 8, 8, 4\), where the teacher's reads .*'w'",
        ),
    ],
)
def test_what_does_not_fit_is_refused(build, keep, words):
    teacher = build()
    if callable(keep) and not isinstance(keep, keras.layers.Layer):
        keep = keep(teacher)
    with pytest.raises(ValueError, match=words):
        submodel(teacher, keep)


@pytest.mark.parametrize("keep", [True, 2.5, None, layers.Dense])
def test_keep_of_another_kind_is_refused(keep):
    with pytest.raises(TypeError, match=r"Expected keep as an int, a slice, a function"):
        submodel(projecting(), keep)


def test_models_without_a_graph_are_refused():
    class Own(keras.Model):
        pass

    with pytest.raises(ValueError, match="subclassed"):
        blocks(Own())
    with pytest.raises(ValueError, match="built"):
        submodel(keras.Sequential([layers.Dense(2)]), 1)
    with pytest.raises(TypeError, match="Expected seed"):
        submodel(projecting(), 1, seed=None)


def test_a_compressed_model_is_to_be_stripped_first():
    pruned = edge.prune(projecting(), sparsity=0.5)
    with pytest.raises(ValueError, match=r"compressed.*kd\.edge\.strip"):
        submodel(pruned, 1)
    submodel(edge.strip(pruned), 1)
