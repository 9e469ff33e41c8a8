"""Narrower teachers: to a width, to a budget, at once and in rounds."""

import json

import keras
import numpy as np
import pytest
from keras import layers

import keras_distill as kd
from keras_distill.graph.copying import weight_paths
from keras_distill.transfer import Recovery, profile, shrink


def residual(width=16, classes=10, name="teacher"):
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 1), name="image")
    y = layers.Conv2D(width, 3, padding="same", use_bias=False, name="stem")(x)
    y = layers.ReLU()(layers.BatchNormalization(momentum=0.9, name="stem_norm")(y))
    z = layers.Conv2D(2 * width, 1, use_bias=False, name="expand")(y)
    z = layers.ReLU()(layers.BatchNormalization(momentum=0.9, name="expand_norm")(z))
    z = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(z)
    z = layers.Conv2D(width, 1, name="project")(z)
    y = layers.Add(name="add")([y, z])
    y = layers.GlobalAveragePooling2D()(y)
    return keras.Model(x, layers.Dense(classes, name="logits")(y), name=name)


def widths(model):
    return {
        layer.name: layer.filters
        for layer in model.layers
        if isinstance(layer, layers.Conv2D) and not isinstance(layer, layers.DepthwiseConv2D)
    }


@pytest.fixture(scope="module")
def teacher(digits):
    model = residual()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(digits.x_train, digits.y_train, epochs=6, verbose=0)
    return model


@pytest.fixture
def untouched(teacher):
    before = [v.numpy() for v in teacher.variables]
    yield
    for old, variable in zip(before, teacher.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())


def test_whole_it_is_the_teacher(teacher, digits, untouched):
    student, report = shrink(teacher, 1.0)
    expected = teacher.predict(digits.x_test, verbose=0)
    np.testing.assert_array_equal(student.predict(digits.x_test, verbose=0), expected)
    assert not report.cut
    assert report.parameters == teacher.count_params()
    ours = {id(v) for v in student.variables}
    assert not ours & {id(v) for v in teacher.variables}


def test_half_is_the_default(teacher, digits, untouched):
    student, report = shrink(teacher)
    # Stem and project are added, so they keep the same half.
    assert widths(student) == {"stem": 8, "expand": 16, "project": 8}
    assert report.channels["stem"] == report.channels["project"]
    assert report.channels["logits"] == tuple(range(10))
    assert [layer.name for layer in student.layers] == [layer.name for layer in teacher.layers]
    for key in ("stem", "expand"):
        places = list(report.channels[key])
        ours, theirs = student.get_layer(f"{key}_norm"), teacher.get_layer(f"{key}_norm")
        np.testing.assert_array_equal(ours.moving_mean, np.asarray(theirs.moving_mean)[places])
    np.testing.assert_array_equal(
        student.get_layer("expand").kernel[0, 0],
        np.asarray(teacher.get_layer("expand").kernel)[0, 0][
            np.ix_(report.channels["stem"], report.channels["expand"])
        ],
    )
    assert student.predict(digits.x_test[:2], verbose=0).shape == (2, 10)


@pytest.mark.parametrize("criterion", ["l1", "l2", "bn_scale", "activation", "taylor"])
def test_silent_channels_go_first_and_are_not_missed(teacher, digits, criterion):
    silent = keras.models.clone_model(teacher)
    silent.set_weights(teacher.get_weights())
    # Channels 1, 4, 6 ... of both groups say nothing any more, by hand.
    gone = {"stem": range(1, 16, 2), "project": range(1, 16, 2), "expand": range(0, 32, 2)}
    for name, places in gone.items():
        for layer in (silent.get_layer(name), *_norm(silent, name)):
            for path, variable in weight_paths(layer).items():
                if path in ("kernel", "gamma", "beta", "bias"):
                    value = variable.numpy()
                    value[..., list(places)] = 0
                    variable.assign(value)
    data = {"activation": digits.x_train[:64], "taylor": (digits.x_train[:64], digits.y_train[:64])}
    student, report = shrink(silent, 0.5, criterion=criterion, data=data.get(criterion))
    assert report.channels["stem"] == tuple(range(0, 16, 2))
    assert report.channels["expand"] == tuple(range(1, 32, 2))
    np.testing.assert_allclose(
        student.predict(digits.x_test, verbose=0),
        silent.predict(digits.x_test, verbose=0),
        atol=1e-5,
    )


def _norm(model, name):
    return [layer for layer in model.layers if layer.name == f"{name}_norm"]


@pytest.mark.parametrize("scope", ["uniform", "global"])
@pytest.mark.parametrize(
    ("budget", "figure"),
    [("max_params", "parameters"), ("max_flops", "flops"), ("max_bytes_int8", "bytes_int8")],
)
def test_a_budget_is_kept_and_used(teacher, untouched, budget, figure, scope):
    whole = getattr(profile(teacher), figure)
    student, _ = shrink(teacher, scope=scope, **{budget: whole / 3})
    given = getattr(profile(student), figure)
    assert given <= whole / 3
    # One channel more or less in each of the two groups is within a sixth.
    assert given > whole / 3 * 5 / 6


def test_several_budgets_hold_together(teacher):
    whole = profile(teacher)
    student, _ = shrink(teacher, max_params=whole.parameters / 2, max_flops=whole.flops / 6)
    found = profile(student)
    assert found.parameters <= whole.parameters / 2
    assert found.flops <= whole.flops / 6
    same, _ = shrink(teacher, max_flops=whole.flops / 6)
    assert widths(same) == widths(student)


def test_a_budget_above_the_teacher_leaves_it_whole(teacher):
    student, report = shrink(teacher, max_params=10**9)
    assert widths(student) == widths(teacher)
    assert not report.cut


def test_what_is_said_to_be_the_smallest_is_reachable(teacher):
    with pytest.raises(ValueError, match=r"max_params=10 can't be reached.* (\d+) parameters") as e:
        shrink(teacher, max_params=10)
    smallest = int(str(e.value).split(" parameters")[0].split()[-1].replace(",", ""))
    student, _ = shrink(teacher, max_params=smallest)
    assert student.count_params() == smallest
    with pytest.raises(ValueError, match="can't be reached"):
        shrink(teacher, max_params=smallest - 1)


def test_global_takes_from_the_layers_that_matter_least(teacher):
    even, _ = shrink(teacher, 0.5)
    ranked, _ = shrink(teacher, 0.5, scope="global", criterion="bn_scale")
    assert sum(widths(ranked).values()) != 3 * sum(widths(even).values())
    shy = keras.models.clone_model(teacher)
    shy.set_weights(teacher.get_weights())
    gamma = shy.get_layer("expand_norm").gamma
    # Twelve of 32 scales stand out: the group's root mean square is theirs, the rest is small.
    gamma.assign(np.where(np.arange(32) < 12, 1.0, 1e-3))
    student, report = shrink(shy, 0.5, scope="global", criterion="bn_scale")
    assert widths(student)["expand"] <= 13
    assert set(range(12)) <= set(report.channels["expand"])


def test_rounds_name_the_teachers_own_channels(teacher, digits, untouched):
    recovery = Recovery(
        (digits.x_train[:256], digits.y_train[:256]),
        rounds=3,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        options={"verbose": 0, "batch_size": 64},
    )
    student, report = shrink(teacher, 0.25, iterative=recovery)
    assert widths(student) == {"stem": 4, "expand": 8, "project": 4}
    assert report.channels["stem"] == report.channels["project"]
    assert len(report.channels["stem"]) == 4
    # By rounds of 0.25^(1/3): stem 16, 10, 6, 4. What is left of a first cut is in the second.
    first, _ = shrink(teacher, 0.25 ** (1 / 3))
    assert widths(first)["stem"] == 10
    _, once = shrink(teacher, 0.25 ** (1 / 3))
    assert set(report.channels["stem"]) <= set(once.channels["stem"])


def test_recovery_recovers(teacher, digits, untouched):
    cut, _ = shrink(teacher, 0.4)
    recovery = Recovery(
        digits.x_train,
        rounds=1,
        epochs=4,
        optimizer=keras.optimizers.Adam(3e-3),
        objectives=[kd.SoftTargets(temperature=2.0)],
        options={"verbose": 0},
    )
    trained, _ = shrink(teacher, 0.4, iterative=recovery)

    def agreement(model):
        chosen = model.predict(digits.x_test, verbose=0).argmax(-1)
        return np.mean(chosen == teacher.predict(digits.x_test, verbose=0).argmax(-1))

    assert agreement(trained) > agreement(cut) + 0.1
    assert recovery.optimizer.iterations == 0, "each round has an optimiser of its own"


def test_a_tf_data_set_and_what_recovery_refuses(teacher, digits):
    import tensorflow as tf

    batches = tf.data.Dataset.from_tensor_slices((digits.x_train[:64], digits.y_train[:64]))
    recovery = Recovery(batches.batch(16), rounds=2, options={"verbose": 0})
    assert widths(shrink(teacher, 0.5, iterative=recovery)[0])["stem"] == 8
    with pytest.raises(ValueError, match="rounds must be 1 or more; got 0"):
        Recovery(batches, rounds=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 0.01}, r"leaves 'stem' with none of its 16 channels; .* is 0\.0312"),
        ({"width": 1.5}, r"width in \(0, 1\].* got 1.5"),
        ({"width": 0.5, "max_params": 99}, "not both"),
        ({"scope": "local"}, "'uniform' or 'global'; got 'local'"),
        ({"multiple_of": 0}, "multiple_of as 1 or more"),
        ({"criterion": "taylor"}, r"give data=\(x, y\)"),
        ({"criterion": "best"}, "got 'best'"),
        ({"skip": "nothing"}, "no layer answers"),
        ({"input_shape": (8, 8, 1)}, "leave it out with width"),
    ],
)
def test_what_is_refused(teacher, options, words):
    with pytest.raises(ValueError, match=words):
        shrink(teacher, **options)


def test_compressed_models_are_sent_to_strip(teacher):
    with pytest.raises(ValueError, match=r"kd\.edge\.strip"):
        shrink(kd.edge.prune(teacher, 0.5))


def test_open_sizes_need_a_shape_only_for_a_budget():
    x = keras.Input((None, None, 3))
    y = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, name="a")(x))
    model = keras.Model(x, layers.Dense(2)(y))
    assert shrink(model, 0.5)[0].get_layer("a").filters == 4
    with pytest.raises(ValueError, match="input_shape"):
        shrink(model, max_flops=1000)
    student, _ = shrink(model, max_flops=10_000, input_shape=(8, 8, 3))
    # 6 x 6 places x 27 x width x 2, and the head's 2 x width x 2: 1944 w + 4 w.
    assert student.get_layer("a").filters == 10_000 // 1948


def test_the_report_prints_and_is_json(teacher):
    _, report = shrink(teacher, 0.5)
    assert "teacher made narrower" in str(report)
    assert "kernel 1x1x16x32 to 1x1x8x16" in str(report)
    record = json.loads(report.to_json())
    assert len(record["channels"]["stem"]) == 8
