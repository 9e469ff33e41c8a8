import keras
import numpy as np
import pytest
from keras import layers

from keras_distill import edge
from keras_distill.edge import legacy
from keras_distill.transfer import copy_layers
from keras_distill.transfer.copying.matching import match
from keras_distill.transfer.copying.weighted import weighted_layers


def randomised(model, seed=0):
    """Random weights everywhere, variances positive: nothing is right by accident."""
    generator = np.random.default_rng(seed)
    for variable in model.weights:
        if "float" in variable.dtype:
            positive = "variance" in variable.name or variable.name == "gamma"
            value = generator.normal(size=variable.shape)
            variable.assign(0.3 + np.abs(value) if positive else value)
    for layer in weighted_layers(model).values():
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()
    return model


def values(model):
    return [variable.numpy() for variable in model.variables]


def unchanged(model, before):
    return all(np.array_equal(a, b) for a, b in zip(values(model), before, strict=True))


def dense(*widths, name="model", prefix="d"):
    """d0, d1, ... of these widths on 3 inputs."""
    stack = [layers.Dense(width, name=f"{prefix}{i}") for i, width in enumerate(widths)]
    return keras.Sequential([keras.Input((3,)), *stack], name=name)


def mixed():
    """A shared layer, nested models, statistics, a recurrent layer, attention, a random layer."""
    image = keras.Input((6, 6, 3))
    x = layers.Normalization(name="scaled")(image)
    shared = layers.Conv2D(3, 3, padding="same", name="shared")
    body = keras.Sequential(
        [keras.Input((6, 6, 3)), layers.DepthwiseConv2D(3, name="conv"), layers.PReLU(name="act")],
        name="body",
    )
    x = layers.BatchNormalization(name="norm")(body(shared(shared(x))))
    x = layers.Dropout(0.5, seed=3, name="drop")(layers.Reshape((16, 3))(x))
    x = layers.Bidirectional(layers.LSTM(2), name="both")(
        layers.MultiHeadAttention(2, 3, name="attend")(x, x)
    )
    return keras.Model(image, layers.Dense(2, name="out")(x), name="mixed")


@pytest.fixture(scope="module")
def batch():
    return np.random.default_rng(1).normal(size=(4, 6, 6, 3)).astype("float32")


ALL = ("scaled", "shared", "body/conv", "body/act", "norm", "attend", "both", "out")


@pytest.mark.parametrize("mapping", ["name", "order", dict(zip(ALL, ALL, strict=True))])
def test_a_clone_answers_as_its_teacher_to_the_bit(batch, mapping):
    teacher = randomised(mixed())
    student = keras.models.clone_model(teacher)
    before, seed = values(teacher), student.get_layer("drop").seed_generator.state.numpy()
    teacher(batch, training=True)
    for variable, value in zip(teacher.variables, before, strict=True):
        variable.assign(value)
    # Traced before the copy: Normalization's statistics are constants of the trace.
    student.predict(batch, verbose=0)
    returned, report = copy_layers(teacher, student, mapping)
    assert returned is student
    assert report.copied == ALL
    assert report.left == report.cut == report.initialised == ()
    assert report.parameters == student.count_params()
    np.testing.assert_array_equal(student(batch), teacher(batch))
    np.testing.assert_array_equal(
        student.predict(batch, verbose=0), teacher.predict(batch, verbose=0)
    )
    assert unchanged(teacher, before)
    np.testing.assert_array_equal(student.get_layer("drop").seed_generator.state.numpy(), seed)


def test_between_the_generations(batch):
    original = randomised(mixed())
    twin = edge.to_legacy(original)
    expected = twin(batch).numpy()
    student = keras.models.clone_model(original)
    _, report = copy_layers(twin, student)
    assert set(report.copied) == set(ALL)
    np.testing.assert_allclose(student(batch), expected, rtol=1e-5, atol=1e-5)
    # And back, into a tf_keras student that has weights of its own.
    back = edge.to_legacy(randomised(keras.models.clone_model(original), seed=5))
    assert np.abs(back(batch).numpy() - expected).max() > 0.1
    copy_layers(original, back, "order", freeze=["out"])
    np.testing.assert_allclose(back(batch), expected, rtol=1e-5, atol=1e-5)
    assert not back.get_layer("out").trainable
    np.testing.assert_array_equal(twin(batch), expected)


def test_normalization_of_tf_keras_answers_with_what_it_got():
    tf_keras = legacy.tf_keras()
    x = np.array([[1.0], [3.0]], "float32")
    teacher = keras.Sequential([keras.Input((1,)), layers.Normalization(name="scaled")])
    teacher.layers[0].adapt(x)
    student = tf_keras.Sequential(
        [tf_keras.Input((1,)), tf_keras.layers.Normalization(name="scaled")]
    )
    copy_layers(teacher, student)
    # Mean 2, deviation 1.
    np.testing.assert_allclose(student(x), [[-1.0], [1.0]], rtol=1e-6)


def test_weights_in_another_order_are_told_by_name():
    tf_keras = legacy.tf_keras()

    class Turned(tf_keras.layers.Layer):
        """A Dense whose bias comes first, square: by place the two would be exchanged."""

        def build(self, shape):
            self.offset = self.add_weight("beta", (shape[-1],))
            self.scale = self.add_weight("gamma", (shape[-1],))

        def call(self, x):
            return x * self.scale + self.offset

    source = tf_keras.Sequential([tf_keras.Input((2,)), Turned(name="norm")])
    source.set_weights([np.array([1.0, 2.0]), np.array([3.0, 4.0])])
    norm = layers.LayerNormalization(name="norm")
    copy_layers(source, keras.Sequential([keras.Input((2,)), norm]))
    assert norm.gamma.numpy().tolist() == [3.0, 4.0]
    assert norm.beta.numpy().tolist() == [1.0, 2.0]


def test_into_a_wrapped_tf_keras_student(batch):
    teacher = randomised(mixed())
    twin = edge.to_legacy(randomised(keras.models.clone_model(teacher), seed=5))
    student = edge.wrap_legacy(twin)
    _, report = copy_layers(teacher, student)
    assert set(report.copied) == set(ALL)
    np.testing.assert_allclose(student(batch), teacher(batch), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="shares weights with the teacher"):
        copy_layers(twin, student)


class Block(layers.Layer):
    """A user's layer, made of layers and of a weight of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(2, name="inner")
        self.free = layers.LayerNormalization(name="free")

    def build(self, shape):
        self.token = self.add_weight(shape=(2,), name="token", initializer="random_normal")
        self.inner.build(shape)
        self.free.build((None, 2))

    def call(self, x):
        return self.free(self.inner(x) + self.token)


class Subclassed(keras.Model):
    def __init__(self, width=2, **kwargs):
        super().__init__(**kwargs)
        self.block = Block(name="block")
        self.body = keras.Sequential([layers.Dense(3, name="deep")], name="body")
        self.top = layers.Dense(width, name="top")
        self.scale = self.add_weight(shape=(), name="scale", initializer="random_normal")

    def call(self, x):
        return self.top(self.body(self.block(x))) * self.scale


def test_subclassed_models_are_taken_apart():
    x = np.ones((1, 4), "float32")
    teacher, student, wider = Subclassed(name="t"), Subclassed(name="s"), Subclassed(5)
    for model in (teacher, student, wider):
        model(x)
    randomised(teacher)
    _, report = copy_layers(teacher, student)
    paths = ("(the model's own)", "block", "block/inner", "block/free", "body/deep", "top")
    assert report.copied == paths
    np.testing.assert_array_equal(student(x), teacher(x))
    _, report = copy_layers(teacher, wider, freeze=["block", "body/deep"])
    assert report.left == ("top",)
    # The block's own weight alone: its layers were not named.
    assert not wider.block.token.trainable
    assert wider.block.inner.trainable
    assert not wider.body.layers[0].trainable


def test_names_are_paths_then_last_names_that_are_unique():
    layer = dense(1).layers[0]
    teacher = dict.fromkeys(["stem", "a/conv", "b/conv", "b/norm", "b/both", "head"], layer)
    student = dict.fromkeys(["stem", "x/conv", "b/conv", "x/norm", "both", "c/both", "new"], layer)
    assert match(teacher, student, "name") == {
        "stem": "stem",
        "b/conv": "b/conv",
        "x/norm": "b/norm",  # the only "norm" of each; "conv" and "both" are ambiguous
    }


def test_the_order_counts_each_class_for_itself():
    conv, norm, out = layers.Conv1D(1, 1), layers.BatchNormalization(), layers.Dense(1)
    teacher = {"c1": conv, "n1": norm, "c2": conv, "c3": conv, "d": out}
    student = {"n": norm, "n2": norm, "a": conv, "e": out, "b": conv}
    expected = {"n": "n1", "a": "c1", "e": "d", "b": "c2"}
    assert match(teacher, student, "order") == expected
    assert list(match(teacher, student, "order")) == list(expected)


def test_what_differs_in_shape_is_left_and_said():
    teacher, student = dense(4, 5, 2), dense(4, 3, 2)
    before = values(student)
    _, report = copy_layers(teacher, student, freeze=True)
    assert report.copied == ("d0",)
    assert report.left == ("d1", "d2")
    assert [layer.trainable for layer in student.layers] == [False, True, True]
    row = report.rows[1]
    assert row.source == "d1"
    assert row.why == (
        "the teacher's weights are kernel (4, 5), bias (5,); the student's kernel (4, 3), bias (3,)"
    )
    assert report.parameters == 3 * 4 + 4
    for old, new in zip(before[2:], values(student)[2:], strict=True):
        np.testing.assert_array_equal(old, new)
    assert "d0" in str(report)
    assert "16 parameters taken over" in str(report)


class Counted(layers.Layer):
    """One number, of a type that the teacher's may not have."""

    def build(self, shape):
        self.add_weight(shape=(), name="number", initializer="ones", trainable=False)

    def call(self, x):
        return x


def test_float_types_are_converted_and_integers_never():
    def model(*types):
        stack = [Counted(dtype=kind, name=f"n{i}") for i, kind in enumerate(types)]
        return keras.Sequential([keras.Input((3,)), *stack])

    teacher, student = model("float32", "float32", "int32"), model("float16", "int32", "int32")
    teacher.set_weights([np.array(0.1), np.array(2.5), np.array(7)])
    _, report = copy_layers(teacher, student)
    assert report.copied == ("n0", "n2")
    assert [w.item() for w in student.get_weights()] == [np.float16(np.float32(0.1)).item(), 1, 7]


def test_frozen_layers_stay_through_a_fit_traced_before():
    teacher, student = dense(4, 2), dense(4, 2)
    x, y = np.ones((4, 3)), np.zeros((4, 2))
    student.compile("sgd", "mse")
    student.fit(x, y, verbose=0)
    _, report = copy_layers(teacher, student, {"d0": "d0"}, freeze=True)
    assert report.rows[0].why == "frozen"
    student.fit(x, y, verbose=0)
    np.testing.assert_array_equal(student.layers[0].kernel, teacher.layers[0].kernel)
    assert not np.array_equal(student.layers[1].kernel, teacher.layers[1].kernel)


def test_a_dict_takes_paths_and_layers():
    teacher, student = dense(4, 4, 4, prefix="t"), dense(4, 4, 4, prefix="s")
    _, report = copy_layers(
        teacher, student, {"s1": teacher.get_layer("t2"), student.get_layer("s2"): "t1"}
    )
    assert report.copied == ("s1", "s2")
    assert [row.source for row in report.rows] == [None, "t2", "t1"]
    np.testing.assert_array_equal(student.layers[1].kernel, teacher.layers[2].kernel)


WRONG = [
    (
        {"d1": "d1", "d9": "d0"},
        "The student has no .* called 'd9'. Did you mean 'd.*are d0, d1, d2",
    ),
    ({"d1": "d1", "d0": "e0"}, "The teacher has no .* called 'e0'"),
    ({"d1": "d1", "d2": "d1"}, "many-to-one: the teacher's layer 'd1' is given to 'd1' and 'd2'"),
    (
        {"d1": "d1", "d0": "d2"},
        r"'d2' to the student's 'd0': .* kernel \(4, 4\).* kernel \(3, 4\)",
    ),
    ({}, "Nothing to copy"),
    ("nmae", '"name", "order" or a dict'),
]


@pytest.mark.parametrize(("mapping", "said"), WRONG)
def test_a_wrong_map_changes_nothing(mapping, said):
    student = dense(4, 4, 4)
    before = values(student)
    with pytest.raises(ValueError, match=said):
        copy_layers(dense(4, 4, 4), student, mapping, freeze=True)
    assert unchanged(student, before)
    assert all(layer.trainable for layer in student.layers)


def test_a_name_of_several_layers():
    body = keras.Sequential([keras.Input((3,)), layers.Dense(3, name="d0")], name="body")
    both = keras.Sequential([keras.Input((3,)), body, dense(3, name="tail")])
    with pytest.raises(ValueError, match="'d0' names 2 layers of the student: body/d0, tail/d0"):
        copy_layers(dense(3), both, {"d0": "d0"})
    _, report = copy_layers(dense(3), both, {"body/d0": "d0"})
    assert report.copied == ("body/d0",)


def test_one_layer_named_twice():
    teacher, student = dense(4, 4, 4), dense(4, 4, 4)
    before = values(student)
    with pytest.raises(ValueError, match="names the student's layer 'd1' twice"):
        copy_layers(teacher, student, {"d1": "d1", student.get_layer("d1"): "d2"})
    assert unchanged(student, before)


def test_a_model_is_not_its_own_student():
    model = dense(4, 4, 4)
    before = values(model)
    with pytest.raises(ValueError, match="The student is the teacher"):
        copy_layers(model, model, {"d1": "d2", "d2": "d1"})
    # The teacher's own layer inside another model.
    own = layers.Dense(4, name="d1")
    student = keras.Sequential([keras.Input((3,)), model.get_layer("d0"), own])
    _, report = copy_layers(model, student, freeze=True)
    assert report.copied == ("d1",)
    assert report.rows[0].why == "it shares weights with the teacher"
    assert model.get_layer("d0").trainable
    with pytest.raises(ValueError, match="shares weights"):
        copy_layers(model, student, {"d1": "d2", "d0": "d0"})
    assert unchanged(model, before)


@pytest.mark.parametrize("freeze", [["d1"], ["nothing"]])
def test_only_what_is_copied_can_be_frozen(freeze):
    student = dense(4, 3)
    before = values(student)
    with pytest.raises(ValueError, match="layers that are copied"):
        copy_layers(dense(4, 5), student, freeze=freeze)
    assert unchanged(student, before)


def test_nothing_in_common():
    said = r"(?s)Nothing to copy from 'a' to 'b'.*no partner in the teacher \(2\).*order"
    with pytest.raises(ValueError, match=said):
        copy_layers(dense(4, 4, name="a"), dense(4, 4, name="b", prefix="e"))


def test_unbuilt_models_and_layers():
    student = dense(4)
    with pytest.raises(ValueError, match="'d0' of 'new' is not built"):
        copy_layers(keras.Sequential([layers.Dense(4, name="d0")], name="new"), student)
    with pytest.raises(ValueError, match="is not built"):
        copy_layers(student, Subclassed(name="s"))
    with pytest.raises(TypeError, match="Expected a model of Keras or tf_keras; got str"):
        copy_layers("teacher.keras", student)


def test_a_compressed_student_is_refused():
    teacher, student = dense(4, 4, 4), edge.prune(dense(4, 4, 4), 0.5, skip="first")
    before = values(student)
    with pytest.raises(ValueError, match="student's layer 'd1' is compressed"):
        copy_layers(teacher, student, {"d0": "d0", "d1": "d1"})
    with pytest.raises(ValueError, match=r"edge\.strip"):
        copy_layers(student, teacher)
    assert unchanged(student, before)
