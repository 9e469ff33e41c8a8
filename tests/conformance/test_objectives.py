"""One suite over every Objective found in the package: a new method gets it for free.

What a class is, it says itself (`Objective`'s class attributes); what it takes, its signature and
its `build` tell. No class is named here.
"""

import functools
import json

import keras
import numpy as np
import pytest
import specimens
import tensorflow as tf
from specimens import BATCH, CLASSES, cast, from_tensors, mapped, permuted, tensors

import keras_distill as kd
from keras_distill.training import step

SPECIMENS = specimens.specimens()
ONE_A_CLASS = [specimen for specimen in SPECIMENS if not specimen.number]
every_specimen = pytest.mark.parametrize("specimen", SPECIMENS, ids=str)
every_objective = pytest.mark.parametrize("specimen", ONE_A_CLASS, ids=str)
every_random_specimen = pytest.mark.parametrize(
    "specimen", [specimen for specimen in SPECIMENS if specimen.kind.random], ids=str
)
every_objective_on_logits = pytest.mark.parametrize(
    "specimen", [specimen for specimen in SPECIMENS if not specimen.sees_layers], ids=str
)
every_objective_on_class_labels = pytest.mark.parametrize(
    "specimen",
    [s for s in SPECIMENS if s.kind.needs_labels and s.kind.label_kind == "classes"],
    ids=str,
)


def with_gradient(objective, student, teacher, labels):
    """The values, and their sum's gradient by each tensor of the student (zeros where unused)."""
    flat = tensors(student)
    with tf.GradientTape() as tape:
        tape.watch([tensor for tensor in flat if tensor.dtype.is_floating])
        values = objective(from_tensors(flat, student), teacher, labels)
    return values, tape.gradient(values, flat, unconnected_gradients="zero")


def made_or_refused(specimen, arguments):
    """An instance and nothing, or nothing and what was said instead."""
    try:
        return specimen.new(**arguments), ""
    except ValueError as error:
        return None, str(error)


class Held:
    """In the place of `ops.stop_gradient`: what it gives in a first call, it gives in the next."""

    def __init__(self):
        self._given = []
        self._rest = None

    def again(self):
        """From here on, what was given so far, from the first on."""
        self._rest = iter(self._given)

    def __call__(self, variable):
        if self._rest is not None:
            return next(self._rest)
        self._given.append(tf.stop_gradient(variable))
        return self._given[-1]


def unit(direction):
    """Tensors together of length 1."""
    length = np.sqrt(sum(np.sum(np.square(part)) for part in direction))
    return [part / length for part in direction]


def test_every_class_is_exported():
    names = {specimen.kind.__name__ for specimen in SPECIMENS}
    assert {"SoftTargets", "HardTargets", "LogitsMSE", "FeatureHint"} <= names
    assert [name for name in names if not hasattr(kd.objectives, name)] == []


@every_objective
def test_what_a_class_says_of_itself(specimen):
    assert specimen.kind.label_kind in ("classes", "values")
    assert specimen.kind.at_teacher in ("zero", "minimum", "elsewhere")
    assert specimen.kind.relational or not specimen.kind.ordered


@every_specimen
def test_one_value_an_example_that_moves_with_the_student(specimen):
    rng = np.random.default_rng(1)
    student, other, teacher = (specimen.signals(rng, "float32") for _ in range(3))
    labels = specimen.labels(rng)
    objective = specimen.built()
    values = objective(student, teacher, labels)
    assert values.shape == (BATCH,)
    assert values.dtype == "float32"
    assert np.all(np.isfinite(values))
    assert np.any(np.asarray(values) != 0), "two different models must not agree"
    assert np.any(values != objective(other, teacher, labels)), "the student must count"
    if specimen.kind.at_teacher == "zero":
        assert np.min(values) > -1e-5, "zero is the minimum"


@every_specimen
def test_student_equal_to_teacher(specimen):
    rng = np.random.default_rng(2)
    same, labels = specimen.signals(rng), specimen.labels(rng)
    values, gradients = with_gradient(specimen.built(), same, same, labels)
    pull = max(np.abs(gradient).max() for gradient in gradients)
    at_teacher = specimen.kind.at_teacher
    if at_teacher == "zero":
        np.testing.assert_allclose(values, 0.0, atol=1e-6)
    if at_teacher in ("zero", "minimum"):
        assert pull < 1e-5
    if at_teacher in ("minimum", "elsewhere"):
        assert np.abs(values).max() > 1e-3 or pull > 1e-3
    if at_teacher == "elsewhere":
        assert pull > 1e-3


@every_objective_on_logits
def test_a_constant_added_to_the_logits(specimen):
    rng = np.random.default_rng(3)
    student, teacher = specimen.signals(rng), specimen.signals(rng)
    shifts = (rng.normal(0, 7, (BATCH, *specimen.answer[:-1], 1)) for _ in range(2))
    moved = [
        mapped(lambda tensor, by=shift: tensor + by, signals)
        for signals, shift in zip((student, teacher), shifts, strict=True)
    ]
    objective, labels = specimen.built(), specimen.labels(rng)
    plain, shifted = objective(student, teacher, labels), objective(*moved, labels)
    if specimen.kind.shift_invariant:
        np.testing.assert_allclose(plain, shifted, rtol=1e-7, atol=1e-9)
    else:
        assert np.abs(plain - shifted).max() > 0.01


@every_objective_on_logits
def test_logits_known_up_to_a_constant_are_refused_where_it_counts(specimen):
    spec = keras.KerasTensor((None, *specimen.answer))
    known, unknown = kd.Signals(spec), kd.Signals(spec, from_probabilities=True)
    for pair in ((known, unknown), (unknown, known)):
        if specimen.kind.shift_invariant:
            specimen.new().build(*pair)
        else:
            with pytest.raises(ValueError, match=f"{specimen.new().name}.*probabilities"):
                specimen.new().build(*pair)


@every_specimen
def test_gradient_is_the_finite_difference(specimen, monkeypatch):
    rng = np.random.default_rng(4)
    student, teacher, labels = specimen.signals(rng), specimen.signals(rng), specimen.labels(rng)
    objective, flat = specimen.built(), tensors(student)
    held = Held()
    if specimen.kind.detached:
        monkeypatch.setattr(keras.ops, "stop_gradient", held)
    values, gradients = with_gradient(objective, student, teacher, labels)
    # An adapter computes in float32, of which the nudge must stand out.
    digits, nudge, rel = (1e-14, 1e-5, 1e-5) if values.dtype == "float64" else (1e-6, 2e-3, 2e-2)
    noise = digits * np.abs(values).sum() / nudge

    def total(step, direction):
        held.again()
        moved = [t + tf.cast(step * d, t.dtype) for t, d in zip(flat, direction, strict=True)]
        return np.sum(objective(from_tensors(moved, student), teacher, labels), dtype="float64")

    for _ in range(3):
        # Along the gradient, where it says most, and as far in a random direction.
        random = [rng.normal(0, t.dtype.is_floating, t.shape) for t in flat]
        direction = [d + g for d, g in zip(unit(random), unit(gradients), strict=True)]
        slope = sum(np.sum(np.asarray(g) * d) for g, d in zip(gradients, direction, strict=True))
        difference = (total(nudge, direction) - total(-nudge, direction)) / (2 * nudge)
        assert float(slope) == pytest.approx(difference, rel=rel, abs=float(noise))
    if specimen.kind.detached:
        monkeypatch.undo()
        free = (total(nudge, direction) - total(-nudge, direction)) / (2 * nudge)
        assert free != pytest.approx(difference, rel=0.01), "nothing is held constant"


@every_objective
def test_an_example_of_weight_zero_gives_no_gradient(specimen):
    rng = np.random.default_rng(5)
    student, teacher = (specimen.signals(rng, "float32") for _ in range(2))
    weights = tf.constant([1.0, 0.0] * (BATCH // 2))
    built, labels = specimen.built(), specimen.labels(rng)
    _, gradients = with_gradient(
        lambda s, t, y: step.reduce(built(s, t, y), weights), student, teacher, labels
    )
    rows = np.concatenate([np.reshape(gradient, (BATCH, -1)) for gradient in gradients], axis=1)
    if specimen.kind.relational:
        assert np.abs(rows[1::2]).max() > 0, "it says that its examples are each other's partners"
    elif not built.mixes_the_batch:
        np.testing.assert_array_equal(rows[1::2], 0.0)
    assert np.abs(rows[::2]).max() > 0


@every_objective
def test_weights_of_one_equal_none(specimen):
    rng = np.random.default_rng(6)
    student, teacher = (specimen.signals(rng, "float32") for _ in range(2))
    values = specimen.built()(student, teacher, specimen.labels(rng))
    np.testing.assert_allclose(step.reduce(values, tf.ones(BATCH)), step.reduce(values), rtol=1e-6)


@every_objective_on_logits
def test_positions_are_read_one_by_one_where_it_says_so(specimen):
    if not specimen.kind.per_position:
        pytest.skip("it compares positions with each other, or has no masks")
    rng, objective = np.random.default_rng(17), specimen.new()
    specimens.build(objective, (4, CLASSES))
    ours, theirs = rng.normal(0, 2, (2, BATCH, 4, CLASSES))
    labels = rng.integers(0, CLASSES, (BATCH, 4))
    if objective.label_kind == "values":
        labels = rng.normal(0, 2, (BATCH, 4, CLASSES))

    def value(*given):
        ours, theirs, labels = map(tf.constant, given)
        return objective(kd.Signals(ours), kd.Signals(theirs), labels)

    each = [value(ours[:, i], theirs[:, i], labels[:, i]) for i in range(4)]
    np.testing.assert_allclose(value(ours, theirs, labels), np.mean(each, axis=0), rtol=1e-6)


@every_specimen
def test_examples_in_another_order_give_their_values_in_that_order(specimen):
    if specimen.kind.random:
        pytest.skip("what it draws goes by the place in the batch")
    rng = np.random.default_rng(7)
    student, teacher = specimen.signals(rng), specimen.signals(rng)
    objective, labels = specimen.built(), specimen.labels(rng)
    order = np.array([3, 0, 5, 1, 4, 2])
    expected = np.asarray(objective(student, teacher, labels))[order]
    given = objective(*(permuted(s, order) for s in (student, teacher)), tf.gather(labels, order))
    if specimen.kind.ordered:
        assert np.abs(given - expected).max() > 1e-3
    else:
        np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-6)


@every_random_specimen
def test_what_is_drawn_is_another_in_each_step_and_the_same_in_evaluation(specimen):
    rng = np.random.default_rng(18)
    student, teacher = (specimen.signals(rng, "float32") for _ in range(2))
    built, labels = specimen.built(), specimen.labels(rng)
    built.reset()
    steps = [built.objective(student, teacher, labels) for _ in range(2)]
    assert np.abs(steps[0] - steps[1]).max() > 1e-3
    before = built.variables()
    tests = [built.objective.evaluating()(student, teacher, labels) for _ in range(2)]
    np.testing.assert_array_equal(*tests)
    for now, then in zip(built.variables(), before, strict=True):
        np.testing.assert_array_equal(now, then)


@every_objective
def test_a_batch_of_one(specimen):
    rng = np.random.default_rng(8)
    student, teacher = (specimen.signals(rng, "float32", batch=1) for _ in range(2))
    objective, labels = specimen.built(), specimen.labels(rng, batch=1)
    if specimen.kind.relational:
        names = f"{objective.objective.name}|{specimen.kind.__name__}"
        with pytest.raises(ValueError, match=rf"(?s)({names}).*\bone\b.*batch.?size"):
            objective(student, teacher, labels)
    else:
        assert objective(student, teacher, labels).shape == (1,)


@every_specimen
def test_config_round_trip(specimen):
    objective = specimen.new(weight=0.25, name="mine", output=None)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(objective)))
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is specimen.kind
    assert copy.get_config() == objective.get_config()
    assert (copy.weight, copy.name) == (0.25, "mine")
    assert copy.student_taps == objective.student_taps


class Forgetful(kd.Objective):
    def __init__(self, rate, **options):
        super().__init__(**options)
        self.speed = rate


def test_an_argument_kept_under_no_name_is_refused_before_it_is_lost():
    with pytest.raises(NotImplementedError, match=r"Forgetful can't be saved.*self\.rate = rate"):
        keras.saving.serialize_keras_object(Forgetful(0.5))


@every_objective
def test_a_schedule_stands_where_a_number_does_or_is_refused_by_name(specimen):
    rng = np.random.default_rng(14)
    student, teacher = (specimen.signals(rng, "float32") for _ in range(2))
    plain, labels = specimen.built(), specimen.labels(rng)
    expected = plain(student, teacher, labels)
    numbers = {
        key: value
        for key, value in specimen.new().get_config().items()
        if isinstance(value, float) and key != "weight"
    }
    for key, value in numbers.items():
        # It is at the plain instance's number at update 5, and at none before.
        schedule = kd.schedules.Linear(3 * value + 1, value, steps=5)
        scheduled, refused = made_or_refused(specimen, {key: schedule})
        if refused:
            assert key in refused
            continue
        assert getattr(scheduled, key) is schedule
        specimens.build(scheduled, specimen.answer)
        plain.objective = scheduled.at(tf.constant(5))
        plain.reset()
        values = plain.objective(student, teacher, labels)
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)


@every_objective
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_inputs_are_computed_in_float32(specimen, dtype):
    rng = np.random.default_rng(9)
    student, teacher = (specimen.signals(rng, dtype) for _ in range(2))
    objective, labels = specimen.built(), specimen.labels(rng)
    values = objective(student, teacher, labels)
    assert values.dtype == "float32"
    # The inputs are rounded already: what follows must lose no more.
    exact = [cast(signals, "float64") for signals in (student, teacher)]
    np.testing.assert_allclose(values, objective(*exact, labels), rtol=5e-4, atol=1e-5)


@every_objective
def test_xla_on_a_batch_of_unknown_size_equals_eager(specimen):
    rng = np.random.default_rng(10)
    student, teacher = (specimen.signals(rng, "float32") for _ in range(2))
    objective, labels = specimen.built(), specimen.labels(rng)
    inputs = [tensors(student), tensors(teacher), labels]
    signature = tf.nest.map_structure(
        lambda tensor: tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype), inputs
    )

    @functools.partial(tf.function, jit_compile=True, autograph=False, input_signature=signature)
    def compiled(ours, theirs, labels):
        signals = from_tensors(ours, student), from_tensors(theirs, teacher)
        return with_gradient(objective.objective, *signals, labels)

    eager = with_gradient(objective, student, teacher, labels)
    objective.reset()
    for given, expected in zip(*map(tf.nest.flatten, (compiled(*inputs), eager)), strict=True):
        if specimen.kind.random:
            # XLA draws other numbers of the same seed.
            assert given.shape == expected.shape
            assert np.isfinite(given).all()
        else:
            np.testing.assert_allclose(given, expected, rtol=1e-3, atol=1e-4)


@every_specimen
def test_large_inputs_stay_finite(specimen):
    rng = np.random.default_rng(11)
    student, teacher = (specimen.signals(rng, "float32", scale=1e4) for _ in range(2))
    values, gradients = with_gradient(specimen.built(), student, teacher, specimen.labels(rng))
    assert np.isfinite(values).all()
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@every_objective
@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_a_weight_must_be_finite_and_not_negative(specimen, weight):
    with pytest.raises(ValueError, match="weight must be finite and at least 0"):
        specimen.new(weight=weight)


@every_objective
def test_labels_that_are_missing(specimen):
    rng = np.random.default_rng(12)
    student, teacher = (specimen.signals(rng, "float32") for _ in range(2))
    objective = specimen.built()
    objectives = [objective.objective]
    if specimen.kind.needs_labels:
        with pytest.raises(ValueError, match=f"{objective.objective.name} needs labels"):
            step.objective_terms(objectives, [(student, teacher)])
    else:
        without = objective(student, teacher, None)
        np.testing.assert_array_equal(without, objective(student, teacher, specimen.labels(rng)))


@every_objective_on_class_labels
def test_class_labels_out_of_range(specimen):
    rng = np.random.default_rng(13)
    student, teacher = (specimen.signals(rng, "float32") for _ in range(2))
    labels, objective = specimen.labels(rng).numpy(), specimen.built()
    graph = tf.function(lambda labels: objective.objective(student, teacher, labels))
    for wrong in (CLASSES, -2):
        labels.flat[2] = wrong
        message = rf"{objective.objective.name}: labels must be in \[0, {CLASSES}\)"
        with pytest.raises(ValueError, match=message):
            objective(student, teacher, labels)
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            graph(labels)


@every_objective_on_class_labels
def test_rows_labelled_minus_one_and_one_hot_labels(specimen):
    rng = np.random.default_rng(14)
    student, teacher = (specimen.signals(rng, "float32") for _ in range(2))
    labels, objective = specimen.labels(rng).numpy(), specimen.built()
    expected = objective(student, teacher, labels)
    one_hot = keras.utils.to_categorical(labels, CLASSES)
    np.testing.assert_allclose(objective(student, teacher, one_hot), expected, rtol=1e-6)
    labels[2] = -1
    values, gradients = with_gradient(objective, student, teacher, labels)
    assert np.isfinite(gradients[0]).all()
    np.testing.assert_allclose(np.delete(values, 2), np.delete(expected, 2), rtol=1e-6)
    assert values[2] != expected[2]


@every_objective
@pytest.mark.parametrize(
    "altered",
    [{"classes": CLASSES + 1}, {"widths": 2}, {"sizes": 2}, {"drop_axis": True}],
    ids=lambda altered: next(iter(altered)),
)
def test_shapes_that_differ_are_served_or_named_when_built(specimen, altered):
    refusal = specimens.refusal(specimen, **altered)
    if refusal is not None:
        name = specimen.new().name
        assert name in refusal or specimen.kind.__name__ in refusal
        assert refusal.count("(") >= 2, "both shapes are named"
        return
    rng = np.random.default_rng(15)
    student = specimen.signals(rng, "float32")
    teacher = specimen.signals(rng, "float32", **altered)
    values = specimen.built(**altered)(student, teacher, specimen.labels(rng))
    assert values.shape == (BATCH,)
    assert np.isfinite(values).all()


@every_objective
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_it_trains_in_a_distiller_and_goes_down(specimen):
    # A teacher of wider layers, where the objective makes itself an adapter.
    widths = 1 if specimens.refusal(specimen, widths=2) else 2
    student = keras.models.clone_model(specimens.model(specimen.answer, specimen.taps, seed=0))
    teacher = specimens.model(specimen.answer, specimen.taps, seed=1, widths=widths)
    before = [np.copy(weight) for weight in teacher.get_weights()]
    distiller = kd.Distiller(student, teacher, specimen.new())
    # Clipped, a step has one length whatever the size of the loss.
    sgd = keras.optimizers.SGD(0.1, global_clipnorm=1.0)
    distiller.compile(sgd, loss=None, validate_objectives=True)
    rng = np.random.default_rng(16)
    x, y = rng.normal(0, 1, (32, 8)).astype("float32"), specimen.labels(rng, batch=32).numpy()
    (objective,) = distiller.objectives
    losses = []
    for _ in range(8):
        distiller.reset_metrics()
        losses.append(distiller.train_on_batch(x, y, return_dict=True)[objective.name])
    assert np.mean(losses[4:]) < np.mean(losses[:4])
    for weight, expected in zip(teacher.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, expected)
    measured = {id(variable) for variable in distiller.metrics_variables}
    still = [v for v in distiller.variables if id(v) not in measured]
    before = [v.numpy() for v in still]
    assert np.isfinite(distiller.test_step((x, y))[objective.name])
    for variable, expected in zip(still, before, strict=True):
        np.testing.assert_array_equal(variable, expected, err_msg=variable.path)
