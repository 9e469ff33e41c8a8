"""What people bring from other tools, or hold in the wrong hand: each error names what serves."""

import keras
import pytest
import tf_keras

import keras_distill as kd
from keras_distill.objectives import RegressionTargets


def dense(units=3, outputs=3, activation=None):
    return keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(units), keras.layers.Dense(outputs, activation)]
    )


@pytest.fixture(scope="module")
def pair():
    return dense(3), dense(8)


def loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


# The oldest Keras has none.
THEIRS = (
    [
        (
            keras.distillation.LogitsDistillation(temperature=2.0),
            r"SoftTargets\(temperature=2\.0\)",
        ),
        ([keras.distillation.FeatureDistillation(loss="mse")], r"FeatureHint\(student_layer, "),
    ]
    if hasattr(keras, "distillation")
    else []
)


def test_arguments_of_other_tools_are_all_named_at_once(pair):
    with pytest.raises(TypeError, match=r"label_weight=0\.1.*SoftTargets\(temperature=3\).*'nope'"):
        kd.Distiller(student=pair[0], teacher=pair[1], alpha=0.1, temperature=3, nope=1)
    with pytest.raises(TypeError, match=r"objectives=.*label_weight=0\.5"):
        kd.Distiller(
            teacher=pair[1],
            student=pair[0],
            distillation_losses=[object()],
            student_loss_weight=0.5,
        )
    with pytest.raises(
        TypeError, match=r"'student_loss_fn' \(write compile\(loss.*'distillation_loss_fn'.*'alpha'"
    ):
        kd.Distiller(*pair).compile(
            "adam", student_loss_fn=loss(), distillation_loss_fn=loss(), alpha=0.1, temperature=10
        )


@pytest.mark.parametrize(
    ("given", "mend"),
    [
        ("kl", r"SoftTargets\(temperature=2\.0\)"),
        (4.0, r"SoftTargets\(temperature=4\.0\)"),
        (kd.SoftTargets, r"class SoftTargets\. Write SoftTargets\(\.\.\.\)"),
        ([kd.DKD], r"Write DKD\(\.\.\.\)"),
        ({"soft": kd.SoftTargets()}, r"got dict.*list.*name="),
        *THEIRS,
        (keras.losses.KLDivergence(), r"compile\(loss=.*SoftTargets"),
        (keras.losses.mean_squared_error, r"RegressionTargets"),
        (object(), r"SoftTargets\(temperature=2\.0\)"),
    ],
)
def test_what_is_no_objective_is_told_which_would_be(pair, given, mend):
    with pytest.raises(TypeError, match=mend):
        kd.Distiller(*pair, given)


class Estimator:
    def predict_proba(self, x):
        return x


@pytest.mark.parametrize(
    ("given", "mend"),
    [
        ([dense(), dense()], r"teachers\.Ensemble\("),
        ({"a": dense(), "b": dense()}, r"teachers\.MultiTask\("),
        ("teacher.keras", r"keras_distill\.load_model\('teacher\.keras'\)"),
        ("teacher.tflite", r"load_tflite\('teacher\.tflite'\)"),
        ("saved_model", r"tf\.saved_model\.load"),
        (None, r"teachers\.Virtual"),
        (kd.teachers.Ensemble, r"the class .*Ensemble\. Give an instance"),
        (Estimator(), r"teachers\.Estimator\(it\)"),
        (3, r"got builtins\.int"),
    ],
)
def test_what_is_no_teacher_is_told_which_would_be(pair, given, mend):
    with pytest.raises(TypeError, match=mend):
        kd.Distiller(pair[0], given)


def legacy():
    return tf_keras.Sequential(
        [tf_keras.layers.InputLayer((6,)), tf_keras.layers.Dense(3)], name="old"
    )


@pytest.mark.parametrize(
    ("make", "mend"),
    [
        (legacy, r"tf_keras.*edge\.wrap_legacy"),
        (lambda: keras.layers.Dense(3), r"keras\.Sequential\(\["),
        (lambda: "student.keras", r"keras_distill\.load_model"),
        (lambda: kd.Distiller(dense(), dense(8), name="inner"), r"itself a Distiller.*inner\.stud"),
        (lambda: [kd.SoftTargets()], r"Distiller\(student, teacher, objectives\)"),
    ],
)
def test_what_is_no_student_is_told_the_way(pair, make, mend):
    with pytest.raises(TypeError, match=mend):
        kd.Distiller(make(), pair[1])


def test_numbers_by_place_are_told_their_names(pair):
    with pytest.raises(TypeError, match=r"Write SoftTargets\(temperature=4\.0\)"):
        kd.SoftTargets(4.0)
    with pytest.raises(TypeError, match=r"Write DKD\(alpha=1\.0, beta=8\.0\)"):
        kd.DKD(1.0, 8.0)
    with pytest.raises(TypeError, match=r"Write FeatureHint\('low', 'high', adapter=None\)"):
        kd.FeatureHint("low", "high", None)
    with pytest.raises(TypeError, match=r"Distiller takes what comes after .*got 0\.5"):
        kd.Distiller(*pair, None, 0.5)
    with pytest.raises(TypeError, match=r"compile takes what comes after optimizer, loss by name"):
        kd.Distiller(*pair).compile("adam", loss(), ["accuracy"])


def test_an_objective_from_outside_may_take_what_it_likes():
    class Margin(kd.Objective):
        def __init__(self, margin, *more):
            super().__init__()
            self.margin, self.more = margin, more

    assert Margin(1.0, 2.0, 3.0).more == (2.0, 3.0)


@pytest.mark.parametrize(
    ("optimizer", "its_loss", "mend"),
    [
        (loss(), "adam", r"compile\(optimizer, loss\), in this order"),
        ("adam", keras.optimizers.Adam(), r"compile\(optimizer, loss\), in this order"),
        (keras.optimizers.Adam, loss(), r"the class Adam\. Write Adam\("),
        ("adam", keras.losses.SparseCategoricalCrossentropy, r"Write SparseCategoricalCrossent"),
    ],
)
def test_compile_in_another_order_or_with_a_class(pair, optimizer, its_loss, mend):
    with pytest.raises(TypeError, match=mend):
        kd.Distiller(*pair).compile(optimizer, its_loss)


def without_classes():
    inputs = keras.Input((6,))
    return keras.Model(inputs, keras.ops.squeeze(keras.layers.Dense(1)(inputs), -1))


def test_answers_without_an_axis_of_classes():
    for objective in (kd.SoftTargets(), RegressionTargets()):
        with pytest.raises(ValueError, match=r"teacher with \(None,\).*RegressionTargets\(\)"):
            kd.Distiller(dense(3, 1), without_classes(), objective)
    with pytest.raises(ValueError, match=r"student answers with \(None,\)"):
        kd.Distiller(without_classes(), dense(8, 1))
    for objective in (kd.SoftTargets(), RegressionTargets(), kd.LogitsMSE()):
        with pytest.raises(ValueError, match=r"no axis of classes"):
            kd.Distiller(without_classes(), without_classes(), objective)


def test_regression_under_the_default_objective_names_its_own():
    with pytest.raises(ValueError, match=r"RegressionTargets\(\) for a number"):
        kd.Distiller(dense(3, 1), dense(8, 1))
    several = kd.Distiller(dense(3, 4), dense(8, 4))
    for squared in ("mse", keras.losses.MeanSquaredError(), keras.losses.huber):
        with pytest.warns(UserWarning, match=r"reads numbers.*soft_targets.*RegressionTargets"):
            several.compile("adam", squared)
    with pytest.raises(ValueError, match="MultiLabelTargets"):
        kd.Distiller(dense(3, 1, "sigmoid"), dense(8, 1, "sigmoid"))
