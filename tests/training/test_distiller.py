"""The Distiller's contract, on real digits."""

import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill as kd


def label_loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def snapshot(model):
    return [np.array(v) for v in model.variables]


def unchanged(model, before):
    return all(np.array_equal(v, b) for v, b in zip(model.variables, before, strict=True))


@pytest.fixture
def batch(digits):
    return digits.x_train[:64], digits.y_train[:64]


def last(history):
    """The last epoch's logs."""
    return {name: values[-1] for name, values in history.items()}


def one_step(distiller, batch, **fit):
    return distiller.fit(*batch, batch_size=64, shuffle=False, verbose=0, **fit).history


def test_one_step_is_the_formula_computed_by_hand(small_cnn, batch):
    x, y = batch
    student, teacher = small_cnn(3, kernel_regularizer="l2"), small_cnn(8, seed=1)
    twin = small_cnn(3, kernel_regularizer="l2")
    distiller = kd.Distiller(
        student, teacher, [kd.SoftTargets(temperature=3.0, weight=0.5)], label_weight=0.3
    )
    distiller.compile(keras.optimizers.SGD(0.1), label_loss())
    logs = one_step(distiller, batch)

    with tf.GradientTape() as tape:
        logits = twin(x, training=True)
        kl = keras.losses.kl_divergence(
            keras.ops.softmax(teacher(x, training=False) / 3), keras.ops.softmax(logits / 3)
        )
        label = label_loss()(y, logits)
        total = 0.3 * label + 0.7 * 0.5 * 9 * tf.reduce_mean(kl) + sum(twin.losses)
    gradients = tape.gradient(total, twin.trainable_variables)
    for variable, gradient in zip(twin.trainable_variables, gradients, strict=True):
        variable.assign_sub(0.1 * gradient)

    assert logs["loss"][0] == pytest.approx(float(total), rel=1e-5)
    assert logs["label_loss"][0] == pytest.approx(float(label), rel=1e-5)
    assert logs["soft_targets"][0] == pytest.approx(float(9 * tf.reduce_mean(kl)), rel=1e-4)
    for ours, theirs in zip(student.variables, twin.variables, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_label_weight_one_is_plain_fit(small_cnn, digits):
    student, twin = small_cnn(3), small_cnn(3)
    distiller = kd.Distiller(student, small_cnn(8, seed=1), label_weight=1.0)
    for model in (distiller, twin):
        model.compile("adam", label_loss(), metrics=["accuracy"])
        model.fit(digits.x_train, digits.y_train, shuffle=False, verbose=0)
    for ours, theirs in zip(student.variables, twin.variables, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_one_forward_of_each_model_whatever_the_number_of_taps(small_cnn, batch):
    calls = {"student": 0, "teacher": 0}

    def counted(name, width):
        model = small_cnn(width, seed=width)

        class Counting(keras.layers.Layer):
            def call(self, x):
                calls[name] += 1
                return x

        inputs = keras.Input((8, 8, 1))
        return keras.Model(inputs, model(Counting()(inputs)))

    objectives = [
        kd.SoftTargets(),
        kd.FeatureHint("low", "low"),
        kd.FeatureHint("high", "high", name="second"),
    ]
    teacher = kd.teachers.Model(counted("teacher", 6), engine="keras")
    distiller = kd.Distiller(counted("student", 3), teacher, objectives)
    distiller.compile("adam", label_loss(), run_eagerly=True)
    calls.update(student=0, teacher=0)
    one_step(distiller, batch)
    # Keras itself runs the model once more in fit to build its state.
    distiller_calls = dict(calls)
    one_step(distiller, batch)
    assert calls["student"] - distiller_calls["student"] == 1
    assert calls["teacher"] - distiller_calls["teacher"] == 1


def test_evaluate_and_predict_change_no_variable_of_the_student(small_cnn, digits):
    distiller = kd.Distiller(small_cnn(3, dropout=0.5), small_cnn(8, seed=1))
    distiller.compile("adam", label_loss(), metrics=["accuracy"])
    before = snapshot(distiller.student)
    distiller.evaluate(digits.x_test, digits.y_test, verbose=0)
    distiller.predict(digits.x_test, verbose=0)
    assert unchanged(distiller.student, before)


def test_evaluate_gives_what_the_student_gives(small_cnn, digits):
    student = small_cnn(3, kernel_regularizer="l2")
    distiller = kd.Distiller(student, small_cnn(8, seed=1))
    distiller.compile("adam", label_loss(), metrics=["accuracy"])
    ours = distiller.evaluate(digits.x_test, digits.y_test, verbose=0, return_dict=True)
    student.compile("adam", label_loss(), metrics=["accuracy"])
    theirs = student.evaluate(digits.x_test, digits.y_test, verbose=0, return_dict=True)
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_fit_logs_every_part_by_its_name(small_cnn, batch):
    objectives = [kd.SoftTargets(), kd.LogitsMSE(name="mine")]
    distiller = kd.Distiller(small_cnn(3), small_cnn(8, seed=1), objectives)
    distiller.compile("adam", label_loss(), metrics=["accuracy"])
    logs = one_step(distiller, batch, validation_data=batch)
    assert set(logs) == {
        *("loss", "label_loss", "soft_targets", "mine", "accuracy"),
        *("val_loss", "val_accuracy"),
    }


def test_sample_weights_reach_every_term(small_cnn, batch):
    x, y = batch
    weights = np.linspace(0, 2, 64).astype("float32")
    distiller = kd.Distiller(small_cnn(3), small_cnn(8, seed=1), kd.LogitsMSE())
    logits = distiller.student(x, training=True), distiller.teacher(x).logits
    distiller.compile(keras.optimizers.SGD(0.0), label_loss())
    logs = one_step(distiller, batch, sample_weight=weights)
    per_example = kd.functional.logits_mse(*logits)
    assert logs["logits_mse"][0] == pytest.approx(
        float(np.sum(per_example * weights) / 64), rel=1e-4
    )
    expected = label_loss()(y, logits[0], sample_weight=weights)
    assert logs["label_loss"][0] == pytest.approx(float(expected), rel=1e-4)


def test_class_weights_equal_their_sample_weights_even_with_unlabelled_rows(small_cnn, batch):
    x, y = batch
    y = np.where(np.arange(64) % 4 == 0, -1, y)
    class_weight = {digit: 0.5 + 0.1 * digit for digit in range(10)}
    weights = np.array([class_weight.get(int(label), 1.0) for label in y], "float32")
    logs = []
    for data, options in (
        ((x, y, weights), {}),
        ((x, y), {"class_weight": class_weight}),
    ):
        distiller = kd.Distiller(small_cnn(3), small_cnn(8, seed=1))
        distiller.compile(keras.optimizers.SGD(0.0), label_loss())
        dataset = tf.data.Dataset.from_tensor_slices(data).batch(64)
        logs.append(distiller.fit(dataset, verbose=0, **options).history)
    assert last(logs[0]) == pytest.approx(last(logs[1]), rel=1e-5)


def test_rows_labelled_minus_one_teach_through_the_objectives_only(small_cnn, digits):
    x, y = digits.x_train[:96], digits.y_train[:96]
    known = np.arange(96) % 3 == 0
    distiller = kd.Distiller(small_cnn(3), small_cnn(8, seed=1), kd.LogitsMSE())
    logits = distiller.student(x, training=True), distiller.teacher(x).logits
    distiller.compile(
        keras.optimizers.SGD(0.0), label_loss(), metrics=["accuracy"], weighted_metrics=["accuracy"]
    )
    logs = distiller.fit(x, np.where(known, y, -1), batch_size=96, verbose=0).history
    mse = kd.functional.logits_mse(*logits)
    assert logs["logits_mse"][0] == pytest.approx(float(np.mean(mse)), rel=1e-4)
    expected = label_loss()(y[known], np.asarray(logits[0])[known])
    assert logs["label_loss"][0] == pytest.approx(float(expected), rel=1e-4)
    accuracy = np.mean(np.argmax(logits[0], 1)[known] == y[known])
    assert logs["accuracy"][0] == logs["weighted_accuracy"][0] == pytest.approx(accuracy)


def test_each_row_has_one_share_and_the_labels_a_part_of_it(small_cnn, digits):
    """A row with a label: 0.4 of it and 0.6 of the teacher; one without: the teacher in full."""
    x, y = digits.x_train[:96], digits.y_train[:96]
    known = np.arange(96) % 3 == 0
    distiller = kd.Distiller(small_cnn(3), small_cnn(8, seed=1), kd.LogitsMSE(), label_weight=0.4)
    distiller.compile(keras.optimizers.SGD(1.0), label_loss())
    student, theirs = distiller.student, distiller.teacher(x).logits
    with tf.GradientTape() as tape:
        ours = student(x, training=True)
        ce = keras.losses.sparse_categorical_crossentropy(y, ours, from_logits=True)
        mse = kd.functional.logits_mse(ours, theirs)
        total = tf.reduce_mean(tf.where(known, 0.4 * ce + 0.6 * mse, mse))
    gradients = tape.gradient(total, student.trainable_variables)
    before = [tf.identity(v) for v in student.trainable_variables]
    logs = distiller.fit(x, np.where(known, y, -1), batch_size=96, verbose=0).history
    assert logs["loss"][0] == pytest.approx(float(total), rel=1e-5)
    for was, now, gradient in zip(before, student.trainable_variables, gradients, strict=True):
        np.testing.assert_allclose(was - now, gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("padding", ["masked", "seen"])
def test_a_row_of_tokens_counts_by_the_labels_that_its_mask_keeps(padding):
    """Padding that a mask leaves out needs no label; a token seen without one has the teacher."""
    x = np.array([[1, 2, 3, 0], [4, 5, 6, 7]])
    y = np.array([[1, -1, 2, -1], [0, 1, 2, 0]])
    keras.utils.set_random_seed(0)

    def model(width):
        tokens = keras.Input((None,), dtype="int32")
        embedded = keras.layers.Embedding(9, width, mask_zero=padding == "masked")(tokens)
        return keras.Model(tokens, keras.layers.Dense(3)(embedded))

    student, teacher = model(4), model(5)
    ours, theirs = student(x).numpy(), teacher(x).numpy()
    distiller = kd.Distiller(student, teacher, kd.LogitsMSE(), label_weight=0.4)
    distiller.compile(keras.optimizers.SGD(0.0), label_loss())
    logs = distiller.fit(x, y, batch_size=2, verbose=0).history
    ce = np.array(keras.losses.sparse_categorical_crossentropy(np.abs(y), ours, from_logits=True))
    mse = np.mean((ours - theirs) ** 2, axis=-1)
    kept = x > 0 if padding == "masked" else x >= 0
    known = (y >= 0) & kept
    of_labels = np.array([row[keep].mean() for row, keep in zip(known, kept, strict=True)])
    if padding == "masked":  # by position: of the seven that are there
        taught = np.sum((1 - 0.4 * of_labels)[:, None] * mse * kept) / kept.sum()
    else:
        taught = np.mean((1 - 0.4 * of_labels) * mse.mean(axis=1))
    assert logs["loss"][0] == pytest.approx(
        0.4 * np.sum(ce * known) / kept.sum() + taught, rel=1e-5
    )


def test_a_loss_of_one_value_a_row_counts_each_row_that_has_any_label():
    x, y = np.eye(4, dtype="float32"), np.array([[1, 0, 1], [1, -1, -1], [0, 1, -1], [-1, -1, -1]])
    keras.utils.set_random_seed(0)
    student, teacher = (keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]) for _ in "ab")

    def of_rows(y_true, y_pred):
        there = keras.ops.cast(y_true >= 0, "float32")
        return keras.ops.sum(there * (keras.ops.cast(y_true, "float32") - y_pred) ** 2, axis=-1)

    ours, theirs = student(x).numpy(), teacher(x).numpy()
    distiller = kd.Distiller(student, teacher, kd.LogitsMSE(), label_weight=0.4)
    # The metric says that -1 is no label.
    metric = keras.metrics.BinaryAccuracy()
    distiller.compile(keras.optimizers.SGD(0.0), of_rows, metrics=[metric], run_eagerly=True)
    logs = distiller.fit(x, y, batch_size=4, verbose=0).history
    value = np.sum((y >= 0) * (y - ours) ** 2, axis=1)
    mse = np.mean((ours - theirs) ** 2, axis=1)
    any_label = [True, True, True, False]
    expected = np.mean(np.where(any_label, 0.4 * value + 0.6 * mse, mse))
    assert logs["loss"][0] == pytest.approx(expected, rel=1e-5)
    assert logs["label_loss"][0] == pytest.approx(value[:3].mean(), rel=1e-5)


def test_a_weighted_mean_of_labels_counts_by_the_weight_of_the_rows_that_have_one():
    x, y = np.eye(4, dtype="float32"), np.array([0, 1, -1, -1])
    weight = np.array([5.0, 0.0, 1.0, 3.0])
    keras.utils.set_random_seed(0)
    student, teacher = (keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]) for _ in "ab")
    ours, theirs = student(x), teacher(x)
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="mean_with_sample_weight"
    )
    distiller = kd.Distiller(student, teacher, kd.LogitsMSE(), label_weight=0.4)
    distiller.compile(keras.optimizers.SGD(0.0), loss, run_eagerly=True)
    logs = distiller.fit(x, y, sample_weight=weight, batch_size=4, verbose=0).history
    ce = keras.losses.sparse_categorical_crossentropy(
        np.array([0, 1, 0, 0]), ours, from_logits=True
    )
    mse = kd.functional.logits_mse(ours, theirs)
    labels = np.sum(weight * [1, 1, 0, 0] * ce) / weight.sum()
    taught = np.mean(weight * [0.6, 0.6, 1.0, 1.0] * mse)
    assert logs["loss"][0] == pytest.approx(0.4 * labels + taught, rel=1e-5)


def test_a_row_of_nothing_but_padding_misses_no_label():
    """An objective on layers sees it, and gives it the share that it has where no -1 can be."""
    x, y = np.array([[1, 2], [0, 0]]), np.array([[1, 2], [0, 0]])
    logs = []
    for labels in (y, y.astype("uint8")):
        keras.utils.set_random_seed(0)
        models = []
        for width in (4, 5):
            tokens = keras.Input((2,), dtype="int32")
            states = keras.layers.Embedding(9, width, mask_zero=True, name="states")(tokens)
            models.append(keras.Model(tokens, keras.layers.Dense(3)(states)))
        distiller = kd.Distiller(*models, kd.FeatureHint("states", "states"), label_weight=0.4)
        distiller.compile(keras.optimizers.SGD(0.0), label_loss(), run_eagerly=True)
        logs.append(distiller.fit(x, labels, batch_size=2, verbose=0).history["loss"][0])
    assert logs[0] == pytest.approx(logs[1], rel=1e-6)


def test_of_two_heads_each_has_its_own_labelled_rows(digits):
    x = np.asarray(digits.x_train[:8]).reshape(8, -1)
    y = {"a": np.array([0, 1, 2, 0, -1, -1, -1, -1]), "b": np.array([0, 1, 0, 1, 0, 1, 0, 1])}
    keras.utils.set_random_seed(0)

    def model():
        image = keras.Input((64,))
        return keras.Model(
            image, {"a": keras.layers.Dense(3)(image), "b": keras.layers.Dense(2)(image)}
        )

    student, teacher = model(), model()
    ours, theirs = student(x), teacher(x)
    distiller = kd.Distiller(student, teacher, kd.LogitsMSE(), label_weight=0.4)
    distiller.compile(keras.optimizers.SGD(0.0), {"a": label_loss(), "b": label_loss()})
    logs = distiller.fit(x, y, batch_size=8, verbose=0).history
    expected = 0.0
    for head, labels in y.items():
        known = labels >= 0
        ce = keras.losses.sparse_categorical_crossentropy(
            np.abs(labels), ours[head], from_logits=True
        )
        mse = kd.functional.logits_mse(ours[head], theirs[head])
        expected += float(np.mean(np.where(known, 0.4 * np.array(ce) + 0.6 * mse, mse)))
    assert logs["loss"][0] == pytest.approx(expected, rel=1e-5)


def test_layers_of_two_heads_weigh_a_row_by_the_mean_of_both(digits):
    """Of what its labels leave in each, and of its sample weights in each."""
    x = np.asarray(digits.x_train[:4]).reshape(4, -1)
    y = {"a": np.array([0, -1, -1, 2]), "b": np.array([0, 1, -1, 1])}
    weight = {"a": np.array([1.0, 2.0, 1.0, 0.0]), "b": np.array([3.0, 0.0, 1.0, 0.0])}
    keras.utils.set_random_seed(0)

    def model():
        image = keras.Input((64,))
        shared = keras.layers.Dense(4, name="shared")(image)
        heads = {"a": keras.layers.Dense(3)(shared), "b": keras.layers.Dense(2)(shared)}
        return keras.Model(image, heads)

    student, teacher = model(), model()
    hint = kd.FeatureHint("shared", "shared")
    distiller = kd.Distiller(student, teacher, hint, label_weight=0.4)
    distiller.compile(keras.optimizers.SGD(0.0), {"a": label_loss(), "b": label_loss()})
    logs = distiller.fit(x, y, sample_weight=weight, batch_size=4, verbose=0).history
    labels = 0.0
    for head, ours in student(x).items():
        known = (y[head] >= 0) * weight[head]
        ce = keras.losses.sparse_categorical_crossentropy(np.abs(y[head]), ours, from_logits=True)
        labels += 0.4 * float(np.sum(known * ce)) / 4
    ours, theirs = (
        keras.Model(m.input, m.get_layer("shared").output)(x) for m in (student, teacher)
    )
    values = np.mean((np.array(ours) - np.array(theirs)) ** 2, axis=1)
    shares = np.array([0.6, (1 + 0.6) / 2, 1.0, 0.6])
    weights = np.array([2.0, 1.0, 1.0, 0.0])
    assert logs["loss"][0] == pytest.approx(labels + np.mean(weights * shares * values), rel=1e-5)


def test_evaluate_leaves_unlabelled_rows_out_across_uneven_batches(small_cnn, digits):
    x, y = digits.x_test, digits.y_test
    known = np.arange(len(y)) < 100  # the last batches have no label at all
    distiller = kd.Distiller(small_cnn(3), small_cnn(8, seed=1))
    distiller.compile("adam", label_loss(), metrics=["accuracy"])
    given = distiller.evaluate(x, np.where(known, y, -1), verbose=0, return_dict=True)
    expected = distiller.evaluate(x[known], y[known], verbose=0, return_dict=True)
    assert given == pytest.approx(expected, rel=1e-5)


def test_unlabelled_data_needs_no_labels(small_cnn, digits):
    distiller = kd.Distiller(small_cnn(3), small_cnn(8, seed=1))
    distiller.compile(keras.optimizers.Adam(0.01))
    logs = distiller.fit(digits.x_train, epochs=3, verbose=0).history
    assert set(logs) == {"loss", "soft_targets"}
    assert logs["loss"][-1] < logs["loss"][0]
    assert logs["loss"] == pytest.approx(logs["soft_targets"], rel=1e-6)


def test_adapters_train_and_stay_out_of_the_student(small_cnn, digits):
    student = small_cnn(3)
    size = student.count_params()
    hint = kd.FeatureHint("high", "high")
    distiller = kd.Distiller(student, small_cnn(8, seed=1), hint)
    # A 1x1 convolution from 2 x 3 to 2 x 8 channels, without bias.
    assert distiller.count_params() == size + 6 * 16
    [adapter] = [v for v in distiller.trainable_variables if "adapter" in v.path]
    before = np.array(adapter)
    distiller.compile("adam", label_loss())
    distiller.fit(digits.x_train[:128], digits.y_train[:128], verbose=0)
    assert not np.array_equal(before, adapter)
    assert student.count_params() == size


@pytest.mark.parametrize("options", [{"jit_compile": True}, {"steps_per_execution": 3}])
def test_compiled_otherwise_the_losses_are_the_same(small_cnn, digits, options):
    logs = []
    for chosen in ({}, options):
        objectives = [kd.SoftTargets(), kd.FeatureHint("high", "low")]
        keras.utils.set_random_seed(5)
        distiller = kd.Distiller(small_cnn(3), small_cnn(8, True, seed=1), objectives)
        distiller.compile("sgd", label_loss(), metrics=["accuracy"], **chosen)
        logs.append(
            distiller.fit(
                digits.x_train[:192], digits.y_train[:192], shuffle=False, verbose=0
            ).history
        )
    assert last(logs[0]) == pytest.approx(last(logs[1]), rel=1e-3)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_students(policy, digits):
    keras.utils.set_random_seed(0)
    student = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, activation="relu", dtype=policy, name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, dtype=policy),
        ]
    )
    hint = kd.FeatureHint("conv", "conv")
    teacher = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(9, 3, name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    distiller = kd.Distiller(student, teacher, [kd.SoftTargets(), hint])
    distiller.compile(keras.optimizers.Adam(0.01), label_loss())
    scaled = isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    logs = distiller.fit(digits.x_train, digits.y_train, epochs=3, verbose=0).history
    assert logs["loss"][-1] < logs["loss"][0]


def test_gradient_accumulation_counts_updates(small_cnn, digits):
    distiller = kd.Distiller(small_cnn(3), small_cnn(8, seed=1))
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=4)
    distiller.compile(optimizer, label_loss())
    before = snapshot(distiller.student)[0]
    distiller.fit(digits.x_train[:96], digits.y_train[:96], batch_size=32, verbose=0)
    np.testing.assert_array_equal(distiller.student.variables[0], before)
    distiller.fit(digits.x_train[:32], digits.y_train[:32], batch_size=32, verbose=0)
    assert not np.array_equal(distiller.student.variables[0], before)


def test_dict_inputs_and_outputs_name_their_heads(digits):
    def build(width):
        image, hint = keras.Input((8, 8, 1), name="image"), keras.Input((1,), name="hint")
        hidden = keras.layers.Concatenate()([keras.layers.Flatten()(image), hint])
        hidden = keras.layers.Dense(width, "relu")(hidden)
        heads = {
            "digit": keras.layers.Dense(10, name="digit")(hidden),
            "parity": keras.layers.Dense(2, name="parity")(hidden),
        }
        return keras.Model({"image": image, "hint": hint}, heads)

    x = {"image": digits.x_train[:64], "hint": np.ones((64, 1), "float32")}
    y = {"digit": digits.y_train[:64], "parity": digits.y_train[:64] % 2}
    student, teacher = build(4), build(9)
    objectives = [kd.LogitsMSE(name="both"), kd.LogitsMSE(output="parity", name="one")]
    distiller = kd.Distiller(student, teacher, objectives)
    distiller.compile(
        keras.optimizers.SGD(0.0),
        {"digit": label_loss(), "parity": label_loss()},
        metrics={"digit": ["accuracy"], "parity": ["accuracy"]},
    )
    ours, theirs = student(x), teacher(x)
    logs = distiller.fit(x, y, batch_size=64, verbose=0).history
    mse = {head: np.mean((ours[head] - theirs[head]) ** 2) for head in ours}
    assert logs["one"][0] == pytest.approx(mse["parity"], rel=1e-4)
    assert logs["both"][0] == pytest.approx(mse["parity"] + mse["digit"], rel=1e-4)
    assert {"digit_accuracy", "parity_accuracy", "digit_loss"} <= set(logs)


def test_models_that_see_different_views(small_cnn, digits):
    def half(x):
        return keras.ops.average_pool(x, 2, 2)

    student = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    distiller = kd.Distiller(student, small_cnn(8), student_preprocess=half)
    distiller.compile("adam", label_loss(), metrics=["accuracy"])
    logs = distiller.fit(digits.x_train, digits.y_train, verbose=0).history
    assert np.isfinite(logs["loss"][0])
    assert distiller.predict(digits.x_test[:3], verbose=0).shape == (3, 10)


def test_a_generator_of_unknown_length(small_cnn, digits):
    spec = (tf.TensorSpec((None, 8, 8, 1)), tf.TensorSpec((None,), tf.int64))
    batches = [(digits.x_train[i : i + 50], digits.y_train[i : i + 50]) for i in (0, 50)]
    dataset = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=spec)
    distiller = kd.Distiller(small_cnn(3), small_cnn(8, seed=1))
    plain = small_cnn(3)
    for model in (distiller, plain):
        model.compile("adam", label_loss())
        model.fit(dataset, epochs=2, verbose=0)
    assert int(distiller.optimizer.iterations) == int(plain.optimizer.iterations) > 0


MIRRORED = """
import keras, numpy as np, tensorflow as tf
[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras_distill as kd
x = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
y = np.arange(32) % 4
def run(strategy):
    with strategy.scope():
        keras.utils.set_random_seed(0)
        layers = keras.layers
        hidden = layers.Dense(5, kernel_regularizer="l2", name="hidden")
        student = keras.Sequential([keras.Input((6,)), hidden, layers.Dense(4)])
        wide = layers.Dense(9, name="wide")
        teacher = keras.Sequential([keras.Input((6,)), wide, layers.Dense(4)])
        objectives = [kd.SoftTargets(), kd.FeatureHint("hidden", "wide")]
        distiller = kd.Distiller(student, teacher, objectives, label_weight=0.4)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        options = {"metrics": ["accuracy"], "validate_objectives": True}
        distiller.compile(keras.optimizers.SGD(0.1), loss, **options)
    history = distiller.fit(x, y, batch_size=32, shuffle=False, verbose=0).history
    weights = student.get_weights()
    # All the labels of one replica's share are missing, and the last batch is a part of one.
    partly = np.where(np.arange(32) < 6, -1, y)
    for labels in (y, partly):
        logs = distiller.evaluate(x[:19], labels[:19], batch_size=12, verbose=0, return_dict=True)
        history.update({f"{key}_{len(history)}": [value] for key, value in logs.items()})
    logs = distiller.fit(x[:12], partly[:12], batch_size=12, shuffle=False, verbose=0).history
    history.update({f"partly_{key}": value for key, value in logs.items()})
    return history, [*weights, *student.get_weights()]
plain = run(tf.distribute.get_strategy())
mirrored = run(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
for key, values in plain[0].items():
    np.testing.assert_allclose(values, mirrored[0][key], rtol=1e-5, err_msg=key)
for ours, theirs in zip(plain[1], mirrored[1]):
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
print("same")
"""


@pytest.mark.slow
def test_two_replicas_log_what_one_does():
    run = subprocess.run([sys.executable, "-c", MIRRORED], capture_output=True, text=True)
    assert run.stdout.strip() == "same", run.stderr[-3000:]


def test_a_loss_that_contradicts_the_student_is_refused_at_compile(small_cnn):
    distiller = kd.Distiller(small_cnn(3), small_cnn(8, seed=1))
    with pytest.raises(ValueError, match=r"returns logits.*from_logits=False.*from_logits=True"):
        distiller.compile("adam", "sparse_categorical_crossentropy")
    distiller = kd.Distiller(small_cnn(3, softmax=True), small_cnn(8, seed=1))
    with pytest.raises(ValueError, match=r"returns probabilities.*Drop from_logits=True"):
        distiller.compile("adam", label_loss())
    distiller.compile("adam", "sparse_categorical_crossentropy")


def test_class_counts_that_differ_name_both(small_cnn):
    with pytest.raises(ValueError, match=r"student has 10 classes.*teacher 7"):
        kd.Distiller(small_cnn(3), small_cnn(8, classes=7))


def test_a_tap_that_does_not_exist_offers_the_nearest(small_cnn):
    with pytest.raises(ValueError, match=r"'hihg'.*high"):
        kd.Distiller(small_cnn(3), small_cnn(8), kd.FeatureHint("hihg", "high"))


def test_an_adapter_of_the_wrong_width_is_refused(small_cnn):
    hint = kd.FeatureHint("high", "high", adapter=keras.layers.Conv2D(5, 1))
    with pytest.raises(ValueError, match=r"adapter gives .*5\).*16 channels"):
        kd.Distiller(small_cnn(3), small_cnn(8), hint)
    with pytest.raises(ValueError, match=r"\(None, 4, 4, 6\).*\(None, 4, 4, 16\).*project 6 to 16"):
        kd.Distiller(small_cnn(3), small_cnn(8), kd.FeatureHint("high", "high", adapter=None))


def test_an_unbuilt_student_is_refused(small_cnn):
    with pytest.raises(ValueError, match=r"has no weights yet"):
        kd.Distiller(keras.Sequential([keras.layers.Dense(10)]), small_cnn(8))


def test_a_foreign_student_is_named_with_the_way_to_a_model(small_cnn):
    with pytest.raises(TypeError, match=r"must be a keras\.Model.*got str\. Load it"):
        kd.Distiller("student", small_cnn(8))


@pytest.mark.parametrize("label_weight", [-0.1, 1.1, None])
def test_label_weight_is_a_share(small_cnn, label_weight):
    with pytest.raises(ValueError, match=r"label_weight must be .*in \[0, 1\]"):
        kd.Distiller(small_cnn(3), small_cnn(8), label_weight=label_weight)


@pytest.mark.parametrize("names", [("same", "same"), ("loss", "x"), ("label_loss", "x")])
def test_names_that_collide_are_refused(small_cnn, names):
    objectives = [kd.SoftTargets(name=names[0]), kd.LogitsMSE(name=names[1])]
    with pytest.raises(ValueError, match="names must differ"):
        kd.Distiller(small_cnn(3), small_cnn(8), objectives)


@pytest.mark.parametrize(
    ("argument", "mend"),
    [
        ("alpha", "label_weight="),
        ("temperature", "SoftTargets"),
        ("student_loss_fn", "compile"),
        ("distillation_loss_fn", "objectives"),
        ("distillation_losses", "objectives"),
        ("student_loss_weight", "label_weight="),
    ],
)
def test_other_distillers_arguments_are_told_our_spelling(small_cnn, argument, mend):
    with pytest.raises(TypeError, match=mend):
        kd.Distiller(small_cnn(3), small_cnn(8), **{argument: 1})
    distiller = kd.Distiller(small_cnn(3), small_cnn(8))
    with pytest.raises(TypeError, match=mend):
        distiller.compile("adam", label_loss(), **{argument: 1})


def test_swapped_models_warn(small_cnn):
    with pytest.warns(UserWarning, match="Are they swapped"):
        kd.Distiller(small_cnn(8), small_cnn(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        kd.Distiller(small_cnn(3), small_cnn(8))


class Mirrored(keras.layers.RandomFlip):
    """A user's own."""


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (keras.layers.RandomFlip, {}),
        (keras.layers.RandomCrop, {"height": 8, "width": 8}),
        (keras.layers.RandAugment, {}),
        (keras.layers.MixUp, {}),
        (Mirrored, {}),
    ],
)
def test_augmentation_inside_the_student_warns(small_cnn, kind, options):
    augmented = kind(name="augmenting", **options)
    student = keras.Sequential([keras.Input((8, 8, 1)), augmented, small_cnn(3)])
    with pytest.warns(UserWarning, match=r"augments its own input \(augmenting\)"):
        kd.Distiller(student, small_cnn(8))


def test_data_without_a_batch_is_refused(small_cnn):
    distiller = kd.Distiller(small_cnn(3), small_cnn(8))
    distiller.compile("adam", label_loss())
    empty = np.zeros((0, 8, 8, 1), "float32"), np.zeros((0,), "int64")
    with pytest.raises(ValueError, match="yields no batch"):
        distiller.fit(*empty, verbose=0)
    with pytest.raises(ValueError, match="yields no batch"):
        distiller.fit(tf.data.Dataset.from_tensor_slices(empty).batch(4), verbose=0)
    spec = (tf.TensorSpec((None, 8, 8, 1)), tf.TensorSpec((None,), tf.int64))
    unknown = tf.data.Dataset.from_generator(lambda: iter(()), output_signature=spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="yielded no batch"):
            distiller.fit(unknown, verbose=0)


def test_labels_missing_where_a_loss_wants_them(small_cnn, digits):
    distiller = kd.Distiller(small_cnn(3), small_cnn(8))
    distiller.compile("adam", label_loss())
    with pytest.raises(ValueError, match=r"compile\(loss=None\)"):
        distiller.fit(digits.x_train[:32], verbose=0)


def test_validation_with_nothing_to_evaluate_is_refused_before_training(small_cnn, batch):
    distiller = kd.Distiller(small_cnn(3), small_cnn(8))
    distiller.compile("adam")
    with pytest.raises(ValueError, match="nothing to evaluate"):
        distiller.fit(batch[0], validation_data=batch, verbose=0)
    assert int(distiller.optimizer.iterations) == 0


def test_recompiling_without_a_loss_drops_the_old_one(small_cnn, batch):
    distiller = kd.Distiller(small_cnn(3), small_cnn(8))
    distiller.compile("adam", label_loss(), metrics=["accuracy"])
    distiller.compile("adam")
    assert set(distiller.fit(batch[0], verbose=0).history) == {"loss", "soft_targets"}


def test_an_objective_from_outside_the_package(small_cnn, batch):
    class Margin(kd.Objective):
        def __call__(self, student, teacher, labels):
            return keras.ops.max(keras.ops.abs(student.logits - teacher.logits), axis=-1)

    distiller = kd.Distiller(small_cnn(3), small_cnn(8), Margin())
    distiller.compile("adam", label_loss())
    assert "margin" in one_step(distiller, batch)


def test_no_attribute_holds_the_teachers_model(small_cnn):
    teacher = small_cnn(8)
    distiller = kd.Distiller(small_cnn(3), teacher)
    for name in dir(distiller):
        try:
            value = getattr(distiller, name)
        except Exception:  # a property that needs state
            continue
        assert value is not teacher, name
        assert not (isinstance(value, (list, tuple)) and any(v is teacher for v in value)), name
    teacher_ids = {id(v) for v in teacher.variables}
    assert not teacher_ids & {id(v) for v in distiller.variables}


def test_another_backend_is_refused(small_cnn, monkeypatch):
    student, teacher = small_cnn(3), small_cnn(8)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match=r"runs on 'jax'\. Set KERAS_BACKEND=tensorflow"):
        kd.Distiller(student, teacher)


def with_lookup(units):
    inputs = keras.Input((1,), dtype="int64")
    index = keras.layers.IntegerLookup(vocabulary=[1, 2, 3])(inputs)
    embedded = keras.layers.Flatten()(keras.layers.Embedding(5, units)(index))
    return keras.Model(inputs, keras.layers.Dense(3)(embedded))


def without_lookup(units):
    inputs = keras.Input((1,), dtype="int64")
    embedded = keras.layers.Flatten()(keras.layers.Embedding(6, units)(inputs))
    return keras.Model(inputs, keras.layers.Dense(3)(embedded))


def behind_numpy(inputs):
    return np.asarray(inputs, "float32") * np.ones((1, 3), "float32")


TEACHERS_BEYOND_XLA = {
    "lookup": lambda: with_lookup(8),
    "numpy": lambda: kd.teachers.Model(
        behind_numpy, input_spec=keras.KerasTensor((None, 1), "int64")
    ),
    "members": lambda: kd.teachers.Ensemble([with_lookup(8), without_lookup(8)]),
}


@pytest.mark.parametrize("kind", TEACHERS_BEYOND_XLA)
def test_xla_is_not_chosen_for_a_teacher_that_it_cannot_take(kind, monkeypatch):
    # As on a machine with a GPU, where Keras' "auto" is XLA.
    monkeypatch.setattr(keras.Model, "_resolve_auto_jit_compile", lambda self: True)
    x, y = np.arange(8)[:, None] % 5, np.arange(8) % 3
    distiller = kd.Distiller(without_lookup(3), TEACHERS_BEYOND_XLA[kind]())
    with pytest.raises(ValueError, match=r"XLA can't take.*compile\(jit_compile=False\)"):
        distiller.compile("sgd", label_loss(), jit_compile=True)
    distiller.compile("sgd", label_loss())
    assert distiller.jit_compile is False
    assert np.isfinite(distiller.fit(x, y, verbose=0).history["loss"][0])


def test_xla_stays_for_a_teacher_that_it_can_take(monkeypatch):
    monkeypatch.setattr(keras.Model, "_resolve_auto_jit_compile", lambda self: True)
    distiller = kd.Distiller(without_lookup(3), without_lookup(8))
    for asked in ("auto", True):
        distiller.compile("sgd", label_loss(), jit_compile=asked)
        assert distiller.jit_compile is True


NESTED = {
    "lists in a dict": lambda a, b, c: {"boxes": [a, b], "scores": [c]},
    "a list in a list": lambda a, b, c: [[a, b], c],
    "dicts in a dict": lambda a, b, c: {"left": {"a": a, "b": b}, "right": c},
}


@pytest.mark.parametrize("kind", NESTED)
def test_outputs_in_several_levels_are_heads_by_their_path(kind):
    def build(width):
        keras.utils.set_random_seed(width)
        inputs = keras.Input((6,))
        hidden = keras.layers.Dense(width)(inputs)
        return keras.Model(
            inputs, NESTED[kind](*(keras.layers.Dense(n)(hidden) for n in (4, 4, 3)))
        )

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 6)).astype("float32"), rng.integers(0, 3, 8)
    labels = NESTED[kind](np.zeros((8, 4)), np.ones((8, 4)), y)
    losses = NESTED[kind]("mse", "mse", label_loss())
    student, teacher = build(3), build(9)
    heads = kd.teachers.Model(teacher).prepare(None, ()).names
    assert "/" in heads[0]
    objectives = [kd.LogitsMSE(), kd.SoftTargets(output=heads[-1])]
    distiller = kd.Distiller(student, teacher, objectives)
    ours, theirs = (
        [np.asarray(t, "float64") for t in keras.tree.flatten(m(x))] for m in (student, teacher)
    )
    plain = build(3)
    for model in (distiller, plain):
        model.compile(keras.optimizers.SGD(0.0), losses)
    logs = distiller.fit(x, labels, verbose=0).history
    expected = plain.fit(x, labels, verbose=0).history["loss"][0]
    assert logs["label_loss"][0] == pytest.approx(expected, rel=1e-5)
    mse = sum(np.mean(np.square(a - b)) for a, b in zip(ours, theirs, strict=True))
    assert logs["logits_mse"][0] == pytest.approx(mse, rel=1e-4)
    kl = kd.functional.soft_target_kl(ours[-1], theirs[-1])
    assert logs["soft_targets"][0] == pytest.approx(float(np.mean(kl)), rel=1e-4)
