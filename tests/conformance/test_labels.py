"""Label kind x Keras mask x sample weight x -1 x heads x position, against Keras and float64.

A right value is Keras' loss of each position (no reduction, known labels), weighed here in NumPy as
Keras documents its masks: sum(value x weight over what is known and not masked) over their number.
"""

import dataclasses
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill as kd
from keras_distill.training import fit_arguments, step

layers, losses = keras.layers, keras.losses
ROWS, TIME, CLASSES = 8, 5, 3
TOKENS = np.random.default_rng(1).integers(1, 20, (ROWS, TIME))
TOKENS[0, 1:] = TOKENS[1, 3:] = TOKENS[5, 2:] = 0
VECTORS = np.random.default_rng(2).normal(size=(ROWS, 6)).astype("float32")
WEIGHTS = np.random.default_rng(3).uniform(0.5, 2.0, (ROWS, TIME)).astype("float32")


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of labels, with the loss and metric that read them."""

    loss: type
    options: dict
    metric: str
    outputs: int
    dtype: str = "int32"
    by_position: bool = False
    column: bool = False  # labels have a last axis of one
    one_hot: bool = False
    numbers: bool = False

    @property
    def several(self):
        return self.outputs > 1 and self.loss is losses.BinaryCrossentropy

    def answers_shape(self):
        return (ROWS, TIME) if self.by_position else (ROWS,)

    def labels(self, missing):
        """Labels, and booleans by position (by label of several) that say which are known."""
        rng, shape = np.random.default_rng(4), self.answers_shape()
        known = np.arange(np.prod(shape)).reshape(shape) % 3 != 1
        if self.numbers:
            y = rng.normal(size=(*shape, self.outputs)).round()  # -1 among them
            return y.astype("float32"), np.ones(shape, bool)
        if self.several:
            shape = (*shape, self.outputs)
            known = rng.random(shape) < 0.6
        y = rng.integers(0, 2 if self.loss is losses.BinaryCrossentropy else CLASSES, shape)
        known = known if missing else np.ones(shape, bool)
        if self.one_hot:
            return np.where(known[..., None], np.eye(CLASSES)[y], -1).astype(self.dtype), known
        y = np.where(known, y, -1).astype(self.dtype)
        return (y[..., None] if self.column else y), known

    def values(self, y, known, answers):
        """Keras' loss and hits of each position (of each label of several), float64."""
        y = np.where(y == -1, 0, y) if not self.numbers else y
        if self.several:
            y, answers = y[..., None], answers[..., None]
        elif y.ndim < answers.ndim and self.outputs == 1:
            y = y[..., None]
        loss = np.asarray(self.loss(**self.options, reduction="none")(y, answers), "float64")
        if self.numbers:
            hits = np.abs(y - answers).mean(-1)
        elif self.loss is losses.BinaryCrossentropy:
            hits = (np.reshape(answers, known.shape) > 0.5) == np.reshape(y, known.shape)
        else:
            classes = y.argmax(-1) if self.one_hot else np.reshape(y, known.shape)
            hits = answers.argmax(-1) == classes
        return loss, hits.astype("float64")


LOGITS, SPARSE = {"from_logits": True}, losses.SparseCategoricalCrossentropy
KINDS = {
    "sparse": Kind(SPARSE, LOGITS, "accuracy", CLASSES),
    "sparse float": Kind(SPARSE, LOGITS, "accuracy", CLASSES, dtype="float32"),
    "sparse column": Kind(SPARSE, LOGITS, "accuracy", CLASSES, column=True, dtype="int64"),
    "one-hot": Kind(losses.CategoricalCrossentropy, LOGITS, "accuracy", CLASSES, one_hot=True),
    "binary": Kind(losses.BinaryCrossentropy, {}, "accuracy", 1),
    "binary column": Kind(losses.BinaryCrossentropy, {}, "accuracy", 1, "float32", column=True),
    "multi-label": Kind(losses.BinaryCrossentropy, {}, "binary_accuracy", 4, "float32"),
    "numbers": Kind(losses.MeanSquaredError, {}, "mae", 2, numbers=True),
    "tokens": Kind(SPARSE, LOGITS, "accuracy", CLASSES, by_position=True),
    "tokens column": Kind(SPARSE, LOGITS, "accuracy", CLASSES, by_position=True, column=True),
    "one-hot tokens": Kind(
        losses.CategoricalCrossentropy, LOGITS, "accuracy", CLASSES, by_position=True, one_hot=True
    ),
    "binary tokens": Kind(losses.BinaryCrossentropy, {}, "accuracy", 1, by_position=True),
    "multi-label tokens": Kind(
        losses.BinaryCrossentropy, {}, "binary_accuracy", 4, by_position=True
    ),
    "numbers by token": Kind(losses.MeanSquaredError, {}, "mae", 2, numbers=True, by_position=True),
}
every_kind = pytest.mark.parametrize("name", KINDS)


def spread_out():
    return keras.initializers.RandomNormal(stddev=1.0)


def student_of(kind, heads=None, mask_zero=False):
    """A tiny student, with these names of heads in a dict, or one output."""
    inputs = keras.Input((TIME,), dtype="int32") if kind.by_position else keras.Input((6,))
    hidden = inputs
    if kind.by_position:
        hidden = layers.Embedding(20, 4, spread_out(), mask_zero=mask_zero)(inputs)
    end = "sigmoid" if kind.loss is losses.BinaryCrossentropy else None
    outputs = {
        head: layers.Dense(kind.outputs, end, kernel_initializer=spread_out(), name=head)(hidden)
        for head in heads or ["only"]
    }
    return keras.Model(inputs, outputs if heads else outputs["only"])


def objective_of(kind):
    if kind.loss is losses.BinaryCrossentropy:
        return kd.objectives.MultiLabelTargets()
    return kd.objectives.RegressionTargets() if kind.numbers else kd.SoftTargets()


def untrained(model, loss, **options):
    """Compiled so that nothing moves and nothing is traced."""
    model.compile(keras.optimizers.SGD(0.0), loss, run_eagerly=True, **options)
    return model


@functools.cache
def distiller_of(name, mask_zero=False, heads=None):
    kind = KINDS[name]
    keras.utils.set_random_seed(0)
    student, teacher = (student_of(kind, heads, mask_zero) for _ in range(2))
    teacher = kd.teachers.Model(teacher, engine="keras")
    return kd.Distiller(student, teacher, objective_of(kind))


def mean(values, counted, weight=None):
    weight = np.ones_like(values) if weight is None else np.broadcast_to(weight, values.shape)
    return (values * weight)[counted].sum() / counted.sum()


def spread(array, shape):
    """A weight or mask by row or position, with the axes of these values."""
    array = array.reshape(array.shape + (1,) * (len(shape) - array.ndim))
    return np.broadcast_to(array, shape)


CASES = [
    (name, mask, weight, missing)
    for name, kind in KINDS.items()
    for mask in ((False, True) if kind.by_position else (False,))
    for weight in (("none", "row", "position") if kind.by_position else ("none", "row"))
    for missing in ((False,) if kind.numbers else (False, True))
]


def metrics_read_masks():
    """Whether Keras' metrics leave padding out where they have no weights: those of 3.10 don't."""
    answers = tf.constant([[1.0], [3.0]])
    answers._keras_mask = tf.constant([True, False])
    metric = keras.metrics.MeanAbsoluteError()
    metric.update_state(tf.zeros((2, 1)), answers)
    return float(metric.result()) == 1.0


METRICS_READ_MASKS = metrics_read_masks()


@pytest.mark.parametrize(("name", "mask", "weight", "missing"), CASES)
def test_label_loss_metrics_and_evaluate(name, mask, weight, missing):
    kind, distiller = KINDS[name], distiller_of(name, mask)
    x = TOKENS if kind.by_position else VECTORS
    y, known = kind.labels(missing)
    given = {"none": None, "row": WEIGHTS[:, 0], "position": WEIGHTS}[weight]
    answers = np.asarray(distiller.student(x))
    values, hits = kind.values(y, known, answers)
    counted = known & spread(TOKENS > 0, known.shape) if mask else known
    by_value = None if given is None else spread(given, known.shape)
    untrained(
        distiller,
        kind.loss(**kind.options),
        metrics=[kind.metric],
        weighted_metrics=[kind.metric],
    )
    trained = distiller.train_on_batch(x, y, given, return_dict=True)
    # The oldest Keras' next batch adds to it.
    distiller.reset_metrics()
    evaluated = distiller.test_on_batch(x, y, given, return_dict=True)
    loss = mean(values, counted, by_value)
    assert float(trained["label_loss"]) == pytest.approx(loss, rel=1e-5)
    assert float(evaluated["loss"]) == pytest.approx(loss, rel=1e-5)
    # Where no label can be missing a metric gets what Keras would give it.
    plain = name == "numbers by token" and not METRICS_READ_MASKS
    alone = known if plain else counted
    share = (hits * alone).sum() / alone.sum()
    weighed = alone if by_value is None else counted * by_value
    weighted_share = (hits * weighed).sum() / weighed.sum()
    for logs in (trained, evaluated):
        assert float(logs[kind.metric]) == pytest.approx(share, rel=1e-5)
        if f"weighted_{kind.metric}" in logs:
            assert float(logs[f"weighted_{kind.metric}"]) == pytest.approx(weighted_share, rel=1e-5)
    # Keras has no value for a row's weight by position, nor for a binary one under either.
    keras_can = weight != "row" or not kind.by_position
    if name == "binary tokens":
        keras_can = weight == "none" and not mask
    if not missing and keras_can:
        alone = untrained(distiller.student, kind.loss(**kind.options), metrics=[kind.metric])
        theirs = alone.test_on_batch(x, y, given, return_dict=True)
        keys = ["loss", *([kind.metric] if METRICS_READ_MASKS or not mask else [])]
        for key in keys:
            assert float(evaluated[key]) == pytest.approx(float(theirs[key]), rel=1e-5)


@pytest.mark.parametrize("reduction", ["sum", "mean", "mean_with_sample_weight", "none"])
@pytest.mark.parametrize("name", ["sparse", "tokens", "binary", "multi-label"])
def test_every_reduction_is_scaled_once(name, reduction):
    kind = KINDS[name]
    distiller = distiller_of(name, kind.by_position)
    x = TOKENS if kind.by_position else VECTORS
    y, known = kind.labels(True)
    weight = WEIGHTS[:, 0] if known.ndim == 1 or kind.several else WEIGHTS
    values, _ = kind.values(y, known, np.asarray(distiller.student(x)))
    counted = known & (TOKENS > 0) if kind.by_position else known
    weighed = values * counted * spread(weight, known.shape)
    entries = kind.outputs if kind.several else 1  # Keras' value of a row is the mean of these.
    expected = {
        "sum": weighed.sum() / entries,
        "mean": weighed.sum() / counted.sum(),
        "mean_with_sample_weight": weighed.sum() / (counted * spread(weight, known.shape)).sum(),
        "none": weighed.mean(),
    }[reduction]
    untrained(distiller, kind.loss(**kind.options, reduction=reduction))
    logs = distiller.test_on_batch(x, y, weight, return_dict=True)
    assert float(logs["loss"]) == pytest.approx(expected, rel=1e-5)
    if kind.loss is SPARSE:
        ignoring = kind.loss(**kind.options, reduction=reduction, ignore_class=-1)
        plain = untrained(distiller.student, ignoring).test_on_batch(x, y, weight)
        assert float(logs["loss"]) == pytest.approx(float(np.ravel(plain)[0]), rel=1e-5)


@pytest.mark.parametrize("pack", ["dict", "list"])
@pytest.mark.parametrize("name", ["sparse", "multi-label", "tokens"])
def test_each_head_counts_its_own_rows_whatever_the_batches(name, pack):
    kind, distiller = KINDS[name], distiller_of(name, heads=("kind", "size"))
    x = TOKENS if kind.by_position else VECTORS
    y, known = kind.labels(True)
    half = y.copy()
    half[: ROWS // 2] = -1  # a whole batch of four without a label
    labels, masks = {"kind": half, "size": y}, {"kind": half != -1, "size": y != -1}
    answers = distiller.student.predict(x, verbose=0)
    expected = {}
    for head in labels:
        values, hits = kind.values(labels[head], known, answers[head])
        expected[f"{head}_loss"] = values[masks[head]].mean()
        expected[f"{head}_{kind.metric}"] = hits[masks[head]].mean()
    expected["loss"] = expected["kind_loss"] + expected["size_loss"]
    loss = {head: kind.loss(**kind.options) for head in labels}
    untrained(distiller, loss, metrics={head: [kind.metric] for head in labels})
    given = labels if pack == "dict" else list(labels.values())
    for size in (ROWS, 4):
        logs = distiller.evaluate(x, given, batch_size=size, verbose=0, return_dict=True)
        assert {k: float(v) for k, v in logs.items()} == pytest.approx(expected, rel=1e-5)
    logs = distiller.fit(x, given, batch_size=4, verbose=0).history
    assert logs["label_loss"][0] == pytest.approx(expected["loss"], rel=1e-5)


def test_labels_for_one_of_two_heads():
    distiller = distiller_of("sparse", heads=("kind", "size"))
    y, known = KINDS["sparse"].labels(True)
    answers = distiller.student.predict(VECTORS, verbose=0)["kind"]
    values, hits = KINDS["sparse"].values(y, known, answers)
    untrained(distiller, {"kind": SPARSE(from_logits=True)}, metrics={"kind": ["accuracy"]})
    logs = distiller.train_on_batch(VECTORS, {"kind": y}, return_dict=True)
    assert float(logs["label_loss"]) == pytest.approx(values[known].mean(), rel=1e-5)
    assert float(logs["kind_accuracy"]) == pytest.approx(hits[known].mean())


def quantile(y, y_pred):
    error = keras.ops.reshape(y, (-1, 1)) - y_pred
    return keras.ops.mean(keras.ops.maximum(0.9 * error, -0.1 * error), -1)


def same_class_together(y, y_pred):
    distance = keras.ops.sum((y_pred[:, None] - y_pred[None]) ** 2, -1)
    same = keras.ops.equal(keras.ops.reshape(y, (-1, 1)), keras.ops.reshape(y, (1, -1)))
    return keras.ops.mean(distance * keras.ops.cast(same, "float32"), -1)


def exact(y, y_pred):
    hits = keras.ops.equal(keras.ops.cast(y, "int64"), keras.ops.argmax(y_pred, -1))
    return keras.ops.cast(keras.ops.all(hits, -1), "float32")


def my_mean(y, y_pred):
    return keras.ops.mean(y_pred)


def overlap_by_row(y, y_pred):
    y = keras.ops.cast(y, y_pred.dtype)
    return 1 - 2 * keras.ops.sum(y * y_pred, -1) / keras.ops.sum(y + y_pred, -1)


class OwnBinary(losses.Loss):
    def call(self, y, y_pred):
        return keras.ops.mean(keras.ops.binary_crossentropy(y, y_pred), -1)


class ExactMatches(keras.metrics.Mean):
    """Of sequences; it takes a weight a row."""

    def update_state(self, y, y_pred, sample_weight=None):
        super().update_state(exact(y, y_pred), sample_weight)


def read_by_row():
    """Metrics that say more of a row than of each of its labels, or take weights of that shape."""
    return [
        "accuracy",
        "binary_accuracy",
        keras.metrics.TopKCategoricalAccuracy(2, name="top"),
        keras.metrics.CosineSimilarity(name="cosine"),
        keras.metrics.Precision(class_id=1, name="of_one"),
        keras.metrics.AUC(multi_label=True, num_labels=4, name="auc"),
        keras.metrics.BinaryIoU(name="overlap"),
        keras.metrics.F1Score(threshold=0.5, name="f1"),
        overlap_by_row,
    ]


def sent_as_in_keras():
    """name, kind of student, loss, metrics, labels, options."""
    floats = VECTORS[:, 0].round()
    ints = np.arange(ROWS) % 3
    yes_no = (np.arange(4 * ROWS).reshape(ROWS, 4) % 3 == 0).astype("float32")
    tokens = np.arange(ROWS * TIME).reshape(ROWS, TIME) % 3
    top = functools.partial(keras.metrics.sparse_top_k_categorical_accuracy, k=2)
    yield "quantiles", "numbers", quantile, None, floats, {}
    yield "triplets", "numbers", same_class_together, None, ints, {}
    yield "triplets, -1", "numbers", same_class_together, None, ints - 1, {"unlabelled": None}
    yield "hinge", "numbers", "hinge", None, VECTORS[:, :2].round().clip(-1, 1), {}
    yield "dice", "multi-label", "dice", None, yes_no, {}
    yield "uint8", "sparse", SPARSE(from_logits=True), ["accuracy"], ints.astype("uint8"), {}
    yield "exact match", "tokens", SPARSE(from_logits=True), [exact, "accuracy"], tokens, {}
    yield "names", "sparse", SPARSE(from_logits=True), [my_mean, top, "acc", "accuracy"], ints, {}
    yield "counts", "multi-label", "binary_crossentropy", ["AUC", "Precision"], yes_no, {}
    yield "read by row", "multi-label", "binary_crossentropy", read_by_row, yes_no, {}
    yield "by row", "multi-label", overlap_by_row, ["binary_accuracy"], yes_no, {}
    yield "own binary", "binary", OwnBinary(), ["accuracy"], ints[:, None] % 2, {}
    yield "by name", "binary", "crossentropy", ["accuracy"], ints % 2, {}
    yield "own metric", "tokens", SPARSE(from_logits=True), lambda: [ExactMatches()], tokens, {}
    first_axis = losses.CategoricalCrossentropy(from_logits=True, axis=1)
    yield "axis", "tokens", first_axis, None, np.eye(CLASSES, dtype="float32")[tokens], {}
    yield "ctc", "tokens", losses.CTC(), None, 1 + tokens[:, :2] % 2, {}


@pytest.mark.parametrize("case", sent_as_in_keras(), ids=lambda case: case[0])
def test_without_a_missing_label_keras_gets_what_it_would_get_alone(case):
    _, name, loss, metrics, y, options = case
    distiller = distiller_of(name)
    x = TOKENS if KINDS[name].by_position else VECTORS
    alone = keras.Model(distiller.student.inputs, distiller.student.outputs[0])
    fresh = metrics if callable(metrics) else lambda: metrics
    plain = untrained(alone, loss, metrics=fresh()).test_on_batch(x, y, return_dict=True)
    untrained(distiller, loss, metrics=fresh(), **options)
    logs = distiller.test_on_batch(x, y, return_dict=True)
    assert list(map(str, sorted(logs))) == sorted(plain)
    for key, value in plain.items():
        np.testing.assert_allclose(logs[key], value, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "loss", "metrics"),
    [
        ("multi-label", "binary_crossentropy", read_by_row),
        ("multi-label", OwnBinary(), read_by_row),
        ("tokens", SPARSE(from_logits=True), lambda: ["accuracy", exact, ExactMatches()]),
    ],
)
def test_rows_without_any_label_are_as_rows_that_are_not_there(name, loss, metrics):
    distiller, kind = distiller_of(name), KINDS[name]
    x = TOKENS if kind.by_position else VECTORS
    y, _ = kind.labels(False)
    y[[1, 4, 6]] = -1
    there = (y != -1).any(-1)
    alone = keras.Model(distiller.student.inputs, distiller.student.outputs[0])
    untrained(alone, loss, metrics=metrics())
    plain = alone.test_on_batch(x[there], y[there], return_dict=True)
    untrained(distiller, loss, metrics=metrics())
    logs = distiller.test_on_batch(x, y, return_dict=True)
    for key, value in plain.items():
        np.testing.assert_allclose(logs[key], value, rtol=1e-5)


def test_several_labels_of_a_token_are_read_by_row_under_a_mask():
    distiller = distiller_of("multi-label tokens", mask_zero=True)
    y = (np.arange(ROWS * TIME * 4).reshape(ROWS, TIME, 4) * 7 % 5 < 2).astype("int32")
    untrained(distiller, "binary_crossentropy", metrics=["categorical_accuracy"])
    logs = distiller.test_on_batch(TOKENS, y, return_dict=True)
    hits = np.asarray(distiller.student(TOKENS)).argmax(-1) == y.argmax(-1)
    assert float(logs["categorical_accuracy"]) == pytest.approx(hits[TOKENS > 0].mean())


def test_a_sequence_of_ctc_ends_in_minus_ones_or_has_none_but_these():
    distiller = distiller_of("tokens")
    y = 1 + np.arange(3 * ROWS).reshape(ROWS, 3) % 2
    y[1, 2:] = y[2, 1:] = y[4:] = -1
    untrained(distiller, losses.CTC())
    logs = distiller.test_on_batch(TOKENS, y, return_dict=True)
    expected = losses.CTC()(np.maximum(y[:4], 0), distiller.student(TOKENS[:4]))
    assert float(logs["loss"]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "loss", "message"),
    [
        ("sparse", same_class_together, r"does not tell.*unlabelled=-1.*unlabelled=None"),
        ("multi-label", "dice", "gives one value for the whole batch"),
    ],
)
def test_minus_one_that_can_not_be_told_is_refused(name, loss, message):
    distiller = untrained(distiller_of(name), loss)
    y, _ = KINDS[name].labels(True)
    with pytest.raises(ValueError, match=message):
        distiller.test_on_batch(VECTORS, y)


@pytest.mark.parametrize("told", [{"unlabelled": -1}, {"metrics": ["accuracy"]}])
def test_a_loss_of_ones_own_is_told_by_the_user_or_by_a_metric(told):
    def own(y, y_pred):
        return losses.sparse_categorical_crossentropy(y, y_pred, from_logits=True) ** 2

    distiller, kind = distiller_of("sparse"), KINDS["sparse"]
    y, known = kind.labels(True)
    values, _ = kind.values(y, known, np.asarray(distiller.student(VECTORS)))
    untrained(distiller, own, **told)
    logs = distiller.test_on_batch(VECTORS, y, return_dict=True)
    assert float(logs["loss"]) == pytest.approx((values[known] ** 2).mean(), rel=1e-5)


def test_a_weight_for_one_of_two_heads():
    distiller = distiller_of("sparse", heads=("kind", "size"))
    y, _ = KINDS["sparse"].labels(False)
    weight = {"kind": WEIGHTS[:, 0], "size": None}
    untrained(distiller, dict.fromkeys(weight, SPARSE(from_logits=True)))
    logs = distiller.train_on_batch(VECTORS, dict.fromkeys(weight, y), weight, return_dict=True)
    each = distiller.student(VECTORS)
    values = {head: KINDS["sparse"].values(y, y >= 0, np.asarray(each[head]))[0] for head in weight}
    expected = (values["kind"] * WEIGHTS[:, 0]).mean() + values["size"].mean()
    assert float(logs["label_loss"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("unlabelled", ["none", -2, True, {"other": -1}])
def test_an_unlabelled_that_is_no_rule(unlabelled):
    with pytest.raises(ValueError, match="unlabelled"):
        untrained(distiller_of("sparse", heads=("kind", "size")), "mse", unlabelled=unlabelled)


# Objectives: by head, by position, under masks.


def log_softmax(logits, temperature):
    logits = np.asarray(logits, "float64") / temperature
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def kl(student, teacher, temperature):
    ours, theirs = log_softmax(student, temperature), log_softmax(teacher, temperature)
    return np.squeeze(np.square(temperature), -1) * (np.exp(theirs) * (theirs - ours)).sum(-1)


@pytest.mark.parametrize("weight", ["none", "row", "position"])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("temperature", [4.0, kd.schedules.TeacherEntropy(1.0, 5.0)])
def test_soft_targets_weigh_positions_as_the_label_loss_does(temperature, mask, weight):
    rng = np.random.default_rng(5)
    ours, theirs = rng.normal(0, 2, (2, ROWS, TIME, CLASSES))
    kept = np.broadcast_to(TOKENS > 0, (ROWS, TIME)) if mask else np.ones((ROWS, TIME), bool)
    by_row = np.full((ROWS, 1), 4.0)
    if temperature != 4.0:
        log_probs = log_softmax(theirs, 1.0)
        entropy = -(np.exp(log_probs) * log_probs).sum(-1)
        doubt = np.where(kept, entropy, 0).sum(1) / kept.sum(1) / np.log(CLASSES)
        by_row = (1.0 + 4.0 * (1 - doubt))[:, None]
    values = kl(ours, theirs, np.broadcast_to(by_row[..., None], (ROWS, TIME, 1)))
    given = {"none": None, "row": WEIGHTS[:, 0], "position": WEIGHTS}[weight]
    objective = kd.SoftTargets(temperature=temperature)
    pair = kd.Signals(tf.constant(ours)), kd.Signals(tf.constant(theirs))
    found = step.objective_terms(
        [objective], [pair], None, given, {None: tf.constant(kept) if mask else None}
    )
    by_value = None if given is None else spread(given, values.shape)
    assert float(found["soft_targets"]) == pytest.approx(mean(values, kept, by_value), rel=1e-5)


def test_labels_by_position_reach_an_objective_under_a_mask():
    rng = np.random.default_rng(6)
    ours, theirs = (tf.constant(t) for t in rng.normal(0, 2, (2, ROWS, TIME, CLASSES)))
    y = tf.constant(rng.integers(0, CLASSES, (ROWS, TIME)))
    flat = (tf.reshape(t, (-1, CLASSES)) for t in (ours, theirs))
    values = kd.functional.decoupled_kd(*flat, tf.reshape(y, (-1,))).numpy().reshape(ROWS, TIME)
    pair = kd.Signals(ours), kd.Signals(theirs)
    kept = TOKENS > 0
    for labels in (y, y[..., None], tf.one_hot(y, CLASSES)):
        found = step.objective_terms([kd.objectives.DKD()], [pair], labels, None, {None: kept})
        assert float(found["dkd"]) == pytest.approx(values[kept].mean(), rel=1e-6)


def test_an_objective_takes_the_weights_of_its_head():
    distiller = distiller_of("sparse", heads=("kind", "size"))
    teacher = distiller.teacher.answer(VECTORS, None)
    weight = {"kind": np.eye(ROWS, dtype="float32")[0], "size": WEIGHTS[:, 1]}
    ours = distiller.student(VECTORS)
    student = kd.Signals(dict(ours), {}, dict.fromkeys(ours, False), dict.fromkeys(ours, False))
    each = {
        head: (weight[head] * kl(ours[head], teacher.logits[head], np.full((ROWS, 1), 2.0))).mean()
        for head in weight
    }
    for head, expected in [("kind", each["kind"]), ("size", each["size"]), (None, None)]:
        expected = sum(each.values()) if head is None else expected
        for given in (weight, list(weight.values())):
            found = step.objective_terms(
                [kd.SoftTargets(output=head)], [(student, teacher)], None, given
            )
            assert float(found["soft_targets"]) == pytest.approx(expected, rel=1e-5)


def test_the_students_mask_leaves_padding_out_of_the_objective_in_a_step():
    distiller = distiller_of("tokens", mask_zero=True)
    untrained(distiller, SPARSE(from_logits=True))
    ours, theirs = distiller.student(TOKENS), distiller.teacher.answer(TOKENS, None).logits
    values = kl(ours, theirs, np.full((ROWS, TIME, 1), 2.0))
    logs = distiller.train_on_batch(TOKENS, TOKENS % 3, return_dict=True)
    assert float(logs["soft_targets"]) == pytest.approx(values[TOKENS > 0].mean(), rel=1e-5)


# A weight of zero.


def test_a_row_of_weight_zero_is_silent_with_inputs_and_labels_that_are_no_numbers():
    def trained(x, y, weight):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((6,))
        hidden = layers.BatchNormalization()(layers.Dense(4)(inputs))
        student = keras.Model(inputs, layers.Dense(2)(hidden))
        teacher = kd.teachers.Model(student_of(KINDS["numbers"]), engine="keras")
        distiller = kd.Distiller(student, teacher, kd.objectives.RegressionTargets())
        distiller.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
        logs = distiller.train_on_batch(x, y, weight, return_dict=True)
        return [*map(float, logs.values()), *map(np.array, student.weights)]

    x, y, weight = VECTORS.copy(), VECTORS[:, :2].copy(), WEIGHTS[:, 0].copy()
    weight[[1, 4]] = 0.0
    # In the place of the silent rows stands the first that is not.
    x[[1, 4]], y[[1, 4]] = x[0], 0.0
    expected = trained(x, y, weight)
    x[1], x[4, 2], y[4] = np.nan, np.inf, np.nan
    for given, right in zip(trained(x, y, weight), expected, strict=True):
        np.testing.assert_allclose(given, right, rtol=1e-6, atol=1e-7)


def test_finite_rows_of_weight_zero_stay_as_they_are():
    x, y = step.silenced(tf.constant(VECTORS), tf.constant(VECTORS), tf.zeros((ROWS,)))
    np.testing.assert_array_equal(x, VECTORS)
    np.testing.assert_array_equal(y, VECTORS)


# class_weight.

SPEC = {2: keras.KerasTensor((None, CLASSES)), 3: keras.KerasTensor((None, TIME, CLASSES))}
CLASS_WEIGHT = {-1: 0.25, 0: 0.5, 2: 3.0}


@pytest.mark.parametrize("name", [n for n, k in KINDS.items() if k.outputs == CLASSES])
def test_class_weight_is_of_each_label(name):
    kind = KINDS[name]
    y, known = kind.labels(True)
    classes = np.where(known, y.argmax(-1) if kind.one_hot else np.reshape(y, known.shape), -1)
    expected = np.vectorize(lambda label: CLASS_WEIGHT.get(label, 1.0))(classes)
    dataset = tf.data.Dataset.from_tensor_slices((TOKENS, y)).batch(ROWS)
    given = {"x": dataset, "class_weight": CLASS_WEIGHT}
    output = SPEC[known.ndim + 1]
    found = fit_arguments.with_class_weight(given, output)
    assert found["class_weight"] is None
    np.testing.assert_allclose(next(iter(found["x"]))[2], expected)
    arrays = fit_arguments.with_class_weight(
        {"x": TOKENS, "y": y, "class_weight": CLASS_WEIGHT}, output
    )
    if kind.by_position:
        np.testing.assert_allclose(arrays["sample_weight"], expected)
    else:  # Keras' own are right.
        assert arrays["class_weight"] == CLASS_WEIGHT


def test_class_weight_is_refused_where_it_has_no_meaning():
    x, y = TOKENS, TOKENS % 3
    dataset = tf.data.Dataset.from_tensor_slices
    for data, message in [
        ((x, y, WEIGHTS), "can't be given together"),
        ((x, {"a": y, "b": y}), "of several"),
        (x, "has none"),
    ]:
        given = {"x": dataset(data).batch(4), "class_weight": CLASS_WEIGHT}
        with pytest.raises(ValueError, match=message):
            fit_arguments.with_class_weight(given, SPEC[3])
    with pytest.raises(ValueError, match="validation_data="):
        fit_arguments.with_class_weight(
            {"x": x, "y": y, "validation_split": 0.5, "class_weight": CLASS_WEIGHT}, SPEC[3]
        )


# What callbacks and files see.


@pytest.mark.parametrize("monitor", ["accuracy", "label_loss", "loss", "soft_targets"])
def test_callbacks_know_which_way_is_better(monitor):
    distiller = distiller_of("sparse")
    untrained(distiller, SPARSE(from_logits=True), metrics=["accuracy"])
    stopping = keras.callbacks.EarlyStopping(monitor, patience=3)
    distiller.fit(VECTORS, np.arange(ROWS) % 3, callbacks=[stopping], verbose=0)
    better = keras.ops.greater if monitor == "accuracy" else keras.ops.less
    assert stopping.monitor_op is better


def test_callbacks_know_the_metrics_of_heads_and_of_validation():
    distiller = distiller_of("sparse", heads=("kind", "size"))
    y = {"kind": np.arange(ROWS) % 3, "size": np.arange(ROWS) % 3}
    loss = dict.fromkeys(y, SPARSE(from_logits=True))
    untrained(distiller, loss, metrics={"kind": ["accuracy"]})
    stopping = keras.callbacks.ReduceLROnPlateau("val_kind_accuracy")
    distiller.fit(VECTORS, y, validation_data=(VECTORS, y), callbacks=[stopping], verbose=0)
    assert stopping.monitor_op(2.0, 1.0)


def test_files_that_name_a_wrapped_metric_load():
    old = {
        "module": "keras_distill.metrics",
        "class_name": "LabelledOnly",
        "config": {"metric": "accuracy", "name": "accuracy"},
        "registered_name": "keras_distill>LabelledOnly",
    }
    auc = {**old, "config": {"metric": keras.saving.serialize_keras_object(keras.metrics.AUC())}}
    revive = keras.saving.deserialize_keras_object
    assert revive(old) == "accuracy"
    assert isinstance(revive(auc), keras.metrics.AUC)
