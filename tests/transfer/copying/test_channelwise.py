"""A narrower student filled with channels of its teacher."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_distill.graph.copying import weight_paths
from keras_distill.transfer import copy_important, copy_random, shrink


def build(width, seed=0, prefix="", project=None, name="model"):
    """Residual, depthwise-separable, concatenated, normalised, flattened."""
    keras.utils.set_random_seed(seed)
    x = keras.Input((6, 6, 2), name="image")
    stem = layers.Conv2D(width, 3, padding="same", name=f"{prefix}stem")(x)
    y = layers.BatchNormalization(name=f"{prefix}norm")(stem)
    y = layers.DepthwiseConv2D(3, padding="same", name=f"{prefix}depthwise")(layers.ReLU()(y))
    y = layers.Conv2D(project or width, 1, name=f"{prefix}project")(y)
    y = layers.Add()([stem, y]) if project is None else y
    y = layers.Concatenate()([y, layers.Conv2D(2 * width, 1, name=f"{prefix}side")(x)])
    return keras.Model(x, layers.Dense(4, name=f"{prefix}head")(layers.Flatten()(y)), name=name)


@pytest.fixture(scope="module")
def teacher():
    model = build(8, seed=1, name="teacher")
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if "kernel" not in variable.path:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def weights(model):
    return {
        f"{layer.name}/{path}": variable.numpy()
        for layer in model.layers
        for path, variable in weight_paths(layer).items()
    }


@pytest.mark.parametrize("criterion", ["l1", "l2", "bn_scale", "activation", "taylor"])
def test_a_student_of_half_the_width_becomes_the_shrunken_teacher(teacher, criterion):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(32, 6, 6, 2)).astype("float32"), rng.integers(0, 4, 32)
    data = {"activation": x, "taylor": (x, y)}.get(criterion)
    before = weights(teacher)
    student, report = copy_important(teacher, build(4), criterion, data=data)
    expected, cut = shrink(teacher, 0.5, criterion=criterion, data=data)
    for key, value in weights(expected).items():
        np.testing.assert_array_equal(weights(student)[key], value)
    assert report.channels == cut.channels
    assert report.cut == ("stem", "norm", "depthwise", "project", "side", "head")
    assert report.parameters == student.count_params()
    for key, value in weights(teacher).items():
        np.testing.assert_array_equal(before[key], value)


def test_the_channels_drawn_depend_on_the_seed_alone(teacher):
    first = copy_random(teacher, build(4), seed=3)[1].channels
    assert copy_random(teacher, build(4, seed=9), seed=3)[1].channels == first
    drawn = {copy_random(teacher, build(4), seed=s)[1].channels["stem"] for s in range(6)}
    assert len(drawn) > 1
    # Added, so drawn together; the side branch by itself.
    assert first["stem"] == first["project"]
    assert len(first["side"]) == 8


def test_a_random_draw_is_consistent_from_layer_to_layer(teacher):
    student, report = copy_random(teacher, build(4), seed=5)
    stem, side = list(report.channels["stem"]), list(report.channels["side"])
    theirs, ours = weights(teacher), weights(student)
    np.testing.assert_array_equal(ours["stem/kernel"], theirs["stem/kernel"][..., stem])
    np.testing.assert_array_equal(
        ours["depthwise/kernel"], theirs["depthwise/kernel"][:, :, stem, :]
    )
    np.testing.assert_array_equal(
        ours["project/kernel"], theirs["project/kernel"][:, :, stem][..., stem]
    )
    # Flattened places come row by row, 8 + 16 channels a place.
    both = stem + [8 + channel for channel in side]
    rows = [24 * place + channel for place in range(36) for channel in both]
    np.testing.assert_array_equal(ours["head/kernel"], theirs["head/kernel"][rows])


def test_a_fraction_leaves_the_rest_as_the_student_began(teacher):
    student = build(4, seed=7)
    began = weights(student)
    student, report = copy_random(teacher, student, fraction=0.5, seed=2)
    places, ours = list(report.channels["stem"]), weights(student)
    from_teacher = weights(teacher)["stem/kernel"][..., places]
    taken = [np.array_equal(ours["stem/kernel"][..., i], from_teacher[..., i]) for i in range(4)]
    own = [
        np.array_equal(ours["stem/kernel"][..., i], began["stem/kernel"][..., i]) for i in range(4)
    ]
    # Each channel is wholly the teacher's or wholly the student's own.
    assert [a != b for a, b in zip(taken, own, strict=True)] == [True] * 4
    assert any(taken)
    assert any(own)
    # A weight between two channels is the teacher's where both are.
    both = np.outer(taken, taken)
    kernel = ours["project/kernel"][0, 0]
    theirs = weights(teacher)["project/kernel"][0, 0][np.ix_(places, places)]
    np.testing.assert_array_equal(kernel, np.where(both, theirs, began["project/kernel"][0, 0]))
    assert report.parameters < student.count_params()


def test_equal_widths_are_copied_whole(teacher):
    student, report = copy_important(teacher, build(8))
    x = np.random.default_rng(0).normal(size=(3, 6, 6, 2)).astype("float32")
    np.testing.assert_array_equal(student.predict(x, verbose=0), teacher.predict(x, verbose=0))
    assert len(report.copied) == 6


def test_layers_of_other_names_are_matched_by_order(teacher):
    with pytest.raises(ValueError, match="mapping="):
        copy_important(teacher, build(4, prefix="small_"))
    student, report = copy_important(teacher, build(4, prefix="small_"), mapping="order")
    assert [row.source for row in report.rows] == [
        "stem", "norm", "depthwise", "project", "side", "head",
    ]  # fmt: skip
    named, _ = copy_important(teacher, build(4))
    for ours, theirs in zip(student.get_weights(), named.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_layer_whose_surroundings_differ_is_left_and_said(teacher):
    keras.utils.set_random_seed(0)
    x = keras.Input((6, 6, 2))
    y = layers.Conv2D(4, 3, padding="same", name="stem")(x)
    y = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 5, name="between")(y))
    student = keras.Model(x, layers.Dense(4, name="head")(layers.GlobalMaxPooling2D()(y)))
    head = student.get_layer("head").kernel.numpy()
    student, report = copy_important(teacher, student)
    # All of the teacher's 16 side channels stay: no layer of the student says otherwise.
    assert report.left == ("between", "head")
    (row,) = [row for row in report.rows if row.layer == "head"]
    assert "4x4" in row.why
    assert f"{36 * (4 + 16)}x4" in row.why
    np.testing.assert_array_equal(student.get_layer("head").kernel, head)


def test_widths_that_the_teacher_ties_must_be_equal(teacher):
    student = build(4, project=3)
    before = weights(student)
    with pytest.raises(ValueError, match=r"stem, project.*stem 4, project 3"):
        copy_important(teacher, student)
    for key, value in weights(student).items():
        np.testing.assert_array_equal(before[key], value)


def test_grouped_convolutions_and_recurrent_layers():
    def model(width, units):
        keras.utils.set_random_seed(width)
        x = keras.Input((8, 3))
        y = layers.Conv1D(width, 1, name="a")(x)
        y = layers.Conv1D(width, 3, groups=2, name="grouped")(y)
        y = layers.Bidirectional(layers.GRU(units), name="both")(y)
        return keras.Model(x, layers.Dense(2, name="head")(y))

    source = model(8, 6)
    student, report = copy_important(source, model(4, 3))
    expected, _ = shrink(source, 0.5, criterion="l1")
    for ours, theirs in zip(student.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(report.cut) == 4


@pytest.mark.parametrize("fraction", [0, -0.5, 1.5])
def test_a_fraction_out_of_range(teacher, fraction):
    with pytest.raises(ValueError, match=r"fraction in \(0, 1\]"):
        copy_random(teacher, build(4), fraction=fraction)


def test_a_criterion_without_its_data(teacher):
    with pytest.raises(ValueError, match="'activation' is measured on data"):
        copy_important(teacher, build(4), "activation")
