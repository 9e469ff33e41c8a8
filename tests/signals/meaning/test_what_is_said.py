"""What a model means is said or found, and what does not fit it is refused with the mend."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_distill as kd
from keras_distill import objectives

X = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")


def model(ending=None, units=3, positions=False):
    inputs = keras.Input((4,))
    answer = layers.Dense(units)(inputs)
    if positions:
        answer = layers.Reshape((2, 2, units))(layers.Dense(4 * units)(inputs))
    return keras.Model(inputs, ending(answer) if ending else answer)


def flat_sigmoid(z):
    return layers.Flatten()(ops.sigmoid(z))


ON_LOGITS = {
    "softmax": [objectives.SoftTargets(), objectives.DKD(), objectives.HardTargets()],
    "sigmoid": [objectives.MultiLabelTargets(), objectives.RegressionTargets()],
    "logits": [objectives.LogitsMSE()],
}


@pytest.mark.parametrize("who", ["student", "teacher"])
@pytest.mark.parametrize(
    "objective", [*ON_LOGITS["softmax"], *ON_LOGITS["logits"]], ids=lambda o: o.name
)
def test_yes_and_no_is_refused_where_logits_are_wanted(objective, who):
    pair = {"student": model(), "teacher": model(), who: model(flat_sigmoid)}
    with pytest.raises(ValueError, match=f"the {who} ends in a sigmoid.*MultiLabelTargets"):
        kd.Distiller(pair["student"], pair["teacher"], objective)


def test_maps_of_yes_and_no_are_no_logits_either():
    with pytest.raises(ValueError, match="channel_wise_targets: the teacher ends in a sigmoid"):
        kd.Distiller(
            model(positions=True),
            model(ops.sigmoid, positions=True),
            objectives.ChannelWiseTargets(),
        )


@pytest.mark.parametrize("objective", ON_LOGITS["sigmoid"], ids=lambda o: o.name)
def test_yes_and_no_is_taken_where_it_is_wanted(objective):
    kd.Distiller(model(flat_sigmoid), model(flat_sigmoid), objective)


@pytest.mark.parametrize(
    ("ending", "loss", "options", "mend"),
    [
        (None, "binary_crossentropy", {}, r"BinaryCrossentropy\(from_logits=True\).*'sigmoid'"),
        (
            None,
            "categorical_crossentropy",
            {},
            r"CategoricalCrossentropy\(from_logits=True\).*'probabilities'",
        ),
        (None, keras.losses.BinaryFocalCrossentropy(), {}, r"BinaryFocalCrossentropy\(from_log"),
        (
            flat_sigmoid,
            keras.losses.BinaryCrossentropy(from_logits=True),
            {},
            r"a sigmoid's probabilities, .*Drop .*final sigmoid",
        ),
        (
            None,
            keras.losses.BinaryCrossentropy(from_logits=True),
            {"student_output": "sigmoid"},
            "final sigmoid",
        ),
    ],
)
def test_a_loss_that_does_not_fit_is_answered_with_one_that_does(ending, loss, options, mend):
    distiller = kd.Distiller(
        model(ending, 1), model(units=1), objectives.MultiLabelTargets(), **options
    )
    with pytest.raises(ValueError, match=mend):
        distiller.compile("sgd", loss)


@pytest.mark.parametrize("eagerly", [False, True])
def test_a_flattened_sigmoid_trains_as_it_does_alone(eagerly):
    student = model(flat_sigmoid, 1)
    y = np.array([0, 1, 0, 1, 1, 0])
    alone = keras.losses.binary_crossentropy(y[:, None], student(X)).numpy().mean()
    distiller = kd.Distiller(student, model(units=1), objectives.MultiLabelTargets())
    distiller.compile(keras.optimizers.SGD(0.0), "binary_crossentropy", run_eagerly=eagerly)
    history = distiller.fit(X, y, verbose=0).history
    assert history["label_loss"][0] == pytest.approx(alone, rel=1e-5)


def test_each_output_can_be_said_by_name():
    inputs = keras.Input((4,))

    def two(endings):
        return keras.Model(inputs, {n: e(layers.Dense(3)(inputs)) for n, e in endings.items()})

    # Numbers that no graph tells from logits.
    hidden = two({"kind": layers.Activation("sparsemax"), "tags": ops.relu})
    teacher = kd.teachers.Model(hidden, output={"kind": "probabilities", "tags": "sigmoid"})
    spec = teacher.prepare(None, ())
    assert spec.head("kind").kind == "probabilities"
    assert spec.head("tags").kind == "sigmoid"
    with pytest.raises(ValueError, match="a dict of them by output; got 'scores'"):
        kd.teachers.Model(hidden, output={"kind": "scores"})


def heads(names, seed):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((4,))
    answers = [layers.Dense(3, name=name)(inputs) for name in names]
    return keras.Model(inputs, dict(zip(names, answers, strict=True)))


def soft_targets(student, teacher, pairs):
    """T^2 KL summed over (student's, teacher's) outputs."""
    total = 0.0
    for ours, theirs in pairs:
        logs = [ops.log_softmax(z / 2.0) for z in (theirs, ours)]
        total += 4 * float(ops.mean(ops.sum(ops.exp(logs[0]) * (logs[0] - logs[1]), -1)))
    return total


def learned(student, teacher):
    distiller = kd.Distiller(student, teacher)
    distiller.compile(keras.optimizers.SGD(0.0))
    return distiller.fit(X, verbose=0).history["soft_targets"][0]


def test_outputs_of_partly_the_same_names_are_refused_or_said():
    student, teacher = heads(["age", "gender"], 0), heads(["gender", "age_group"], 1)
    both = r"'age', 'gender', the teacher's 'gender', 'age_group'.*heads={'age': 'age_group'}"
    with pytest.raises(ValueError, match=both):
        kd.Distiller(student, teacher)
    told = kd.teachers.Model(teacher, heads={"age": "age_group"})
    ours, theirs = student(X), teacher(X)
    pairs = [(ours["age"], theirs["age_group"]), (ours["gender"], theirs["gender"])]
    expected = soft_targets(student, teacher, pairs)
    assert learned(student, told) == pytest.approx(expected, rel=1e-5)
    # One that has a partner can be learned alone.
    kd.Distiller(student, teacher, kd.SoftTargets(output="gender"))
    with pytest.raises(ValueError, match="does not fit its outputs, 'gender', 'age_group'"):
        kd.Distiller(student, kd.teachers.Model(teacher, heads={"age": "years"}))
    with pytest.raises(ValueError, match="two names"):
        kd.teachers.Model(teacher, heads={"age": "gender", "gender": "gender"})


def test_names_that_keras_made_up_pair_nothing():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    ours = [layers.Dense(3, name="dense_3")(inputs), layers.Dense(3, name="dense_5")(inputs)]
    theirs = [layers.Dense(3, name="dense_5")(inputs), layers.Dense(3, name="dense_3")(inputs)]
    student, teacher = keras.Model(inputs, ours), keras.Model(inputs, theirs)
    expected = soft_targets(student, teacher, zip(student(X), teacher(X), strict=True))
    assert learned(student, teacher) == pytest.approx(expected, rel=1e-5)
