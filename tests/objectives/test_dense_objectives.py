"""Regression, several labels, maps and several heads, inside a Distiller."""

import keras
import numpy as np
import pytest

import keras_distill as kd
from keras_distill import functional
from keras_distill.objectives import (
    AttentiveRegression,
    BoundedRegression,
    ChannelWiseTargets,
    MultiLabelTargets,
    RegressionTargets,
    SoftTargets,
)

RNG = np.random.default_rng(0)


def spec(*shape, **options):
    return kd.Signals(keras.KerasTensor((None, *shape)), **options)


def regressor(width, outputs=1, seed=0):
    keras.utils.set_random_seed(seed)
    hidden = keras.layers.Dense(width, "tanh")
    return keras.Sequential([keras.Input((3,)), hidden, keras.layers.Dense(outputs)])


@pytest.mark.parametrize(
    "objective",
    [BoundedRegression(margin=0.1), AttentiveRegression(max_teacher_error=5.0, delta=1.0)],
    ids=["bounded", "attentive"],
)
@pytest.mark.parametrize("labels", [(16, 1), (16,)])
def test_regression_logs_the_function_of_the_labels(objective, labels):
    student, teacher = regressor(2), regressor(8, seed=1)
    x, y = RNG.normal(size=(16, 3)).astype("float32"), RNG.normal(size=labels).astype("float32")
    distiller = kd.Distiller(student, teacher, objective)
    distiller.compile(keras.optimizers.SGD(0.0), keras.losses.MeanSquaredError())
    ours, theirs = kd.Signals(student(x)), kd.Signals(teacher(x))
    expected = np.mean(objective(ours, theirs, y.reshape(16, 1)))
    history = distiller.fit(x, y, batch_size=16, verbose=0).history
    assert history[objective.name][0] == pytest.approx(expected, rel=1e-5)


def test_a_label_of_minus_one_is_a_number_where_numbers_are_learned():
    values = BoundedRegression()(kd.Signals([[1.0]]), kd.Signals([[-1.0]]), [[-1]])
    assert float(values[0]) == 4.0


def test_a_bounded_student_is_left_alone_once_it_beats_its_teacher():
    student, teacher = regressor(4), regressor(8, seed=1)
    x = RNG.normal(size=(32, 3)).astype("float32")
    y = np.asarray(student(x))
    distiller = kd.Distiller(student, teacher, BoundedRegression())
    distiller.compile(keras.optimizers.SGD(1.0), loss=None)
    before = [np.copy(weight) for weight in student.get_weights()]
    distiller.fit(x, y, batch_size=32, verbose=0)
    for weight, expected in zip(student.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_pixels_by_class_and_classes_by_place_train_a_segmentation_student():
    def segmenter(width, seed):
        keras.utils.set_random_seed(seed)
        return keras.Sequential(
            [
                keras.Input((None, None, 1)),
                keras.layers.Conv2D(width, 3, padding="same", activation="relu"),
                keras.layers.Conv2D(3, 1),
            ]
        )

    student, teacher = segmenter(2, 0), segmenter(6, 1)
    distiller = kd.Distiller(student, teacher, [SoftTargets(), ChannelWiseTargets()])
    distiller.compile(keras.optimizers.Adam(0.02), loss=None)
    x = RNG.normal(size=(16, 6, 5, 1)).astype("float32")
    history = distiller.fit(x, batch_size=16, epochs=6, verbose=0).history
    assert history["soft_targets"][-1] < history["soft_targets"][0]
    assert history["channel_wise_targets"][-1] < history["channel_wise_targets"][0]


def test_each_objective_sees_the_head_it_names():
    def build(width, seed):
        keras.utils.set_random_seed(seed)
        x = keras.Input((3,))
        hidden = keras.layers.Dense(width, "tanh")(x)
        heads = {"box": keras.layers.Dense(4, name="box")(hidden)}
        heads["tags"] = keras.layers.Dense(6, name="tags")(hidden)
        return keras.Model(x, heads)

    student, teacher = build(2, 0), build(8, 1)
    objectives = [
        RegressionTargets(output="box", delta=1.0),
        BoundedRegression(output="box"),
        MultiLabelTargets(output="tags", temperature=2.0),
    ]
    distiller = kd.Distiller(student, teacher, objectives)
    distiller.compile(keras.optimizers.SGD(0.0), loss=None)
    x, box = RNG.normal(size=(16, 3)).astype("float32"), RNG.normal(size=(16, 4))
    y = {"box": box.astype("float32"), "tags": RNG.integers(0, 2, (16, 6)).astype("float32")}
    ours, theirs = student(x), teacher(x)
    expected = {
        "regression_targets": functional.regression_distance(ours["box"], theirs["box"], delta=1.0),
        "bounded_regression": functional.bounded_regression(ours["box"], theirs["box"], box),
        "multi_label_targets": functional.multilabel_kl(
            ours["tags"], theirs["tags"], temperature=2.0
        ),
    }
    history = distiller.fit(x, y, batch_size=16, verbose=0).history
    for name, values in expected.items():
        assert history[name][0] == pytest.approx(float(np.mean(values)), rel=1e-5)


@pytest.mark.parametrize("sigmoid", ["student", "teacher", "both"])
def test_models_that_end_in_a_sigmoid_say_what_their_logits_would(sigmoid):
    logits = {who: RNG.normal(0, 3, (5, 4)).astype("float32") for who in ("student", "teacher")}
    given = [
        kd.Signals(keras.ops.sigmoid(x) if sigmoid in (who, "both") else x)
        for who, x in logits.items()
    ]
    np.testing.assert_allclose(
        MultiLabelTargets(sigmoid=sigmoid)(*given, None),
        functional.multilabel_kl(logits["student"], logits["teacher"]),
        rtol=1e-4,
    )


def labeller(activation, seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, name="z"), keras.layers.Activation(activation)]
    )


@pytest.mark.parametrize("ours", ["linear", "sigmoid"])
@pytest.mark.parametrize("theirs", ["linear", "sigmoid"])
def test_a_final_sigmoid_is_seen(ours, theirs, tmp_path):
    student, teacher = labeller(ours, 0), labeller(theirs, 1)
    x = RNG.normal(size=(8, 3)).astype("float32")
    expected = functional.multilabel_kl(*(m.get_layer("z")(x) for m in (student, teacher)))
    cache = kd.TeacherCache.build(teacher, x, tmp_path / "c", dtype="float32", verbose=False)

    def logged(distiller, data):
        return distiller.fit(data, verbose=0).history["multi_label_targets"][0]

    def new(source):
        distiller = kd.Distiller(student, source, MultiLabelTargets())
        distiller.compile(keras.optimizers.SGD(0.0), loss=None)
        return distiller

    distiller = new(teacher)
    value = pytest.approx(float(np.mean(expected)), rel=1e-4)
    assert logged(distiller, x) == value
    distiller.save(tmp_path / "d.keras")
    assert logged(kd.Distiller.load(tmp_path / "d.keras", teacher), x) == value
    assert logged(new(kd.teachers.Ensemble([teacher, teacher])), x) == value
    assert logged(new(cache), cache.dataset(8)) == value


@pytest.mark.parametrize("eagerly", [False, True])
def test_a_student_whose_sigmoid_is_saturated_learns_all_the_same(eagerly):
    # sigmoid(40) is 1 in float32, and nothing of 40 can be read off it.
    head = keras.layers.Dense(2, "sigmoid", bias_initializer=keras.initializers.Constant(40.0))
    student = keras.Sequential([keras.Input((3,)), head])
    teacher = regressor(4, outputs=2, seed=1)
    x = RNG.normal(size=(8, 3)).astype("float32")
    expected = functional.multilabel_kl(x @ head.kernel + head.bias, teacher(x))
    distiller = kd.Distiller(student, teacher, MultiLabelTargets(sigmoid="student"))
    distiller.compile(keras.optimizers.SGD(1.0), loss=None, run_eagerly=eagerly)
    history = distiller.fit(x, verbose=0).history["multi_label_targets"]
    assert history[0] == pytest.approx(float(np.mean(expected)), rel=1e-5)
    # d KL / d z = sigmoid(z) - teacher's probability, over two labels' mean.
    pull = np.mean(1 - keras.ops.sigmoid(teacher(x)), axis=0) / 2
    np.testing.assert_allclose(40.0 - head.bias, pull, rtol=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RegressionTargets(delta=0.0), "RegressionTargets: delta must be positive; got 0"),
        (lambda: BoundedRegression(delta=-1.0), "BoundedRegression: delta must be positive"),
        (lambda: BoundedRegression(margin=-1.0), "margin must be finite and at least 0; got -1"),
        (lambda: AttentiveRegression(max_teacher_error=0.0), "max_teacher_error must be positive"),
        (lambda: MultiLabelTargets(temperature=0.0), "MultiLabelTargets: temperature must be"),
        (lambda: MultiLabelTargets(sigmoid=True), "'teacher' or 'both'; got True"),
        (lambda: ChannelWiseTargets(temperature=0.0), "ChannelWiseTargets: temperature must be"),
    ],
)
def test_arguments_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("objective", "pair", "message"),
    [
        (ChannelWiseTargets(), (spec(5), spec(5)), r"\(None, 5\), and there are no positions"),
        (ChannelWiseTargets(), (spec(8, 8, 5), spec(4, 4, 5)), r"\(None, 4, 4, 5\)"),
        (MultiLabelTargets(), (spec(5), spec(4)), "5 classes.*teacher 4"),
        (RegressionTargets(), (spec(2), spec(2, from_probabilities=True)), "gives probabilities"),
    ],
)
def test_answers_that_do_not_fit(objective, pair, message):
    with pytest.raises(ValueError, match=message):
        objective.build(*pair)


def test_binary_answers_of_one_logit_fit():
    MultiLabelTargets().build(spec(1), spec(1))
