"""Mutual learning: the step by hand, what the user sees, files, and what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill as kd

LABEL_LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def student(name, units, classes=3, width=6):
    keras.utils.set_random_seed(units)
    hidden = keras.layers.Dense(units, "tanh", name="hidden")
    return keras.Sequential([keras.Input((width,)), hidden, keras.layers.Dense(classes)], name=name)


def three():
    return [student("ann", 4), student("bob", 8), student("cleo", 5)]


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return rng.normal(size=(24, 6)).astype("float32"), rng.integers(0, 3, 24)


def test_an_update_by_hand(rows):
    x, y = rows
    ours = kd.MutualDistiller(three(), label_weight=0.25)
    ours.compile(keras.optimizers.SGD(0.1), LABEL_LOSS)
    logs = ours.train_on_batch(x, y, return_dict=True)
    twins = three()
    answers = [twin(x) for twin in twins]
    updated, total = [], 0.0
    for i, twin in enumerate(twins):
        with tf.GradientTape() as tape:
            logits = twin(x, training=True)
            # Keras' own divergence, of probabilities: the mean over the two peers.
            divergences = [
                keras.losses.KLDivergence()(tf.nn.softmax(peer), tf.nn.softmax(logits))
                for j, peer in enumerate(answers)
                if j != i
            ]
            loss = 0.25 * LABEL_LOSS(y, logits) + 0.75 * tf.add_n(divergences) / 2
        gradients = tape.gradient(loss, twin.trainable_variables)
        updated.append([v - 0.1 * g for v, g in zip(twin.variables, gradients, strict=True)])
        total += float(loss)
    assert float(logs["loss"]) == pytest.approx(total, rel=1e-5)
    for trained, expected in zip(ours.students, updated, strict=True):
        for variable, value in zip(trained.variables, expected, strict=True):
            np.testing.assert_allclose(variable, value, rtol=1e-4, atol=1e-6)


def test_what_the_user_sees(rows):
    x, y = rows
    students = three()
    mutual = kd.MutualDistiller(students)
    mutual.compile("adam", LABEL_LOSS, metrics=["accuracy"], weighted_metrics=["accuracy"])
    stopping = keras.callbacks.EarlyStopping("val_bob_accuracy")  # it finds out which way is up
    history = mutual.fit(
        x, y, validation_data=(x, y, np.ones(24)), callbacks=[stopping], verbose=0
    ).history
    assert {"ann_accuracy", "cleo_weighted_accuracy"} <= set(history)
    assert {"ann_accuracy", "bob_loss", "val_cleo_accuracy", "soft_targets"} <= set(history)
    assert mutual.students == tuple(students)
    assert {name: a.shape for name, a in mutual.predict(x, verbose=0).items()} == {
        name: (24, 3) for name in ("ann", "bob", "cleo")
    }
    before = [v.numpy() for v in mutual.variables]
    logs = mutual.evaluate(x, y, verbose=0, return_dict=True)
    assert all(np.array_equal(a, b) for a, b in zip(before, mutual.variables, strict=True))
    predicted = students[1].predict(x, verbose=0).argmax(-1)
    assert logs["bob_accuracy"] == pytest.approx(np.mean(predicted == y))


def test_metric_objects_are_each_students_own(rows):
    x, y = rows
    mutual = kd.MutualDistiller(three())
    metric = keras.metrics.SparseCategoricalAccuracy(name="right")
    mutual.compile("sgd", LABEL_LOSS, metrics=[metric])
    logs = mutual.evaluate(x, y, verbose=0, return_dict=True)
    for model in mutual.students:
        share = np.mean(model.predict(x, verbose=0).argmax(-1) == y)
        assert logs[f"{model.name}_right"] == pytest.approx(share)


def test_a_hint_between_students_teaches_the_one_it_names(rows):
    x, _ = rows
    mutual = kd.MutualDistiller(three(), [kd.FeatureHint("ann/hidden", "bob/hidden")])
    mutual.compile(keras.optimizers.SGD(0.1), loss=None)
    before = {m.name: [v.numpy() for v in m.variables] for m in mutual.students}
    mutual.train_on_batch(x)
    moved = {
        m.name: [not np.array_equal(v, b) for v, b in zip(m.variables, before[m.name], strict=True)]
        for m in mutual.students
    }
    assert moved == {"ann": [True, True, False, False], "bob": [False] * 4, "cleo": [False] * 4}


def test_saved_and_trained_on_to_the_bit(rows, tmp_path):
    x, y = rows

    def fit(mutual):
        return mutual.fit(x, y, batch_size=8, shuffle=False, verbose=0).history

    mutual = kd.MutualDistiller(
        three(), [kd.SoftTargets(), kd.FeatureHint("ann/hidden", "bob/hidden")]
    )
    mutual.compile("adam", LABEL_LOSS)
    fit(mutual)
    mutual.save(tmp_path / "mutual.keras")
    expected = fit(mutual)
    loaded = kd.MutualDistiller.load(tmp_path / "mutual.keras")
    assert [s.name for s in loaded.students] == ["ann", "bob", "cleo"]
    assert fit(loaded) == expected
    with pytest.raises(ValueError, match="no teacher besides its student"):
        kd.MutualDistiller.load(tmp_path / "mutual.keras", mutual)


def test_unlabelled_rows_learn_from_the_peers(rows):
    x, _ = rows
    mutual = kd.MutualDistiller(three())
    mutual.compile("sgd", LABEL_LOSS)
    logs = mutual.train_on_batch(x, np.full(24, -1), return_dict=True)
    assert float(logs["label_loss"]) == 0.0
    assert float(logs["soft_targets"]) > 0.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: [student("a", 4)], "two students or more; got 1"),
        (lambda: [student("a", 4), student("a", 5)], "a name of its own; got a, a"),
        (lambda: [student("a", 4), student("b", 4, classes=5)], "soft_targets: .*3 classes.*5"),
        (lambda: [student("a", 4), student("b", 4, width=7)], "inputs differ: 'a'.*6.*'b'.*7"),
        (lambda: [student("a", 4), "b"], "Load it first"),
    ],
)
def test_refused(make, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        kd.MutualDistiller(make())
