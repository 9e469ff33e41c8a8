"""Teachers made of teachers, of labels, of the student's past."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_distill as kd
from keras_distill.teachers import Ensemble, Model, MovingAverage, MultiTask, Noisy, Virtual

SPEC = keras.KerasTensor((None, 2))


def fixed(function, width=2, **options):
    return Model(function, input_spec=keras.KerasTensor((None, width)), **options)


def linear(units=3, seed=0, name=None, width=4):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((width,)), layers.Dense(units, name="out")], name=name)


def distill(student, teacher, objectives=None, **options):
    distiller = kd.Distiller(student, teacher, objectives, **options)
    distiller.compile(
        keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    return distiller


X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, 32)


class TestEnsemble:
    def test_the_weighted_mean_of_logits(self):
        teacher = Ensemble([fixed(lambda x: x), fixed(lambda x: -3 * x)], weights=[3, 1])
        teacher.prepare(None, ())
        # 3/4 z - 3/4 z: the two cancel exactly.
        np.testing.assert_allclose(teacher(np.array([[2.0, 1.0]])).logits, [[0, 0]], atol=1e-6)

    def test_probabilities_join_with_their_logarithms(self):
        half = fixed(lambda x: keras.ops.exp(x), output="probabilities")
        teacher = Ensemble([fixed(lambda x: x), half])
        signals = teacher.prepare(None, ())
        assert signals.from_probabilities
        logits = np.log([[0.25, 0.75]]).astype("float32")
        np.testing.assert_allclose(teacher(logits).logits, logits, rtol=1e-6)

    def test_who_does_not_know_is_not_heard(self):
        sure, unsure = fixed(lambda x: x), fixed(lambda x: 0 * x)
        teacher = Ensemble([sure, unsure], "confidence")
        teacher.prepare(None, ())
        rows = np.array([[20.0, 0.0], [0.0, 0.0]], "float32")
        # Row 0: the second is uniform and weighs next to nothing; row 1: both are, and share.
        np.testing.assert_allclose(teacher(rows).logits, rows, rtol=1e-4)
        # Entropies by hand: p = (3/4, 1/4): H = log 4 - 3/4 log 3; against a uniform one of H =
        # log 2 the weight of the first is all but 1e-6.
        row = np.array([[np.log(3.0), 0.0]], "float32")
        weight = (np.log(2) - (np.log(4) - 0.75 * np.log(3)) + 1e-6) / (
            np.log(2) - (np.log(4) - 0.75 * np.log(3)) + 2e-6
        )
        np.testing.assert_allclose(teacher(row).logits, weight * row, rtol=1e-5)

    def test_layers_are_tapped_in_one_member(self):
        members = [linear(seed=1), linear(seed=2)]
        teacher = Ensemble(members, taps_from=1)
        spec = keras.KerasTensor((None, 4))
        assert teacher.prepare(spec, ("out",)).taps["out"].shape == (None, 3)
        np.testing.assert_allclose(teacher(X).taps["out"], members[1](X), rtol=1e-5, atol=1e-6)

    def test_it_teaches_and_follows_its_members(self):
        members = [linear(seed=1), linear(seed=2)]
        distiller = distill(linear(seed=3), Ensemble(members), label_weight=0.0)
        before = [w.copy() for m in members for w in m.get_weights()]
        first = distiller.fit(X, Y, epochs=20, verbose=0).history["loss"]
        assert first[-1] < first[0] / 2
        for old, new in zip(before, [w for m in members for w in m.get_weights()], strict=True):
            np.testing.assert_array_equal(old, new)
        old, answer = distiller.teacher.fingerprint(), distiller.teacher(X).logits
        members[1].get_layer("out").kernel.assign(np.zeros((4, 3)))
        assert distiller.teacher.fingerprint() != old
        np.testing.assert_array_equal(distiller.teacher(X).logits, answer)
        distiller.teacher.refresh()
        new = (members[0](X) + members[1](X)) / 2
        np.testing.assert_allclose(distiller.teacher(X).logits, new, rtol=1e-5, atol=1e-6)

    def test_what_is_refused(self):
        with pytest.raises(ValueError, match="two teachers or more; got 1"):
            Ensemble([linear()])
        with pytest.raises(ValueError, match="Expected 2 weights, one a teacher; got 3"):
            Ensemble([linear(), linear()], [1, 2, 3])
        with pytest.raises(ValueError, match="non-negative"):
            Ensemble([linear(), linear()], [1, -1])
        with pytest.raises(ValueError, match="'confidence' or None"):
            Ensemble([linear(), linear()], "entropy")
        with pytest.raises(ValueError, match="taps_from"):
            Ensemble([linear(), linear()], taps_from=2)
        with pytest.raises(ValueError, match=r"teacher 0 answers \(None, 3\) and teacher 1 .*5"):
            kd.Distiller(linear(), Ensemble([linear(), linear(5)]))


class TestNoisy:
    def test_the_noise_has_its_size_and_differs_each_time(self):
        teacher = Noisy(fixed(lambda x: x), sigma=0.5, seed=3)
        teacher.prepare(None, ())
        ones = np.ones((20_000, 2), "float32")
        first, second = (np.asarray(teacher(ones).logits) for _ in range(2))
        assert not np.array_equal(first, second)
        # 40,000 draws: the mean within 4 standard errors (0.0025), the deviation as closely.
        assert first.mean() == pytest.approx(1.0, abs=0.01)
        assert first.std() == pytest.approx(0.5, abs=0.01)
        np.testing.assert_array_equal(teacher(0 * ones).logits, 0 * ones)

    def test_only_a_share_of_the_examples(self):
        teacher = Noisy(fixed(lambda x: x), sigma=0.5, probability=0.25, seed=1)
        teacher.prepare(None, ())
        changed = np.any(np.asarray(teacher(np.ones((4000, 2), "float32")).logits) != 1, axis=-1)
        # Binomial: 0.25 with a standard error of 0.0068.
        assert changed.mean() == pytest.approx(0.25, abs=0.03)

    def test_a_seed_repeats_and_a_checkpoint_resumes(self, tmp_path):
        def new():
            teacher = Noisy(linear(seed=1), 0.3, seed=5)
            return distill(linear(seed=2), teacher), teacher

        one, two = new()[0], new()[0]
        options = {"epochs": 1, "verbose": 0, "shuffle": False, "batch_size": 8}
        losses = one.fit(X, Y, **options).history["loss"]
        assert losses == two.fit(X, Y, **options).history["loss"]
        one.save_weights(tmp_path / "half.weights.h5")
        expected = one.fit(X, Y, **options).history["loss"]
        resumed = new()[0]
        resumed.load_weights(tmp_path / "half.weights.h5")
        assert resumed.fit(X, Y, **options).history["loss"] == expected

    def test_what_is_refused(self):
        with pytest.raises(ValueError, match="sigma"):
            Noisy(linear(), -0.1)
        with pytest.raises(ValueError, match="probability"):
            Noisy(linear(), probability=0)


class TestVirtual:
    def test_softmax_of_its_logits(self):
        logits = Virtual(4, correct=0.7).answer(None, np.array([[1], [-1]])).logits
        probabilities = keras.ops.softmax(logits)
        np.testing.assert_allclose(probabilities[0], [0.1, 0.7, 0.1, 0.1], rtol=1e-6)
        np.testing.assert_allclose(probabilities[1], [0.25] * 4)

    def test_soft_targets_of_it_are_label_smoothing(self):
        # Keras' smoothing by s: right class 1 - s + s / C; cross-entropy and KL differ by the
        # target's entropy, a constant.
        classes, smoothing = 3, 0.3
        student = linear(seed=4)
        teacher = Virtual(classes, correct=1 - smoothing + smoothing / classes)
        objective = kd.SoftTargets(temperature=1.0)
        logits = student(X)
        given = objective(kd.Signals(logits), teacher.answer(None, Y), Y)
        expected = keras.losses.categorical_crossentropy(
            np.eye(3)[Y].astype("float32"), logits, from_logits=True, label_smoothing=smoothing
        )
        difference = np.asarray(expected) - np.asarray(given)
        right, wrong = 0.8, 0.1
        entropy = -(right * np.log(right) + 2 * wrong * np.log(wrong))
        np.testing.assert_allclose(difference, np.full(32, entropy), rtol=1e-5)

    def test_it_teaches_without_a_model(self):
        distiller = distill(linear(seed=5), Virtual(3), label_weight=0.0)
        history = distiller.fit(X, Y, epochs=10, verbose=0).history["loss"]
        assert history[-1] < history[0]

    def test_what_is_refused(self):
        with pytest.raises(ValueError, match=r"above chance, 0\.25"):
            Virtual(4, correct=0.2)
        with pytest.raises(ValueError, match="2 or more"):
            Virtual(1)
        with pytest.raises(ValueError, match="has no layers"):
            kd.Distiller(linear(), Virtual(3), kd.FeatureHint("out", "out"))
        distiller = kd.Distiller(linear(), Virtual(3))
        distiller.compile("sgd")
        with pytest.raises(ValueError, match="the data has none"):
            distiller.fit(X, verbose=0)
        with pytest.raises(ValueError, match=r"the student has 3 classes .* teacher 5"):
            kd.Distiller(linear(), Virtual(5))


class TestMovingAverage:
    def test_one_step_by_the_formula(self):
        student = linear(seed=6)
        teacher = MovingAverage(student, decay=0.9)
        distiller = distill(student, teacher)
        start = student.get_weights()
        distiller.fit(X, Y, batch_size=16, epochs=1, verbose=0, shuffle=False)
        # Two updates: decay 1/2, then 2/3. Follow them by hand in a twin that trains alike.
        twin = linear(seed=6)
        average = [w.copy() for w in start]
        shadow = distill(twin, MovingAverage(twin, decay=0.9))
        for n, rows in enumerate((slice(0, 16), slice(16, 32)), start=1):
            shadow.fit(X[rows], Y[rows], batch_size=16, verbose=0)
            decay = min(0.9, 1 - 1 / (n + 1))
            weights = zip(average, twin.get_weights(), strict=True)
            average = [decay * a + (1 - decay) * w for a, w in weights]
        for expected, given in zip(average, teacher.model.get_weights(), strict=True):
            np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-7)

    def test_it_is_no_weight_of_the_distiller_and_resumes_from_its_checkpoint(self, tmp_path):
        def new():
            student = linear(seed=7)
            return distill(student, MovingAverage(student, decay=0.95), label_weight=0.5)

        distiller = new()
        assert len(distiller.trainable_variables) == 2
        options = {"epochs": 2, "verbose": 0, "shuffle": False, "batch_size": 8}
        distiller.fit(X, Y, **options)
        distiller.save_weights(tmp_path / "half.weights.h5")
        expected = distiller.fit(X, Y, **options).history["loss"]
        resumed = new()
        resumed.load_weights(tmp_path / "half.weights.h5")
        assert resumed.fit(X, Y, **options).history["loss"] == expected

    def test_a_saved_distiller_goes_on_with_its_average(self, tmp_path):
        student = linear(seed=7)
        teacher = MovingAverage(student, decay=0.95)
        distiller = distill(student, teacher)
        distiller.fit(X, Y, epochs=2, verbose=0)
        distiller.save(tmp_path / "d.keras")
        average = MovingAverage(decay=0.95)
        loaded = kd.Distiller.load(tmp_path / "d.keras", average)
        for ours, theirs in zip(
            average.model.get_weights(), teacher.model.get_weights(), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
        options = {"verbose": 0, "shuffle": False}
        expected = distiller.fit(X, Y, **options).history["loss"]
        assert loaded.fit(X, Y, **options).history["loss"] == expected

    def test_statistics_are_averaged_and_only_in_training(self):
        keras.utils.set_random_seed(0)
        student = keras.Sequential(
            [keras.Input((4,)), layers.BatchNormalization(momentum=0.5), layers.Dense(3)]
        )
        teacher = MovingAverage(student, decay=0.5)
        distiller = distill(student, teacher)
        distiller.fit(X, Y, epochs=3, verbose=0)
        before = [v.numpy() for v in teacher.model.variables]
        assert not np.allclose(teacher.model.layers[0].moving_mean, 0)
        distiller.evaluate(X, Y, verbose=0)
        for old, variable in zip(before, teacher.model.variables, strict=True):
            np.testing.assert_array_equal(old, variable)

    def test_what_is_refused(self):
        with pytest.raises(ValueError, match="decay"):
            MovingAverage(linear(), 1.0)
        with pytest.raises(ValueError, match=r"follows 'one', .* trains 'other'"):
            kd.Distiller(linear(name="other"), MovingAverage(linear(name="one")))


class TestMultiTask:
    def student(self):
        keras.utils.set_random_seed(8)
        x = keras.Input((4,))
        hidden = layers.Dense(6, name="hidden")(x)
        heads = {"kind": layers.Dense(3, name="kind")(hidden)}
        heads["size"] = layers.Dense(2, name="size")(hidden)
        return keras.Model(x, heads)

    def test_each_output_from_its_own_teacher(self):
        teachers = {"kind": linear(3, seed=1), "size": linear(2, seed=2)}
        distiller = kd.Distiller(self.student(), MultiTask(teachers), label_weight=0.0)
        distiller.compile(keras.optimizers.Adam(0.05))
        distiller.fit(X, epochs=60, verbose=0)
        answers = distiller.student(X)
        for name, teacher in teachers.items():
            same = np.argmax(answers[name], -1) == np.argmax(teacher(X), -1)
            assert same.mean() > 0.9

    def test_layers_are_named_with_their_output(self):
        teacher = MultiTask({"kind": linear(3), "size": linear(2)})
        hint = kd.FeatureHint("hidden", "size/out", output="size")
        distiller = kd.Distiller(self.student(), teacher, hint)
        assert distiller.objectives[0].teacher_taps == ("size/out",)
        with pytest.raises(ValueError, match=r"'output/layer'.*kind, size"):
            kd.Distiller(self.student(), teacher, kd.FeatureHint("hidden", "out", output="size"))

    def test_what_is_refused(self):
        with pytest.raises(ValueError, match="two outputs or more"):
            MultiTask({"kind": linear()})
        with pytest.raises(ValueError, match="a teacher of one output is wanted"):
            kd.Distiller(self.student(), MultiTask({"kind": self.student(), "size": linear(2)}))


class TestKinds:
    """What members of several kinds are together: logits, probabilities, yes or no each."""

    LOGITS = np.array([[2.0, -1.0, 0.5]], "float32")
    OTHERS = np.array([[-1.0, 1.5, 0.0]], "float32")

    def member(self, logits, ending=None):
        layer = layers.Lambda(lambda x: x[:, :3] * 0 + keras.ops.array(logits))
        inputs = keras.Input((4,))
        answer = layer(inputs)
        return keras.Model(inputs, ending(answer) if ending else answer)

    def together(self, *members, **options):
        teacher = Ensemble(members, **options)
        signals = teacher.prepare(keras.KerasTensor((None, 4)), ())
        return signals, np.asarray(teacher(X[:1]).logits)

    def test_probabilities_and_logits(self):
        clipped = lambda z: keras.ops.clip(keras.ops.softmax(z), 1e-7, 1)  # noqa: E731
        spec, logits = self.together(self.member(self.LOGITS), self.member(self.OTHERS, clipped))
        assert spec.kind == "probabilities"
        # Logits up to a constant: their softmax is that of the mean.
        given = keras.ops.softmax(logits)
        np.testing.assert_allclose(
            given, keras.ops.softmax((self.LOGITS + self.OTHERS) / 2), rtol=1e-5
        )

    @pytest.mark.parametrize("ending", [None, keras.ops.sigmoid])
    def test_a_sigmoid_and_logits_or_another_sigmoid(self, ending):
        one, two = self.member(self.LOGITS, keras.ops.sigmoid), self.member(self.OTHERS, ending)
        spec, answer = self.together(one, two, weights=[3, 1])
        assert spec.kind == "sigmoid"
        expected = keras.ops.sigmoid(0.75 * self.LOGITS + 0.25 * self.OTHERS)
        np.testing.assert_allclose(answer, expected, rtol=1e-5)

    def test_which_label_is_known_best(self):
        unsure = self.member([[0.0, 0.0, 0.0]], keras.ops.sigmoid)
        _, answer = self.together(
            self.member([[9.0, 0.0, -9.0]], keras.ops.sigmoid), unsure, weights="confidence"
        )
        # Label by label: where the second knows nothing the first decides; neither knows label 1.
        np.testing.assert_allclose(answer, keras.ops.sigmoid([[9.0, 0.0, -9.0]]), atol=1e-4)

    @pytest.mark.parametrize("hidden", [False, True])
    def test_a_sigmoid_and_a_softmax_are_refused(self, hidden):
        ending = (
            (lambda z: keras.ops.maximum(keras.ops.softmax(z), 0))
            if hidden
            else (keras.ops.softmax)
        )
        members = [self.member(self.LOGITS, keras.ops.sigmoid), self.member(self.OTHERS, ending)]
        with pytest.raises(ValueError, match=r"end in sigmoid, probabilities.*output="):
            self.together(*members)
        with pytest.raises(ValueError, match="end in probabilities, sigmoid"):
            self.together(members[1], Noisy(members[0]))

    def test_noise_is_on_the_log_odds(self):
        teacher = Noisy(self.member(self.LOGITS, keras.ops.sigmoid), sigma=0.0)
        assert teacher.prepare(keras.KerasTensor((None, 4)), ()).kind == "sigmoid"
        np.testing.assert_allclose(teacher(X[:1]).logits, keras.ops.sigmoid(self.LOGITS), rtol=1e-5)
