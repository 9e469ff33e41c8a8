"""A model as a teacher: it answers as its Keras call does, follows its weights, changes nothing."""

import time
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special

import keras_distill as kd
from keras_distill.signals.reader import ModelReader
from keras_distill.teachers import engines

CLASSES = 10
TEMPERATURES = (1, 2, 4, 8, 20)


@keras.saving.register_keras_serializable("keras_distill_tests")
class Subclassed(keras.Model):
    def __init__(self, seed=0):
        super().__init__()
        self.hidden = keras.layers.Dense(
            12, activation="relu", kernel_initializer=keras.initializers.GlorotUniform(seed)
        )
        self.out = keras.layers.Dense(
            CLASSES, kernel_initializer=keras.initializers.GlorotUniform(seed + 1)
        )

    def call(self, x):
        return self.out(self.hidden(keras.ops.reshape(x, (-1, 64))))


@pytest.fixture
def x(digits):
    return digits.x_train[:24]


def built(model, spec=None, **options):
    teacher = kd.teachers.Model(model, **options)
    teacher.prepare(spec, ())
    return teacher


def answers(teacher, x):
    """What the teacher says inside a step, which is a graph."""
    step = tf.function(lambda x: teacher(x).logits, autograph=False)
    return np.asarray(step(keras.tree.map_structure(tf.constant, x)))


def assert_close(given, expected, tolerance=1e-5):
    scale = np.abs(expected).max()
    assert given.shape == expected.shape
    np.testing.assert_allclose(given / scale, expected / scale, atol=tolerance)


def snapshot(model):
    return [v.numpy() for v in model.variables]


def randomised(model, seed=5):
    """Weights and BatchNorm statistics away from their initial values, which hide a folding bug."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if "seed" not in getattr(variable, "path", variable.name):
            variable.assign(variable.numpy() + rng.uniform(0.05, 0.3, variable.shape))
    return model


def nested(small_cnn):
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(small_cnn(4)(inputs)))


def subclassed(small_cnn):
    model = Subclassed()
    model(tf.zeros((1, 8, 8, 1)))
    return model


KINDS = {"functional": lambda small_cnn: small_cnn(4), "nested": nested, "subclassed": subclassed}


@pytest.mark.parametrize("engine", ["frozen", "keras"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_answers_as_the_keras_call(kind, engine, small_cnn, x):
    model = randomised(KINDS[kind](small_cnn))
    teacher = built(model, engine=engine)
    assert teacher.engine_used == engine
    assert_close(answers(teacher, x), np.array(model(x, training=False)))


def test_a_tf_keras_model_answers_as_its_call(x):
    import tf_keras

    model = tf_keras.Sequential(
        [
            tf_keras.layers.InputLayer((8, 8, 1)),
            tf_keras.layers.Conv2D(4, 3),
            tf_keras.layers.BatchNormalization(),
            tf_keras.layers.Dropout(0.5),
            tf_keras.layers.Flatten(),
            tf_keras.layers.Dense(CLASSES),
        ]
    )
    teacher = built(randomised(model))
    assert teacher.engine_used == "frozen"
    assert_close(answers(teacher, x), model(x, training=False).numpy())


KERNEL = np.random.default_rng(0).normal(size=(64, CLASSES)).astype("float32")


def on_tensors(x):
    return tf.matmul(tf.reshape(x, (-1, 64)), KERNEL)


def on_arrays(x):
    return np.asarray(x).reshape(-1, 64) @ KERNEL


@pytest.mark.parametrize("function", [on_tensors, on_arrays])
def test_a_callable_answers_as_itself(function, x):
    teacher = built(function, input_spec=keras.KerasTensor((None, 8, 8, 1)))
    assert_close(answers(teacher, x), x.reshape(-1, 64) @ KERNEL)
    # Batches of another size, after the graph was made.
    assert_close(answers(teacher, x[:3]), x[:3].reshape(-1, 64) @ KERNEL)


def test_a_saved_models_signature_answers_as_the_model(small_cnn, x, tmp_path):
    model = randomised(small_cnn(4))
    model.export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "saved")
    teacher = built(loaded.signatures["serving_default"])
    assert_close(answers(teacher, x), np.array(model(x, training=False)))


# Probabilities and logits. The models below return their input, or its softmax, so that their
# logits are what the test chooses: in each row the largest stands 80 above the smallest.


def spread_logits(seed, rows=16):
    logits = np.random.default_rng(seed).uniform(-40, 40, (rows, CLASSES))
    logits[np.arange(rows), np.arange(rows) % CLASSES] = 40.0
    logits[np.arange(rows), (np.arange(rows) + seed) % CLASSES] = -40.0
    return logits.astype("float32")


def divergence(student, teacher, temperature):
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) in float64, a value a row."""
    logs = [special.log_softmax(z.astype("float64") / temperature, -1) for z in (student, teacher)]
    return temperature**2 * np.sum(np.exp(logs[1]) * (logs[1] - logs[0]), -1)


def dense(**options):
    return keras.layers.Dense(
        CLASSES, use_bias=False, kernel_initializer=keras.initializers.Identity(), **options
    )


class SoftmaxInCall(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = dense()

    def call(self, x):
        return keras.ops.softmax(self.dense(x))


class SoftmaxInItsOwnGraph(keras.Model):
    """A softmax that no trace of the outer graph sees, as in a compiled or an exported model."""

    def __init__(self):
        super().__init__()
        self.dense = dense()
        self.inner = tf.function(lambda x: tf.exp(tf.nn.log_softmax(self.dense(x))))

    def call(self, x):
        return self.inner(x)


def sequential(*layers):
    return keras.Sequential([keras.Input((CLASSES,)), *layers])


def called(kind):
    model = kind()
    model(tf.zeros((1, CLASSES)))
    return model


TWINS = {
    "logits": (lambda: sequential(dense()), "auto"),
    "softmax layer": (lambda: sequential(dense(), keras.layers.Softmax()), "auto"),
    "softmax activation": (lambda: sequential(dense(activation="softmax")), "auto"),
    "softmax in call": (lambda: called(SoftmaxInCall), "auto"),
    "softmax out of reach": (lambda: called(SoftmaxInItsOwnGraph), "probabilities"),
}


def probabilities_of(x):
    return special.softmax(np.asarray(x), -1)


def losses(student_signals, teacher_signals):
    return [
        kd.SoftTargets(temperature=t)(student_signals, teacher_signals, None) for t in TEMPERATURES
    ]


def expected_losses(student, teacher):
    return [divergence(student, teacher, t) for t in TEMPERATURES]


@pytest.mark.parametrize("engine", ["frozen", "keras"])
@pytest.mark.parametrize("twin", [*TWINS, "numpy callable"])
def test_a_teachers_twins_give_one_loss(twin, engine):
    student, teacher = spread_logits(1), spread_logits(3)
    spec = keras.KerasTensor((None, CLASSES))
    make, output = TWINS.get(twin, (lambda: probabilities_of, "probabilities"))
    model = built(make(), output=output, engine=engine, input_spec=spec)
    step = tf.function(lambda x: losses(kd.Signals(student), model(x)), autograph=False)
    # Where both answers are all but one-hot a row's loss is below float32's step: hence atol.
    np.testing.assert_allclose(
        step(tf.constant(teacher)), expected_losses(student, teacher), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("twin", TWINS)
def test_a_students_twins_give_one_loss(twin, eager):
    student, teacher = spread_logits(1), spread_logits(3)
    make, output = TWINS[twin]
    objectives = [kd.SoftTargets(temperature=t, name=f"at_{t}") for t in TEMPERATURES]
    # Student and teacher get the same x: the student's logits as they are, the teacher's moved.
    distiller = kd.Distiller(
        make(), lambda x: x + (teacher - student), objectives, student_output=output
    )
    distiller.compile(keras.optimizers.SGD(0.0), run_eagerly=eager)
    logs = distiller.fit(student, batch_size=len(student), verbose=0, shuffle=False).history
    expected = [values.mean() for values in expected_losses(student, teacher)]
    np.testing.assert_allclose([logs[o.name][0] for o in objectives], expected, rtol=1e-5)


# What must not move, and what must be followed.


@pytest.mark.parametrize("engine", ["frozen", "keras"])
def test_three_epochs_change_nothing_of_the_teacher(engine, small_cnn, digits):
    model = small_cnn(8, dropout=0.5, seed=1)
    model.get_layer("high").trainable = False
    model.get_layer("norm").trainable = True
    before = snapshot(model), [layer.trainable for layer in model._flatten_layers()]
    student = small_cnn(4, seed=2)
    distiller = kd.Distiller(
        student,
        kd.teachers.Model(model, engine=engine),
        [kd.SoftTargets(), kd.FeatureHint("low", "norm")],
    )
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    start = snapshot(student)
    x, y = digits.x_train[:96], digits.y_train[:96]
    distiller.fit(x, y, validation_data=(x[:32], y[:32]), epochs=3, verbose=0)
    for variable, value in zip(model.variables, before[0], strict=True):
        np.testing.assert_array_equal(variable.numpy(), value, err_msg=variable.path)
    assert [layer.trainable for layer in model._flatten_layers()] == before[1]
    assert not np.array_equal(student.variables[0], start[0])


def test_changed_weights_are_taken_up_by_the_next_fit(x):
    student = np.zeros((24, CLASSES))
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    pupil = keras.models.clone_model(model)
    pupil.set_weights([np.zeros((64, 10)), np.zeros(10)])
    distiller = kd.Distiller(pupil, model, kd.SoftTargets(temperature=2.0))
    distiller.compile(keras.optimizers.SGD(0.0))

    def logged():
        return distiller.fit(x, batch_size=24, verbose=0).history["soft_targets"][0]

    def expected():
        return divergence(student, np.array(model(x)), 2.0).mean()

    first = expected()
    assert logged() == pytest.approx(first, rel=1e-5)
    old = np.array(model(x))
    model.set_weights([3.0 * w for w in model.get_weights()])
    assert_close(answers(distiller.teacher, x), old)
    assert expected() > 2 * first
    assert logged() == pytest.approx(expected(), rel=1e-5)
    assert_close(answers(distiller.teacher, x), np.array(model(x)))


def test_a_functions_variable_is_followed_too():
    x, scale = spread_logits(0), tf.Variable(1.0)
    teacher = built(lambda x: x * scale, input_spec=keras.KerasTensor((None, CLASSES)))
    assert teacher.engine_used == "frozen"
    assert not teacher.refresh()
    scale.assign(2.0)
    assert_close(answers(teacher, x), x)
    assert teacher.refresh()
    assert_close(answers(teacher, x), 2.0 * x)


def test_two_distillers_of_one_teacher_follow_it_both():
    scale = tf.Variable(1.0)
    spec = keras.KerasTensor((None, CLASSES))
    teacher = kd.teachers.Model(lambda x: x * scale, input_spec=spec)
    x = spread_logits(0)

    def distiller():
        student = keras.Sequential([keras.Input((CLASSES,)), keras.layers.Dense(CLASSES)])
        student.set_weights([np.eye(CLASSES), np.zeros(CLASSES)])
        made = kd.Distiller(student, teacher, label_weight=0.0)
        made.compile(keras.optimizers.SGD(0.0))
        return made

    both = [distiller(), distiller()]

    def losses():
        return [one.fit(x, verbose=0).history["loss"][0] for one in both]

    assert losses() == pytest.approx([0.0, 0.0], abs=1e-6)
    scale.assign(2.0)
    first, second = losses()
    assert first == pytest.approx(second)
    assert first > 0.01


# Faster ways.


def test_bfloat16_is_another_precision_and_not_far_off(small_cnn, x):
    model = randomised(small_cnn(16))
    try:
        teacher = built(model, precision="bfloat16")
    except ValueError as error:
        if "no way" not in str(error):
            raise
        pytest.skip(f"this processor: {error}")
    exact = np.array(model(x, training=False))
    given = answers(teacher, x)
    assert given.dtype == np.float32
    assert 0 < np.abs(given - exact).max() < 0.02 * np.abs(exact).max()


def test_litert_answers_as_the_keras_call(small_cnn, x):
    model = randomised(small_cnn(4))
    teacher = kd.teachers.Model(model, engine="litert")
    distiller = kd.Distiller(small_cnn(4), teacher)
    assert teacher.engine_used == "litert"
    assert_close(answers(teacher, x), np.array(model(x, training=False)), 1e-4)
    with pytest.raises(ValueError, match=r"engine='frozen'.*jit_compile=False"):
        distiller.compile("adam", jit_compile=True)
    distiller.compile("adam", jit_compile=False)


def test_auto_times_the_engines_and_says_its_choice(small_cnn, x, capsys, monkeypatch):
    def slow(forward, specs, variables, outputs):
        def answer(x):
            time.sleep(0.2)
            return np.zeros((len(x), CLASSES), "float32")

        return lambda x: [tf.numpy_function(answer, [x], tf.float32)]

    # A conversion takes seconds; that a slow engine is not chosen shows with any slow one.
    monkeypatch.setattr(engines, "litert_engine", slow)
    model = randomised(small_cnn(4))
    teacher = built(model, engine="auto")
    printed = capsys.readouterr().out
    assert teacher.engine_used in ("frozen", "keras")
    assert f"Teacher engine: {teacher.engine_used} " in printed
    for name in ("frozen", "keras", "litert"):
        assert f"{name} " in printed.partition("(")[2]
    assert_close(answers(teacher, x), np.array(model(x, training=False)))


def test_the_engine_that_auto_chose_follows_the_model(small_cnn, x, monkeypatch):
    model = randomised(small_cnn(4))

    def quick(forward, specs, variables, outputs):
        twin = keras.models.clone_model(model)
        twin.set_weights(model.get_weights())
        return lambda x: [twin(x, training=False)]

    monkeypatch.setattr(engines, "litert_engine", quick)
    times = iter([3.0, 2.0, 1.0])
    monkeypatch.setattr(engines, "seconds", lambda *_: next(times))
    teacher = built(model, engine="auto")
    assert teacher.engine_used == "litert"
    model.set_weights([1.5 * w for w in model.get_weights()])
    times = iter([3.0, 2.0, 1.0])
    assert teacher.refresh()
    assert_close(answers(teacher, x), np.array(model(x, training=False)))


# Tables, and several inputs.


@pytest.mark.parametrize(
    ("lookup", "x"),
    [
        (lambda: keras.layers.IntegerLookup(vocabulary=[7, 3, 11]), [[7, 3], [11, 99]]),
        (lambda: keras.layers.StringLookup(vocabulary=["a", "b"]), [["a", "b"], ["b", "?"]]),
    ],
)
def test_a_teacher_with_a_lookup_table_is_frozen(lookup, x):
    x = tf.constant(x)
    inputs = keras.Input((2,), dtype=x.dtype.name)
    embedded = keras.layers.Embedding(5, 4)(lookup()(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(embedded)))
    teacher = built(model)
    assert teacher.engine_used == "frozen"
    assert_close(answers(teacher, x), np.array(model(x)))


def test_a_teacher_that_writes_variables_runs_as_the_plain_call():
    inputs = keras.Input((5, 3), batch_size=4)
    lstm = keras.layers.LSTM(6, stateful=True)
    model = keras.Model(inputs, keras.layers.Dense(CLASSES)(lstm(inputs)))
    teacher = built(model)
    assert teacher.engine_used == "keras"
    with pytest.raises(ValueError, match=r"writes variables.*precision='float32'"):
        built(model, precision="bfloat16")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_someone_elses_lookup_table_is_no_reason_to_warn(precision, small_cnn, x, caplog):
    keras.layers.StringLookup(vocabulary=["a", "b"])
    tensorflows = tf.get_logger()
    tensorflows.addHandler(caplog.handler)
    try:
        answers(built(small_cnn(2), precision=precision), x)
    except ValueError as error:
        if "no way to run" not in str(error):
            raise
        pytest.skip("this machine has no bfloat16 engine")
    finally:
        tensorflows.removeHandler(caplog.handler)
    assert not caplog.records


def test_a_dict_of_inputs_goes_to_the_right_places():
    rng = np.random.default_rng(0)
    inputs = {"left": keras.Input((4,), name="left"), "right": keras.Input((4,), name="right")}
    minus = keras.layers.Subtract()([inputs["left"], inputs["right"]])
    model = keras.Model(inputs, keras.layers.Dense(3)(minus))
    batch = {name: rng.normal(size=(6, 4)).astype("float32") for name in ("right", "left")}
    expected = np.array(model(batch))
    teacher = built(model)
    assert teacher.engine_used == "frozen"
    assert_close(answers(teacher, batch), expected)
    # A name more than the teacher asks for is left alone.
    assert_close(answers(teacher, {**batch, "also": batch["left"]}), expected)

    listed = keras.Model([inputs["right"], inputs["left"]], model(inputs))
    assert_close(answers(built(listed), batch), expected)


# Bad input.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"output": "scores"}, "'logits', 'probabilities'"),
        ({"precision": "int8"}, "'bfloat16'"),
        ({"engine": "xla"}, "'litert'"),
        ({"precision": "bfloat16", "engine": "keras"}, "Leave engine='frozen'"),
    ],
)
def test_unknown_options_name_the_known(options, words, small_cnn):
    with pytest.raises(ValueError, match=words):
        kd.teachers.Model(small_cnn(2), **options)


def test_an_unbuilt_model_is_refused():
    with pytest.raises(ValueError, match=r"no weights yet\. Build it"):
        kd.teachers.Model(keras.Sequential([keras.layers.Dense(3)]))


def test_what_is_no_teacher_is_refused():
    with pytest.raises(TypeError, match=r"callable that returns logits.*got builtins\.str"):
        kd.teachers.Model("teacher.keras")


def test_a_callable_says_its_input_where_the_views_differ(small_cnn):
    def half(x):
        return x[:, ::2, ::2]

    def teacher(x):
        return tf.reshape(x, (-1, 16)) @ KERNEL[:16]

    with pytest.raises(ValueError, match=r"input_spec=keras\.KerasTensor"):
        kd.Distiller(small_cnn(2), teacher, teacher_preprocess=half)
    told = kd.teachers.Model(teacher, input_spec=keras.KerasTensor((None, 4, 4, 1)))
    distiller = kd.Distiller(small_cnn(2), told, teacher_preprocess=half)
    distiller.compile("sgd")
    logs = distiller.fit(np.ones((8, 8, 8, 1), "float32"), verbose=0).history
    assert np.isfinite(logs["soft_targets"]).all()


def test_a_batch_of_another_shape_names_both(small_cnn):
    with pytest.raises(ValueError, match=r"\(None, 8, 8, 1\); got \(2, 4, 4, 1\).*preprocess"):
        built(small_cnn(2))(tf.zeros((2, 4, 4, 1)))


@pytest.mark.parametrize("engine", ["frozen", "keras"])
def test_a_softmax_hidden_in_functions_is_seen_by_every_engine(engine):
    kernel = tf.random.stateless_normal((4, 3), (0, 0))
    inner = tf.function(lambda x: tf.nn.softmax(x @ kernel))
    teacher = kd.teachers.Model(
        tf.function(lambda x: inner(x)), engine=engine, input_spec=keras.KerasTensor((None, 4))
    )
    teacher.prepare(None, ())
    x = tf.random.stateless_normal((6, 4), (1, 0))
    np.testing.assert_allclose(
        tf.nn.softmax(teacher(x).logits / 3), tf.nn.softmax(x @ kernel / 3), atol=1e-6
    )


def test_a_teacher_that_nobody_built_builds_itself(small_cnn, digits):
    model = small_cnn(4)
    x = digits.x_test[:5]
    np.testing.assert_allclose(
        kd.teachers.Model(model)(x).logits, model(x, training=False), rtol=1e-5, atol=1e-6
    )


class Scaled(keras.layers.Layer):
    scale = 2.0

    def call(self, x):
        return x * self.scale


def test_a_changed_constant_is_taken_up_by_the_next_fit():
    layer = Scaled()
    model = keras.Sequential([keras.Input((3,)), layer])
    teacher = kd.teachers.Model(model)
    student = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(3, kernel_initializer="zeros")]
    )
    distiller = kd.Distiller(student, teacher, kd.objectives.LogitsMSE())
    distiller.compile(keras.optimizers.SGD(0.0))
    x = np.ones((4, 3), "float32")
    old = teacher.identity()
    assert distiller.fit(x, verbose=0).history["logits_mse"] == [4.0]
    layer.scale = 3.0
    assert teacher.identity() != old
    assert distiller.fit(x, verbose=0).history["logits_mse"] == [9.0]
    assert not teacher.refresh()


def test_a_teacher_that_has_not_changed_is_not_traced_again(monkeypatch):
    rescaling = keras.layers.Rescaling(2.0)
    model = keras.Sequential([keras.Input((3,)), rescaling, keras.layers.Dense(3)])
    teacher = kd.teachers.Model(model)
    before = teacher(np.ones((1, 3), "float32")).logits
    traces, traced = [], ModelReader.traced
    monkeypatch.setattr(ModelReader, "traced", lambda *args: traces.append(1) or traced(*args))
    assert not teacher.refresh()
    assert not teacher.refresh()
    assert traces == []
    rescaling.scale = 4.0
    assert teacher.refresh()
    assert traces == [1]
    # The bias begins at zero.
    np.testing.assert_allclose(teacher(np.ones((1, 3), "float32")).logits, 2 * before, rtol=1e-6)


@pytest.mark.parametrize(
    ("ending", "kind"), [("softmax", "probabilities"), ("sigmoid", "sigmoid"), (None, "logits")]
)
def test_a_litert_file_tells_what_it_ends_in(ending, kind, tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, ending)])
    kd.edge.export_tflite(model, tmp_path / "model.tflite")
    runner = kd.edge.load_tflite(tmp_path / "model.tflite")
    spec = keras.KerasTensor((None, 4))
    for teacher in (runner, runner.predict):
        assert kd.teachers.Model(teacher, input_spec=spec).prepare(None, ()).kind == kind


class Classifier:
    """As scikit-learn's: NumPy in, probabilities out."""

    def predict_proba(self, x):
        return probabilities_of(np.asarray(x)[:, :3])


def test_rows_that_sum_to_one_are_asked_about():
    spec = keras.KerasTensor((None, 4))
    with pytest.warns(UserWarning, match="rows that sum to 1.*output='probabilities'"):
        kd.teachers.Model(Classifier().predict_proba, input_spec=spec).prepare(None, ())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for said in ("probabilities", "logits"):
            told = kd.teachers.Model(Classifier().predict_proba, input_spec=spec, output=said)
            told.prepare(None, ())
        # Logits of NumPy's are no probabilities.
        kd.teachers.Model(lambda x: np.sin(x), input_spec=spec).prepare(None, ())


def taught(answer, jit_compile=False, **options):
    """The history of a fit under a teacher that gives these numbers, and the student."""
    student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    teacher = kd.teachers.Model(
        lambda x: x[:, :3] * 0 + tf.constant(answer), input_spec=keras.KerasTensor((None, 4))
    )
    distiller = kd.Distiller(student, teacher, **options)
    distiller.compile(keras.optimizers.SGD(0.1), jit_compile=jit_compile)
    return distiller, student


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_logit_of_minus_infinity_is_a_probability_of_zero(jit_compile):
    distiller, student = taught([2.0, -np.inf, 0.0], jit_compile)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    theirs = np.array([2.0, -np.inf, 0.0]) / 2
    ours = special.log_softmax(np.array(student(x), "float64") / 2, -1)
    p = special.softmax(theirs)
    expected = 4 * (special.rel_entr(p, np.exp(ours))).sum(-1).mean()
    assert distiller.fit(x, verbose=0).history["soft_targets"][0] == pytest.approx(expected, 1e-5)
    assert np.isfinite(student.get_weights()[0]).all()


@pytest.mark.parametrize(
    "answer", [[1.0, np.nan, 0.0], [1.0, np.inf, 0.0], [-np.inf, -np.inf, -np.inf]]
)
def test_an_answer_that_is_no_number_names_the_teacher_and_moves_nothing(answer):
    distiller, student = taught(answer)
    before = student.get_weights()
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"The teacher teachers\.Model"):
        distiller.fit(np.ones((5, 4), "float32"), verbose=0)
    for old, new in zip(before, student.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
