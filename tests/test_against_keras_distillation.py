"""Each defect of `keras.distillation` that the design lists, and ours without it.

A test shows the defect on theirs first, and is skipped on a Keras where it is gone.
"""

import keras
import numpy as np
import pytest
import stored
import tensorflow as tf
from scipy import special

import keras_distill as kd

theirs = pytest.importorskip("keras.distillation", reason="this Keras has no keras.distillation")

LABEL_LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def skip_where_fixed(fixed):
    if fixed:
        pytest.skip(f"fixed in this Keras ({keras.__version__})")


def their_logits():
    # The Loss instance, unlike the default name, does apply the softmax.
    return theirs.LogitsDistillation(temperature=4.0, loss=keras.losses.KLDivergence())


def their_features(name="low"):
    return theirs.FeatureDistillation(teacher_layer_name=name, student_layer_name=name)


def dense(inputs=4, classes=3, seed=0, **options):
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((inputs,)), keras.layers.Dense(classes, **options)]
    return keras.Sequential(layers)


def values(model):
    return [v.numpy() for v in model.variables]


def same(before, after):
    return all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def refuses(function):
    try:
        function()
    except Exception:  # whichever way it fails
        return True
    return False


def batch(digits, rows=16):
    return digits.x_train[:rows], digits.y_train[:rows]


def test_soft_targets_have_their_softmax_and_their_factor():
    teacher, student = np.array([[9.0, 6.0, 4.0]]), np.array([[4.0, 9.0, 6.0]])
    # T^2 KL(softmax(teacher / T) || softmax(student / T)) at T = 3, their default.
    divergence = special.rel_entr(*(special.softmax(z / 3.0) for z in (teacher, student))).sum()
    expected = 9.0 * divergence
    assert expected == pytest.approx(6.7807, abs=5e-5)

    default = theirs.LogitsDistillation().compute_loss(tf.constant(teacher), tf.constant(student))
    skip_where_fixed(float(default) == pytest.approx(expected, rel=1e-4))

    models = [dense(), dense()]
    for model, logits in zip(models, (student, teacher), strict=True):
        model.set_weights([np.zeros((4, 3)), logits[0]])
    distiller = kd.Distiller(*models, kd.SoftTargets(temperature=3.0))
    distiller.compile(keras.optimizers.SGD(0.0))
    logs = distiller.fit(np.ones((2, 4)), verbose=0).history
    assert logs["soft_targets"][0] == pytest.approx(expected, rel=1e-5)


def counting_cnn(width, seed, calls):
    """A CNN with a tap "low" that notes `training` of each eager call."""

    class Counting(keras.layers.Layer):
        def call(self, x, training=None):
            if tf.executing_eagerly():
                calls.append(training)
            return x

    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            Counting(),
            keras.layers.Conv2D(width, 3, name="low"),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )


def test_a_feature_loss_runs_the_student_once_a_step(digits):
    x, y = batch(digits)

    def forwards(make):
        calls = []
        distiller = make(counting_cnn(4, 1, calls), counting_cnn(4, 2, []))
        distiller.compile("sgd", LABEL_LOSS, run_eagerly=True)
        distiller.fit(x, y, batch_size=8, verbose=0)
        return calls

    wasted = forwards(lambda s, t: theirs.Distiller(t, s, their_features()))
    skip_where_fixed(len(wasted) == 2)
    # Two steps, one forward each.
    assert forwards(lambda s, t: kd.Distiller(s, t, kd.FeatureHint("low", "low"))) == [True, True]


def test_evaluate_leaves_the_students_statistics_alone(digits, small_cnn):
    x, y = batch(digits)

    def variables_around_evaluate(make):
        student = small_cnn(4, seed=1)
        distiller = make(student, small_cnn(4, seed=2))
        distiller.compile("sgd", LABEL_LOSS)
        distiller.fit(x, y, verbose=0)
        before = values(student)
        distiller.evaluate(x, y, verbose=0)
        return before, values(student)

    drift = variables_around_evaluate(lambda s, t: theirs.Distiller(t, s, their_features()))
    skip_where_fixed(same(*drift))
    ours = variables_around_evaluate(lambda s, t: kd.Distiller(s, t, kd.FeatureHint("low", "low")))
    assert same(*ours)


def test_sample_weight_counts():
    rng = np.random.default_rng(0)
    x, other = rng.normal(size=(2, 8, 4)).astype("float32")
    y, weight = np.arange(8) % 3, np.array([1.0] * 4 + [0.0] * 4)
    # Rows of weight zero must not matter: these two batches differ in nothing else.
    batches = [
        (x, y, weight),
        (np.concatenate([x[:4], other[4:]]), np.concatenate([y[:4], (y[4:] + 1) % 3]), weight),
    ]

    def trained(make, data):
        student = dense(seed=1)
        distiller = make(student, dense(seed=2))
        distiller.compile(keras.optimizers.SGD(0.5), LABEL_LOSS)
        x, y, w = data
        distiller.fit(x, y, sample_weight=w, batch_size=8, verbose=0)
        return values(student)

    def their_distiller(student, teacher):
        return theirs.Distiller(teacher, student, their_logits())

    skip_where_fixed(same(*(trained(their_distiller, data) for data in batches)))
    ours = [trained(kd.Distiller, data) for data in batches]
    assert same(*ours)
    assert not same(ours[0], values(dense(seed=1)))


def test_the_students_regularisers_count():
    rate, strength = 0.25, 0.5

    def trained(make):
        student = dense(seed=1, kernel_regularizer=keras.regularizers.L2(strength))
        teacher = dense(seed=1)
        distiller = make(student, teacher)
        distiller.compile(keras.optimizers.SGD(rate), LABEL_LOSS)
        kernel = student.layers[-1].kernel.numpy()
        distiller.fit(np.ones((4, 4)), np.zeros(4, "int32"), verbose=0)
        return kernel, student.layers[-1].kernel.numpy()

    # Student and teacher agree and labels count nothing: the penalty strength * |w|^2 alone moves
    # the kernel, by -rate * 2 * strength * w.
    def their_distiller(student, teacher):
        return theirs.Distiller(teacher, student, their_logits(), student_loss_weight=0.0)

    before, after = trained(their_distiller)
    shrunk = before * (1 - 2 * rate * strength)
    skip_where_fixed(np.allclose(after, shrunk, rtol=1e-5))
    _, after = trained(lambda student, teacher: kd.Distiller(student, teacher, label_weight=0.0))
    np.testing.assert_allclose(after, shrunk, rtol=1e-5)


def test_the_teachers_trainable_flags_stay(small_cnn):
    def flags_around(make):
        teacher = small_cnn(4, seed=2)
        teacher.get_layer("high").trainable = False
        before = [layer.trainable for layer in teacher._flatten_layers()]
        make(small_cnn(4, seed=1), teacher)
        return before, [layer.trainable for layer in teacher._flatten_layers()]

    before, after = flags_around(lambda s, t: theirs.Distiller(t, s, their_logits()))
    skip_where_fixed(before == after)
    before, after = flags_around(kd.Distiller)
    assert before == after
    assert True in after
    assert False in after


@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
def test_the_teacher_is_not_saved(digits, small_cnn, tmp_path, ending):
    x, y = batch(digits)

    def saved(make, name):
        student, teacher = small_cnn(4, seed=1), small_cnn(4, seed=2)
        distiller = make(student, teacher)
        distiller.compile("sgd", LABEL_LOSS)
        distiller.fit(x, y, verbose=0)
        path = tmp_path / f"{name}{ending}"
        distiller.save_weights(path) if ending == ".weights.h5" else distiller.save(path)
        found = stored.arrays(path)
        kernels = [model.get_layer("low").kernel.numpy() for model in (student, teacher)]
        return [stored.holds(found, kernel) for kernel in kernels]

    in_theirs = saved(lambda s, t: theirs.Distiller(t, s, their_logits()), "theirs")
    skip_where_fixed(in_theirs == [True, False])
    assert saved(kd.Distiller, "ours") == [True, False]


def test_features_of_unequal_width_and_size_are_learned(digits, small_cnn):
    x, y = batch(digits)

    def train(make):
        distiller = make(small_cnn(4, seed=1), small_cnn(8, seed=2))
        distiller.compile(keras.optimizers.Adam(1e-2), LABEL_LOSS)
        return distiller.fit(x, y, epochs=3, verbose=0).history

    skip_where_fixed(
        not refuses(lambda: train(lambda s, t: theirs.Distiller(t, s, their_features())))
    )
    # 8x8x4 against 8x8x8, and 8x8x4 against 4x4x16.
    for tap in ("low", "high"):
        hint = kd.FeatureHint("low", tap)
        falling = train(lambda s, t, hint=hint: kd.Distiller(s, t, hint))["feature_hint"]
        assert falling[-1] < falling[0]


def mixed(x, width, policy, input_dtype="float32"):
    keras.utils.set_random_seed(width)
    return keras.Sequential(
        [
            keras.Input(x.shape[1:], dtype=input_dtype),
            keras.layers.Flatten(dtype=policy),
            keras.layers.Dense(width, activation="relu", dtype=policy),
            keras.layers.Dense(10, dtype=policy),
        ]
    )


@pytest.mark.parametrize(
    ("policy", "input_dtype"), [("mixed_bfloat16", "float32"), ("float32", "uint8")]
)
def test_unequal_dtypes_teach(digits, policy, input_dtype):
    x, y = digits.x_train[:32] * 16.0, digits.y_train[:32]
    models = mixed(x, 8, policy), mixed(x, 16, "float32", input_dtype)
    skip_where_fixed(not refuses(lambda: theirs.Distiller(models[1], models[0], their_logits())))
    distiller = kd.Distiller(*models)
    distiller.compile("adam", LABEL_LOSS)
    assert np.isfinite(distiller.fit(x, y, verbose=0).history["soft_targets"]).all()


def test_unequal_inputs_teach(digits):
    x, y = digits.x_train[:32], digits.y_train[:32]
    student, teacher = mixed(x[:, ::2, ::2], 8, "float32"), mixed(x, 16, "float32")
    skip_where_fixed(not refuses(lambda: theirs.Distiller(teacher, student, their_logits())))
    distiller = kd.Distiller(student, teacher, student_preprocess=lambda x: x[:, ::2, ::2])
    distiller.compile(keras.optimizers.SGD(0.0), LABEL_LOSS)
    logs = distiller.fit(x, y, batch_size=32, verbose=0).history
    expected = kd.functional.soft_target_kl(student(x[:, ::2, ::2]), teacher(x), temperature=2.0)
    assert logs["soft_targets"][0] == pytest.approx(float(np.mean(expected)), rel=1e-4)
