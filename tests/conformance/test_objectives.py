"""One suite over every Objective found in the package: a new method gets it for free."""

import importlib
import inspect
import pkgutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill as kd
from keras_distill import objectives as package
from keras_distill import step
from keras_distill.objectives import Objective, Signals

BATCH, CLASSES = 6, 5

# The derived minimum that a class has at student = teacher, where it is not zero.
MINIMUM = {
    # Cross-entropy of a distribution with its own most likely class: -log max softmax.
    "HardTargets": lambda logits: -np.log(_softmax(logits).max(-1)),
}
# Methods on logits that a constant added to all classes does not move.
SHIFT_INVARIANT = {"SoftTargets", "HardTargets"}


def _softmax(logits):
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def found():
    for module in pkgutil.iter_modules(package.__path__):
        members = vars(importlib.import_module(f"{package.__name__}.{module.name}")).values()
        for kind in members:
            if (
                inspect.isclass(kind)
                and issubclass(kind, Objective)
                and kind.__module__.endswith(module.name)
                and kind is not Objective
                and not kind.__name__.startswith("_")
            ):
                yield kind


OBJECTIVES = sorted(found(), key=lambda kind: kind.__name__)
every_objective = pytest.mark.parametrize("kind", OBJECTIVES, ids=lambda kind: kind.__name__)


def required(kind, tap):
    """What the class can't do without: layers to tap."""
    parameters = inspect.signature(kind).parameters.values()
    return {p.name: tap for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD}


def make(kind, **options):
    objective = kind(**required(kind, "tap"), **options)
    specs = signals(np.random.default_rng(0), "float32")
    spec = Signals(
        keras.KerasTensor((None, CLASSES)),
        {key: keras.KerasTensor((None, *t.shape[1:])) for key, t in specs.taps.items()},
    )
    objective.build(spec, spec)
    return objective


def signals(rng, dtype, scale=1.0):
    logits = rng.normal(0, 2, (BATCH, CLASSES)) * scale
    tap = rng.normal(0, 1, (BATCH, 4, 4, 3)) * scale
    return Signals(tf.cast(logits, dtype), {"tap": tf.cast(tap, dtype)})


def labels():
    return tf.constant(np.arange(BATCH) % CLASSES)


def test_the_suite_sees_the_objectives():
    assert {"SoftTargets", "HardTargets", "LogitsMSE", "FeatureHint"} <= {
        kind.__name__ for kind in OBJECTIVES
    }


@every_objective
def test_one_value_an_example(kind):
    rng = np.random.default_rng(1)
    values = make(kind)(signals(rng, "float32"), signals(rng, "float32"), labels())
    assert values.shape == (BATCH,)
    assert values.dtype == "float32"
    assert np.all(np.asarray(values) > 0), "two different models must not agree"


@every_objective
def test_student_equal_to_teacher_is_the_minimum(kind):
    same = signals(np.random.default_rng(2), "float64")
    expected = MINIMUM.get(kind.__name__, lambda logits: np.zeros(BATCH))(same.logits.numpy())
    np.testing.assert_allclose(make(kind)(same, same, labels()), expected, atol=1e-9)


@every_objective
def test_a_constant_added_to_the_logits(kind):
    rng = np.random.default_rng(3)
    student, teacher = signals(rng, "float64"), signals(rng, "float64")
    if kind.student_taps or make(kind).student_taps:
        pytest.skip("it does not see logits")
    moved = Signals(student.logits + 7.0), Signals(teacher.logits - 3.0)
    plain, shifted = make(kind)(student, teacher, labels()), make(kind)(*moved, labels())
    if kind.__name__ in SHIFT_INVARIANT:
        np.testing.assert_allclose(plain, shifted, rtol=1e-9)
    else:
        assert np.abs(plain - shifted).max() > 1.0


@every_objective
def test_gradient_is_the_finite_difference(kind):
    rng = np.random.default_rng(4)
    student, teacher = signals(rng, "float64"), signals(rng, "float64")
    objective = make(kind)
    key = "tap" if objective.student_taps else None
    at = student.taps["tap"] if key else student.logits

    def value(tensor):
        changed = Signals(student.logits, {"tap": tensor}) if key else Signals(tensor)
        return tf.reduce_sum(objective(changed, teacher, labels()))

    with tf.GradientTape() as tape:
        tape.watch(at)
        total = value(at)
    gradient = tape.gradient(total, at).numpy()
    for index in rng.integers(0, at.shape.num_elements(), 8):
        nudge = np.zeros(at.shape.num_elements())
        nudge[index] = 1e-5
        nudge = nudge.reshape(at.shape)
        difference = (value(at + nudge) - value(at - nudge)) / 2e-5
        assert gradient.ravel()[index] == pytest.approx(float(difference), rel=1e-5, abs=1e-8)


@every_objective
def test_an_example_of_weight_zero_gives_no_gradient(kind):
    rng = np.random.default_rng(5)
    student, teacher = signals(rng, "float32"), signals(rng, "float32")
    objective = make(kind)
    weights = tf.constant([1.0, 0.0] * (BATCH // 2))
    watched = student.taps["tap"] if objective.student_taps else student.logits
    with tf.GradientTape() as tape:
        tape.watch(watched)
        changed = Signals(watched, {"tap": watched})
        loss = step.reduce(objective(changed, teacher, labels()), weights)
    gradient = tape.gradient(loss, watched).numpy().reshape(BATCH, -1)
    if not kind.relational:
        np.testing.assert_array_equal(gradient[1::2], 0.0)
    assert np.abs(gradient[::2]).max() > 0


@every_objective
def test_weights_of_one_equal_none(kind):
    rng = np.random.default_rng(6)
    values = make(kind)(signals(rng, "float32"), signals(rng, "float32"), labels())
    np.testing.assert_allclose(step.reduce(values, tf.ones(BATCH)), step.reduce(values), rtol=1e-6)


@every_objective
def test_config_round_trip(kind):
    objective = make(kind, weight=0.25, name="mine", output=None)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(objective))
    assert type(copy) is kind
    assert copy.get_config() == objective.get_config()
    assert (copy.weight, copy.name) == (0.25, "mine")


@every_objective
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_inputs_are_computed_in_float32(kind, dtype):
    rng = np.random.default_rng(7)
    student, teacher = signals(rng, dtype), signals(rng, dtype)
    values = make(kind)(student, teacher, labels())
    assert values.dtype == "float32"
    exact = [
        Signals(tf.cast(s.logits, "float64"), {"tap": tf.cast(s.taps["tap"], "float64")})
        for s in (student, teacher)
    ]
    # The inputs are rounded already: what follows must lose no more.
    np.testing.assert_allclose(values, make(kind)(*exact, labels()), rtol=1e-4)


@every_objective
def test_eager_equals_graph(kind):
    rng = np.random.default_rng(8)
    student, teacher = signals(rng, "float32"), signals(rng, "float32")
    objective = make(kind)
    graph = tf.function(
        lambda s, st, t, tt: objective(Signals(s, {"tap": st}), Signals(t, {"tap": tt}), labels()),
        autograph=False,
    )
    given = graph(student.logits, student.taps["tap"], teacher.logits, teacher.taps["tap"])
    np.testing.assert_allclose(given, objective(student, teacher, labels()), rtol=1e-5)


@every_objective
def test_large_logits_stay_finite(kind):
    rng = np.random.default_rng(9)
    objective = make(kind)
    student, teacher = (signals(rng, "float32", scale=1e4) for _ in range(2))
    watched = student.taps["tap"] if objective.student_taps else student.logits
    with tf.GradientTape() as tape:
        tape.watch(watched)
        values = objective(Signals(watched, {"tap": watched}), teacher, labels())
    assert np.isfinite(values).all()
    assert np.isfinite(tape.gradient(values, watched)).all()


@every_objective
@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_a_weight_must_be_finite_and_not_negative(kind, weight):
    with pytest.raises(ValueError, match="weight must be finite and at least 0"):
        kind(**required(kind, "tap"), weight=weight)


@every_objective
def test_it_trains_in_a_distiller_and_goes_down(kind, small_cnn, digits):
    objective = kind(**required(kind, "high"))
    distiller = kd.Distiller(small_cnn(2), small_cnn(6, seed=3), objective)
    distiller.compile(keras.optimizers.Adam(0.01), loss=None)
    history = distiller.fit(digits.x_train[:256], epochs=4, batch_size=64, verbose=0).history
    assert history[objective.name][-1] < history[objective.name][0]
